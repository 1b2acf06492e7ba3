"""Ray Tune as the dispatcher: a Searcher and a scheduler that ask and tell the ledger, and actors that stay warm between trials.

What makes trials of a fraction of a second worth while (figures in tests/benchmarks):

- one of Tune's trials is a crew of ours (:mod:`kdsearch.search.crews`), in an actor in which torch, data and tables stay loaded: whoever
  ends makes room for the next, and small networks train several at a time;
- nothing is logged, synchronised or saved by Tune: no logger callbacks, no checkpoints, no experiment snapshots;
- a trial is asked for only when a worker is free for it, so the sampler knows every result there is, and one worker sees the same
  sequence as a run without Ray.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from kdsearch.errors import KDSearchError, printable
from kdsearch.search.crews import Crew, Crews, Job
from kdsearch.search.ledger import Ledger
from kdsearch.search.prerequisites import Prerequisites
from kdsearch.search.progress import Progress
from kdsearch.search.ray_cluster import Cluster
from kdsearch.search.ray_worker import EVENTS, VERSION, Desk, Trainable
from kdsearch.search.stopping import Leave, Stop
from kdsearch.search.work import Event, Work


class _PastTune(BaseException):
    """Carries an error of ours out of Tune's loop, which would wrap an Exception in its own with a traceback."""

    def __init__(self, error: KDSearchError) -> None:
        super().__init__(str(error))
        self.error = error


@contextlib.contextmanager
def _past_tune() -> Iterator[None]:
    try:
        yield
    except KDSearchError as error:
        raise _PastTune(error) from None


class _Searcher(Searcher):
    """Gives Tune the crews. What happens to their members goes through the scheduler, which sees every result."""

    def __init__(
        self,
        crews: Crews,
        config_of: Callable[[str, Crew], dict[str, Any]],
        room: Callable[[], int],
        most: int,
        again: Callable[[Job], bool],
        note: Callable[[str], None],
    ) -> None:
        """``room``: crews at a time; ``most``: jobs in all; ``again``: whether a job whose process died is run again."""
        super().__init__()
        self._crews, self._config_of, self._room, self._left, self._again, self._note = crews, config_of, room, most, again, note
        self.crews: dict[str, Crew] = {}
        """Tune's trial → the crew that runs in it."""
        self._causes: dict[str, str] = {}
        self.exhausted = False
        """Whether there is nothing more to hand out."""

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self._left <= 0:
            return str(Searcher.FINISHED)
        if len(self.crews) >= self._room():
            return None
        with _past_tune():
            crew = self._crews.start()
        if crew is None:
            self.exhausted = True
            return str(Searcher.FINISHED)
        self._left -= len(crew.members)
        self.crews[trial_id] = crew
        return self._config_of(trial_id, crew)

    def take(self, trial_id: str, events: list[tuple[str, Event]]) -> tuple[Crew, bool]:
        """Take an epoch of a crew; the crew as it then is, and whether it goes on."""
        crew = self.crews[trial_id]
        before = set(crew.members)
        goes_on = self._crews.take(crew, events, lambda: self._left > 0)
        self._left -= len(set(crew.members) - before)
        if not goes_on:
            del self.crews[trial_id]
        return crew, goes_on

    def failed(self, trial_id: str, trace: str) -> None:
        """What Ray says of a failure, before :meth:`on_trial_complete`: the worker's own code raised, or else its process died."""
        if raised := re.findall(r"^(?!ray\.exceptions)([\w.]+(?:Error|Exception): .+)", trace, re.MULTILINE):
            self._causes[trial_id] = printable(raised[-1])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        crew = self.crews.pop(trial_id, None)
        if crew is not None:
            self._crews.end(crew)
        cause = self._causes.pop(trial_id, None)
        what = "its worker process died" if cause is None else f"its worker failed ({cause})"
        look = "memory, and at the machine's logs" if cause is None else "whether every node has this kdsearch and its packages"
        for job in crew.members.values() if crew is not None else ():
            assert crew is not None and crew.source is not None
            # Of several, nobody knows whose fault it was.
            if len(crew.members) > 1 or self._again(job):
                self._note(f"{job.id}: {what}; it goes on in another from its last epoch")
                self._crews.again(crew, job)
            else:
                with _past_tune():
                    crew.source.lost(job.id, f"{what} again and again; look at {look}")

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """The scheduler has taken it already."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the record has it all."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: a new ledger goes on from the record."""


class _Scheduler(FIFOScheduler):
    """Passes each epoch on, and ends a crew when all have left it."""

    def __init__(self, searcher: _Searcher, write: Callable[[str, Crew], None]) -> None:
        super().__init__()
        self._searcher, self._write = searcher, write

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        if trial.error_file is not None:
            self._searcher.failed(trial.trial_id, Path(trial.error_file).read_text())

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        with _past_tune():
            crew, goes_on = self._searcher.take(trial.trial_id, result[EVENTS])
        if goes_on and crew.version != result[VERSION]:
            self._write(trial.trial_id, crew)
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)


class _Watch(tune.Stopper):
    """Leaves Tune's loop when somebody asked to stop. It raises past Tune, whose own way waits for every running epoch."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        if self._stop.asked is not None:
            raise Leave
        return False


def dispatch(cluster: Cluster, ledger: Ledger, prerequisites: Prerequisites, work_of: Callable[[Job], Work], progress: Progress) -> None:
    """Run everything until there is nothing left."""
    exhausted, died = False, Counter[str]()
    crews = Crews(ledger, prerequisites, cluster.room, progress, gives=cluster.options.shared)
    retries = ledger.study.retries

    def again(job: Job) -> bool:
        died[job.id] += 1
        return died[job.id] <= retries

    while crews or not exhausted:
        cluster.stop.check()
        exhausted = _segment(cluster, crews, work_of, again, progress)


def _segment(cluster: Cluster, crews: Crews, work_of: Callable[[Job], Work], again: Callable[[Job], bool], progress: Progress) -> bool:
    """As many trials as Tune is given before it starts anew; whether nothing is left."""
    name = uuid.uuid4().hex

    def works(crew: Crew) -> list[Work]:
        return [work_of(member) for member in crew.members.values()]

    def desk(trial: str) -> str:
        return f"{name}/{trial}"

    def config(trial: str, crew: Crew) -> dict[str, Any]:
        return {"works": works(crew), "session": cluster.options.session, "desk": desk(trial)}

    searcher = _Searcher(crews, config, cluster.room, cluster.options.segment, again, progress.note)
    scheduler = _Scheduler(searcher, lambda trial, crew: Desk(desk(trial)).write(crew.version, works(crew)))
    tuner = tune.Tuner(
        tune.with_resources(Trainable, {"cpu": cluster.cpu, "gpu": cluster.gpu}),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=-1,
            trial_name_creator=lambda trial: trial.trial_id,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            storage_path=str(cluster.folder),
            name="run",
            verbose=0,
            stop=_Watch(cluster.stop),
            failure_config=tune.FailureConfig(max_failures=0),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    try:
        tuner.fit()
    except _PastTune as past:
        raise past.error from None
    finally:
        Desk.clear(name)
    shutil.rmtree(cluster.folder / "run", ignore_errors=True)
    return searcher.exhausted
