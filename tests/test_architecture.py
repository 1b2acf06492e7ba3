"""The rooms and the direction of imports: read from the source, and seen in fresh interpreters."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "kdsearch"

# Each room and the rooms below it that it may import.
BELOW = {
    "errors": set(),
    "spec": {"errors"},
    "record": {"errors", "spec"},
    "training": {"errors", "spec", "record"},
    "analysis": {"errors", "spec", "record"},
    "search": {"errors", "spec", "record", "training", "analysis"},
    "report": {"errors", "spec", "record", "analysis"},
    "export": {"errors", "spec", "record", "training", "analysis"},
    "api": {"errors", "spec", "record", "training", "analysis", "search", "report", "export"},
    "cli": {"errors", "spec", "record", "training", "analysis", "search", "report", "export", "api"},
}
# Libraries that only these rooms may import.
ONLY_IN = {
    "torch": {"training", "export"},
    "torchvision": {"training", "export"},
    "ray": {"search"},
    "optuna": {"record", "search"},
    "plotly": {"report"},
}
ROOMS = sorted(BELOW)


def _imports(room: str) -> list[tuple[str, str]]:
    """Every ``(file, imported module)`` of a room, wherever in the file the import stands."""
    folder = PACKAGE / room
    files = sorted(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{room}.py"]
    found = []
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found += [(file.name, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file}: relative import; write the whole name"
                found += [(file.name, f"{node.module}.{alias.name}") for alias in node.names]
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_below_it(room: str) -> None:
    for file, module in _imports(room):
        parts = module.split(".")
        if parts[0] == "kdsearch" and len(parts) > 1 and parts[1] in BELOW and parts[1] != room:
            assert parts[1] in BELOW[room], f"{room}/{file} imports {module}"


@pytest.mark.parametrize("room", ROOMS)
def test_a_heavy_library_is_imported_only_in_its_rooms(room: str) -> None:
    for file, module in _imports(room):
        library = module.split(".")[0]
        if library in ONLY_IN:
            assert room in ONLY_IN[library], f"{room}/{file} imports {module}"


def test_every_file_of_the_package_belongs_to_a_room() -> None:
    top = {path.stem if path.is_file() else path.name for path in PACKAGE.iterdir() if not path.name.startswith("_")}
    assert top - {"py.typed", "py"} == set(ROOMS)


def _loaded(code: str) -> set[str]:
    script = f"{code}\nimport sys\nprint(' '.join(sorted(name for name in sys.modules if '.' not in name)))"
    env = {**os.environ, "COLUMNS": "100"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=env)
    return set(done.stdout.splitlines()[-1].split())


HELP = """
from kdsearch.cli import app
try:
    app(['--help'])
except SystemExit:
    pass
"""


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        (HELP, {"torch", "ray", "optuna", "plotly", "pandas", "sklearn"}),
        ("import kdsearch.report.build, kdsearch.record.trials, kdsearch.record.run", {"torch", "torchvision", "ray"}),
        ("import kdsearch.spec.study, kdsearch.spec.plan, kdsearch.spec.schema", {"torch", "ray", "optuna", "plotly", "pandas", "numpy"}),
        ("import kdsearch", {"torch", "ray", "optuna", "plotly", "pandas"}),
        ("import kdsearch.record.store, kdsearch.record.storage", {"torch", "ray", "plotly"}),
    ],
    ids=["help", "report", "spec", "package", "record"],
)
def test_a_fresh_interpreter_loads_no_more_than_it_needs(code: str, absent: set[str]) -> None:
    assert not _loaded(code) & absent
