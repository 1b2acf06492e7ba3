"""The README says what the program does."""

from __future__ import annotations

import re
from pathlib import Path

from tests.reference import README, with_reference


def test_the_command_reference_is_what_help_prints() -> None:
    text = README.read_text()
    assert text == with_reference(text), "run: python tests/reference.py"


def test_every_command_has_a_help_text_with_an_example() -> None:
    import typer.main

    from kdsearch.cli import app

    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        assert command.help and "Example" in command.help, name


def test_every_bundled_study_named_in_the_readme_exists() -> None:
    named = set(re.findall(r"kdsearch run ([a-z0-9_]+)\b(?!\.)", README.read_text()))
    bundled = {path.stem for path in (Path(README).parent / "studies").glob("*.yaml")}
    assert named - {"my_study", "my_studies"} <= bundled
