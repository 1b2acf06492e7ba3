"""Ray for the time of a study: started on this machine, or a cluster's joined; left in the end with nothing of it running."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

# Read by Ray when it is imported, in the driver and in workers.
ENVIRONMENT = {
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
for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402
from ray._private import ray_constants  # noqa: E402
from ray._private.node import Node  # noqa: E402

from kdsearch.errors import StoreError  # noqa: E402
from kdsearch.record.store import Store  # noqa: E402
from kdsearch.search.depot import Depot, open_depot  # noqa: E402
from kdsearch.search.stopping import Stop  # noqa: E402

if TYPE_CHECKING:
    from kdsearch.search.options import RunOptions
    from kdsearch.spec.recipe import Data
    from kdsearch.spec.study import Study


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


@contextlib.contextmanager
def _lean() -> Iterator[None]:
    """Let a Ray that starts here do without autoscaler, forwarding of logs and dashboard. None has work in one study on one machine; all
    take their time to start, and to end. What this Ray does not have is passed over."""
    names = [name for name in ("start_monitor", "start_log_monitor", "start_api_server") if hasattr(Node, name)]
    before = {name: getattr(Node, name) for name in names}
    for name in names:
        setattr(Node, name, lambda self, **_: None)
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(Node, name, method)


def _load_meanwhile(*modules: str) -> None:
    """Load them in a thread: for most of its start Ray waits for its own processes."""

    def load() -> None:
        for module in modules:
            with contextlib.suppress(ImportError):  # who imports it next tells
                importlib.import_module(module)

    threading.Thread(target=load, daemon=True).start()


class Cluster:
    """Ray for the time of a ``with``: started or joined, and left in the end with nothing of it running."""

    def __init__(self, study: Study, options: RunOptions, stop: Stop) -> None:
        self.cpu, self.gpu = float(study.resources.cpu), float(study.resources.gpu)
        """What a process takes."""
        self.options, self.stop = options, stop
        self.folder = Path(tempfile.mkdtemp(prefix="kdsearch-tune-"))
        """For Tune to write in; goes in the end."""
        self._own = False
        self._looked, self._room = 0.0, 0
        self._depot: Any = None

    def __enter__(self) -> Cluster:
        try:
            self._start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _start(self) -> None:
        cpu, gpu = self.cpu, self.gpu
        if not ray.is_initialized():
            self._own = True
            quiet = {"log_to_driver": False, "configure_logging": True, "logging_level": "ERROR"}
            if self.options.address is not None:
                try:
                    ray.init(address=self.options.address, runtime_env={"env_vars": ENVIRONMENT}, **quiet)
                except ray.exceptions.AuthenticationError:
                    raise StoreError(
                        f"the Ray cluster at {self.options.address!r} wants its token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN "
                        "(or ~/.ray/auth_token) to what its nodes have"
                    ) from None
                except (ConnectionError, RuntimeError, ValueError) as error:
                    raise StoreError(f"no Ray cluster at {self.options.address!r}: {error}") from None
            else:
                _load_meanwhile("kdsearch.search.ray_backend", *self.options.meanwhile)
                cpus = max(len(os.sched_getaffinity(0)), cpu * (self.options.workers or 1))
                with _loopback(), _lean():
                    ray.init(address="local", num_cpus=int(-(-cpus // 1)), include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
        for name in ("ray.tune", "ray.train"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what fails is told in our words
        # Ray sets its own handler for SIGTERM when it starts.
        self.stop.install()
        self.stop.check()
        if gpu and ray.cluster_resources().get("GPU", 0) < gpu:
            raise StoreError(
                f"resources.gpu is {gpu:g}, but Ray sees no such GPU here; set resources.gpu to 0, or join a cluster that has one"
            )
        if ray.cluster_resources().get("CPU", 0) < cpu:
            raise StoreError(f"resources.cpu is {cpu:g}, more than the {ray.cluster_resources().get('CPU', 0):g} that Ray sees here")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(Exception):
            if self._depot is not None:
                ray.kill(self._depot)
            if self._own:
                ray.shutdown()
        shutil.rmtree(self.folder, ignore_errors=True)

    def open_depot(self, store: Store, wanted: Collection[Data]) -> Depot:
        """Have ``store`` back those of the nodes, and ``wanted`` be lent to them, until the end of the ``with``."""
        where, self._depot = open_depot(store, wanted)
        return where

    def room(self) -> int:
        """Trials at a time: as many as were asked for, else as there is room for; a cluster's room is looked at again and again."""
        now = time.monotonic()
        if not self._room or (self.options.address is not None and now - self._looked > 5):
            self._looked = now
            self._room = max(1, sum(self._fitting(node["Resources"]) for node in ray.nodes() if node["Alive"]))
        return self.options.workers or self._room

    def _fitting(self, there: Mapping[str, float]) -> int:
        """Trials that fit on a node; what several nodes have left over between them is room for none."""
        room = int(there.get("CPU", 0) / self.cpu + 1e-9)
        return min(room, int(there.get("GPU", 0) / self.gpu + 1e-9)) if self.gpu else room
