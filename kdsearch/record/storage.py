"""A run's Optuna storage: a journal file on a local disk by default, a database by URL.

The journal has the format of Optuna's ``JournalFileBackend``, so that optuna-dashboard opens it, with a checksum in each line, so
that a line altered on disk is noticed. A driver that dies while it writes leaves a torn last line; another writer's next append
would then make the file unreadable for good, so the tail is looked at before a journal is opened for writing.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import BaseJournalBackend

from kdsearch.errors import StoreError
from kdsearch.record.files import storage_errors, without_password

JOURNAL = "journal.log"
_CHECKSUM = "crc"
_COUNT = "n"
"""How many steps with a checksum there are up to this one, so that a line that is lost, doubled or moved is noticed."""
# Notes that a person writes in optuna-dashboard have no checksum; results always have one.
_NOTES = (3, 9)
_STATE = 6  # the step that ends a trial


def open_storage(run_dir: str | Path, url: str | None = None, *, read_only: bool = False) -> BaseStorage:
    """The Optuna storage of the run in ``run_dir``.

    Args:
        run_dir: the run's folder, which holds the journal file.
        url: a database such as ``postgresql://user@host/name`` in place of the journal.
        read_only: leave a torn tail as it is (a living driver may be writing it); the journal must exist.

    Raises:
        StoreError: a line of the journal is damaged, or the database cannot be reached. No password is ever in the message.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if url is not None:
        return _database(url)
    path = Path(run_dir) / JOURNAL
    if not read_only:
        repair_tail(path)
    elif not path.is_file():
        raise StoreError(f"{path}: no journal here")
    try:
        return JournalStorage(JournalFile(path))
    except StoreError:
        raise
    except Exception as error:  # a line that is JSON with a right checksum, yet no step of a journal
        raise StoreError(f"{path}: damaged ({type(error).__name__}: {error}); {_advice(path)}") from error


def _database(url: str) -> BaseStorage:
    from kdsearch.record.database import PatientDatabase  # loads SQLAlchemy, which a journal does not need

    plain = without_password(url)
    options: dict[str, Any] = {}
    if url.startswith("postgresql"):
        # A connection that the server dropped is noticed before use, so a restarted server does not end the study.
        options = {"pool_pre_ping": True, "pool_size": 2}
    try:
        return PatientDatabase(url, engine_kwargs=options)
    except ImportError as error:
        raise StoreError(f"{plain}: needs the package {error.name}; pip install it") from None
    except Exception as error:  # whatever the driver raises; its text may hold the URL
        said = str(error).replace(url, plain).splitlines()
        raise StoreError(f"{plain}: cannot be opened ({type(error).__name__}: {without_password(said[0]) if said else ''})") from None


def _advice(path: Path) -> str:
    return f"nothing was changed; put back a copy, or move {path.name} aside to start the record anew (what is trained stays in the store)"


def _read_line(line: bytes) -> dict[str, Any]:
    """One step of a journal, its checksum verified and removed. Raises ValueError."""
    step = json.loads(line)
    if not isinstance(step, dict):
        raise ValueError("not a mapping")
    told = step.pop(_CHECKSUM, None)
    if told is None:
        if step.get("op_code") not in _NOTES:
            raise ValueError("no checksum")
    elif told != zlib.crc32(line.rpartition(f',"{_CHECKSUM}":'.encode())[0] + b"}"):  # it stands last, behind what it is of
        raise ValueError("wrong checksum")
    return step


def _checksum(step: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(step, separators=(",", ":")).encode())


def repair_tail(path: Path) -> Path | None:
    """Cut a torn last line off the journal and keep it beside it as ``journal.log.torn-<n>``; returns that file.

    Torn is a last line without its end, or one that is not a whole step. Damage in the middle is left for opening to report.
    """
    if not path.is_file():
        return None
    with storage_errors(path), path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        start = _last_line(file, size)
        file.seek(start)
        line = file.read()
        if not line:
            return None
        if line.endswith(b"\n"):
            with contextlib.suppress(ValueError):
                _read_line(line)
                return None
        number = 1
        while (aside := path.with_name(f"{path.name}.torn-{number}")).exists():
            number += 1
        aside.write_bytes(line)
        file.truncate(start)
        os.fsync(file.fileno())
        return aside


def _last_line(file: Any, size: int) -> int:
    """Where the last line starts, its own end not counted."""
    position = max(size - 1, 0)
    while position > 0:
        start = max(position - 65536, 0)
        file.seek(start)
        found = file.read(position - start).rfind(b"\n")
        if found >= 0:
            return int(start + found + 1)
        position = start
    return 0


class JournalFile(BaseJournalBackend):
    """Optuna's journal in one file, a line per step, each with a checksum.

    One process writes (the run's driver lock sees to it), so no lock file is needed that would outlive a killed driver.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._next = (0, 0, 0)  # number and offset of the first step that was not read, and the count of the last one that was
        if not path.exists():
            with storage_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Steps from ``log_number_from`` on. A last line without its end is one that is being written: not yet read."""
        number, offset, count = self._next if log_number_from >= self._next[0] else (0, 0, 0)
        with storage_errors(self._path), self._path.open("rb") as file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                try:
                    step = _read_line(line)
                    counted = step.pop(_COUNT, None)
                    if counted not in (count + 1, None) or (counted is None and count and step.get("op_code") not in _NOTES):
                        raise ValueError(f"step {counted} after step {count}")
                except ValueError as error:
                    raise StoreError(f"{self._path}: line {number + 1} is damaged ({error}); {_advice(self._path)}") from None
                number, offset, count = number + 1, offset + len(line), counted or count
                if number > log_number_from:
                    self._next = (number, offset, count)
                    yield step

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append steps, all or none. Optuna has read every step before it appends one."""
        counted = [{**log, _COUNT: count} for count, log in enumerate(logs, self._next[2] + 1)]
        text = "".join(json.dumps({**log, _CHECKSUM: _checksum(log)}, separators=(",", ":")) + "\n" for log in counted)
        with storage_errors(self._path):
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND)
            try:
                before = os.fstat(descriptor).st_size
                content = text.encode()
                try:
                    if os.write(descriptor, content) != len(content):
                        raise OSError(28, "No space left on device")
                    if any(log.get("op_code") == _STATE for log in logs):
                        os.fsync(descriptor)  # what is finished outlives the machine; a killed process loses nothing either way
                except OSError:
                    os.ftruncate(descriptor, before)
                    raise
            finally:
                os.close(descriptor)
