"""The command line. Thin: each command imports what it needs when it runs, and the work is done in :mod:`kdsearch.api`."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kdsearch.errors import KDSearchError, UsageError, printable

if TYPE_CHECKING:
    from kdsearch.analysis.confirm import Confirmation, Interval
    from kdsearch.api import Study
    from kdsearch.record.trials import TrialRow

app = typer.Typer(
    name="kdsearch",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Search temperature, coefficient, schedule, teacher width and precision of distilled, quantized networks.\n\n"
    "Start with: kdsearch run quickstart",
)


def _complete_study(incomplete: str) -> list[str]:
    from kdsearch.spec.bundled import study_names

    return [name for name in study_names() if name.startswith(incomplete)]


StudyArg = Annotated[
    str,
    typer.Argument(metavar="STUDY", help="A YAML file, a bundled study's name, or a run's folder.", autocompletion=_complete_study),
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
Workers = Annotated[int | None, typer.Option(min=1, help="Trials at a time. Default: as many as the resources allow.")]
Address = Annotated[str | None, typer.Option(help="A Ray cluster to join, e.g. auto. Default: Ray on this machine.")]
Inline = Annotated[bool, typer.Option("--inline", help="Run trials in this process, one after another, without Ray.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on standard error.")]


def _study(source: str, sets: list[str] | None, output: Path, **more: Any) -> Study:
    from kdsearch.api import Study

    return Study(source, sets or (), output=output, **more)


def _print_json(document: Any) -> None:
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False, default=str)
    sys.stdout.write("".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text) + "\n")


def _say(text: str) -> None:
    print(printable(text), file=sys.stderr)


def _table(header: list[str], rows: Iterable[list[Any]], title: str | None = None) -> None:
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


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _joined(values: Iterable[object]) -> str:
    return ",".join(map(str, values))


def _params(params: dict[str, Any]) -> str:
    return "  ".join(f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in params.items())


@app.command()
def run(
    study: StudyArg,
    trials: Annotated[int | None, typer.Option("--trials", min=1, help="Configurations per stratum, in place of the study's.")] = None,
    workers: Workers = None,
    address: Address = None,
    inline: Inline = False,
    output: Output = Path("runs"),
    store: StoreOpt = None,
    storage: StorageOpt = None,
    sets: Sets = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    smoke: Annotated[
        bool,
        typer.Option("--smoke", help="Scale it down to seconds (digits, narrow ResNet8s, 2 epochs, 4 trials or cells), as NAME-smoke."),
    ] = False,
    allow_code: AllowCode = False,
    json_out: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run a study, or go on with it; then write its report and its best configurations.

    \b
    Examples:
      kdsearch run quickstart
      kdsearch run my_study.yaml --workers 4 --set budget.trials=100
      kdsearch run my_study.yaml --dry-run
      kdsearch run shin2019_fig1_cifar10 --smoke --inline

    Running the same command again goes on where the last one stopped. Exit codes: 0 done, 1 failed, 2 invalid, 3 done with
    failed trials, 130 interrupted, 143 terminated.
    """
    changes = list(sets or ()) + ([f"budget.trials={trials}"] if trials is not None else [])
    job = _study(study, changes, output, store=store, storage=storage, allow_code=allow_code, smoke=smoke)
    for warning in job.spec.warnings():
        _say(f"warning: {warning}")
    if dry_run:
        plan = job.plan()
        if json_out:
            _print_json(plan.to_json())
        else:
            print(printable(plan.text()))
        return
    outcome = job.run(workers=workers, address=address, inline=inline, quiet=quiet or json_out)
    if json_out:
        _print_json({"study": job.name, "folder": str(job.folder), **outcome.to_json()})
    elif quiet and outcome.reason:
        _say(f"kdsearch: {outcome.reason}")
    elif not quiet:
        _say(outcome.text())
        if (job.folder / "report.html").exists():
            _say(f"report: {job.folder / 'report.html'}")
            _say(f"best:   {job.folder / 'best'}")
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)


