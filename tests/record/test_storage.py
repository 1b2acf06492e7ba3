"""The journal: whole after a torn tail, loud about damage in the middle, readable by Optuna's own tools."""

from __future__ import annotations

import functools
import json
import random
from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdsearch.errors import StoreError
from kdsearch.record.storage import JOURNAL, _checksum, open_storage, repair_tail, without_password


def _filled(folder: Path, trials: int = 3) -> Path:
    study = optuna.create_study(storage=open_storage(folder), study_name="s", load_if_exists=True)
    for number in range(trials):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        trial.report(number, 1)
        trial.set_user_attr("note", "é\n")
        study.tell(trial, float(number))
    return folder / JOURNAL


@functools.cache
def _written(folder: Path) -> bytes:
    (folder / "once").mkdir()
    return _filled(folder / "once").read_bytes()


def _values(folder: Path) -> list[float | None]:
    return [trial.value for trial in optuna.load_study(storage=open_storage(folder), study_name="s").trials]


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.95])
def test_a_torn_last_line_is_cut_off_and_kept_beside_the_journal(tmp_path: Path, keep: float) -> None:
    journal = _filled(tmp_path)
    lines = journal.read_bytes().splitlines(keepends=True)
    torn = lines[-1][: max(1, int(keep * len(lines[-1])))]
    journal.write_bytes(b"".join(lines[:-1]) + torn)
    assert _values(tmp_path) == [0, 1, None]
    assert (tmp_path / "journal.log.torn-1").read_bytes() == torn
    _filled(tmp_path, 1)  # appending works, and the file stays readable
    assert _values(tmp_path)[3] == 0
    assert not (tmp_path / "journal.log.torn-2").exists()


def test_looking_at_a_journal_that_is_being_written_changes_nothing(tmp_path: Path) -> None:
    journal = _filled(tmp_path)
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-5])
    study = optuna.load_study(storage=open_storage(tmp_path, read_only=True), study_name="s")
    assert len(study.trials) == 3
    assert journal.read_bytes() == whole[:-5]


def test_damage_in_the_middle_is_told_with_file_and_line_and_nothing_is_changed(tmp_path: Path) -> None:
    journal = _filled(tmp_path)
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[4] = lines[4][:10] + b"\x00" + lines[4][11:]
    journal.write_bytes(b"".join(lines))
    with pytest.raises(StoreError, match=r"journal\.log: line 5 is damaged"):
        open_storage(tmp_path)
    assert journal.read_bytes() == b"".join(lines)


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32), kind=st.sampled_from(["flip", "cut", "drop", "swap", "insert"]))
def test_an_altered_journal_is_never_taken_for_other_results(tmp_path_factory: pytest.TempPathFactory, seed: int, kind: str) -> None:
    folder = tmp_path_factory.mktemp("journal")
    journal = folder / JOURNAL
    before: list[float | None] = [0, 1, 2]
    content = bytearray(_written(tmp_path_factory.getbasetemp()))
    draw = random.Random(seed)
    place = draw.randrange(len(content))
    if kind == "flip":
        content[place] ^= 1 << draw.randrange(8)
    elif kind == "cut":
        del content[place:]
    elif kind == "drop":
        del content[place : place + draw.randrange(1, 40)]
    elif kind == "swap":
        content[place : place + 8] = bytes(reversed(content[place : place + 8]))
    else:
        content[place:place] = draw.randbytes(4)
    journal.write_bytes(bytes(content))
    try:
        after = _values(folder)
    except (StoreError, KeyError):  # KeyError is Optuna's for a study that is not there (yet)
        return
    # What is left is a beginning of what was: the end may be lost with a torn tail, but nothing is changed.
    assert len(after) <= len(before)
    assert all(new in (old, None) for new, old in zip(after, before, strict=False))


@pytest.mark.parametrize("how", ["lost", "doubled", "moved", "another's"])
def test_a_whole_line_that_is_lost_doubled_or_moved_is_noticed(tmp_path: Path, how: str) -> None:
    journal = _filled(tmp_path)
    lines = journal.read_bytes().splitlines(keepends=True)
    for place in range(len(lines) - 1):
        altered = {
            "lost": [*lines[:place], *lines[place + 1 :]],
            "doubled": [*lines[: place + 1], *lines[place:]],
            "moved": [*lines[:place], lines[place + 1], lines[place], *lines[place + 2 :]],
            "another's": [*lines[:place], lines[-1], *lines[place + 1 :]],
        }[how]
        journal.write_bytes(b"".join(altered))
        with pytest.raises(StoreError, match="damaged"):
            open_storage(tmp_path)


def test_a_journal_without_counts_is_gone_on_with(tmp_path: Path) -> None:
    journal = _filled(tmp_path)
    lines = []
    for line in journal.read_bytes().splitlines():  # as it was written before steps were counted
        step = {name: value for name, value in json.loads(line).items() if name not in ("crc", "n")}
        lines.append(json.dumps({**step, "crc": _checksum(step)}, separators=(",", ":")))
    journal.write_text("\n".join(lines) + "\n")
    assert _values(tmp_path) == [0, 1, 2]
    _filled(tmp_path, 1)
    assert _values(tmp_path) == [0, 1, 2, 0]


def test_optuna_s_own_backend_reads_the_journal(tmp_path: Path) -> None:
    journal = _filled(tmp_path)
    backend = optuna.storages.journal.JournalFileBackend(str(journal))
    study = optuna.load_study(storage=optuna.storages.JournalStorage(backend), study_name="s")
    assert [trial.value for trial in study.trials] == [0, 1, 2]


def test_a_line_without_its_checksum_is_not_believed(tmp_path: Path) -> None:
    journal = _filled(tmp_path)
    lines = journal.read_text().splitlines()
    forged = {key: value for key, value in json.loads(lines[-1]).items() if key != "crc"}
    journal.write_text("\n".join([*lines[:-1], json.dumps({**forged, "values": [99.0]}), *lines[-1:]]) + "\n")
    with pytest.raises(StoreError, match="no checksum"):
        open_storage(tmp_path)


def test_an_empty_or_missing_journal_needs_no_repair(tmp_path: Path) -> None:
    assert repair_tail(tmp_path / JOURNAL) is None
    (tmp_path / JOURNAL).touch()
    assert repair_tail(tmp_path / JOURNAL) is None


def test_a_password_is_in_no_message() -> None:
    assert without_password("postgresql://me:s3:cr@t@host/db") == "postgresql://me:***@host/db"
    with pytest.raises(StoreError) as told:
        open_storage(".", "postgresql+nosuchdriver://me:secret@localhost:1/db")
    assert "secret" not in str(told.value)


def test_sqlite_by_url_holds_a_record_too(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/record.db"
    study = optuna.create_study(storage=open_storage(tmp_path, url), study_name="s")
    study.tell(study.ask(), 1.0)
    assert optuna.load_study(storage=open_storage(tmp_path, url), study_name="s").best_value == 1.0
