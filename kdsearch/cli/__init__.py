"""The command line. Thin: each command imports what it needs when it runs, and the work is done in :mod:`kdsearch.api`."""

from __future__ import annotations

import os
import sys

import typer

from kdsearch.cli.common import say
from kdsearch.cli.files import export, init, schema, validate
from kdsearch.cli.look import best, dashboard, report, status, trials
from kdsearch.cli.run import confirm, run, train
from kdsearch.errors import KDSearchError

app = typer.Typer(
    name="kdsearch",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Search temperature, coefficient, schedule, teacher width and precision of distilled, quantized networks.\n\n"
    "Start with: kdsearch run quickstart",
)
for _command in (run, status, trials, best, report, confirm, export, dashboard, train, validate, schema, init):
    app.command()(_command)


def _broken_pipe() -> int:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def main() -> None:
    """Entry point: errors for people become one message and an exit code, never a traceback."""
    try:
        app(standalone_mode=True)
    except KDSearchError as error:
        say(f"kdsearch: {error}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        say("kdsearch: interrupted; the same command goes on from here")
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(_broken_pipe())