@app.command()
def status(study: StudyArg, output: Output = Path("runs"), storage: StorageOpt = None, sets: Sets = None, json_out: Json = False) -> None:
    """Show how far a study is: by stratum, finished, pruned, failed, best so far.

    \b
    Example:
      kdsearch status quickstart
    """
    job = _study(study, sets, output, storage=storage, allow_code=True)
    rows = job.trials()
    header = ["stratum", "trials", "complete", "pruned", "failed", "interrupted", "running", "waiting", "best"]
    table: list[list[Any]] = []
    for stratum in job.spec.strata_list():
        mine = [row for row in rows if row.stratum == stratum.name and row.role == "search"]
        lost = sum(row.reason == "interrupted" for row in mine)
        count = {state: sum(row.state == state for row in mine) for state in ("COMPLETE", "PRUNED", "FAIL", "RUNNING", "WAITING")}
        values = [row.value for row in mine if row.state == "COMPLETE" and row.value is not None]
        best = (max if job.spec.objectives()[0].direction == "maximize" else min)(values, default=None)
        done = count["COMPLETE"] + count["PRUNED"] + count["FAIL"] - lost
        planned = job.spec.planned_trials(stratum)
        counts = (count["COMPLETE"], count["PRUNED"], count["FAIL"] - lost, lost, count["RUNNING"], count["WAITING"])
        table.append([stratum.name or job.name, f"{done}/{planned}", *counts, best])
    if json_out:
        _print_json([dict(zip(header, row, strict=True)) for row in table])
    else:
        _table(header, [[*row[:-1], _number(row[-1])] for row in table], title=str(job.folder))


