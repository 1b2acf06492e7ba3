"""The Python door to everything the command line does.

::

    from kdsearch import Study

    study = Study("quickstart")
    study.run(workers=2)
    study.heatmap("temperature", "width")     # a plotly figure, in a notebook
    study.best()[0]
    study.report()
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsearch.errors import NothingEligible, UsageError
from kdsearch.spec.smoke import smoke as scaled_down
from kdsearch.spec.study import Study as StudySpec
from kdsearch.spec.study import load_study

if TYPE_CHECKING:
    from kdsearch.analysis.confirm import Confirmation
    from kdsearch.analysis.select import Selected
    from kdsearch.export.bundle import Exported
    from kdsearch.record.run import Run
    from kdsearch.record.store import Store
    from kdsearch.record.trials import TrialRow
    from kdsearch.search.engine import Outcome
    from kdsearch.search.options import RunOptions
    from kdsearch.spec.plan import Plan


class Study:
    """A study and its run.

    Args:
        source: a YAML file, a bundled study's name, or a run's folder.
        overrides: ``path=value`` texts, as of ``--set``.
        output: folder that holds runs; the study's own is ``<output>/<name>``. Ignored when ``source`` is a run's folder.
        store: folder of trained networks, shared by studies (and by the nodes of a cluster), or a URI that backs the default folder;
            default: see :func:`kdsearch.record.remote.open_store`.
        storage: URL of a database in place of the run's journal file.
        allow_code: whether the study may name code of yours as ``package.module:function``.
        smoke: scale the study down until it ends in seconds, see :func:`kdsearch.spec.smoke.smoke`.

    Raises:
        SpecError: the study is not valid; the message names file, line, key, value and what is allowed.
    """

    def __init__(
        self,
        source: str | Path,
        overrides: Sequence[str] = (),
        *,
        output: str | Path = "runs",
        store: str | Path | None = None,
        storage: str | None = None,
        allow_code: bool = False,
        smoke: bool = False,
    ) -> None:
        loaded = load_study(source, overrides, allow_code=allow_code)
        self.spec: StudySpec = scaled_down(loaded) if smoke else loaded
        given = Path(source)
        self.folder = given if given.is_dir() and self.spec is loaded else Path(output) / self.spec.name
        self._store, self._storage = store, storage

    @property
    def name(self) -> str:
        """The study's name."""
        return self.spec.name

    @cached_property
    def _run(self) -> Run:
        from kdsearch.record.run import Run

        return Run(self.folder, storage_url=self._storage)

    def plan(self) -> Plan:
        """What a run would do: strata, trials, distinct recipes and epochs by role."""
        from kdsearch.spec.plan import plan

        return plan(self.spec)

    def run(
        self,
        *,
        workers: int | None = None,
        address: str | None = None,
        inline: bool = False,
        quiet: bool = False,
        on_event: Callable[[str], None] | None = None,
    ) -> Outcome:
        """Run the study, or go on with it, then write the report and ``best/``.

        Args:
            workers: processes that train at a time; default: as many as the resources allow.
            address: a Ray cluster to join; default: Ray on this machine. Unless the study's ``store`` names a folder, each node then
                keeps its own, and what trials need and make travels.
            inline: run trials in this process, one after another, without Ray.
            quiet: no progress on standard error.
            on_event: called with a line of text at each notable event.
        """
        from kdsearch.search.data_check import check_data
        from kdsearch.search.engine import run_study
        from kdsearch.search.progress import progress_for

        if address is None:  # a cluster's nodes may have data that this machine lacks
            check_data(self.spec)
        options = self._options(workers, address, inline)
        run = self._run.create(self.spec)
        outcome = run_study(self.spec, run, self.store, options, progress_for(self.spec, quiet=quiet, on_event=on_event))
        self.hand_over()
        return outcome

    @cached_property
    def store(self) -> Store:
        """Trained networks, and what backs them."""
        from kdsearch.record.remote import open_store

        return open_store(self._store)

    @property
    def store_root(self) -> Path:
        """Folder of trained networks."""
        return self.store.root

    def _options(self, workers: int | None, address: str | None, inline: bool) -> RunOptions:
        from kdsearch.record.remote import is_uri
        from kdsearch.search.options import RunOptions

        named = self._store is not None and not is_uri(self._store)
        return RunOptions(
            workers=workers,
            address=address,
            shared=named or inline or address is None,
            inline=inline,
            meanwhile=("kdsearch.report.build",),  # scikit-learn and Plotly
        )

    def trials(self) -> list[TrialRow]:
        """Every trial of the run, baselines and confirmations included.

        Raises:
            NothingEligible: the study was never run.
        """
        from kdsearch.record.trials import read_trials

        if not self._run.exists():
            raise NothingEligible(f"{self.folder}: no run of {self.name!r} here; start it with: kdsearch run {self.name}")
        return read_trials(self._run)

    def best(self, top: int = 1, stratum: str | None = None) -> list[Selected]:
        """The best ``top`` configurations of each stratum that keep the constraints, best first: by the confirmation where there is
        one, else by the search; of a study with two objectives the Pareto front.

        Raises:
            NothingEligible: nothing has finished.
        """
        from kdsearch.analysis.eligible import nothing_eligible, ranked

        rows = self.trials()
        names = [s.name for s in self.spec.strata_list()]
        if stratum is not None and stratum not in names:
            raise UsageError(f"no stratum {stratum!r}; the study has: {', '.join(names)}")
        chosen = [entry for name in names if stratum in (None, name) for entry in ranked(rows, self.spec, name, top)]
        if not chosen:
            raise nothing_eligible(rows, self.spec, self.folder)
        return chosen

    def heatmap(self, x: str = "temperature", y: str = "width", **options: Any) -> Any:
        """Heatmap of two parameters as a plotly figure: mean, interval and n of each cell."""
        from kdsearch.report.build import heatmap

        return heatmap(self.spec, self.trials(), x, y, **options)

    def report(self, out: str | Path | None = None, **options: Any) -> Path:
        """Write ``report.html`` and ``figures/``; gives the page's path."""
        from kdsearch.report.build import write_report

        return write_report([(self.spec, self.trials())], Path(out) if out is not None else self.folder, **options)

    def hand_over(self) -> list[Path]:
        """Write the report and the best recipes of what has finished; gives the paths. Nothing finished: no paths."""
        from kdsearch.export.recipe import write_best

        rows = self.trials()
        if not any(row.state == "COMPLETE" for row in rows):
            return []
        return [self.report(), *write_best(self.spec, self._run, self.store, rows)]

    def confirm(
        self,
        *,
        top: int = 5,
        seeds: int = 5,
        with_validation: bool = False,
        workers: int | None = None,
        address: str | None = None,
        inline: bool = False,
        quiet: bool = False,
        on_event: Callable[[str], None] | None = None,
    ) -> tuple[list[Confirmation], Outcome]:
        """Retrain the ``top`` best of each stratum on ``seeds`` fresh seeds, choose on their validation data, and measure the choice
        on test data of as many further seeds; then write the report and ``best/`` anew. Running it again goes on.

        Args:
            with_validation: train the choice on all training data as well; that network is then handed over.

        Raises:
            NothingEligible: nothing has finished that could be confirmed.
        """
        from kdsearch.search.confirm import confirm_study
        from kdsearch.search.data_check import check_data
        from kdsearch.search.progress import progress_for

        self.trials()
        if address is None:
            check_data(self.spec, test=True)
        options = self._options(workers, address, inline)
        done = confirm_study(
            self.spec,
            self._run,
            self.store,
            options,
            lambda: progress_for(self.spec, quiet=quiet, on_event=on_event),
            top=top,
            seeds=seeds,
            with_validation=with_validation,
        )
        self.hand_over()
        return done

    def export(self, out: str | Path, **options: Any) -> list[Exported]:
        """Write the best configurations as models into ``out``; options as of :func:`kdsearch.export.bundle.export_study`."""
        from kdsearch.export.bundle import export_study

        return export_study(self.spec, self.trials(), self.store, out, **options)
