"""Files in and out: models of a study, checks, schemas, a folder to start from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kdsearch.cli.common import AllowCode, Json, Output, Sets, StorageOpt, StoreOpt, StudyArg, print_json, say, study_of
from kdsearch.errors import UsageError, printable

if TYPE_CHECKING:
    pass


def export(
    study: StudyArg,
    out: Annotated[Path, typer.Option("--out", help="Folder to write; a folder for each stratum in it where there are several.")],
    top: Annotated[int, typer.Option(min=1, help="How many of each stratum.")] = 1,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="safetensors, onnx or program. May be given several times. Default: all three."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what an export has left in the folder.")] = False,
    float_input: Annotated[bool, typer.Option("--float-input", help="The ONNX model takes float32 of 0 to 255, not uint8.")] = False,
    output: Output = Path("runs"),
    store: StoreOpt = None,
    storage: StorageOpt = None,
    sets: Sets = None,
    allow_code: AllowCode = False,
    json_out: Json = False,
) -> None:
    """Hand over the best configurations: recipe, weights at their bits, ONNX, torch program, model card.

    \b
    Examples:
      kdsearch export quickstart --out models
      kdsearch export my_study --top 2 --format onnx --out models

    Each model is run against the trained network on test pictures before it is kept. Exit code 4: nothing has finished yet.
    """
    job = study_of(study, sets, output, store=store, storage=storage, allow_code=allow_code)
    done = job.export(out, top=top, **({"formats": formats} if formats else {}), force=force, float_input=float_input)
    if json_out:
        print_json([one.to_json() for one in done])
    else:
        for one in done:
            print(printable(one.text()))


def validate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Study, space or recipe files.")],
    allow_code: AllowCode = False,
) -> None:
    """Check files without running anything.

    \b
    Example:
      kdsearch validate studies/*.yaml
    """
    from kdsearch.spec.study import validate_file

    wrong = 0
    for file in files:
        try:
            print(printable(f"{file}: valid {validate_file(file, allow_code=allow_code)}"))
        except UsageError as error:
            wrong += 1
            say(f"kdsearch: {error}")
    if wrong:
        raise typer.Exit(2)


def schema(kind: Annotated[Literal["study", "space", "recipe"], typer.Argument(help="What to describe.")]) -> None:
    """Print the JSON Schema of a kind of file, for an editor's YAML server.

    \b
    Example:
      kdsearch schema study > study.schema.json
    """
    from kdsearch.spec.schema import json_schema

    print_json(json_schema(kind))


def init(folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")]) -> None:
    """Make a folder with a study to edit, its schema beside it, and a reusable space.

    \b
    Example:
      kdsearch init my_studies && kdsearch run my_studies/study.yaml --dry-run
    """
    from kdsearch.spec.bundled import write_starter

    for path in write_starter(folder):
        print(path)
