"""Trials in this process, through the same ledger: for a debugger, and where there is no Ray."""

from __future__ import annotations

from collections.abc import Callable

from kdsearch.search.crews import Crews, Job
from kdsearch.search.ledger import Ledger
from kdsearch.search.prerequisites import Prerequisites
from kdsearch.search.progress import Progress
from kdsearch.search.stopping import Stop
from kdsearch.search.work import Work, Workers


def run_inline(ledger: Ledger, prerequisites: Prerequisites, work_of: Callable[[Job], Work], progress: Progress, stop: Stop) -> None:
    """Run everything until there is nothing left. Ctrl-C and SIGTERM end an epoch in its middle."""
    crews = Crews(ledger, prerequisites, lambda: 1, progress)
    while (crew := crews.start()) is not None:
        workers = Workers()
        try:
            while crew.members:
                workers.set([work_of(member) for member in crew.members.values()])
                with stop.exposed():
                    events = workers.step()
                crews.take(crew, events)
        finally:
            workers.close()
