"""The launchers of studies/clusters, as far as one machine allows: Slurm's commands have stand-ins, Ray and kdsearch are real."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from kdsearch.cli import app
from kdsearch.record.run import Run
from kdsearch.record.trials import read_trials
from kdsearch.spec.bundled import folder, study_names
from tests.search.conftest import REPOSITORY

CLUSTERS = folder("studies") / "clusters"
LOOPBACK = "127.0.0.2"
"""Ray takes 127.0.0.1 in the address of a cluster for the machine's address on the network."""

STUDY = """
name: small
recipe:
  data: {name: digits}
  model: {architecture: resnet8, width: 0.25}
  precision: {weights: {quantizer: shin, bits: 2}}
  distill: {teachers: [{model: {architecture: resnet8, width: 0.25}}], temperature: $temperature}
  optim: {epochs: 20}
space:
  temperature: {choices: [1, 2, 4, 8, 16]}
sampler: grid
"""

SRUN = f"""#!/bin/bash
# Runs a command as often as --ntasks says, each time as if on a node of its own.
tasks=1 kind=head
while [[ $1 == --* ]]; do
  case $1 in --ntasks=*) tasks=${{1#*=}} ;; --exclude=*) kind=worker ;; esac
  shift
done
[[ $kind == worker ]] && set -- "$@" --node-ip-address={LOOPBACK}
for ((i = 0; i < tasks; i++)); do
  KDSEARCH_STORE="$STORES/$kind-$i" "$@" &
  pids+=($!)
done
trap 'kill -TERM "${{pids[@]}}"' TERM
wait "${{pids[@]}}"
wait
"""
SCONTROL = """#!/bin/bash
if [[ $1 == show ]]; then printf 'node-0\\nnode-1\\n'; else echo "$@" >> "$STORES/scontrol.log"; fi
"""


@pytest.mark.parametrize("path", sorted(CLUSTERS.iterdir()), ids=lambda path: path.name)
def test_every_kdsearch_command_of_a_launcher_is_one_the_command_line_takes(path: Path) -> None:
    text = path.read_text().replace('${STORE:+--store "$STORE"}', "--store s3://bucket/store").replace('"$@"', "")
    commands = re.findall(r"kdsearch run ([^'&|\n]*)", text)
    assert commands
    for command in commands:
        words = [re.sub(r"my_study\.yaml|\$STUDY", "quickstart", word) for word in shlex.split(command)]
        done = CliRunner().invoke(app, ["run", *words, "--dry-run"])
        assert done.exit_code == 0, (words, done.output)


def test_launchers_are_no_studies() -> None:
    assert "slurm" not in study_names() and "ray-cluster" not in study_names()


def test_ray_s_own_reader_takes_the_cluster_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load((CLUSTERS / "ray-cluster.yaml").read_text()))
    validate_config(config)
    assert config["max_workers"] == len(config["provider"]["worker_ips"])
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]


