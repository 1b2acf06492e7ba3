"""Ctrl-C and SIGTERM: the first ends a run in good order, the second at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from kdsearch.errors import Interrupted, Terminated


class Stop:
    """Whether somebody asked to stop, and how. ``check`` raises it where the main thread can be left safely."""

    def __init__(self) -> None:
        self.asked: Interrupted | Terminated | None = None
        self.at_once = True
        """Whether the signal handler raises by itself; off while Ray Tune, which would take it for its own, is on the stack."""

    def check(self) -> None:
        """Raise what was asked for."""
        if self.asked is not None:
            raise self.asked


@contextlib.contextmanager
def signals() -> Iterator[Stop]:
    """First Ctrl-C or SIGTERM: end in good order. A second one: leave at once; the record stays sound, being written line by line."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.asked is not None:
            os._exit(128 + number)
        if number == signal.SIGTERM:
            stop.asked = Terminated("terminated; the same command goes on from here")
        else:
            stop.asked = Interrupted("interrupted; the same command goes on from here")
        if stop.at_once:
            raise stop.asked

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
