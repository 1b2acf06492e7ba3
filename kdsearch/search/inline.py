"""Trials in this process, one after another, through the same ledger: for a debugger, and where there is no Ray."""

from __future__ import annotations

from collections.abc import Callable

from kdsearch.search.ledger import Assignment, Ledger
from kdsearch.search.progress import Progress
from kdsearch.search.work import Work, Worker


def run_inline(ledger: Ledger, work_of: Callable[[Assignment], Work], progress: Progress) -> None:
    """Run what the ledger hands out until it has nothing left. Ctrl-C and SIGTERM come out as the exception their handler raises."""
    while (assignment := ledger.next()) is not None:
        worker = Worker(work_of(assignment))
        try:
            while ledger.report(assignment.id, worker.step()):
                progress.update(ledger)
        finally:
            worker.close()
        progress.update(ledger)
