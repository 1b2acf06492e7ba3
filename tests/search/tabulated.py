"""A tabulated objective in place of training: the Session interface, results from a formula, checkpoints and entries in the store.

What it trains is noted in ``<store>/trained.log``, a line per epoch, so that tests see what ran, where and how often. Settings come
from the environment, since sessions live in worker processes: ``TABULATED_SECONDS`` per epoch.
A learning rate of 1e9 diverges at epoch 2; 1e8 gives NaN without an error; 1e7 is a defect; 1e6 kills the
process at epoch 2.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

from kdsearch.errors import Diverged
from kdsearch.record.store import Store
from kdsearch.spec.recipe import Recipe


def key_of(recipe: Recipe) -> str:
    return hashlib.sha256(recipe.model_dump_json().encode()).hexdigest()


def accuracy(recipe: Recipe, epoch: int) -> float:
    """Percent: best at temperature 5 and coefficient 0.7, a little noise by seed, rising over the epochs."""
    distill = recipe.distill
    penalty = 20.0 if distill is None else 6 * abs(math.log(distill.temperature / 5)) + 20 * abs(distill.coefficient - 0.7)
    noise = int(key_of(recipe)[:4], 16) / 65536
    return (90 - penalty + noise) * (1 - 0.5 ** (1 + epoch / 2))


class Session:
    def __init__(self, recipe: Recipe, store: Store, *, device: str = "cpu", threads: int = 1, wait: bool = True) -> None:
        self.recipe, self.store, self.key = recipe, store, key_of(recipe)
        self._given = 0
        self._rows: list[dict[str, float]] = []
        self._lease = None if store.has(self.key) else store.lease(self.key, wait=wait)
        if store.has(self.key):
            self._rows = store.entry(self.key).metrics["epochs"]
            self.close()
        elif (found := store.latest_checkpoint(self.key)) is not None:
            self._rows = json.loads(found[1])
        for child in recipe.children().values():
            if not store.has(key_of(child)) and self._lease is not None:
                session = Session(child, store)
                while not session.finished:
                    session.step()

    @property
    def finished(self) -> bool:
        return self._given == self.recipe.optim.epochs

    @property
    def metrics(self) -> dict[str, Any]:
        rows = self._rows
        final = {**rows[-1], "train_seconds": sum(row["seconds"] for row in rows), "model_kib": 10 * self.recipe.model.width}
        return {"epochs": rows, "final": final, "environment": {}, "warnings": []}

    def step(self) -> dict[str, float]:
        self._given += 1
        if self._given > len(self._rows):
            self._rows.append(self._trained(self._given))
            if self.finished:
                self.store.write(self.key, self.recipe.model_dump(mode="json"), self.metrics, b"")
                self.store.drop_checkpoints(self.key)
                self.close()
            else:
                self.store.save_checkpoint(self.key, self._given, json.dumps(self._rows).encode())
        return dict(self._rows[self._given - 1])

    def _trained(self, epoch: int) -> dict[str, float]:
        rate = self.recipe.optim.learning_rate
        time.sleep(float(os.environ.get("TABULATED_SECONDS", "0")))
        with (self.store.root / "trained.log").open("a") as log:
            log.write(f"{self.key} {epoch} {os.getpid()} {'student' if self.recipe.distill else 'other'}\n")
        if rate == 1e9 and epoch == 2:
            raise Diverged(f"epoch {epoch}: the training loss is nan")
        if rate == 1e7:
            raise ZeroDivisionError("a defect")
        if rate == 1e6 and epoch == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        value = math.nan if rate == 1e8 else accuracy(self.recipe, epoch)
        return {"epoch": epoch, "train_loss": 100 - value, "val_loss": 100 - value, "val_accuracy": value, "seconds": 0.01}

    def close(self) -> None:
        if self._lease is not None:
            self._lease.release()
            self._lease = None


class Stacked(Session):
    """As small networks are: four are best trained at once."""

    stack = 4

    @staticmethod
    def step_together(sessions: list[Stacked]) -> list[dict[str, float] | Exception]:
        found: list[dict[str, float] | Exception] = []
        for session in sessions:
            with (session.store.root / "together.log").open("a") as log:
                log.write(f"{len(sessions)}\n")
            try:
                found.append(session.step())
            except Exception as error:
                found.append(error)
        return found


def trained(store: Path) -> list[tuple[str, int, int, str]]:
    """(key, epoch, process, kind) of every epoch that was trained, in order."""
    log = store / "trained.log"
    lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    return [(key, int(epoch), int(pid), kind) for key, epoch, pid, kind in lines]
