"""Studies and spaces that come with the package: in a source checkout beside it, in an installed one inside it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

from kdsearch.errors import UsageError

_PACKAGE = Path(__file__).resolve().parent.parent


def folder(kind: str) -> Path:
    """The folder of ``studies`` or ``search_spaces``."""
    installed = _PACKAGE / "_bundled" / kind
    return installed if installed.is_dir() else _PACKAGE.parent / kind


def _names(kind: str) -> list[str]:
    return sorted(path.stem for path in folder(kind).glob("*.yaml"))


def study_names() -> list[str]:
    """Names that ``kdsearch run`` knows."""
    return _names("studies")


def space_names() -> list[str]:
    """Names that a study's ``space`` knows."""
    return _names("search_spaces")


def study_path(name: str) -> Path | None:
    """The file of a bundled study, if there is one of that name."""
    return folder("studies") / f"{name}.yaml" if name in study_names() else None


def space_path(name: str) -> Path | None:
    """The file of a bundled space, if there is one of that name."""
    return folder("search_spaces") / f"{name}.yaml" if name in space_names() else None


def write_starter(target: str | Path) -> list[Path]:
    """Make a folder to start from: a study to edit, the schemas beside it, a reusable space. Returns what was written.

    Raises:
        UsageError: the folder holds something already, or cannot be made.
    """
    import json

    from kdsearch.spec.schema import json_schema

    target = Path(target)
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise UsageError(f"{target}: exists already; name a new or empty folder")
        written = [target / "study.yaml"]
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder("studies") / "quickstart.yaml", written[0])
        text = written[0].read_text("utf-8").replace("name: quickstart\n", "name: my_study\n", 1)
        written[0].write_text(text, "utf-8")
        spaces = [path for name in space_names()[:1] if (path := space_path(name)) is not None]
        for path in spaces:
            written.append(target / "search_spaces" / path.name)
            written[-1].parent.mkdir(exist_ok=True)
            shutil.copyfile(path, written[-1])
        beside: dict[Literal["study", "recipe", "space"], Path] = {"study": target, "recipe": target, "space": target / "search_spaces"}
        for kind, below in beside.items():
            written.append(below / "schema" / f"{kind}.json")
            written[-1].parent.mkdir(parents=True, exist_ok=True)
            written[-1].write_text(json.dumps(json_schema(kind), indent=2) + "\n", "utf-8")
    except OSError as error:
        raise UsageError(f"{error.filename or target}: cannot be written: {error.strerror}") from None
    return written
