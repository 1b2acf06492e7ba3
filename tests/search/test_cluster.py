"""A cluster of nodes with stores of their own, on one machine: nodes die and join in the middle of a study; Ray starts once."""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kdsearch.record.remote import FolderByUri
from kdsearch.record.run import Run
from kdsearch.record.store import Store
from kdsearch.record.trials import TrialRow, read_trials
from kdsearch.search import ray_cluster
from kdsearch.search.engine import Outcome, run_study
from kdsearch.search.ledger import Ledger
from kdsearch.search.options import RunOptions
from kdsearch.search.progress import Progress
from kdsearch.search.work import DEFAULT_SESSION
from kdsearch.training.keys import key_of
from tests.search.conftest import GRID, STUDY, make_study, states
from tests.search.drive import SESSION
from tests.search.faults import nodes_lost
from tests.search.nodes import Nodes, cluster
from tests.search.tabulated import trained

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with cluster(tmp_path_factory.mktemp("nodes")) as made:
        yield made


class _When(Progress):
    """Does something once, in the middle of the study."""

    def __init__(self, ready: Callable[[Ledger], bool], do: Callable[[], None]) -> None:
        super().__init__()
        self._ready, self._do = ready, do
        self.notes: list[str] = []
        self.done: float | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Progress, ()  # Ray Tune writes down what it is given

    def note(self, text: str) -> None:
        self.notes.append(text)

    def update(self, ledger: Ledger) -> None:
        if self.done is None and self._ready(ledger):
            self.done = time.monotonic()
            self._do()


def _run(
    nodes: Nodes, out: Path, progress: Progress, *overrides: str, text: str = STUDY, session: str = SESSION
) -> tuple[Outcome, list[TrialRow]]:
    study = make_study(out.parent, text, *overrides)
    options = RunOptions(address="auto", shared=False, session=session)
    outcome = run_study(study, Run(out).create(study), Store(nodes.folder / "driver"), options, progress)
    return outcome, read_trials(Run(out))


def test_a_study_outlives_one_of_three_nodes_and_uses_one_that_joins(nodes: Nodes, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        nodes.join(name)

    def change() -> None:
        nodes.die("b")
        nodes.join("d")

    def halfway(ledger: Ledger) -> bool:
        busy = {key for key, epoch, _, kind in trained(nodes.folder / "b") if kind == "student" and epoch in (2, 3)}
        return bool(busy) and sum(book.counts.done for book in ledger.searches) >= 4

    progress = _When(halfway, change)
    outcome, rows = _run(nodes, tmp_path / "run", progress, "budget.trials=16", "pruner=none")
    assert progress.done is not None
    assert outcome.exit_code == 0
    for stratum in ("weights=1", "weights=2"):
        count = states([row for row in rows if row.stratum == stratum])
        assert count == {"COMPLETE": 16}
    assert any("it goes on in another" in note for note in progress.notes)
    worked = nodes.worked()
    assert not worked["driver"]
    assert {name for name, work in worked.items() if work} == {"a", "b", "c", "d"}
    # Teachers and the pre-trained student: each epoch of each once, over all nodes together.
    shared = Counter((key, epoch) for work in worked.values() for key, epoch, _, kind in work if kind == "other")
    assert set(shared.values()) == {1}
    # What the dead node was at, and nothing else, is trained again.
    again = Counter((key, epoch) for work in worked.values() for key, epoch, _, kind in work if kind == "student")
    assert {key for (key, _), times in again.items() if times > 1} <= {key for key, _, _, _ in worked["b"]}
    assert len({key for (key, _), times in again.items() if times > 1}) <= 1
    # And all of it is in the driver's store.
    driver = Store(nodes.folder / "driver")
    assert all(driver.has(key) for row in rows for key in row.keys.values())


PICTURES = """
name: pictures
recipe:
  data: {name: imagefolder, root: ~/pictures, validation: 0.25}
  model: {architecture: resnet8, width: 0.25}
  precision: {weights: {quantizer: shin, bits: 2}}
  distill: {teachers: [{model: {architecture: resnet8, width: 0.25}}], temperature: $temperature}
  optim: {epochs: 2, batch_size: 8}
space:
  temperature: {choices: [1, 4]}
sampler: grid
"""


def test_pictures_that_only_the_driver_s_machine_has_reach_the_nodes(nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = nodes.folder / "home-driver"
    monkeypatch.setenv("HOME", str(home))
    draw = np.random.default_rng(0)
    for part, label, number in itertools.product(("train", "test"), ("ant", "bee"), range(12)):
        file = home / "pictures" / part / label / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file)
    if not nodes.workers:
        nodes.join("a")
    outcome, rows = _run(nodes, tmp_path / "run", Progress(), text=PICTURES, session=DEFAULT_SESSION)
    assert [row.reason for row in rows] == [None, None]
    assert outcome.exit_code == 0
    study = make_study(tmp_path, PICTURES)
    driver = Store(nodes.folder / "driver")
    for row in rows:
        recipe = study.recipe_for(row.params, study.strata_list()[0], 0)
        assert row.keys["0"] == key_of(recipe)  # the node sees the same data as this machine
        assert all(driver.has(key_of(one)) for one in (recipe, *recipe.children().values()))
    lent = [path for name in nodes.workers for path in (nodes.folder / name / "blobs" / "data").glob("*-train-images")]
    assert lent
    assert not list((driver.root / "blobs").glob("data/*"))


class _Gpus(Progress):
    """How much of the cluster's GPUs was in use at most."""

    used = 0.0

    def __reduce__(self) -> tuple[Any, ...]:
        return Progress, ()

    def update(self, ledger: Ledger) -> None:
        self.used = max(self.used, 1 - ray_cluster.ray.available_resources().get("GPU", 0))


def test_a_quarter_of_a_gpu_for_each_trial_lets_four_share_it_and_a_uri_gets_what_they_make(
    nodes: Nodes, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    nodes.join("g", cpus=8, num_gpus=1)
    request.addfinalizer(lambda: nodes.die("g"))
    far = f"file://{tmp_path}/far"
    before = {name: len(work) for name, work in nodes.worked().items()}
    study = make_study(tmp_path, GRID, "resources.gpu=0.25", "recipe.optim.epochs=8")
    store = Store(nodes.folder / "driver", upstream=FolderByUri(far))
    gpus = _Gpus()
    outcome = run_study(study, Run(tmp_path / "run").create(study), store, RunOptions(address="auto", shared=False, session=SESSION), gpus)
    assert outcome.exit_code == 0
    assert gpus.used == 1.0
    worked = nodes.worked()
    assert {name for name, work in worked.items() if len(work) > before[name]} == {"g"}
    assert len({pid for _, _, pid, kind in worked["g"] if kind == "student"}) == 4
    anywhere = Store(tmp_path / "anywhere", upstream=FolderByUri(far))
    rows = read_trials(Run(tmp_path / "run"))
    assert len(rows) == 14
    assert all(anywhere.has(key) for row in rows for key in row.keys.values())


def test_nodes_lost_at_random_moments_take_no_finished_trial_along(nodes: Nodes, tmp_path: Path) -> None:
    row = nodes_lost(nodes, tmp_path, random.Random(1), 2)
    assert (row.tries, row.lost) == (2, 0)
    assert row.again <= 2 * 6  # a node has room for one trial, of six epochs
