"""Progress on standard error: a live table on a terminal, plain lines otherwise, nothing when quiet.

Text that comes from files (labels, reasons) is shown as text, never as markup or terminal codes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kdsearch.errors import printable

if TYPE_CHECKING:
    from kdsearch.search.ledger import Ledger
    from kdsearch.spec.study import Study

LINE_SECONDS = 10.0
"""Seconds between plain lines about trials."""


class Progress:
    """Says nothing but what ``on_event`` asks for; the two below show more."""

    def __init__(self, on_event: Callable[[str], None] | None = None) -> None:
        self._on_event = on_event
        self._started = time.monotonic()
        self._already = 0

    def start(self, ledger: Ledger) -> None:
        """The search begins."""
        self._started, self._already = time.monotonic(), _ended(ledger)

    def note(self, text: str) -> None:
        """Something worth a line."""
        if self._on_event is not None:
            self._on_event(printable(text))

    def prerequisites(self, done: int, total: int, epochs: int, planned: int) -> None:
        """Networks trained before the trials that need them: finished of all, epochs of all."""

    def update(self, ledger: Ledger) -> None:
        """Something happened in the search."""

    def stop(self, ledger: Ledger | None = None) -> None:
        """The search has ended; called once, however it ended."""

    def seconds_left(self, ledger: Ledger) -> float | None:
        """Rough time left: at the pace of this session's trials."""
        ended = _ended(ledger) - self._already
        left = sum(max(book.counts.planned - book.counts.done, 0) for book in ledger.books)
        return (time.monotonic() - self._started) / ended * left if ended > 3 else None


class PlainLines(Progress):
    """A line now and then, for logs."""

    def __init__(self, stream: TextIO, on_event: Callable[[str], None] | None = None) -> None:
        super().__init__(on_event)
        self._stream = stream
        self._last = -LINE_SECONDS

    def note(self, text: str) -> None:
        super().note(text)
        print(printable(text), file=self._stream, flush=True)

    def prerequisites(self, done: int, total: int, epochs: int, planned: int) -> None:
        if done == total or self._due():
            print(f"prerequisites: {done}/{total} networks, {epochs}/{planned} epochs", file=self._stream, flush=True)

    def update(self, ledger: Ledger) -> None:
        if self._due():
            self._print(ledger)

    def stop(self, ledger: Ledger | None = None) -> None:
        if ledger is not None:
            self._print(ledger)

    def _due(self) -> bool:
        now = time.monotonic()
        due = now - self._last >= LINE_SECONDS
        if due:
            self._last = now
        return due

    def _print(self, ledger: Ledger) -> None:
        parts = []
        for book in ledger.books:
            c = book.counts
            best = "" if c.best is None else f", best {c.best:.2f}"
            more = "".join(f", {n} {what}" for n, what in ((c.running, "running"), (c.pruned, "pruned"), (c.failed, "failed")) if n)
            parts.append(f"{book.label}: {c.done}/{c.planned}{more}{best}")
        left = self.seconds_left(ledger)
        print(printable("; ".join(parts)) + (f"; {clock(left)} left" if left else ""), file=self._stream, flush=True)


class LiveTable(Progress):
    """A table by stratum that is drawn again in place."""

    def __init__(self, stream: TextIO, title: str, on_event: Callable[[str], None] | None = None) -> None:
        super().__init__(on_event)
        self._title = printable(title)
        self._live = Live(console=Console(file=stream), refresh_per_second=4, transient=False)
        self._drawn = 0.0
        self._running = False

    def _show(self, content: Table | Text | Group) -> None:
        if not self._running:
            self._live.start()
            self._running = True
        self._live.update(content)

    def note(self, text: str) -> None:
        super().note(text)
        self._live.console.print(Text(printable(text)))

    def prerequisites(self, done: int, total: int, epochs: int, planned: int) -> None:
        self._show(Text(f"{self._title}: training what trials share: {done}/{total} networks, {epochs}/{planned} epochs"))

    def update(self, ledger: Ledger) -> None:
        now = time.monotonic()
        if now - self._drawn >= 0.2:
            self._drawn = now
            self._show(self._table(ledger))

    def stop(self, ledger: Ledger | None = None) -> None:
        if ledger is not None:
            self._show(self._table(ledger))
        if self._running:
            self._live.stop()
            self._running = False

    def _table(self, ledger: Ledger) -> Group:
        table = Table(title=Text(self._title), title_justify="left", show_edge=False, pad_edge=False)
        table.add_column("stratum")
        for name in ("done", "running", "complete", "pruned", "failed", "best"):
            table.add_column(name, justify="right")
        for book in ledger.books:
            c = book.counts
            best = "-" if c.best is None else f"{c.best:.2f}"
            cells = (f"{c.done}/{c.planned}", c.running, c.complete, c.pruned, c.failed, best)
            table.add_row(Text(printable(book.label)), *map(str, cells))
        left = self.seconds_left(ledger)
        return Group(table, Text(f"about {clock(left)} left" if left else ""))


def progress_for(
    study: Study, *, quiet: bool = False, on_event: Callable[[str], None] | None = None, stream: TextIO | None = None
) -> Progress:
    """What suits the stream (standard error by default)."""
    stream = stream if stream is not None else sys.stderr
    if quiet:
        return Progress(on_event)
    if stream.isatty():
        return LiveTable(stream, study.title or study.name, on_event)
    return PlainLines(stream, on_event)


def clock(seconds: float) -> str:
    """``95`` → ``1 min 35 s``."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def _ended(ledger: Ledger) -> int:
    return sum(book.counts.done for book in ledger.books)
