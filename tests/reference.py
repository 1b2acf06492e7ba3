"""Writes the command reference of the README from ``--help``: ``python tests/reference.py``. A test holds the two together."""

from __future__ import annotations

import os
import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- reference: written by python tests/reference.py -->", "<!-- end of reference -->"


def reference() -> str:
    """The help text of every command, in the order of ``kdsearch --help``."""
    os.environ["TERMINAL_WIDTH"] = os.environ["COLUMNS"] = "100"
    import click
    import typer.main
    from typer.testing import CliRunner

    from kdsearch.cli import app

    group = typer.main.get_command(app)
    parts = []
    for name in [None, *getattr(group, "commands", {})]:
        arguments = [*([name] if name else []), "--help"]
        text = CliRunner().invoke(app, arguments, prog_name="kdsearch", terminal_width=100, max_content_width=100).output
        parts.append(f"### kdsearch{' ' + name if name else ''}\n\n```text\n{click.unstyle(text).rstrip()}\n```")
    return "\n\n".join(parts)


def with_reference(readme: str) -> str:
    """The README's text with the reference of today's commands."""
    block = f"{BEGIN}\n\n{reference()}\n\n{END}"
    return re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: block, readme, flags=re.DOTALL)


if __name__ == "__main__":
    README.write_text(with_reference(README.read_text()))
