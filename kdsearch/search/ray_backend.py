"""Ray Tune as the dispatcher: a Searcher and a scheduler that ask and tell the ledger, and actors that stay warm between trials.

What makes trials of a fraction of a second worth while (figures in tests/benchmarks):

- actors are reused (``reset_config``), so torch, data and tables stay loaded; they start their first trials together (:class:`_Gate`);
- nothing is logged, synchronised or saved by Tune: no logger callbacks, no checkpoints, no experiment snapshots;
- a trial is asked for only when a worker is free for it, so the sampler knows every result there is, and one worker sees the same
  sequence as a run without Ray;
- one of Tune's trials is a crew of ours (:mod:`kdsearch.search.crews`): small networks train several at a time in one actor.
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
from kdsearch.search.crews import Crew, Crews, Job  # noqa: E402
from kdsearch.search.depot import Depot, open_depot  # noqa: E402
from kdsearch.search.ledger import Ledger  # noqa: E402
from kdsearch.search.prerequisites import Prerequisites  # noqa: E402
from kdsearch.search.progress import Progress  # noqa: E402
from kdsearch.search.stopping import Leave, Stop  # noqa: E402
from kdsearch.search.work import Event, Work, Workers, session_factory  # noqa: E402

if TYPE_CHECKING:
    from kdsearch.search.options import RunOptions
    from kdsearch.spec.recipe import Data
    from kdsearch.spec.study import Study

_EVENTS, _VERSION = "events", "version"
_GATE_SECONDS = 10.0
_SHORT_TRIAL = 30.0
"""Seconds. A node that joins gets trials by itself where they last longer than an actor takes to come up; see :class:`_Gate`."""


class _Desk:
    """Where actors wait for each other before their first trial, and look who is in their crew.

    A process takes seconds to load torch. A trial that ends before another trial's actor is up makes Tune take that trial to the
    free actor and drop the one that is coming up; with short trials, again and again, so that all run on one actor.
    """

    def __init__(self, expected: int) -> None:
        self._missing = expected
        self._open = asyncio.Event()
        self._crews: dict[str, tuple[int, list[Work]]] = {}

    async def arrive(self) -> None:
        """Wait until as many as are expected have come; at most ten seconds, since a cluster may have less room than it said."""
        self._missing -= 1
        if self._missing <= 0:
            self._open.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._open.wait(), _GATE_SECONDS)
        self._open.set()

    async def write(self, trial: str, version: int, works: list[Work]) -> None:
        """A trial's crew has changed; nobody is in it any more when the trial has ended."""
        if works:
            self._crews[trial] = version, works
        else:
            self._crews.pop(trial, None)

    async def read(self, trial: str, version: int) -> tuple[int, list[Work]] | None:
        """A trial's crew, where it is another than that of ``version``."""
        found = self._crews.get(trial)
        return found if found is not None and found[0] != version else None


class _Trainable(tune.Trainable):
    """A worker's actor: one step is one epoch of each member of a crew. It outlives its crew and takes the next one."""

    _workers: Workers | None = None
    _passed = False
    _desk_name: str | None = None
    _desk: Any = None

    def setup(self, config: dict[str, Any]) -> None:
        work: Work | None = config["work"]
        self._crew, self._version, self._joined = config["crew"], 0, True
        if config["desk"] != self._desk_name:
            self._desk_name, self._desk = config["desk"], None
            with contextlib.suppress(ValueError):  # nobody is waited for, and nobody joins, where there is no desk
                self._desk = ray.get_actor(self._desk_name)
        if self._workers is None and not self._passed:
            self._passed = True
            with contextlib.suppress(Exception):  # a desk that is gone holds nobody
                session_factory(config["session"])
                ray.get(self._desk.arrive.remote())
        self._workers = Workers()
        self._workers.set([] if work is None else [work])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        assert self._workers is not None
        if self._joined and self._desk is not None:  # always at first: an actor that died may have had others in its crew
            with contextlib.suppress(ray.exceptions.RayActorError):  # the driver writes again to a desk that comes back
                found = ray.get(self._desk.read.remote(self._crew, self._version))
                if found is not None:
                    self._version, works = found
                    self._workers.set(works)
        events = self._workers.step()
        self._joined = any(event.stack > 1 for _, event in events) or len(events) != 1
        return {_EVENTS: events, _VERSION: self._version}

    def cleanup(self) -> None:
        if self._workers is not None:
            self._workers.close()
            self._workers = None


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
    """Jobs that Tune gave up. It does so at once when a worker dies before its first epoch, whatever ``max_failures`` says."""

    def __init__(self, retries: int) -> None:
        self._retries = retries
        self._times: Counter[str] = Counter()

    def again(self, job: Job) -> bool:
        """Whether to run it again; False when that has been done as often as is tried."""
        self._times[job.id] += 1
        return self._times[job.id] <= self._retries


