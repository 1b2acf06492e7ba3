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
import logging
import os
import shutil
import tempfile
import time
import uuid
from collections import Counter
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
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: E402

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
_LOOK_SECONDS = 0.05
"""Between two looks of an actor that has nobody to train yet."""


class _Desk:
    """Where actors look who is in their crew."""

    def __init__(self) -> None:
        self._crews: dict[str, tuple[int, list[Work]]] = {}

    def write(self, trial: str, version: int, works: list[Work]) -> None:
        """The crew of one of Tune's trials has changed."""
        self._crews[trial] = version, works

    def read(self, trial: str, version: int) -> tuple[int, list[Work]] | None:
        """A crew, where it is another than that of ``version``."""
        found = self._crews.get(trial)
        return found if found is not None and found[0] != version else None


class _Trainable(tune.Trainable):
    """A worker's actor: one step is one epoch of each member of a crew."""

    def setup(self, config: dict[str, Any]) -> None:
        session_factory(config["session"])  # loads torch, while prerequisites may still be waited for
        self._desk, self._crew, self._version = ray.get_actor(config["desk"]), config["crew"], 0
        self._workers = Workers()
        self._workers.set(config["works"])

    def step(self) -> dict[str, Any]:
        with contextlib.suppress(ray.exceptions.RayActorError):  # the driver writes again to a desk that comes back
            found = ray.get(self._desk.read.remote(self._crew, self._version))
            if found is not None:
                self._version, works = found
                self._workers.set(works)
        events = self._workers.step()
        if not events:
            time.sleep(_LOOK_SECONDS)
        return {_EVENTS: events, _VERSION: self._version}

    def cleanup(self) -> None:
        self._workers.close()


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
        self._crews.take(crew, events, lambda: self._left > 0)
        self._left -= len(set(crew.members) - before)
        goes_on = bool(crew.members) or (self._crews.waits and self._left > 0)
        if not goes_on:
            del self.crews[trial_id]
        return crew, goes_on

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        crew = self.crews.pop(trial_id, None)
        for job in crew.members.values() if crew is not None else ():
            assert crew is not None and crew.source is not None
            # Of several, nobody knows whose fault it was.
            if len(crew.members) > 1 or self._again(job):
                self._note(f"{job.id}: its worker process died; it goes on in another from its last epoch")
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
    """Passes each epoch on, and ends a crew when all have left it."""

    def __init__(self, searcher: _Searcher, write: Callable[[str, Crew], None]) -> None:
        super().__init__()
        self._searcher, self._write = searcher, write

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        with _past_tune():
            crew, goes_on = self._searcher.take(trial.trial_id, result[_EVENTS])
        if goes_on and crew.version != result[_VERSION]:
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
            self._looked = now
            self._room = max(1, sum(self._fitting(node["Resources"]) for node in ray.nodes() if node["Alive"]))
        return self._options.workers or self._room

    def _fitting(self, there: Mapping[str, float]) -> int:
        """Trials that fit on a node; what several nodes have left over between them is room for none."""
        room = int(there.get("CPU", 0) / self._cpu + 1e-9)
        return min(room, int(there.get("GPU", 0) / self._gpu + 1e-9)) if self._gpu else room

    def run(self, ledger: Ledger, prerequisites: Prerequisites, work_of: Callable[[Job], Work], progress: Progress) -> None:
        """Run everything until there is nothing left."""
        exhausted, died, crews = False, Counter[str](), Crews(ledger, prerequisites, self.room, progress)

        def again(job: Job) -> bool:
            died[job.id] += 1
            return died[job.id] <= self._retries

        while crews or not exhausted:
            self._stop.check()
            exhausted = self._segment(crews, work_of, again, progress)

    def _segment(self, crews: Crews, work_of: Callable[[Job], Work], again: Callable[[Job], bool], progress: Progress) -> bool:
        name = f"kdsearch-desk-{uuid.uuid4().hex}"
        here = NodeAffinitySchedulingStrategy(node_id=ray.get_runtime_context().get_node_id(), soft=False)  # the driver's node
        desk = ray.remote(num_cpus=0, max_restarts=-1)(_Desk).options(name=name, scheduling_strategy=here).remote()  # as long as this lives

        def works(crew: Crew) -> list[Work]:
            return [work_of(member) for member in crew.members.values()]

        def write(trial: str, crew: Crew) -> None:
            with contextlib.suppress(ray.exceptions.RayActorError):  # written again after the crew's next epoch
                ray.get(desk.write.remote(trial, crew.version, works(crew)))

        def config(trial: str, crew: Crew) -> dict[str, Any]:
            return {"works": works(crew), "session": self._options.session, "desk": name, "crew": trial}

        searcher = _Searcher(crews, config, self.room, self._options.segment, again, progress.note)
        tuner = tune.Tuner(
            tune.with_resources(_Trainable, {"cpu": self._cpu, "gpu": self._gpu}),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=_Scheduler(searcher, write),
                num_samples=-1,
                trial_name_creator=lambda trial: trial.trial_id,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                storage_path=self._folder,
                name="run",
                verbose=0,
                stop=_Watch(self._stop),
                failure_config=tune.FailureConfig(max_failures=0),
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
