"""Trials in this process, through the same ledger: for a debugger, and where there is no Ray."""

from __future__ import annotations

from collections.abc import Callable

from kdsearch.search.crews import Crews
from kdsearch.search.ledger import Assignment, Ledger
from kdsearch.search.progress import Progress
from kdsearch.search.stopping import Stop
from kdsearch.search.work import Work, Workers


def run_inline(ledger: Ledger, work_of: Callable[[Assignment], Work], progress: Progress, stop: Stop) -> None:
    """Run what the ledger hands out until it has nothing left. Ctrl-C and SIGTERM end an epoch in its middle."""
    crews = Crews(ledger, lambda: 1)
    while (crew := crews.start()) is not None:
        workers = Workers()
        try:
            while crew.members:
                workers.set([work_of(member) for member in crew.members.values()])
                with stop.exposed():
                    events = workers.step()
                crews.take(crew, events)
                progress.update(ledger)
        finally:
            workers.close()
