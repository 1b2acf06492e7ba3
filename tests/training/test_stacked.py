"""Networks trained as one stack: torch's own modules are the oracle for what a stack computes, and single sessions for what comes out."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from kdsearch.errors import Diverged
from kdsearch.record.store import Store
from kdsearch.spec.inherit import resolve_recipe
from kdsearch.spec.recipe import Recipe
from kdsearch.training.models import CifarResNet
from kdsearch.training.session import Session
from kdsearch.training.stacked import MOST_NETWORKS, Stack, stack_size

SHIN = {"quantizer": "shin", "bits": 2}


def recipe(**parts: Any) -> Recipe:
    plain = {
        "data": {"name": "digits", "validation": 0.4, "train_fraction": 0.2, "augment": "shift"},
        "model": {"architecture": "resnet8", "width": 0.2},
        "optim": {"epochs": 3, "batch_size": 32, "learning_rate": 0.05},
    }
    return resolve_recipe(plain | parts)


def distilled(temperature: float, coefficient: float, width: float = 0.25, **more: Any) -> dict[str, Any]:
    teacher = {"model": {"architecture": "resnet8", "width": width}, "optim": {"epochs": 1}}
    return {"teachers": [teacher], "temperature": temperature, "coefficient": coefficient, **more}


KINDS = {
    "full precision, hard labels": {},
    "2 bits": {"precision": {"weights": SHIN}, "distill": distilled(3, 0.5)},
    "2 bits, another temperature and teacher": {"precision": {"weights": SHIN}, "distill": distilled(10, 0.9, 0.5, schedule="cr_linear")},
    "soft labels alone": {"precision": {"weights": SHIN}, "distill": distilled(2, 1)},
    "1 bit, another seed": {"precision": {"weights": {"quantizer": "shin", "bits": 1}}, "seed": 3},
    "learned thresholds": {"precision": {"weights": {"quantizer": "ttq"}}, "distill": distilled(5, 0.3)},
    "clipped": {"optim": {"epochs": 3, "batch_size": 32, "learning_rate": 0.2, "gradient_clip": 0.5, "optimizer": "adam"}},
    "stages": {"precision": {"weights": SHIN, "stages": [{"until": 0.4, "weights": {"quantizer": "shin", "bits": 4}}]}},
    "step every third": {"precision": {"weights": SHIN | {"step_policy": "every_k", "every": 3}}},
    "co-trained": {"precision": {"weights": SHIN}, "distill": {"cotrain": {"model": {"architecture": "resnet8", "width": 0.25}}}},
    "16 pixels at the stem": {"model": {"architecture": "resnet8", "width": 0.2, "shortcut": "B", "widen_stem": False}},
}


def rows_of(session: Session) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in session.metrics["epochs"]]


def weights_of(session: Session) -> bytes:
    return session.store.entry(session.key).weights.read_bytes()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[dict[str, float]], bytes]]:
    """Every kind trained by itself."""
    store, found = Store(tmp_path_factory.mktemp("alone")), {}
    for name, parts in KINDS.items():
        with Session(recipe(**parts), store) as session:
            while not session.finished:
                session.step()
            found[name] = rows_of(session), weights_of(session)
    return found


def test_what_trains_together_comes_out_as_by_itself_to_the_last_bit(alone: dict[str, Any], tmp_path: Path) -> None:
    store = Store(tmp_path)
    sessions = {name: Session(recipe(**parts), store) for name, parts in KINDS.items()}
    assert len({session._training.kind for session in sessions.values()}) == 2  # one stack, and that of another architecture
    while not all(session.finished for session in sessions.values()):
        for found in Session.step_together(list(sessions.values())):
            assert isinstance(found, dict), found
    for name, session in sessions.items():
        assert rows_of(session) == alone[name][0], name
        assert weights_of(session) == alone[name][1], name


def test_sessions_may_join_and_leave_after_any_epoch(alone: dict[str, Any], tmp_path: Path) -> None:
    store = Store(tmp_path)
    waiting, running, done = list(KINDS), {}, {}
    while waiting or running:
        if waiting:
            name = waiting.pop()
            running[name] = Session(recipe(**KINDS[name]), store)
        for found in Session.step_together(list(running.values())):
            assert isinstance(found, dict), found
        if len(waiting) == 5:  # one is interrupted and goes on from its checkpoint
            name, session = next(iter(running.items()))
            session.close()
            running[name] = Session(recipe(**KINDS[name]), store)
        done |= {name: session for name, session in running.items() if session.finished}
        running = {name: session for name, session in running.items() if not session.finished}
    for name, session in done.items():
        assert (rows_of(session), weights_of(session)) == alone[name], name


def test_one_that_diverges_takes_none_with_it(alone: dict[str, Any], tmp_path: Path) -> None:
    store = Store(tmp_path)
    good = Session(recipe(**KINDS["2 bits"]), store)
    bad = Session(recipe(optim={"epochs": 3, "batch_size": 32, "learning_rate": 1e30}), store)
    assert good._training.kind == bad._training.kind
    found = Session.step_together([bad, good])
    assert isinstance(found[0], Diverged)
    bad.close()
    while not good.finished:
        good.step()
    assert (rows_of(good), weights_of(good)) == alone["2 bits"]


def test_a_finished_run_is_replayed_beside_one_that_trains(alone: dict[str, Any], tmp_path: Path) -> None:
    store = Store(tmp_path)
    with Session(recipe(), store) as first:
        while not first.finished:
            first.step()
    pair = [Session(recipe(), store), Session(recipe(**KINDS["2 bits"]), store)]
    for _ in range(3):
        Session.step_together(pair)
    assert [session.finished for session in pair] == [True, True]
    assert weights_of(pair[1]) == alone["2 bits"][1]


@pytest.mark.parametrize(("shortcut", "widen_stem", "pixels", "batch"), [("A", True, 8, 5), ("B", False, 9, 4), ("A", True, 7, 3)])
def test_a_stack_computes_what_torch_s_modules_compute(shortcut: str, widen_stem: bool, pixels: int, batch: int) -> None:
    torch.manual_seed(pixels)
    nets = [CifarResNet(14, 0.3, shortcut=shortcut, widen_stem=widen_stem, in_channels=2, classes=7).double().train() for _ in range(3)]
    twins = copy.deepcopy(nets)
    stack = Stack(nets)
    for _ in range(2):
        images = [torch.randn(batch, 2, pixels, pixels, dtype=torch.float64) for _ in nets]
        labels = torch.arange(batch) % 7
        logits = stack.logits(images)
        sum(F.cross_entropy(of_one, labels) for of_one in logits).backward()  # type: ignore[union-attr]
        for twin, of_twin, of_one in zip(twins, images, logits, strict=True):
            found = twin(of_twin)
            F.cross_entropy(found, labels).backward()
            torch.testing.assert_close(of_one, found)
    stack.close()
    for net, twin in zip(nets, twins, strict=True):
        for (name, one), other in zip(net.named_parameters(), twin.parameters(), strict=True):
            assert one.grad is not None
            torch.testing.assert_close(one.grad, other.grad, msg=lambda text, name=name: f"{name}: {text}")
        for one, other in zip(net.buffers(), twin.buffers(), strict=True):
            torch.testing.assert_close(one, other)


def test_what_goes_into_a_stack() -> None:
    digits, cifar = (1, 8, 8), (3, 32, 32)
    assert stack_size(recipe(), digits, "cpu", 1) == MOST_NETWORKS
    assert stack_size(recipe(model={"architecture": "resnet20"}), cifar, "cpu", 1) == 0
    assert stack_size(recipe(), digits, "cpu", 2) == 0
    assert stack_size(recipe(), digits, "cuda", 1) == 0
    assert stack_size(recipe(precision={"weights": SHIN, "activations": {"quantizer": "pact", "bits": 2}}), digits, "cpu", 1) == 0
