"""Which store a run uses: a folder, a URI behind the default one, or each node's own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from kdsearch.api import Study
from kdsearch.errors import StoreError
from kdsearch.record import remote
from kdsearch.record.remote import FolderByUri
from kdsearch.record.run import Run
from kdsearch.record.store import Store
from kdsearch.search.engine import run_study
from kdsearch.search.options import RunOptions
from kdsearch.search.progress import Progress
from kdsearch.search.ray_cluster import Cluster
from kdsearch.search.stopping import Stop
from tests.search.conftest import GRID, make_study
from tests.search.drive import SESSION
from tests.search.tabulated import trained


@pytest.mark.parametrize(
    ("store", "address", "inline", "shared"),
    [
        (None, None, False, True),
        (None, "auto", False, False),
        ("folder", "auto", False, True),
        ("memory://far", "auto", False, False),
        ("memory://far", None, False, True),
        (None, "auto", True, True),
    ],
)
def test_nodes_share_a_folder_that_is_named_and_nothing_else(
    store: str | None, address: str | None, inline: bool, shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDSEARCH_STORE", str(tmp_path / "mine"))  # the driver's own default says nothing about the nodes'
    job = Study("quickstart", store=store)
    assert job._options(None, address, inline).shared is shared
    assert job.store_root == (Path.cwd() / "folder" if store == "folder" else tmp_path / "mine")
    assert (job.store.upstream is not None) is (store == "memory://far")


def test_another_machine_with_the_same_uri_trains_nothing_again(tmp_path: Path) -> None:
    study = make_study(tmp_path, GRID)
    for name in ("one", "two"):
        store = Store(tmp_path / name, upstream=FolderByUri(f"memory://{tmp_path.name}"))
        outcome = run_study(study, Run(tmp_path / f"run-{name}").create(study), store, RunOptions(inline=True, session=SESSION), Progress())
        assert outcome.exit_code == 0
    assert set(Counter((key, epoch) for key, epoch, _, _ in trained(tmp_path / "one")).values()) == {1}
    assert not trained(tmp_path / "two")


def test_a_uri_that_cannot_be_written_is_told_before_anything_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "SHORT_PATIENCE", 0.0)
    (tmp_path / "file").write_text("in the way")
    study = make_study(tmp_path, GRID)
    store = Store(tmp_path / "here", upstream=FolderByUri(f"file://{tmp_path}/file/below"))
    with pytest.raises(StoreError, match="then run again"):
        run_study(study, Run(tmp_path / "run").create(study), store, RunOptions(inline=True, session=SESSION), Progress())
    assert not trained(tmp_path / "here")


@pytest.mark.parametrize(
    ("resources", "there", "room"),
    [
        ("{cpu: 1, gpu: 0.25}", {"CPU": 8.0, "GPU": 1.0}, 4),
        ("{cpu: 2, gpu: 0.25}", {"CPU": 4.0, "GPU": 1.0}, 2),
        ("{cpu: 1, gpu: 0.25}", {"CPU": 8.0}, 0),
        ("{cpu: 2, gpu: 0}", {"CPU": 3.0}, 1),
        ("{cpu: 1, gpu: 0}", {}, 0),
    ],
)
def test_a_node_has_room_for_as_many_trials_as_fit_on_it_whole(resources: str, there: dict[str, float], room: int, tmp_path: Path) -> None:
    backend = Cluster(make_study(tmp_path, GRID, f"resources={resources}"), RunOptions(), Stop())
    assert backend._fitting(there) == room
