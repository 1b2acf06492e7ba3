"""Teacher tables: the same as asking the teacher, made once, mended when damaged."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kdsearch.record.store import Store
from kdsearch.spec.recipe import Recipe
from kdsearch.training import teacher_outputs
from kdsearch.training.data import load
from kdsearch.training.session import Session
from kdsearch.training.streams import order
from kdsearch.training.teacher_outputs import Teacher, trained_teacher
from kdsearch.training.train import train
from kdsearch.training.views import Views

Make = Callable[..., Recipe]
DISTILL = {"teachers": [{"model": {"architecture": "resnet8", "width": 0.5}}], "temperature": 4}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that teachers have been asked."""
    sizes: list[int] = []
    real = Teacher.logits

    def logits(self: Teacher, images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return real(self, images)

    monkeypatch.setattr(Teacher, "logits", logits)
    return sizes


def test_a_table_agrees_with_the_live_teacher_element_by_element(store: Store, recipe: Make) -> None:
    made = recipe(distill=DISTILL)
    train(made, store)
    assert made.distill is not None
    teacher, dataset = trained_teacher(made.distill.teachers[0], store, "cpu"), load(made.data)
    positions = order(made.seed, 2, dataset.train.numbers)
    views = Views(dataset, dataset.train, made.data.augment, made.seed, "cpu")
    live = torch.cat([teacher.logits(images) for images in views.batches(2, positions, 32)])
    table = teacher.epoch(dataset, made.data.augment, made.seed, 2)[positions]
    assert table.dtype == torch.float16
    # Half precision keeps 11 bits: a relative error of 2^-11; the rest is the arithmetic of another batch size.
    torch.testing.assert_close(table.float(), live, rtol=2**-11, atol=1e-4)


def test_training_from_tables_gives_what_a_live_teacher_gives_within_half_precision(tmp_path: Path, recipe: Make) -> None:
    made = recipe(distill=DISTILL)
    reused = train(made, Store(tmp_path / "tables"))
    with Session(made, Store(tmp_path / "live"), live_teachers=True) as session:
        while not session.finished:
            session.step()
    assert not list((tmp_path / "live").glob(f"blobs/{teacher_outputs.KIND}/*-0000?"))
    for one, other in zip(reused["epochs"], session.metrics["epochs"], strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=2e-3)
        assert one["val_loss"] == pytest.approx(other["val_loss"], rel=2e-2)


def test_temperature_coefficient_schedule_precision_and_ensembles_ask_no_teacher_again(
    store: Store, recipe: Make, counted: list[int]
) -> None:
    train(recipe(distill=DISTILL), store)
    train(recipe(distill={**DISTILL, "teachers": [{"model": {"architecture": "resnet8", "width": 0.75}}]}), store)
    assert counted and set(counted) == {teacher_outputs.FILL_BATCH}
    counted.clear()
    variants: list[dict[str, Any]] = [
        {"distill": {**DISTILL, "temperature": 9}},
        {"distill": {**DISTILL, "coefficient": 0.9, "schedule": "cr_step"}},
        {"distill": DISTILL, "precision": {"weights": {"quantizer": "shin", "bits": 1}}},
        {"distill": {**DISTILL, "teachers": [{"model": {"architecture": "resnet8", "width": width}} for width in (0.5, 0.75)]}},
    ]
    for variant in variants:
        train(recipe(**variant), store)
    assert counted == []


def test_tables_are_filled_only_as_far_as_trials_reach(store: Store, recipe: Make) -> None:
    with Session(recipe(distill=DISTILL), store) as session:
        session.step()
    assert len(list(store.root.glob(f"blobs/{teacher_outputs.KIND}/*"))) == 1


def test_without_augmentation_one_table_serves_every_epoch_and_seed(store: Store, recipe: Make) -> None:
    data = {"name": "digits", "validation": 0.4, "train_fraction": 0.1}
    teachers = [{"model": {"architecture": "resnet8", "width": 0.5}, "seed": 0}]
    for seed in (0, 1):
        train(recipe(data=data, distill={"teachers": teachers}, seed=seed), store)
    names = [path.name for path in store.root.glob(f"blobs/{teacher_outputs.KIND}/*")]
    assert len([name for name in names if not name.endswith("-plain")]) == 1


@pytest.mark.parametrize("damage", ["truncated", "changed"])
def test_a_damaged_table_is_noticed_and_made_again(store: Store, recipe: Make, counted: list[int], damage: str) -> None:
    made = recipe(distill=DISTILL)
    train(made, store)
    assert made.distill is not None
    dataset = load(made.data)
    expected = trained_teacher(made.distill.teachers[0], store, "cpu").epoch(dataset, "shift", 0, 1)
    for path in store.root.glob(f"blobs/{teacher_outputs.KIND}/*"):
        content = bytearray(path.read_bytes())
        content[200] ^= 1
        path.write_bytes(content if damage == "changed" else content[:-100])
    counted.clear()
    again = trained_teacher(made.distill.teachers[0], Store(store.root), "cpu").epoch(dataset, "shift", 0, 1)
    assert counted
    assert torch.equal(again, expected)


def test_two_threads_that_want_the_same_table_make_it_once(store: Store, recipe: Make, counted: list[int]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    made = recipe(distill=DISTILL)
    with Session(made, store):  # trains the teacher
        pass
    assert made.distill is not None
    dataset = load(made.data)
    counted.clear()

    def fill(_: int) -> torch.Tensor:
        assert made.distill is not None
        return trained_teacher(made.distill.teachers[0], Store(store.root), "cpu").epoch(dataset, "shift", 0, 1)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(fill, range(2))
    assert torch.equal(first, second)
    assert len(counted) == 1
    assert not list((store.root / "leases").glob(f"{teacher_outputs.KIND}-*"))


def _fill(recipe: Recipe, root: Path, gate: Any, results: Any) -> None:
    torch.set_num_threads(1)
    asked: list[int] = []
    real = Teacher.logits
    Teacher.logits = lambda self, images: (asked.append(len(images)), real(self, images))[1]  # type: ignore[method-assign,func-returns-value]
    teacher, dataset = trained_teacher(recipe.distill.teachers[0], Store(root), "cpu"), load(recipe.data)  # type: ignore[union-attr]
    gate.wait()
    results.put(([teacher.epoch(dataset, "shift", 0, epoch).numpy().tobytes() for epoch in range(1, 9)], len(asked)))


@pytest.mark.slow
def test_processes_that_fill_the_same_tables_at_once_end_with_one_correct_table_each(store: Store, recipe: Make) -> None:
    made = recipe(distill=DISTILL)
    with Session(made, store):  # trains the teacher
        pass
    assert made.distill is not None
    context = multiprocessing.get_context("spawn")
    gate, results = context.Barrier(3), context.Queue()
    processes = [context.Process(target=_fill, args=(made, store.root, gate, results)) for _ in range(3)]
    for process in processes:
        process.start()
    found = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    alone = trained_teacher(made.distill.teachers[0], Store(store.root.parent / "alone"), "cpu")
    alone._network = trained_teacher(made.distill.teachers[0], store, "cpu")._network
    expected = [alone.epoch(load(made.data), "shift", 0, epoch).numpy().tobytes() for epoch in range(1, 9)]
    assert all(tables == expected for tables, _ in found)
    assert sum(asked for _, asked in found) == 8  # each table was made by one of them
    assert len(list(store.root.glob(f"blobs/{teacher_outputs.KIND}/*-0000?"))) == 8


def test_logits_beyond_half_precision_are_clipped_not_infinite(store: Store, recipe: Make) -> None:
    class Loud(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.full((len(images), 10), 1e6)

    dataset = load(recipe().data)
    teacher = Teacher("ab" * 32, Loud, dataset, "float32", store, "cpu")
    assert torch.isfinite(teacher.epoch(dataset, "shift", 0, 1)).all()
