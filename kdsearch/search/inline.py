"""Trials in this process, one after another, through the same ledger: for a debugger, and where there is no Ray."""

from __future__ import annotations

from collections.abc import Callable

from kdsearch.search.ledger import Assignment, Ledger
from kdsearch.search.progress import Progress
from kdsearch.search.stopping import Stop
from kdsearch.search.work import Work, Worker


def run_inline(ledger: Ledger, work_of: Callable[[Assignment], Work], progress: Progress, stop: Stop) -> None:
    """Run what the ledger hands out until it has nothing left. Ctrl-C and SIGTERM end an epoch in its middle."""
    while (assignment := ledger.next()) is not None:
        worker = Worker(work_of(assignment))
        try:
            goes_on = True
            while goes_on:
                with stop.exposed():
                    event = worker.step()
                goes_on = ledger.report(assignment.id, event)
                progress.update(ledger)
        finally:
            worker.close()
