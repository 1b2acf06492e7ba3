"""Look at a study: how far it is, its trials, its best, its report, its record in a browser."""

from __future__ import annotations

import csv
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdsearch.cli.common import (
    Json,
    Output,
    Sets,
    StorageOpt,
    StudyArg,
    complete_study,
    joined,
    listed,
    number,
    print_json,
    say,
    study_of,
    table,
)

if TYPE_CHECKING:
    from kdsearch.record.trials import TrialRow


def status(study: StudyArg, output: Output = Path("runs"), storage: StorageOpt = None, sets: Sets = None, json_out: Json = False) -> None:
    """Show how far a study is: by stratum, finished, pruned, failed, best so far.

    \b
    Example:
      kdsearch status quickstart
    """
    job = study_of(study, sets, output, storage=storage, allow_code=True)
    rows = job.trials()
    header = ["stratum", "trials", "complete", "pruned", "failed", "interrupted", "running", "waiting", "best"]
    lines: list[list[Any]] = []
    for stratum in job.spec.strata_list():
        mine = [row for row in rows if row.stratum == stratum.name and row.role == "search"]
        lost = sum(row.reason == "interrupted" for row in mine)
        count = {state: sum(row.state == state for row in mine) for state in ("COMPLETE", "PRUNED", "FAIL", "RUNNING", "WAITING")}
        values = [row.value for row in mine if row.state == "COMPLETE" and row.value is not None]
        best = (max if job.spec.objectives()[0].direction == "maximize" else min)(values, default=None)
        done = count["COMPLETE"] + count["PRUNED"] + count["FAIL"] - lost
        planned = job.spec.planned_trials(stratum)
        counts = (count["COMPLETE"], count["PRUNED"], count["FAIL"] - lost, lost, count["RUNNING"], count["WAITING"])
        lines.append([stratum.name or job.name, f"{done}/{planned}", *counts, best])
    if json_out:
        print_json([dict(zip(header, row, strict=True)) for row in lines])
    else:
        table(header, [[*row[:-1], number(row[-1])] for row in lines], title=str(job.folder))


def trials(
    study: StudyArg,
    output: Output = Path("runs"),
    storage: StorageOpt = None,
    sets: Sets = None,
    csv_out: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    json_out: Json = False,
) -> None:
    """List every trial: state, value, parameters, seeds, epochs.

    \b
    Examples:
      kdsearch trials quickstart
      kdsearch trials quickstart --json | jq '.[] | select(.state == "COMPLETE")'
      kdsearch trials quickstart --csv > trials.csv
    """
    rows = study_of(study, sets, output, storage=storage, allow_code=True).trials()
    if json_out:
        print_json([dataclasses.asdict(row) for row in rows])
    elif csv_out:
        _write_csv(rows)
    else:
        table(
            ["#", "stratum", "role", "state", "value", "epochs", "seeds", "parameters", "reason"],
            (
                [
                    r.number,
                    r.stratum,
                    r.baseline or r.role,
                    r.state,
                    number(r.value),
                    r.epochs,
                    joined(r.seeds),
                    listed(r.params),
                    r.reason,
                ]
                for r in rows
            ),
        )


def _write_csv(rows: list[TrialRow]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row.params))
    fixed = ["number", "study", "stratum", "role", "baseline", "state", "value", "epochs", "seconds", "key", "reason"]
    writer = csv.writer(sys.stdout)
    writer.writerow([*fixed, "seeds", *(f"params.{name}" for name in names)])
    for row in rows:
        values = [getattr(row, name) for name in fixed]
        writer.writerow([*values, joined(row.seeds), *(row.params.get(name, "") for name in names)])


def best(
    study: StudyArg,
    top: Annotated[int, typer.Option(min=1, help="How many of each stratum.")] = 1,
    output: Output = Path("runs"),
    storage: StorageOpt = None,
    sets: Sets = None,
    json_out: Json = False,
) -> None:
    """Show the best configurations of each stratum, by validation data.

    \b
    Example:
      kdsearch best quickstart --top 3
    """
    job = study_of(study, sets, output, storage=storage, allow_code=True)
    chosen = job.best(top)
    if json_out:
        print_json([entry.to_json() for entry in chosen])
    else:
        table(
            ["stratum", "trial", "value", "n", "parameters"],
            [[entry.stratum, entry.number, number(entry.value), entry.n, listed(entry.params)] for entry in chosen],
        )
        say("The winner of a search is partly luck: kdsearch confirm runs it again on fresh seeds.")


def report(
    studies: Annotated[list[str], typer.Argument(metavar="STUDY...", help="Studies to show together.", autocompletion=complete_study)],
    x: Annotated[str | None, typer.Option(help="Parameter across. Default: temperature, or the most varied one.")] = None,
    y: Annotated[str | None, typer.Option(help="Parameter upwards. Default: the teacher's width, or the next most varied one.")] = None,
    panel: Annotated[str | None, typer.Option(help="A parameter that gets a panel per value.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for report.html and figures/. Default: the first study's run.")] = None,
    output: Output = Path("runs"),
    storage: StorageOpt = None,
    sets: Sets = None,
    watch: Annotated[bool, typer.Option("--watch", help="Write it again whenever trials finish, until Ctrl-C.")] = False,
    json_out: Json = False,
) -> None:
    """Write the report: report.html and figures/ (CSV beside every picture).

    \b
    Examples:
      kdsearch report quickstart_grid
      kdsearch report my_study --x coefficient --y temperature
      kdsearch report ht_kd kd_kd kd_kd_cr --out comparison
    """
    from kdsearch.report.build import watch_report, write_report

    jobs = [study_of(name, sets, output, storage=storage, allow_code=True) for name in studies]
    target = out if out is not None else jobs[0].folder
    if watch:
        watch_report([(job.spec, job.trials) for job in jobs], target, x=x, y=y, panel=panel, say=say)
        return
    page = write_report([(job.spec, job.trials()) for job in jobs], target, x=x, y=y, panel=panel)
    if json_out:
        print_json({"report": str(page), "figures": sorted(str(path) for path in (target / "figures").glob("*"))})
    else:
        print(page)


def dashboard(
    study: StudyArg,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Other than the default, others can reach it, without a password.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8080,
    output: Output = Path("runs"),
    storage: StorageOpt = None,
) -> None:
    """Open optuna-dashboard on a study's record, until Ctrl-C (pip install 'kdsearch[dashboard]').

    \b
    Example:
      kdsearch dashboard quickstart
    """
    from kdsearch.record.dashboard import serve_dashboard
    from kdsearch.record.run import Run

    folder = study_of(study, None, output, allow_code=True).folder
    serve_dashboard(Run(folder, storage_url=storage), host, port)
