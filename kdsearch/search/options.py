"""How a study is run, apart from what it says itself."""

from __future__ import annotations

from dataclasses import dataclass

from kdsearch.search.work import DEFAULT_SESSION


@dataclass(frozen=True)
class RunOptions:
    """How a study is run, apart from what it says itself."""

    workers: int | None = None
    """Processes that train at a time; None: as many as the resources allow."""
    address: str | None = None
    """A Ray cluster to join; None: Ray on this machine."""
    shared: bool = True
    """Whether every node finds the store's folder at the same path; else each has its own, and what they lack or make travels."""
    inline: bool = False
    """In this process, without Ray."""
    session: str = DEFAULT_SESSION
    """``module:function`` that makes training sessions, see :class:`kdsearch.search.work.SessionLike`. Anything with that
    interface can be searched: a tabulated objective, a simulator."""
    segment: int = 1000
    """Trials and prerequisites after which Ray Tune is started anew, since its memory grows with the trials it has seen."""
    meanwhile: tuple[str, ...] = ()
    """Modules that load while Ray starts, since they are wanted when the study has run."""
