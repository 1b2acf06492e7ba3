"""Ray Tune as the dispatcher: a Searcher and a scheduler that ask and tell the ledger, and actors that stay warm between trials.

What makes trials of a fraction of a second worth while (figures in tests/benchmarks):

- actors are reused (``reset_config``), so torch, data and tables stay loaded; they start their first trials together (:class:`_Gate`);
- nothing is logged, synchronised or saved by Tune: no logger callbacks, no checkpoints, no experiment snapshots;
- a trial is asked for only when a worker is free for it, so the sampler knows every result there is, and one worker sees the same
  sequence as a run without Ray.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import statistics
import tempfile
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

# Read by Ray when it is imported, in the driver and in workers.
_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # else a banner on standard output
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # data roots are relative to where the command runs
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_SYNCER": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # see stopping.py
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1e12",
    "TUNE_MAX_PENDING_TRIALS_PG": "100000",  # the searcher hands out no more trials than there is room for
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_THRESHOLD_S": "60",
}
for _name, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402
from ray import tune  # noqa: E402
from ray._private import ray_constants  # noqa: E402
from ray.tune.experiment import Trial  # noqa: E402
from ray.tune.schedulers import FIFOScheduler, TrialScheduler  # noqa: E402
from ray.tune.search import Searcher  # noqa: E402

from kdsearch.errors import KDSearchError, StoreError  # noqa: E402
from kdsearch.record.store import Store  # noqa: E402
from kdsearch.search.depot import Depot, open_depot  # noqa: E402
from kdsearch.search.ledger import Assignment, Ledger  # noqa: E402
from kdsearch.search.prerequisites import Prerequisite, Tally  # noqa: E402
from kdsearch.search.progress import Progress  # noqa: E402
from kdsearch.search.stopping import Leave, Stop  # noqa: E402
from kdsearch.search.work import Event, Work, Worker, session_factory  # noqa: E402

if TYPE_CHECKING:
    from kdsearch.search.options import RunOptions
    from kdsearch.spec.recipe import Data
    from kdsearch.spec.study import Study

_EVENT = "event"
_GATE_SECONDS = 10.0
_SHORT_TRIAL = 30.0
"""Seconds. A node that joins gets trials by itself where they last longer than an actor takes to come up; see :class:`_Gate`."""


class _Gate:
    """Where actors wait for each other before their first trial.

    A process takes seconds to load torch. A trial that ends before another trial's actor is up makes Tune take that trial to the
    free actor and drop the one that is coming up; with short trials, again and again, so that all run on one actor.
    """

    def __init__(self, expected: int) -> None:
        self._missing = expected
        self._open = asyncio.Event()

    async def arrive(self) -> None:
        """Wait until as many as are expected have come; at most ten seconds, since a cluster may have less room than it said."""
        self._missing -= 1
        if self._missing <= 0:
            self._open.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._open.wait(), _GATE_SECONDS)
        self._open.set()


class _Trainable(tune.Trainable):
    """A worker's actor: one step is one epoch. It outlives its trial and takes the next one."""

    _worker: Worker | None = None
    _passed = False

    def setup(self, config: dict[str, Any]) -> None:
        work: Work = config["work"]
        if self._worker is None and not self._passed:
            self._passed = True
            with contextlib.suppress(Exception):  # a gate that is gone holds nobody
                session_factory(work.session)
                ray.get(ray.get_actor(config["gate"]).arrive.remote())
        self._worker = Worker(work)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        assert self._worker is not None
        return {_EVENT: self._worker.step()}

    def cleanup(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None


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


class _Dropped:
    """Assignments that Tune gave up. It does so at once when a worker dies before its first epoch, whatever ``max_failures`` says."""

    def __init__(self, retries: int) -> None:
        self._retries = retries
        self._times: Counter[str] = Counter()
        self._waiting: list[Assignment] = []

    def take(self, given: Assignment) -> bool:
        """Keep an assignment to run again; False when that has been done as often as is tried."""
        self._times[given.id] += 1
        again = self._times[given.id] <= self._retries
        if again:
            self._waiting.append(given)
        return again

    def next(self) -> Assignment | None:
        """One to run again."""
        return self._waiting.pop() if self._waiting else None

    def __bool__(self) -> bool:
        return bool(self._waiting)


class _Searcher(Searcher):
    """Gives Tune what the ledger hands out. What happens to a trial goes through the scheduler, which sees every result."""

    def __init__(
        self,
        ledger: Ledger,
        config_of: Callable[[Assignment], dict[str, Any]],
        room: Callable[[], int],
        joined: Callable[[], bool],
        most: int,
        dropped: _Dropped,
    ) -> None:
        """``room``: trials at a time; ``joined``: whether nodes have come since this searcher was made; ``most``: trials in all."""
        super().__init__()
        self._ledger, self._config_of, self._room, self._joined, self._left = ledger, config_of, room, joined, most
        self._dropped = dropped
        self.assignment: dict[str, Assignment] = {}
        """Tune's trial → the assignment that runs in it."""
        self.exhausted = False
        """Whether the ledger has nothing more to hand out."""
        self._began: dict[str, float] = {}
        self._lasted: deque[float] = deque(maxlen=16)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self._left <= 0 or self._starts_anew():
            return str(Searcher.FINISHED)
        if len(self.assignment) >= self._room():
            return None
        with _past_tune():
            given = self._dropped.next() or self._ledger.next()
        if given is None:
            self.exhausted = True
            return str(Searcher.FINISHED)
        self._left -= 1
        self.assignment[trial_id] = given
        self._began[trial_id] = time.monotonic()
        return self._config_of(given)

    def _starts_anew(self) -> bool:
        """Whether short trials keep nodes that have joined from getting any; actors that come up together get each its own."""
        return self._joined() and bool(self._lasted) and statistics.median(self._lasted) < _SHORT_TRIAL

    def ended(self, trial_id: str) -> Assignment | None:
        """Forget a trial; gives the assignment that ran in it."""
        if trial_id in self._began:
            self._lasted.append(time.monotonic() - self._began.pop(trial_id))
        return self.assignment.pop(trial_id, None)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        given = self.ended(trial_id)
        if given is not None and not self._dropped.take(given):
            with _past_tune():
                self._ledger.lost(given.id, "its worker process died again and again; look at memory, and at the machine's logs")

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """The scheduler has taken it already."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the record has it all."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: a new ledger goes on from the record."""


class _Scheduler(FIFOScheduler):
    """Passes each epoch to the ledger, which prunes, and ends a trial where the ledger says so."""

    def __init__(self, ledger: Ledger, searcher: _Searcher, progress: Progress) -> None:
        super().__init__()
        self._ledger, self._searcher, self._progress = ledger, searcher, progress

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        given = self._searcher.assignment[trial.trial_id]
        with _past_tune():
            goes_on = self._ledger.report(given.id, result[_EVENT])
        if not goes_on:
            self._searcher.ended(trial.trial_id)
        self._progress.update(self._ledger)
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


class _Notes(tune.Callback):
    """Tells when a worker died and its trial starts again."""

    def __init__(self, searcher: _Searcher, progress: Progress) -> None:
        self._searcher, self._progress = searcher, progress

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        given = self._searcher.assignment.get(trial.trial_id)
        name = trial.trial_id if given is None else given.id
        self._progress.note(f"{name}: its worker process died; it goes on in another from its last epoch")


@contextlib.contextmanager
def _loopback() -> Iterator[None]:
    """Let a Ray that starts here listen on the loopback address alone, as it does on macOS and Windows; else it takes 127.0.0.1 for the
    machine's outer address, and whoever reaches that could talk to it."""
    name, before = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, ray_constants.ENABLE_RAY_CLUSTER
    said = os.environ.get(name)
    os.environ[name], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        del os.environ[name]
        if said is not None:
            os.environ[name] = said


class RayBackend:
    """Ray for the time of a ``with``: started or joined, and left in the end with nothing of it running."""

    def __init__(self, study: Study, options: RunOptions, stop: Stop) -> None:
        self._cpu, self._gpu = float(study.resources.cpu), float(study.resources.gpu)
        self._retries = study.retries
        self._options, self._stop = options, stop
        self._own = False
        self._looked, self._room = 0.0, 0
        self._nodes: frozenset[str] = frozenset()
        self._folder: str | None = None
        self._depot: Any = None

    def __enter__(self) -> RayBackend:
        cpu, gpu = self._cpu, self._gpu
        if not ray.is_initialized():
            self._own = True
            quiet = {"log_to_driver": False, "configure_logging": True, "logging_level": "ERROR"}
            if self._options.address is not None:
                try:
                    ray.init(address=self._options.address, runtime_env={"env_vars": _ENVIRONMENT}, **quiet)
                except ray.exceptions.AuthenticationError:
                    raise StoreError(
                        f"the Ray cluster at {self._options.address!r} wants its token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN "
                        "(or ~/.ray/auth_token) to what its nodes have"
                    ) from None
                except (ConnectionError, RuntimeError, ValueError) as error:
                    raise StoreError(f"no Ray cluster at {self._options.address!r}: {error}") from None
            else:
                cpus = max(len(os.sched_getaffinity(0)), cpu * (self._options.workers or 1))
                with _loopback():
                    ray.init(address="local", num_cpus=int(-(-cpus // 1)), include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
        for name in ("ray.tune", "ray.train"):
            logging.getLogger(name).setLevel(logging.ERROR)
        # Ray sets its own handler for SIGTERM when it starts.
        self._stop.install()
        self._stop.check()
        if gpu and ray.cluster_resources().get("GPU", 0) < gpu:
            raise StoreError(
                f"resources.gpu is {gpu:g}, but Ray sees no such GPU here; set resources.gpu to 0, or join a cluster that has one"
            )
        if ray.cluster_resources().get("CPU", 0) < cpu:
            raise StoreError(f"resources.cpu is {cpu:g}, more than the {ray.cluster_resources().get('CPU', 0):g} that Ray sees here")
        self._folder = tempfile.mkdtemp(prefix="kdsearch-tune-")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(Exception):
            if self._depot is not None:
                ray.kill(self._depot)
            if self._own:
                ray.shutdown()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def open_depot(self, store: Store, wanted: Collection[Data]) -> Depot:
        """Have ``store`` back those of the nodes, and ``wanted`` be lent to them, until the end of the ``with``."""
        where, self._depot = open_depot(store, wanted)
        return where

    def room(self) -> int:
        """Trials at a time: as many as were asked for, else as there is room for; a cluster's room is looked at again and again."""
        now = time.monotonic()
        if not self._room or (self._options.address is not None and now - self._looked > 5):
            there = {node["NodeID"]: self._fitting(node["Resources"]) for node in ray.nodes() if node["Alive"]}
            self._looked, self._nodes, self._room = now, frozenset(there), max(1, sum(there.values()))
        return self._options.workers or self._room

    def _fitting(self, there: Mapping[str, float]) -> int:
        """Trials that fit on a node; what several nodes have left over between them is room for none."""
        room = int(there.get("CPU", 0) / self._cpu + 1e-9)
        return min(room, int(there.get("GPU", 0) / self._gpu + 1e-9)) if self._gpu else room

    def run_prerequisites(self, wanted: list[Prerequisite], work_of: Callable[[Prerequisite], Work], tally: Tally) -> None:
        """Train them as Ray tasks, as many at once as there is room for, each after those it needs."""
        task = ray.remote(num_returns="streaming", num_cpus=self._cpu, num_gpus=self._gpu, max_retries=self._retries)(_train)
        waiting = list(wanted)
        running: dict[Any, Prerequisite] = {}
        while waiting or running:
            for one in [one for one in waiting if tally.ready(one)]:
                waiting.remove(one)
                if not tally.blocked(one):
                    running[task.remote(work_of(one))] = one
            if not running:
                continue
            ready, _ = ray.wait(list(running), timeout=0.2, fetch_local=False)
            self._stop.check()
            for stream in ready:
                one = running[stream]
                try:
                    goes_on = tally.take(one, ray.get(next(stream)))
                except StopIteration:
                    goes_on = False
                except ray.exceptions.RayError:
                    goes_on = tally.take(one, Event(one.seed, failure="the process that trained it died again and again; look at memory"))
                if not goes_on:
                    del running[stream]

    def run(self, ledger: Ledger, work_of: Callable[[Assignment], Work], progress: Progress) -> None:
        """Run what the ledger hands out until it has nothing left."""
        exhausted, dropped = False, _Dropped(self._retries)
        while dropped or not exhausted:
            self._stop.check()
            exhausted = self._segment(ledger, work_of, progress, dropped)

    def _segment(self, ledger: Ledger, work_of: Callable[[Assignment], Work], progress: Progress, dropped: _Dropped) -> bool:
        room = self.room()
        gate = f"kdsearch-gate-{uuid.uuid4().hex}"
        keeper = ray.remote(num_cpus=0)(_Gate).options(name=gate).remote(room)  # lives as long as this reference
        known = self._nodes
        searcher = _Searcher(
            ledger,
            lambda given: {"work": work_of(given), "gate": gate},
            self.room,
            lambda: not self._nodes <= known,
            self._options.segment,
            dropped,
        )
        tuner = tune.Tuner(
            tune.with_resources(_Trainable, {"cpu": self._cpu, "gpu": self._gpu}),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=_Scheduler(ledger, searcher, progress),
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=lambda trial: trial.trial_id,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                storage_path=self._folder,
                name="run",
                verbose=0,
                stop=_Watch(self._stop),
                callbacks=[_Notes(searcher, progress)],
                failure_config=tune.FailureConfig(max_failures=self._retries),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        try:
            tuner.fit()
        except _PastTune as past:
            raise past.error from None
        ray.kill(keeper)
        assert self._folder is not None
        shutil.rmtree(Path(self._folder) / "run", ignore_errors=True)
        return searcher.exhausted


def _train(work: Work) -> Any:
    worker = Worker(work)
    try:
        while True:
            event = worker.step()
            yield event
            if event.failure is not None or event.final is not None:
                return
    finally:
        worker.close()
