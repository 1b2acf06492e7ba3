"""Train a recipe from beginning to end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kdsearch.record.store import Store
from kdsearch.spec.recipe import Recipe
from kdsearch.training.session import Progress, Row, Session


def train(
    recipe: Recipe,
    store: Store,
    *,
    device: str = "cpu",
    threads: int = 1,
    on_epoch: Callable[[Row], None] | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Train ``recipe`` and what it needs, or what of that ``store`` does not have yet; the metrics of :class:`Session`.

    ``on_epoch`` is called with each row of this recipe, recorded ones too; ``on_progress`` with each epoch trained now, of
    children as well.
    """
    with Session(recipe, store, device=device, threads=threads, on_progress=on_progress) as session:
        while not session.finished:
            row = session.step()
            if on_epoch is not None:
                on_epoch(row)
        return session.metrics
