"""Who trains with whom, and that it changes nothing but the time."""

from __future__ import annotations

import random
import threading
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from kdsearch.record.run import Run
from kdsearch.record.store import Store
from kdsearch.search.crews import Crew, Crews
from kdsearch.search.ledger import Ledger
from kdsearch.search.prerequisites import Prerequisites
from kdsearch.search.progress import Progress
from kdsearch.search.work import DEFAULT_SESSION, Event, Work, Workers, recipe_json
from kdsearch.spec.inherit import resolve_recipe
from kdsearch.spec.recipe import Recipe
from tests.search.conftest import GRID, STUDY, Go, make_study, states
from tests.search.tabulated import key_of, trained

STACKED = "tests.search.tabulated:Stacked"
REAL = """
name: real
recipe:
  data: {name: digits, validation: 0.4, train_fraction: 0.2}
  model: {architecture: resnet8, width: 0.2}
  precision: {weights: $bits}
  distill: {teachers: [{model: {architecture: resnet8, width: 0.25}, optim: {epochs: 1}}], temperature: $temperature, coefficient: 0.6}
  optim: {epochs: 2, batch_size: 32, learning_rate: 0.05}
space:
  bits: {choices: {1: {quantizer: shin, bits: 1}, 2: {quantizer: shin, bits: 2}}}
  temperature: {choices: [1, 4], ordered: true}
strata: [bits]
baselines: {no_kd: {distill: null}}
sampler: grid
seeds: [0, 1]
"""


def test_trials_trained_together_are_recorded_as_those_trained_one_after_another(go: Go) -> None:
    def told(together: str) -> tuple[list[Any], float]:
        outcome, rows = go(f"resources.together={together}", text=REAL, out=f"run-{together}", session=DEFAULT_SESSION)
        assert outcome.exit_code == 0
        return [(row.study, row.number, row.params, row.seeds, row.state, row.value, row.intermediate) for row in rows], outcome.seconds

    one, others = told("1")[0], told("16")[0]
    assert one == others
    assert len(one) == 12


def events(crew: Any, epoch: int, stack: int, epochs: int = 6) -> list[tuple[str, Event]]:
    row = {"epoch": float(epoch), "val_accuracy": 50.0}
    return [(id, Event(0, "key", epoch, row, row if epoch == epochs else None, stack=stack)) for id in crew.members]


@pytest.mark.parametrize(
    ("text", "overrides", "room", "stack", "share"),
    [
        (GRID, (), 1, 1, 1),  # each by itself
        (GRID, (), 1, 8, 8),
        (GRID, (), 2, 8, 7),  # 2 baselines and 12 cells
        (GRID, (), 20, 8, 1),
        (GRID, ("resources.together=3",), 1, 8, 3),
        (STUDY, (), 1, 8, 7),  # 22 trials, and three times somebody learns something
        (STUDY, (), 2, 8, 3),
        (STUDY, ("resources.together=5",), 1, 8, 5),
        (STUDY, ("sampler=random",), 1, 8, 7),  # for the pruner's sake
        (STUDY, ("sampler=random", "pruner=none"), 1, 8, 8),
    ],
)
def test_a_crew_is_as_large_as_is_fast_and_fair_and_lets_the_search_learn(
    text: str, overrides: tuple[str, ...], room: int, stack: int, share: int, tmp_path: Path
) -> None:
    study = make_study(tmp_path, text, *overrides)
    ledger = Ledger(study, Run(tmp_path / "run").create(study))
    crews = Crews(ledger, Prerequisites([], lambda *_: None), lambda: room, Progress())
    crew = crews.start()
    assert crew is not None and len(crew.members) == 1
    crews.take(crew, events(crew, 1, stack))
    assert len(crew.members) == share
    assert crew.version == (share > 1)


def test_who_ends_makes_room_and_the_last_close_the_crew(tmp_path: Path) -> None:
    study = make_study(tmp_path, GRID, "seeds=[0]")
    ledger = Ledger(study, Run(tmp_path / "run").create(study))
    crews = Crews(ledger, Prerequisites([], lambda *_: None), lambda: 1, Progress())
    crew = crews.start()
    assert crew is not None
    seen, sizes = set(crew.members), []
    while crew.members:
        crews.take(crew, events(crew, 3, 4, epochs=3))
        sizes.append(len(crew.members))
        seen |= set(crew.members)
    assert sizes == [4, 2, 0]  # one baseline and six cells
    assert len(seen) == 7
    assert crews.start() is None