def test_the_job_of_kuberay_is_tried_again_and_keeps_what_it_made_on_the_volume() -> None:
    claim, job = yaml.safe_load_all((CLUSTERS / "kuberay-rayjob.yaml").read_text())
    spec = job["spec"]
    assert (job["kind"], job["apiVersion"], claim["kind"]) == ("RayJob", "ray.io/v1", "PersistentVolumeClaim")
    assert spec["backoffLimit"] > 0
    cluster = spec["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        mounts = {mount["name"]: mount["mountPath"] for one in pod["containers"] for mount in one["volumeMounts"]}
        assert {volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"]} == {claim["metadata"]["name"]}
        assert all(path.startswith(mounts["shared"]) for path in re.findall(r"--(?:output|store) (\S+)", spec["entrypoint"]))


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short name, since Ray's sockets lie below it."""
    made = Path(tempfile.mkdtemp(prefix="kd"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


RAY_S_OWN = {6379, 8265, 10001, 52365}
"""Ports that a Ray node takes for itself unless told otherwise."""


def _free_port() -> int:
    while True:
        with socket.socket() as listener:
            listener.bind((LOOPBACK, 0))
            port = int(listener.getsockname()[1])
        if port not in RAY_S_OWN:
            return port


def _environment(**more: str) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    python = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "ab" * 32}
    return {**os.environ, **token, "PATH": path, "PYTHONPATH": python, "OMP_NUM_THREADS": "1", **more}


@contextlib.contextmanager
def _started(command: list[str], log: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("a") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True, **options)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _until(condition: Callable[[], object], seconds: float, log: Path) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.2)


def _complete(out: Path) -> int:
    run = Run(out / "small")
    return sum(row.state == "COMPLETE" for row in read_trials(run)) if run.exists() else 0


@pytest.mark.slow
def test_the_slurm_script_runs_a_study_is_stopped_in_order_and_goes_on(tmp_path: Path, short: Path) -> None:
    (tmp_path / "bin").mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "small.yaml").write_text(STUDY)
    log, out = tmp_path / "log", tmp_path / "runs"
    environment = _environment(
        STORES=str(tmp_path),
        KDSEARCH_STORE=str(tmp_path / "driver"),
        RAY_TMPDIR=str(short),
        STUDY=str(tmp_path / "small.yaml"),
        OUTPUT=str(out),
        HEAD_IP=LOOPBACK,
        PORT=str(_free_port()),
        SLURM_JOB_ID="7",
        SLURM_JOB_NODELIST="node-[0-1]",
        SLURM_CPUS_PER_TASK="1",
    )
    environment["PATH"] = f"{tmp_path / 'bin'}:{environment['PATH']}"
    command = ["bash", str(CLUSTERS / "slurm.sh")]
    with _started(command, log, env=environment, cwd=tmp_path) as job:
        _until(lambda: _complete(out) >= 1 or job.poll() is not None, 150, log)
        assert job.poll() is None, log.read_text()[-3000:]
        job.send_signal(signal.SIGTERM)
        assert job.wait(60) == 143, log.read_text()[-3000:]
    assert (tmp_path / "scontrol.log").read_text() == "requeue 7\n"
    before = _complete(out)
    assert before < 5
    with _started(command, log, env={**environment, "PORT": str(_free_port())}, cwd=tmp_path) as job:
        assert job.wait(200) == 0, log.read_text()[-3000:]
    assert _complete(out) == 5
    assert (out / "small" / "best.yaml").is_file()
    assert any((tmp_path / "worker-0").glob("??/*/manifest.json"))  # the second node trained, in its own store
    assert len(list((tmp_path / "driver").glob("??/*/manifest.json"))) == 6  # five students and their teacher came to the driver


@pytest.mark.slow
def test_a_job_submitted_to_ray_runs_a_study(tmp_path: Path, short: Path) -> None:
    (tmp_path / "small.yaml").write_text(STUDY)
    log, dashboard = tmp_path / "log", _free_port()
    start = f"ray start --head --block --node-ip-address={LOOPBACK} --port={_free_port()} --num-cpus=2 --temp-dir={short}"
    command = [*shlex.split(start), "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--include-dashboard=true"]
    address = f"http://127.0.0.1:{dashboard}"
    with _started(command, log, env=_environment(KDSEARCH_STORE=str(tmp_path / "store")), cwd=tmp_path):
        run = f"kdsearch run {tmp_path / 'small.yaml'} --address auto --output {tmp_path / 'runs'} --json"
        submit = ["ray", "job", "submit", f"--address={address}", "--", *shlex.split(run)]
        done: subprocess.CompletedProcess[str] | None = None

        def taken() -> bool:
            nonlocal done
            done = subprocess.run(submit, env=_environment(), capture_output=True, text=True, timeout=200)
            return not any(wait in done.stderr for wait in ("Failed to connect to Ray", "No available agent to submit job"))

        _until(taken, 90, log)
        assert done is not None and done.returncode == 0, done
    assert _complete(tmp_path / "runs") == 5
    assert json.loads(done.stdout[done.stdout.index("{\n") : done.stdout.rindex("\n}") + 2])["exit_code"] == 0
