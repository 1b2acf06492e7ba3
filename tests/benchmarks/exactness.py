"""Reused teacher outputs against the live teacher: logits element by element, and final accuracies over seeds.

python -m tests.benchmarks.exactness                # the quickstart's 2-bit student, teacher x2, 5 seeds: about two minutes
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t

from kdsearch.record.store import Store
from kdsearch.spec.study import load_study
from kdsearch.training.data import load
from kdsearch.training.session import Session
from kdsearch.training.teacher_outputs import trained_teacher
from kdsearch.training.views import Views
from tests.benchmarks.common import finish, machine, parser, table


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, default=5)
    given = options.parse_args()
    torch.set_num_threads(1)
    began = machine()
    study = load_study("quickstart")
    stratum = study.strata_list()[-1]
    params = {"width": 2, "temperature": 5, "coefficient": 0.7, "schedule": "constant"}
    accuracies: dict[str, list[float]] = {"tables": [], "live": []}
    apart, relative, elements = 0.0, 0.0, 0
    with tempfile.TemporaryDirectory() as place:
        for seed in range(given.seeds):
            recipe = study.recipe_for(params, stratum, seed)
            for kind, values in accuracies.items():
                store = Store(Path(place) / kind)
                with Session(recipe, store, live_teachers=kind == "live") as session:
                    while not session.finished:
                        session.step()
                values.append(session.metrics["final"]["val_accuracy"])
            assert recipe.distill is not None
            data, teacher = load(recipe.data), trained_teacher(recipe.distill.teachers[0], Store(Path(place) / "tables"), "cpu")
            views = Views(data, data.train, recipe.data.augment, recipe.seed, "cpu")
            for epoch in range(1, recipe.optim.epochs + 1):
                kept = teacher.epoch(data, recipe.data.augment, recipe.seed, epoch).float()
                batches = views.batches(epoch, torch.arange(len(data.train)), recipe.optim.batch_size)
                live = torch.cat([teacher.logits(images) for images in batches])
                gap = (kept - live).abs()
                apart = max(apart, float(gap.max()))
                relative = max(relative, float((gap / live.abs().clamp(min=1)).max()))
                elements += gap.numel()
    gaps = np.array(accuracies["tables"]) - np.array(accuracies["live"])
    half = float(t.ppf(0.975, len(gaps) - 1)) * float(gaps.std(ddof=1)) / math.sqrt(len(gaps))
    rows = [[kind, " ".join(f"{value:.2f}" for value in values), f"{np.mean(values):.2f}"] for kind, values in accuracies.items()]
    mean = float(gaps.mean())
    rows.append(["difference", " ".join(f"{gap:+.2f}" for gap in gaps), f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"])
    table(f"validation accuracy in percent, {given.seeds} seeds", ["teacher outputs", "by seed", "mean [95% interval]"], rows)
    print(f"\n{elements} logits: at most {apart:.1e} apart, {relative:.1e} of max(1, |logit|); half precision rounds by 4.9e-04")
    document = {"accuracies": accuracies, "mean": mean, "half": half, "apart": apart, "relative": relative, "logits": elements}
    finish(document, began, given.json)


if __name__ == "__main__":
    main()