class _Searcher(Searcher):
    """Gives Tune the crews. What happens to their members goes through the scheduler, which sees every result."""

    def __init__(
        self,
        crews: Crews,
        config_of: Callable[[str, Job | None], dict[str, Any]],
        room: Callable[[], int],
        joined: Callable[[], bool],
        most: int,
        dropped: _Dropped,
    ) -> None:
        """``room``: crews at a time; ``joined``: whether nodes have come since this searcher was made; ``most``: jobs in all."""
        super().__init__()
        self._crews, self._config_of, self._room, self._joined = crews, config_of, room, joined
        self._left = most
        self._dropped = dropped
        self._warmed = 0
        self.crews: dict[str, Crew] = {}
        """Tune's trial → the crew that runs in it."""
        self.exhausted = False
        """Whether the ledger has nothing more to hand out."""
        self._began: dict[str, float] = {}
        self._lasted: deque[float] = deque(maxlen=16)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self._left <= 0 or self._starts_anew():
            return str(Searcher.FINISHED)
        if len(self.crews) >= self._room():
            return None
        with _past_tune():
            crew = self._crews.start()
        if crew is None and self._crews.waits:
            if len(self.crews) + self._warmed >= self._room():
                return None
            self._warmed += 1  # an actor comes up meanwhile
            return self._config_of(trial_id, None)
        if crew is None:
            self.exhausted = True
            return str(Searcher.FINISHED)
        self._left -= 1
        self.crews[trial_id] = crew
        self._began[trial_id] = time.monotonic()
        [first] = crew.members.values()
        return self._config_of(trial_id, first)

    def take(self, trial_id: str, events: list[tuple[str, Event]]) -> Crew:
        """Take an epoch of a crew; the crew as it then is."""
        crew = self.crews[trial_id]
        before = set(crew.members)
        self._crews.take(crew, events, lambda: self._left > 0 and not self._starts_anew())
        self._left -= len(set(crew.members) - before)
        if not crew.members:
            self._ended(trial_id)
        return crew

    def _starts_anew(self) -> bool:
        """Whether short trials keep nodes that have joined from getting any; actors that come up together get each its own."""
        return self._joined() and bool(self._lasted) and statistics.median(self._lasted) < _SHORT_TRIAL

    def _ended(self, trial_id: str) -> None:
        self._lasted.append(time.monotonic() - self._began.pop(trial_id))
        del self.crews[trial_id]

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        crew = self.crews.get(trial_id)
        if crew is None:
            return
        self._ended(trial_id)
        for job in crew.members.values():
            # Of several, nobody knows whose fault it was.
            if len(crew.members) > 1 or self._dropped.again(job):
                self._crews.again(crew, job)
            else:
                with _past_tune():
                    crew.source.lost(job.id, "its worker process died again and again; look at memory, and at the machine's logs")

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """The scheduler has taken it already."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the record has it all."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: a new ledger goes on from the record."""


class _Scheduler(FIFOScheduler):
    """Passes each epoch to the ledger, which prunes, and ends a crew when all have left it."""

    def __init__(self, searcher: _Searcher, write: Callable[[str, Crew], None]) -> None:
        super().__init__()
        self._searcher, self._write = searcher, write

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        if trial.trial_id not in self._searcher.crews:  # it has come up, and that was all
            return str(TrialScheduler.STOP)
        with _past_tune():
            crew = self._searcher.take(trial.trial_id, result[_EVENTS])
        if (crew.members and crew.version != result[_VERSION]) or (not crew.members and crew.version > 1):
            self._write(trial.trial_id, crew)
        return str(TrialScheduler.CONTINUE if crew.members else TrialScheduler.STOP)


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
    """Tells when a worker died and its trials start again."""

    def __init__(self, searcher: _Searcher, progress: Progress) -> None:
        self._searcher, self._progress = searcher, progress

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        crew = self._searcher.crews[trial.trial_id]
        for id in crew.members:
            self._progress.note(f"{id}: its worker process died; it goes on in another from its last epoch")


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

    def run(self, ledger: Ledger, prerequisites: Prerequisites, work_of: Callable[[Job], Work], progress: Progress) -> None:
        """Run everything until there is nothing left."""
        exhausted, dropped, crews = False, _Dropped(self._retries), Crews(ledger, prerequisites, self.room, progress)
        while crews or not exhausted:
            self._stop.check()
            exhausted = self._segment(crews, work_of, progress, dropped)

    def _segment(self, crews: Crews, work_of: Callable[[Job], Work], progress: Progress, dropped: _Dropped) -> bool:
        room = self.room()
        name = f"kdsearch-desk-{uuid.uuid4().hex}"
        desk = ray.remote(num_cpus=0, max_restarts=-1)(_Desk).options(name=name).remote(room)  # lives as long as this reference
        known = self._nodes

        def write(trial: str, crew: Crew) -> None:
            with contextlib.suppress(ray.exceptions.RayActorError):  # written again after the crew's next epoch
                ray.get(desk.write.remote(trial, crew.version, [work_of(member) for member in crew.members.values()]))

        def config(trial: str, job: Job | None) -> dict[str, Any]:
            return {"work": None if job is None else work_of(job), "session": self._options.session, "desk": name, "crew": trial}

        searcher = _Searcher(
            crews,
            config,
            self.room,
            lambda: not self._nodes <= known,
            self._options.segment,
            dropped,
        )
        tuner = tune.Tuner(
            tune.with_resources(_Trainable, {"cpu": self._cpu, "gpu": self._gpu}),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=_Scheduler(searcher, write),
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
        ray.kill(desk)
        assert self._folder is not None
        shutil.rmtree(Path(self._folder) / "run", ignore_errors=True)
        return searcher.exhausted
