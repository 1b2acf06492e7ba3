"""A file of teacher outputs for each epoch, as kdsearch keeps them, against one table with a row for each view of each picture.

    python -m tests.benchmarks.tables                   # seconds: CIFAR-10's 50,000 pictures, random numbers for logits

A view of CIFAR's augmentation is one of 162, so a long training run comes back to views it has seen, and a table per view asks the teacher
less often. It pays with a file that every process changes in place (no renaming, a checksum for each part), and with scattered reads.
Teachers have a seed of their own in each of a study's seeds, so that views are only shared within one.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from kdsearch.record.blobs import Blobs
from kdsearch.training.augment import AUGMENTATIONS, choices
from tests.benchmarks.common import finish, machine, parser, show, spread, table

CLASSES = 10


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=50_000)
    options.add_argument("--epochs", type=int, nargs="+", default=[12, 60, 200])
    given = options.parse_args()
    began = machine()
    kind = AUGMENTATIONS["crop_flip"]
    assert kind is not None
    numbers = torch.arange(given.images)
    seen = torch.zeros(given.images, kind.views, dtype=torch.bool)
    rows, document = [], {}
    span = 2 * kind.pad + 1
    for epoch in range(1, max(given.epochs) + 1):
        chosen = choices(kind, 0, epoch, numbers)
        view = (chosen[:, 0] * span + chosen[:, 1]) * 2 + chosen[:, 2]
        seen[numbers, view] = True
        if epoch in given.epochs:
            passes = int(seen.sum())
            sizes = epoch * given.images * CLASSES * 2, given.images * kind.views * CLASSES * 2
            document[epoch] = {"passes": passes / given.images, "bytes": sizes}
            cells = [epoch, f"{passes / given.images:.1f}", f"{passes / given.images / epoch:.2f}"]
            rows.append([*cells, f"{sizes[0] / 2**20:.0f}", f"{sizes[1] / 2**20:.0f}"])
    header = ["epochs", "views of a picture", "passes / those of a file per epoch", "files per epoch, MiB", "table of views, MiB"]
    table(f"{given.images} pictures, {CLASSES} classes, float16", header, rows)
    with tempfile.TemporaryDirectory() as place:
        logits = np.random.default_rng(0).normal(size=(given.images, CLASSES)).astype(np.float16)
        blobs = Blobs(Path(place) / "blobs", Path(place) / "tmp", None)
        whole = np.lib.format.open_memmap(Path(place) / "views.npy", "w+", np.float16, (given.images, kind.views, CLASSES))
        whole[:] = logits[:, None]
        order = torch.randperm(given.images).numpy()
        files, views = [], []
        for epoch in range(6):
            blobs.put_array("t", str(epoch), logits)
            start = time.perf_counter()
            found = blobs.get_array("t", str(epoch))
            assert found is not None
            np.array(found)[order]
            files.append((time.perf_counter() - start) * 1e3)
            start = time.perf_counter()
            whole[order, view.numpy()[order]]
            views.append((time.perf_counter() - start) * 1e3)
    document |= {"file_ms": spread(files[1:]), "views_ms": spread(views[1:])}
    print(f"\nan epoch's outputs: {show(spread(files[1:]))} ms from a file, checksum included; {show(spread(views[1:]))} ms from the table")
    finish(document, began, given.json)


if __name__ == "__main__":
    main()
