"""Start something that trains: a study, a confirmation, a recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdsearch.cli.common import (
    Address,
    AllowCode,
    Inline,
    Json,
    Output,
    Quiet,
    Sets,
    StorageOpt,
    StoreOpt,
    StudyArg,
    Workers,
    listed,
    number,
    print_json,
    say,
    study_of,
    table,
)
from kdsearch.errors import printable

if TYPE_CHECKING:
    from kdsearch.analysis.confirm import Confirmation, Interval


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
    job = study_of(study, changes, output, store=store, storage=storage, allow_code=allow_code, smoke=smoke)
    for warning in job.spec.warnings():
        say(f"warning: {warning}")
    if dry_run:
        plan = job.plan()
        if json_out:
            print_json(plan.to_json())
        else:
            print(printable(plan.text()))
        return
    outcome = job.run(workers=workers, address=address, inline=inline, quiet=quiet or json_out)
    if json_out:
        print_json({"study": job.name, "folder": str(job.folder), **outcome.to_json()})
    elif quiet and outcome.reason:
        say(f"kdsearch: {outcome.reason}")
    elif not quiet:
        say(outcome.text())
        if (job.folder / "report.html").exists():
            say(f"report: {job.folder / 'report.html'}")
            say(f"best:   {job.folder / 'best'}")
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)


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
    job = study_of(study, sets, output, store=store, storage=storage, allow_code=allow_code)
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
        print_json({"study": job.name, "exit_code": outcome.exit_code, "confirmations": [one.to_json() for one in found]})
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
            number(c.search_value),
            number(c.validation),
            number(c.shrinkage),
            c.n,
            listed(c.params),
        ]
        for c in one.candidates
    ]
    table(["", "trial", "search", "fresh seeds", "shrinkage", "n", "parameters"], rows, title=f"{one.stratum or 'confirmed'}: {one.metric}")
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
            lines.append(["trained on everything", number(mean), "", len(one.final), ""])
        table(["", one.reported, "95% interval", "n", "chosen minus it, same seeds"], lines)
        if one.shrinkage is not None:
            print(f"shrinkage: {one.shrinkage:+.2f} (search value minus fresh seeds without part in the choice, both on validation data)\n")


def _interval(found: Interval) -> list[Any]:
    return [number(found.mean), f"{found.low:.2f} to {found.high:.2f}" if found.n > 1 else "-", found.n]


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
    told: Callable[[str], None] = (lambda line: None) if quiet or json_out else say
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
        print_json({**metrics, "final": final})
    else:
        table(["metric", "value"], [[name, value] for name, value in final.items()], title=str(recipe))
