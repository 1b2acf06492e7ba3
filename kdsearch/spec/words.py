"""Parts of a recipe in a person's words, for whatever is handed on: reports, best configurations, model cards."""

from __future__ import annotations

from kdsearch.spec.recipe import Distill, Recipe


def loss_in_words(distill: Distill | None) -> str:
    """The loss with every convention that papers and libraries differ in: what λ weighs, τ², the reduction."""
    if distill is None:
        return "cross-entropy with the true labels; no distillation"
    loss, tau, lam = distill.loss, f"{distill.temperature:g}", f"{distill.coefficient:g}"
    hard = "(1−λ)" if loss.hard_weight is None else f"{loss.hard_weight:g}"
    if loss.soft == "mse_logits":
        soft, softened = "mean squared error of the logits", ""
    else:
        name = {"kl": "KL(p_T ‖ p_S)", "cross_entropy": "H(p_T, p_S)"}[loss.soft]
        soft, softened = name, f", both softened at τ={tau}"
    factor = "τ²·" if loss.temperature_squared and loss.soft != "mse_logits" else ""
    squared = "" if loss.soft == "mse_logits" else f"; {'multiplied by τ²' if factor else 'not multiplied by τ²'}"
    reduction = "mean over images of the sum over classes" if loss.reduction == "batch_mean" else "mean over images and classes"
    schedule = distill.schedule.name
    words = f"{hard}·H(y, p_S) + λ·{factor}{soft}{softened}; λ={lam} weighs the soft term ({schedule}){squared}; soft term: {reduction}"
    if len(distill.teachers) > 1:
        words += f"; p_T is the mean of the softened probabilities of {len(distill.teachers)} teachers"
    if distill.cotrain is not None:
        words += "; the teacher is trained in the same loop"
    if distill.hints:
        words += f"; plus {len(distill.hints)} hint loss(es)"
    return words


def precision_in_words(recipe: Recipe) -> str:
    """Bits and quantizers of weights and activations, and what stays full precision."""
    precision = recipe.precision
    if precision is None or (precision.weights is None and precision.activations is None):
        return "full precision (float32)"
    parts = []
    for what, part in (("weights", precision.weights), ("activations", precision.activations)):
        parts.append(f"{what} {part.bits} bits ({part.quantizer})" if part is not None else f"{what} full precision")
    if precision.keep:
        parts.append(f"kept at full precision: {', '.join(precision.keep)}")
    return ", ".join(parts)
