"""Ctrl-C and SIGTERM: the first ends a run in good order, the second at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from kdsearch.errors import Interrupted, Terminated


class Leave(BaseException):
    """On the way out of what was running. Not an Exception, so that neither training nor Ray Tune takes it for its own failure."""


class Stop:
    """Whether somebody asked to stop, and how."""

    def __init__(self) -> None:
        self.asked: Interrupted | Terminated | None = None
        self._exposed = False

    def check(self) -> None:
        """Raise :class:`Leave` when it was asked for."""
        if self.asked is not None:
            raise Leave

    @contextlib.contextmanager
    def exposed(self) -> Iterator[None]:
        """While in here (training in this process) a signal raises :class:`Leave` at once; elsewhere it waits for :meth:`check`, so
        that the record is never left half-way through a step."""
        self._exposed = True
        try:
            self.check()
            yield
        finally:
            self._exposed = False

    def install(self) -> None:
        """Take Ctrl-C and SIGTERM, in the main thread; elsewhere signals stay the caller's."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked is not None:
            os._exit(128 + number)  # the record stays sound, being written line by line
        kind = Terminated if number == signal.SIGTERM else Interrupted
        self.asked = kind(f"{kind.__name__.lower()}; the same command goes on from here")
        if self._exposed:
            raise Leave


@contextlib.contextmanager
def signals() -> Iterator[Stop]:
    """First Ctrl-C or SIGTERM: end in good order. A second one: leave at once."""
    stop = Stop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    stop.install()
    try:
        yield stop
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