@app.command()
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
    rows = _study(study, sets, output, storage=storage, allow_code=True).trials()
    if json_out:
        _print_json([dataclasses.asdict(row) for row in rows])
    elif csv_out:
        _write_csv(rows)
    else:
        _table(
            ["#", "stratum", "role", "state", "value", "epochs", "seeds", "parameters", "reason"],
            (
                [
                    r.number,
                    r.stratum,
                    r.baseline or r.role,
                    r.state,
                    _number(r.value),
                    r.epochs,
                    _joined(r.seeds),
                    _params(r.params),
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
        writer.writerow([*values, _joined(row.seeds), *(row.params.get(name, "") for name in names)])


@app.command()
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
    job = _study(study, sets, output, storage=storage, allow_code=True)
    chosen = job.best(top)
    if json_out:
        _print_json([entry.to_json() for entry in chosen])
    else:
        _table(
            ["stratum", "trial", "value", "n", "parameters"],
            [[entry.stratum, entry.number, _number(entry.value), entry.n, _params(entry.params)] for entry in chosen],
        )
        _say("The winner of a search is partly luck: kdsearch confirm runs it again on fresh seeds.")


@app.command()
def report(
    studies: Annotated[list[str], typer.Argument(metavar="STUDY...", help="Studies to show together.", autocompletion=_complete_study)],
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

    jobs = [_study(name, sets, output, storage=storage, allow_code=True) for name in studies]
    target = out if out is not None else jobs[0].folder
    if watch:
        watch_report([(job.spec, job.trials) for job in jobs], target, x=x, y=y, panel=panel, say=_say)
        return
    page = write_report([(job.spec, job.trials()) for job in jobs], target, x=x, y=y, panel=panel)
    if json_out:
        _print_json({"report": str(page), "figures": sorted(str(path) for path in (target / "figures").glob("*"))})
    else:
        print(page)


@app.command()
def confirm(
    study: StudyArg,
    top: Annotated[int, typer.Option(min=1, help="How many of the search's best are tried again, in each stratum.")] = 5,
    seeds: Annotated[int, typer.Option(min=2, help="Fresh seeds for the choice, and as many others for the result.")] = 5,
    with_validation: Annotated[
        bool, typer.Option("--with-validation", help="Also train the choice on all training data, and hand that network over.")
    ] = False,
    workers: Workers = None,
    address: Address = None,
    inline: Inline = False,
    output: Output = Path("runs"),
    store: StoreOpt = None,
    storage: StorageOpt = None,
    sets: Sets = None,
    allow_code: AllowCode = False,
    json_out: Json = False,
    quiet: Quiet = False,
) -> None:
    """Retrain the best of a search on fresh seeds: an honest choice, and an honest number for it.

    \b
    Examples:
      kdsearch confirm quickstart --top 3 --seeds 5
      kdsearch confirm my_study --with-validation

    The choice is made on validation data of fresh seeds; its value and interval come from test data of further seeds, beside the
    baselines on the same seeds. Running it again goes on where it stopped, and adds what --top and --seeds ask for more.
    """
    job = _study(study, sets, output, store=store, storage=storage, allow_code=allow_code)
    found, outcome = job.confirm(
        top=top,
        seeds=seeds,
        with_validation=with_validation,
        workers=workers,
        address=address,
        inline=inline,
        quiet=quiet or json_out,
    )
    if json_out:
        _print_json({"study": job.name, "exit_code": outcome.exit_code, "confirmations": [one.to_json() for one in found]})
    else:
        for one in found:
            _print_confirmation(one)
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)


def _print_confirmation(one: Confirmation) -> None:
    rows = [
        [
            "*" if c.chosen else "",
            c.number,
            _number(c.search_value),
            _number(c.validation),
            _number(c.shrinkage),
            c.n,
            _params(c.params),
        ]
        for c in one.candidates
    ]
    _table(
        ["", "trial", "search", "fresh seeds", "shrinkage", "n", "parameters"], rows, title=f"{one.stratum or 'confirmed'}: {one.metric}"
    )
    if one.test is not None:
        lines = [["chosen (*)", *_interval(one.test), ""]]
        for name, value in one.baselines.items():
            paired = one.differences.get(name)
            lines.append(
                [name, *_interval(value), "" if paired is None else f"{paired.mean:+.2f} ({paired.low:+.2f} to {paired.high:+.2f})"]
            )
        if one.validation is not None:
            lines.append(["chosen, validation data", *_interval(one.validation), ""])
        if one.final:
            mean = sum(one.final.values()) / len(one.final)
            lines.append(["trained on everything", _number(mean), "", len(one.final), ""])
        _table(["", one.reported, "95% interval", "n", "chosen minus it, same seeds"], lines)
        if one.shrinkage is not None:
            print(f"shrinkage: {one.shrinkage:+.2f} (search value minus fresh seeds without part in the choice, both on validation data)\n")


def _interval(found: Interval) -> list[Any]:
    return [_number(found.mean), f"{found.low:.2f} to {found.high:.2f}" if found.n > 1 else "-", found.n]


@app.command()
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
    job = _study(study, sets, output, store=store, storage=storage, allow_code=allow_code)
    done = job.export(out, top=top, **({"formats": formats} if formats else {}), force=force, float_input=float_input)
    if json_out:
        _print_json([one.to_json() for one in done])
    else:
        for one in done:
            print(printable(one.text()))


@app.command()
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

    folder = _study(study, None, output, allow_code=True).folder
    serve_dashboard(Run(folder, storage_url=storage), host, port)


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe: a YAML file such as best.yaml.")],
    store: StoreOpt = None,
    sets: Sets = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads. Default: those recorded in the recipe's provenance, else 1.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N. Default: that of the provenance, else cpu.")] = None,
    test: Annotated[bool, typer.Option("--test", help="Also measure on test data, once, at the end.")] = False,
    allow_code: AllowCode = False,
    json_out: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train one recipe, its teachers included, from what the store lacks.

    \b
    Examples:
      kdsearch train runs/quickstart/best/bits-2.yaml --store /tmp/empty
      kdsearch train best.yaml --set seed=7 --test
    """
    from kdsearch.spec.study import load_recipe

    parsed, provenance = load_recipe(recipe, sets or (), allow_code=allow_code)

    from kdsearch.record.remote import open_store
    from kdsearch.training.evaluate import evaluate
    from kdsearch.training.train import train as train_recipe

    where = open_store(store)
    told: Callable[[str], None] = (lambda line: None) if quiet or json_out else _say
    used_device = device or str(provenance.get("device") or "cpu")

    def tell(seen: dict[str, Any]) -> None:
        values = "  ".join(f"{name}={value:.4g}" for name, value in seen["row"].items() if name.endswith(("loss", "accuracy")))
        told(f"{seen['role'] or 'recipe'}: epoch {seen['epoch']}/{seen['epochs']}  {values}")

    used_threads = threads or int(provenance.get("threads") or 1)
    metrics = train_recipe(parsed, where, device=used_device, threads=used_threads, on_progress=tell)
    final = dict(metrics["final"])
    if test:
        final.update(evaluate(parsed, where, split="test", device=used_device))
    if json_out:
        _print_json({**metrics, "final": final})
    else:
        _table(["metric", "value"], [[name, value] for name, value in final.items()], title=str(recipe))


@app.command()
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
            _say(f"kdsearch: {error}")
    if wrong:
        raise typer.Exit(2)


@app.command()
def schema(kind: Annotated[Literal["study", "space", "recipe"], typer.Argument(help="What to describe.")]) -> None:
    """Print the JSON Schema of a kind of file, for an editor's YAML server.

    \b
    Example:
      kdsearch schema study > study.schema.json
    """
    from kdsearch.spec.schema import json_schema

    _print_json(json_schema(kind))


@app.command()
def init(folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")]) -> None:
    """Make a folder with a study to edit, its schema beside it, and a reusable space.

    \b
    Example:
      kdsearch init my_studies && kdsearch run my_studies/study.yaml --dry-run
    """
    from kdsearch.spec.bundled import write_starter

    for path in write_starter(folder):
        print(path)


def _broken_pipe() -> int:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def main() -> None:
    """Entry point: errors for people become one message and an exit code, never a traceback."""
    try:
        app(standalone_mode=True)
    except KDSearchError as error:
        _say(f"kdsearch: {error}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _say("kdsearch: interrupted; the same command goes on from here")
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(_broken_pipe())


if __name__ == "__main__":
    main()
