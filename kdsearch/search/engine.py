"""Run a study: prerequisites, then trials, by Ray Tune or in this process; and leave in good order however it ends."""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdsearch.errors import EXIT_FAILED_TRIALS, StoreError
from kdsearch.record.remote import open_store
from kdsearch.record.run import Run
from kdsearch.record.store import Store
from kdsearch.search.crews import Job
from kdsearch.search.data_check import data_of
from kdsearch.search.depot import Depot
from kdsearch.search.inline import run_inline
from kdsearch.search.ledger import Ledger
from kdsearch.search.options import RunOptions
from kdsearch.search.prerequisites import Prerequisites, prerequisites
from kdsearch.search.progress import Progress, clock
from kdsearch.search.stopping import Leave, Stop, signals
from kdsearch.search.work import Work
from kdsearch.spec.study import Study


@dataclass
class Outcome:
    """How a run ended."""

    exit_code: int
    seconds: float
    reason: str | None = None
    """Why the budget was not spent; None when it was."""
    strata: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Stratum (or ``baselines``) → planned, complete, pruned, failed, interrupted, best."""

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"exit_code": self.exit_code, "reason": self.reason, "seconds": round(self.seconds, 1), "strata": self.strata}

    def text(self) -> str:
        """A few lines for people."""
        lines = [] if self.reason is None else [self.reason]
        for name, counts in self.strata.items():
            failed = f", {counts['failed']} failed" if counts["failed"] else ""
            best = "" if counts["best"] is None else f", best {counts['best']:.2f}"
            lines.append(f"{name}: {counts['complete']} complete, {counts['pruned']} pruned{failed} of {counts['planned']}{best}")
        return "\n".join([*lines, f"took {clock(self.seconds)}"])


def run_study(
    study: Study,
    run: Run,
    store: Store | str | Path,
    options: RunOptions,
    progress: Progress,
    make_ledger: Callable[[Study, Run], Ledger] = Ledger,
) -> Outcome:
    """Run ``study``, or go on with it, until its budget is spent.

    ``make_ledger``: another ledger hands out other trials (:mod:`kdsearch.search.confirm`); what they need trained is trained with them.

    Returns an outcome with exit code 0; 1 when the study stopped because everything fails; 3 when trials failed; 130 after Ctrl-C
    and 143 after SIGTERM, with what ran closed and asked first next time.

    Raises:
        RunLocked: another driver runs this study.
        StoreError: the record or the store cannot be read or written.
    """
    store = store if isinstance(store, Store) else open_store(store)
    began = time.monotonic()
    ledger: Ledger | None = None
    code, reason = 0, None
    with run.locked(), signals() as stop:
        try:
            if store.upstream is not None:  # now, and not when the first teacher is trained
                store.upstream.offer("about", b"a store of kdsearch: entries/ and checkpoints/ by key\n")
                store.send_unsent()
            ledger = make_ledger(study, run)
            _search(study, ledger, _Works(study, store, options), options, progress, stop)
        except Leave:
            assert stop.asked is not None
            code, reason = stop.asked.exit_code, str(stop.asked)
        except BaseException:
            progress.stop()
            if ledger is not None:
                with contextlib.suppress(Exception):  # the record itself may be what failed; the next driver closes what is left
                    ledger.interrupt()
            raise
        if ledger is not None:
            ledger.interrupt()
            store.drop_abandoned(ledger.abandoned)
        if store.upstream is not None and (unsent := store.send_unsent()):
            progress.note(f"{unsent} finished networks lie in {store.root} only; running again sends them on")
        progress.stop(ledger)
    if code == 0 and ledger is not None:
        reason = ledger.halted
        code = 1 if ledger.halted else EXIT_FAILED_TRIALS if ledger.failed else 0
    return _outcome(ledger, code, reason, time.monotonic() - began)


def _search(study: Study, ledger: Ledger, works: _Works, options: RunOptions, progress: Progress, stop: Stop) -> None:
    first = Prerequisites(prerequisites(study) if type(ledger) is Ledger else [], progress.prerequisites)
    ledger.failed_children = first.failed
    if options.inline:
        run_inline(ledger, first, works.of, progress, stop)
        return
    cluster_module = _load("kdsearch.search.ray_cluster")
    with cluster_module.Cluster(study, options, stop) as cluster:
        if works.travels:
            works.depot = cluster.open_depot(works.store, data_of(study))
        # Only now: Ray Tune loads while Ray starts.
        _load("kdsearch.search.ray_backend").dispatch(cluster, ledger, first, works.of, progress)


def _load(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise StoreError(f"Ray cannot be loaded ({error}); install ray[tune], or run with --inline") from error


class _Works:
    """What workers get, from what is handed out."""

    def __init__(self, study: Study, store: Store, options: RunOptions) -> None:
        self.store, self._options = store, options
        self.travels = store.upstream is not None or not options.shared
        self.depot: Depot | None = None
        self._device = "cuda" if study.resources.gpu > 0 else "cpu"
        self._threads = max(1, int(study.resources.cpu))

    def of(self, job: Job) -> Work:
        """The work of a trial or of a prerequisite."""
        root = str(self.store.root) if self._options.shared else None
        here = self.store if self._options.inline else None
        return Work(job.id, job.texts, root, self.depot, self._options.session, self._device, self._threads, here)


def _outcome(ledger: Ledger | None, code: int, reason: str | None, seconds: float) -> Outcome:
    strata = {}
    for book in ledger.books if ledger is not None else ():
        c = book.counts
        strata[book.label] = {
            "planned": c.planned,
            "complete": c.complete,
            "pruned": c.pruned,
            "failed": c.failed,
            "interrupted": c.interrupted,
            "best": c.best,
        }
    return Outcome(code, seconds, reason, strata)
