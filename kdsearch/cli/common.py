"""Options that commands share, and how they say things."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdsearch.errors import printable

if TYPE_CHECKING:
    from kdsearch.api import Study


def complete_study(incomplete: str) -> list[str]:
    from kdsearch.spec.bundled import study_names

    return [name for name in study_names() if name.startswith(incomplete)]


StudyArg = Annotated[
    str,
    typer.Argument(metavar="STUDY", help="A YAML file, a bundled study's name, or a run's folder.", autocompletion=complete_study),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Override a field, e.g. --set budget.trials=8. May be given several times."),
]
Output = Annotated[Path, typer.Option(help="Folder that holds runs; a study's own is OUTPUT/NAME.")]
StoreOpt = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="Folder of trained networks, shared by studies and by a cluster's nodes; or a URI (s3://...) that backs the default. "
        "Default: KDSEARCH_STORE, else the user's cache; of each node, on a cluster.",
    ),
]
StorageOpt = Annotated[
    str | None,
    typer.Option("--storage", envvar="KDSEARCH_STORAGE", help="Database URL for the record, in place of the run's journal file."),
]
AllowCode = Annotated[bool, typer.Option("--allow-code", help="Allow the file to name code of yours as package.module:function.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output, and nothing else there.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes that train at a time. Default: as many as the resources allow.")]
Address = Annotated[str | None, typer.Option(help="A Ray cluster to join, e.g. auto. Default: Ray on this machine.")]
Inline = Annotated[bool, typer.Option("--inline", help="Run trials in this process, one after another, without Ray.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on standard error.")]


def study_of(source: str, sets: list[str] | None, output: Path, **more: Any) -> Study:
    from kdsearch.api import Study

    return Study(source, sets or (), output=output, **more)


def print_json(document: Any) -> None:
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False, default=str)
    sys.stdout.write("".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text) + "\n")


def say(text: str) -> None:
    print(printable(text), file=sys.stderr)


def table(header: list[str], rows: Iterable[list[Any]], title: str | None = None) -> None:
    """A table on standard output; text from files is shown as text, never as markup or terminal codes."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(printable(title)) if title else None, title_justify="left", show_edge=False, pad_edge=False)
    for name in header:
        table.add_column(Text(printable(name)))
    for row in rows:
        table.add_row(*(Text("" if cell is None else printable(str(cell))) for cell in row))
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    console.print(table)


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def joined(values: Iterable[object]) -> str:
    return ",".join(map(str, values))


def listed(params: dict[str, Any]) -> str:
    return "  ".join(f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in params.items())
