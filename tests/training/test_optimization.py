"""Optimizers: torch's own arithmetic, without what torch loads to keep its compiler off them."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from kdsearch.spec.recipe import Optim
from kdsearch.training.optimization import Together, load_optimizer_state, make_optimizer, optimizer_state

KINDS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def _network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.Flatten(), torch.nn.Linear(12, 2))


def _gradients(network: torch.nn.Module, step: int) -> None:
    torch.manual_seed(step)
    network(torch.randn(5, 1, 4, 4)).square().mean().backward()


@pytest.mark.parametrize("name", KINDS)
def test_steps_are_those_of_torch_s_optimizer_and_go_on_from_a_saved_state(name: str) -> None:
    optim = Optim(optimizer=name, weight_decay=1e-2, learning_rate=0.01)  # type: ignore[arg-type]
    own, theirs = _network(), _network()
    mine = make_optimizer(optim, own)
    weights = [theirs[0].weight, theirs[2].weight]
    others = [theirs[0].bias, theirs[2].bias]
    groups = [{"params": weights, "weight_decay": optim.weight_decay}, {"params": others, "weight_decay": 0.0}]
    more = {"momentum": optim.momentum, "nesterov": True} if name == "sgd" else {}
    reference = KINDS[name](groups, lr=optim.learning_rate, fused=True, **more)
    for step in range(6):
        if step == 3:
            state = {key: value.clone() for key, value in optimizer_state(mine).items()}
            mine = make_optimizer(optim, own)
            load_optimizer_state(mine, state)
        _gradients(own, step)
        _gradients(theirs, step)
        Together([(mine, 0)]).step()
        reference.step()
        reference.zero_grad()
        assert all(one.grad is None for one in own.parameters())
        for one, other in zip(own.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(one, other)


SCRIPT = """
import sys
from pathlib import Path
from kdsearch.record.store import Store
from kdsearch.spec.recipe import Recipe
from kdsearch.training.session import Session
recipe = Recipe.model_validate({
    "data": {"name": "digits", "validation": 0.4}, "model": {"architecture": "resnet8", "width": 0.2},
    "precision": {"weights": {"quantizer": "shin", "bits": 2}}, "optim": {"epochs": 1, "batch_size": 256},
})
with Session(recipe, Store(Path(sys.argv[1]))) as session:
    session.step()
print(*sorted({"sklearn", "torch._dynamo", "pandas", "optuna", "ray"} & set(sys.modules)))
"""


def test_a_worker_does_not_wait_for_libraries_that_training_does_not_need(tmp_path: object) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
