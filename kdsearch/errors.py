"""The exception tree of kdsearch; each class carries the exit code the command line ends with.

::

    KDSearchError                1  failed
    ├── UsageError               2  wrong usage
    │   ├── SpecError            2  a study, space or recipe file that is not valid
    │   └── DataError            2  a data set that is missing or broken
    ├── StoreError               1  the store or a run's record cannot be read or written
    │   └── RunLocked            1  another driver works on this run
    ├── TrainingFailed           1  a training run cannot go on (its trial is FAIL)
    │   └── Diverged             1  the loss or the objective is not finite
    ├── ExportError              1  an exported model that cannot be written, read, or does not agree with PyTorch
    ├── NothingEligible          4  nothing finished that the command could use
    ├── Interrupted            130  Ctrl-C
    └── Terminated             143  SIGTERM
"""

from __future__ import annotations

from pathlib import Path

EXIT_FAILED_TRIALS = 3
"""Exit code of a study that is done but has failed trials; not an error, so not an exception."""


def printable(text: str) -> str:
    """``text`` as it may be shown on a terminal: codes that would colour, move or hide something are ``?``."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


class KDSearchError(Exception):
    """Base of every error meant for people: its text is one message, printed without a traceback."""

    exit_code = 1


class UsageError(KDSearchError):
    """A command or call that asks for something that cannot be."""

    exit_code = 2


class SpecError(UsageError):
    """A study, space or recipe that is not valid.

    The message names where (file, line, key), what was there, what is allowed and what to do next.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: str | Path | None = None,
        line: int | None = None,
        key: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.problem, self.file, self.line, self.key, self.hint = problem, file, line, key, hint
        where = ":".join(str(part) for part in (file, line) if part is not None)
        parts = [part for part in (where, key, problem) if part]
        super().__init__(": ".join(parts) + (f" ({hint})" if hint else ""))


class DataError(UsageError):
    """A data set that is missing, incomplete or cannot be decoded; names the file or folder."""


class StoreError(KDSearchError):
    """The store or a run's record cannot be read or written."""


class RunLocked(StoreError):
    """Another living driver works on this run; names its host and process id."""


class TrainingFailed(KDSearchError):
    """A training run cannot go on; the search records its trial as FAIL with this text as reason."""


class Diverged(TrainingFailed):
    """The loss or the objective is NaN or infinite."""


class ExportError(KDSearchError):
    """An exported model that cannot be written or read, or that does not agree with the network it was made from."""


class NothingEligible(KDSearchError):
    """Nothing has finished that the command could use."""

    exit_code = 4


class Interrupted(KDSearchError):
    """Ctrl-C: what ran is recorded and goes on with the same command."""

    exit_code = 130


class Terminated(KDSearchError):
    """SIGTERM: what ran is recorded and goes on with the same command."""

    exit_code = 143