def test_who_has_nothing_left_gets_half_of_another_s_crew(tmp_path: Path) -> None:
    study = make_study(tmp_path, GRID, "seeds=[0]")  # one baseline and six cells
    ledger = Ledger(study, Run(tmp_path / "run").create(study))
    crews = Crews(ledger, Prerequisites([], lambda *_: None), lambda: 1, Progress())
    first = crews.start()
    assert first is not None
    crews.take(first, events(first, 1, 8, epochs=3))
    everybody = set(first.members)
    assert len(everybody) == 7
    second, third = crews.start(), crews.start()  # two nodes more
    assert second is not None and third is not None and not second.members and not third.members
    assert crews.take(first, events(first, 2, 8, epochs=9)) and first.version == 2
    assert crews.take(second, []) and crews.take(third, [])
    assert [len(crew.members) for crew in (first, second, third)] == [4, 2, 1]
    assert {*first.members, *second.members, *third.members} == everybody
    assert crews.take(first, events(first, 9, 8, epochs=9))  # it may get one of the second's two
    assert crews.take(second, events(second, 9, 8, epochs=9)) is False and crews.take(third, events(third, 9, 8, epochs=9)) is False
    assert crews.take(first, []) is False
    assert crews.start() is None and not ledger.running and not ledger.waiting


def test_nobody_goes_on_for_another_whose_checkpoints_it_may_not_have(tmp_path: Path) -> None:
    study = make_study(tmp_path, GRID)
    ledger = Ledger(study, Run(tmp_path / "run").create(study))
    crews = Crews(ledger, Prerequisites([], lambda *_: None), lambda: 1, Progress(), gives=False)
    crew = crews.start()
    assert crew is not None
    crews.take(crew, events(crew, 1, 16))
    assert len(crew.members) == 14 and crews.start() is None


@pytest.mark.parametrize("seed", range(20))
def test_every_assignment_is_in_one_crew_at_a_time_and_none_is_lost(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    study = make_study(tmp_path, GRID)
    ledger = Ledger(study, Run(tmp_path / "run").create(study))
    room = draw.randint(1, 4)
    crews = Crews(ledger, Prerequisites([], lambda *_: None), lambda: room, Progress())
    taken, alive, given = Counter[str](), list[Crew](), 0
    lengths = defaultdict[str, int](lambda: draw.randint(2, 9))
    while True:
        if len(alive) < room and (new := crews.start()) is not None:
            alive.append(new)
        if not alive:
            break
        crew = draw.choices(alive, weights=[1 / (1 + index) ** 2 for index in range(len(alive))])[0]  # some are much slower
        found = []
        for id in crew.members:
            epoch = taken[id] = taken[id] + 1
            row = {"epoch": float(epoch), "val_accuracy": 50.0}
            found.append((id, Event(0, "key", epoch, row, row if epoch == lengths[id] else None, stack=8)))
        before = set(crew.members)
        goes_on = crews.take(crew, found)
        given += len(before - set(crew.members)) - sum(taken[id] == lengths[id] for id in before)
        if not goes_on:
            alive = [one for one in alive if one is not crew]
        together = [id for one in alive for id in one.members]
        assert len(together) == len(set(together))
    assert len(taken) == 14 and all(taken[id] == lengths[id] for id in taken)
    assert given == 0 if room == 1 else given >= 0
    assert not ledger.running and not ledger.waiting


def recipe(rate: float) -> Recipe:
    return resolve_recipe({"data": {"name": "digits"}, "model": {"architecture": "resnet8"}, "optim": {"epochs": 2, "learning_rate": rate}})


def works(store: Path, *rates: float) -> list[Work]:
    recipes = [recipe_json(recipe(rate)) for rate in rates]
    return [Work(str(index), ((0, text),), str(store), session=STACKED) for index, text in enumerate(recipes)]


def test_two_of_a_crew_with_the_same_recipe_do_not_wait_for_each_other_for_ever(tmp_path: Path) -> None:
    workers = Workers()
    workers.set(works(tmp_path, 0.1, 0.1, 0.2))
    found = [[(id, event.epoch) for id, event in workers.step()] for _ in range(4)]
    assert found == [[("0", 1), ("2", 1)], [("0", 2), ("2", 2)], [("1", 1)], [("1", 2)]]
    assert len(trained(tmp_path)) == 4  # the second is replayed


def test_a_recipe_that_another_process_trains_keeps_nobody_waiting(tmp_path: Path) -> None:
    store, taken, done = Store(tmp_path), threading.Event(), threading.Event()
    first, second = works(tmp_path, 0.1, 0.2)

    def elsewhere() -> None:  # a lease belongs to a thread
        with store.lease(key_of(recipe(0.1))):
            taken.set()
            done.wait(60)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    taken.wait(60)
    try:
        workers = Workers()
        workers.set([first, second])
        assert [[id for id, _ in workers.step()] for _ in range(2)] == [["1"], ["1"]]
    finally:
        done.set()
        thread.join()
    assert [[id for id, _ in workers.step()] for _ in range(2)] == [["0"], ["0"]]


def test_a_member_that_fails_leaves_the_others_alone(go: Go) -> None:
    text = GRID.replace("optim: {epochs: 3}", "optim: {epochs: 3, learning_rate: $rate}").replace(
        "space:", "space:\n  rate: {choices: [0.1, 1.0e+9]}"
    )
    outcome, rows = go(text=text, session=STACKED)
    assert outcome.exit_code == 3
    assert states([row for row in rows if row.role == "search"]) == {"COMPLETE": 12, "FAIL": 12}
