"""A run's folder: the resolved study, the record of its trials, and the lock that keeps it to one driver.

::

    runs/<name>/study.yaml     the study as it is run
                journal.log    the record (unless it is in a database)
                driver.lock    held by the living driver; names its host and process
                best/  figures/  report.html
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from optuna.storages import BaseStorage

from kdsearch.errors import RunLocked, SpecError, StoreError
from kdsearch.record.files import storage_errors
from kdsearch.record.storage import JOURNAL, open_storage

if TYPE_CHECKING:
    from kdsearch.spec.study import Study

BASELINES = "baselines"
"""What follows ``<name> | `` in the name of the Optuna study that holds every baseline."""


class Run:
    """A run in ``path``; nothing is touched before it is asked for."""

    def __init__(self, path: str | Path, *, storage_url: str | None = None) -> None:
        self.path = Path(path)
        self.storage_url = storage_url
        self._storage: BaseStorage | None = None

    @property
    def study_yaml(self) -> Path:
        """The resolved study."""
        return self.path / "study.yaml"

    @property
    def best(self) -> Path:
        """Folder of the best recipes."""
        return self.path / "best"

    @property
    def figures(self) -> Path:
        """Folder of the report's figures."""
        return self.path / "figures"

    def exists(self) -> bool:
        """Whether a study was started here."""
        return self.study_yaml.is_file() and (self.storage_url is not None or (self.path / JOURNAL).is_file())

    def create(self, study: Study) -> Run:
        """Make the folder for ``study``, or go on with the one that is there.

        Raises:
            SpecError: the folder holds a study that differs in more than budget, resources and appended seeds.
            RunLocked: another driver is at work here.
        """
        with storage_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        with self.locked():
            if self.study_yaml.exists():
                from kdsearch.spec.study import load_study

                changes = study.difference(load_study(self.study_yaml, allow_code=True))
                if changes:
                    raise SpecError(
                        "the study differs from the one that was started here: " + "; ".join(changes),
                        file=self.study_yaml,
                        hint="budget, resources and appended seeds may change; for anything else give the study another name, or --output",
                    )
            text = study.to_yaml()
            with storage_errors(self.study_yaml):
                if not self.study_yaml.exists() or self.study_yaml.read_text() != text:
                    made = self.study_yaml.with_name(f".study.{uuid.uuid4().hex[:8]}")
                    made.write_text(text)
                    made.replace(self.study_yaml)
        return self

    @property
    def storage(self) -> BaseStorage:
        """The record, opened for writing; only the driver that holds the lock may ask."""
        if self._storage is None:
            self._storage = open_storage(self.path, self.storage_url)
        return self._storage

    def read_storage(self) -> BaseStorage:
        """The record as it is now, for looking only."""
        return open_storage(self.path, self.storage_url, read_only=True)

    def study(
        self, name: str, directions: list[str], *, sampler: optuna.samplers.BaseSampler, pruner: optuna.pruners.BasePruner
    ) -> optuna.Study:
        """The Optuna study ``name`` of this run, made when it is not there yet."""
        return optuna.create_study(
            storage=self.storage, study_name=name, directions=directions, load_if_exists=True, sampler=sampler, pruner=pruner
        )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Be this run's driver. The lock ends with the process, however it ends.

        Raises:
            RunLocked: another living driver has it; the message names its host and process.
        """
        path = self.path / "driver.lock"
        with storage_errors(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunLocked(f"{self.path}: {_holder(path)} is running this study; wait for it, or stop it first") from None
            except OSError as error:
                raise StoreError(f"{path}: this file system has no locks ({error.strerror}); name a local folder with --output") from None
            with storage_errors(path):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}).encode(), 0)
            yield
        finally:
            os.close(descriptor)


def _holder(path: Path) -> str:
    try:
        found = json.loads(path.read_text())
        return f"process {int(found['pid'])} on host {found['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another driver"
