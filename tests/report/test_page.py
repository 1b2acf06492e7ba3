"""The report's files: what is in them, what is escaped, and what happens with little, odd or no data. No browser is needed."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import pytest

from kdsearch.errors import UsageError
from kdsearch.record.trials import TrialRow
from kdsearch.report.build import heatmap, watch_report, write_report
from kdsearch.report.page import safe_json
from kdsearch.report.style import decimals, plain, signed, slug
from kdsearch.spec.study import Study
from tests.analysis import planted

SMALL = {"temperature": {"choices": [1, 20], "ordered": True}, "width": {"choices": [1, 4], "ordered": True}}
MIDDLE = {"temperature": {"choices": [1, 5, 20], "ordered": True}, "width": {"choices": [1, 2, 4], "ordered": True}}
EVIL = '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked=2">'


def _report(tmp_path: Path, *studies: tuple[Study, list[TrialRow]], **options: Any) -> str:
    """The page, each of its figures checked by plotly: it raises where a property does not exist or cannot have that value."""
    text = write_report(studies, tmp_path, images=False, **options).read_text("utf-8")
    for drawn in re.findall(r'id="spec-[^"]+">(.*?)</script>', text):
        go.Figure(json.loads(drawn))
    return text


def _small_grid(**fields: Any) -> tuple[Study, list[TrialRow]]:
    study = planted.study(**{"seeds": [0, 1, 2], "space": MIDDLE} | fields)
    return study, planted.grid_rows(study, block_sd=0.2)


def test_a_grid_report_holds_every_figure_with_a_csv_beside_it(tmp_path: Path) -> None:
    text = _report(tmp_path, _small_grid())
    shown = re.findall(r'data-slug="([^"]+)"', text)
    expected = [
        "1-lines",
        "2-heatmap",
        "3-counts",
        "5-ridge",
        "6-strength",
        "7-mechanism",
        "8-decision",
        "9a-curves",
        "9b-early",
        "9d-history",
    ]
    assert shown == expected
    assert sorted(path.stem for path in (tmp_path / "figures").glob("*.csv")) == sorted(expected)
    table = pd.read_csv(tmp_path / "figures" / "2-heatmap.csv")
    assert len(table) == 9 and (table["n"] == 3).all() and {"temperature", "width", "mean", "half", "diff", "tied"} <= set(table)


def test_every_caption_states_n_and_the_split_or_what_the_numbers_are_of(tmp_path: Path) -> None:
    text = _report(tmp_path, _small_grid())
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", text)
    assert all(re.search(r"n = \d|\d+ (trials|runs|cells|finished)", caption) for caption in captions)
    assert sum("validation split" in caption for caption in captions) >= 5
    assert "95% intervals from the SD within cells, pooled" in captions[0] and "degrees of freedom" in captions[0]


def test_plotly_is_inlined_once_and_nothing_is_fetched(tmp_path: Path) -> None:
    text = _report(tmp_path, _small_grid())
    assert text.count("plotly.js v") == 1
    outside = re.sub(r"<script[^>]*>.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", outside)
    assert "default-src 'none'" in text


def test_an_adaptive_report_says_exploration_and_shows_pruned_and_failed_trials(tmp_path: Path) -> None:
    study = planted.adaptive(trials=40)
    text = _report(tmp_path, (study, planted.adaptive_rows(study)))
    assert "Exploration, not proof" in text and "draw no claim" in text
    cells = pd.read_csv(tmp_path / "figures" / "2-heatmap.csv")
    assert cells["pruned"].sum() > 0 and cells["failed"].sum() > 0 and (cells["status"] == "not run").any()
    assert (tmp_path / "figures" / "9c-surrogate.csv").exists()
    history = pd.read_csv(tmp_path / "figures" / "9d-history.csv")
    assert history.loc[history["state"] != "COMPLETE", "value"].isna().all()


def test_several_studies_stand_side_by_side_with_their_paired_differences(tmp_path: Path) -> None:
    made = []
    for i, name in enumerate(("ht_kd", "kd_kd", "kd_kd_cr")):
        study = planted.study(
            name,
            seeds=[0, 1, 2],
            space=SMALL,
        )
        made.append((study, planted.grid_rows(study, seed=i, shift=0.5 * i, sd=0.1)))
    text = _report(tmp_path, *made)
    panels = pd.read_csv(tmp_path / "figures" / "all-4-panels.csv")
    assert list(dict.fromkeys(panels["panel"])) == ["ht_kd", "kd_kd", "kd_kd_cr"]
    gaps = pd.read_csv(tmp_path / "figures" / "all-4b-differences.csv")
    assert list(dict.fromkeys(gaps["difference"])) == ["kd_kd − ht_kd", "kd_kd_cr − kd_kd"]
    assert gaps["paired"].all() and gaps["diff"].mean() == pytest.approx(0.5, abs=0.15)
    assert "kd_kd_cr − kd_kd: +0." in text
    assert (tmp_path / "figures" / "kd-kd-2-heatmap.csv").exists()


def test_strata_stand_side_by_side_and_each_has_its_figures(tmp_path: Path) -> None:
    bits = {"choices": {str(b): {"quantizer": "shin", "bits": b} for b in (1, 2)}}
    space = {"bits": bits, "temperature": {"choices": [1, 20], "ordered": True}, "width": {"choices": [1, 4], "ordered": True}}
    study = planted.study(
        "strata", strata=["bits"], seeds=[0, 1], space=space, recipe={**planted.RECIPE, "precision": {"weights": "$bits"}}
    )
    rows = [row for i, s in enumerate(study.strata_list()) for row in planted.grid_rows(study, seed=i, stratum=s.name)]
    text = _report(tmp_path, (study, rows))
    assert {"all-4-panels.csv", "bits-1-2-heatmap.csv", "bits-2-2-heatmap.csv"} <= {p.name for p in (tmp_path / "figures").iterdir()}
    assert "bits=1: Best mean" in text


def test_a_third_parameter_gets_panels_and_any_two_can_be_axes(tmp_path: Path) -> None:
    study = planted.adaptive(trials=30)
    rows = planted.adaptive_rows(study)
    _report(tmp_path, (study, rows), x="coefficient", y="temperature", panel="width")
    cells = pd.read_csv(tmp_path / "figures" / "2-heatmap.csv")
    assert {"coefficient", "temperature"} <= set(cells)
    assert pd.read_csv(tmp_path / "figures" / "4-panels.csv")["panel"].str.startswith("width = ").all()


@pytest.mark.parametrize("options", [{"x": "nope"}, {"y": "nope"}, {"panel": "nope"}, {"x": "width", "y": "width"}])
def test_an_unknown_parameter_is_a_usage_error_that_names_the_known_ones(tmp_path: Path, options: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"temperature, width|two parameters of"):
        _report(tmp_path, _small_grid(), **options)


@pytest.mark.parametrize("case", ["no trial", "one trial", "all pruned", "all failed", "running", "one seed", "no baseline"])
def test_little_data_gives_a_report_that_says_so(tmp_path: Path, case: str) -> None:
    study = planted.study(seeds=[0], space=MIDDLE)
    full = planted.grid_rows(study)
    one = [planted.row(0, {"temperature": 1, "width": 1}, {0: 80.0})]
    states = {"all pruned": "PRUNED", "all failed": "FAIL", "running": "RUNNING"}
    cut = [planted.row(i, {"temperature": 1, "width": 1}, {}, state=states.get(case, "FAIL"), epochs=i % 4) for i in range(4)]
    rows = {"no trial": [], "one trial": one, "one seed": full, "no baseline": full[:-1]}.get(case, cut)
    text = _report(tmp_path, (study, rows))
    said = {
        "no trial": "No trial yet",
        "one trial": "cannot tell",
        "one seed": "no measure of noise",
        "no baseline": "no finished baseline",
    }
    assert said.get(case, "No trial has finished") in text


def test_a_study_without_parameters_has_a_report(tmp_path: Path) -> None:
    recipe = {"model": {"architecture": "resnet8"}}
    study = planted.study(space={}, recipe=recipe, baselines={}, seeds=[0, 1])
    text = _report(tmp_path, (study, [planted.row(i, {}, {i: 80.0 + i}) for i in range(2)]))
    assert "Which one to take" in text


def test_text_of_a_study_file_is_escaped_everywhere(tmp_path: Path) -> None:
    space = {"temperature": {"choices": [1, 2], "ordered": True, "title": EVIL}, "width": {"choices": [1, 2], "unit": EVIL}}
    study = planted.study(title=EVIL, description=EVIL, space=space, seeds=[0, 1])
    rows = planted.grid_rows(study)
    rows[0].warnings, rows[0].reason = [EVIL], EVIL
    text = _report(tmp_path, (study, rows))
    assert "<img" not in text and "<script>window" not in text
    assert text.count("</script>") == len(
        re.findall(r"<script[ >]", re.sub(r"(<script[^>]*>)/\*\*.*?</script>", r"\1</script>", text, flags=re.DOTALL))
    )


def test_json_in_a_script_element_cannot_end_it() -> None:
    text = safe_json({"a": EVIL, "b": float("nan"), "c": [1.5, None, True], "\u2028": "x"})
    assert "<" not in text and "\u2028" not in text
    assert json.loads(text) == {"a": EVIL, "b": None, "c": [1.5, None, True], "\u2028": "x"}


def test_data_seen_through_test_data_carries_a_warning(tmp_path: Path) -> None:
    study = planted.study(objective={"metric": "test_accuracy", "direction": "maximize"}, seeds=[0, 1], space=SMALL)
    text = _report(tmp_path, (study, planted.grid_rows(study)))
    assert "looked at test data while it searched" in text and "Test accuracy" in text


def test_csv_files_are_read_back_by_the_standard_reader(tmp_path: Path) -> None:
    _report(tmp_path, _small_grid())
    for path in (tmp_path / "figures").glob("*.csv"):
        rows = list(csv.reader(path.open(encoding="utf-8")))
        assert len({len(row) for row in rows}) == 1, path.name


def test_figures_of_an_earlier_report_are_removed_and_other_files_stay(tmp_path: Path) -> None:
    study, rows = _small_grid()
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "notes.csv").write_text("mine")
    (tmp_path / "figures" / "4-panels.csv").write_text("old")
    _report(tmp_path, (study, rows))
    assert (tmp_path / "figures" / "notes.csv").exists() and not (tmp_path / "figures" / "4-panels.csv").exists()


def test_a_watched_report_is_written_again_when_trials_change_and_only_then(tmp_path: Path) -> None:
    study, rows = _small_grid()
    seen, said = [rows[:10], rows[:10], rows], []

    def read() -> list[TrialRow]:
        if not seen:
            raise KeyboardInterrupt
        return seen.pop(0)

    with pytest.raises(KeyboardInterrupt):
        watch_report([(study, read)], tmp_path, say=said.append, every=0)
    assert [line.rpartition(": ")[2] for line in said] == ["10 trials", f"{len(rows)} trials"]


def test_a_heatmap_for_a_notebook_is_a_figure_and_its_errors_say_what_is_allowed() -> None:
    study, rows = _small_grid()
    figure = heatmap(study, rows, "width", "temperature")
    assert "Teacher width" in figure.layout.xaxis.title.text
    assert any(trace.type == "heatmap" for trace in figure.data)
    with pytest.raises(UsageError, match="it searches: temperature, width"):
        heatmap(study, rows, "nope", "width")
    with pytest.raises(UsageError, match="no stratum"):
        heatmap(study, rows, stratum="bits=9")


def test_without_kaleido_the_page_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kaleido", None)
    text = write_report([_small_grid()], tmp_path).read_text("utf-8")
    assert "kaleido is not installed" in text and "pip install" in text


def test_the_report_loads_neither_torch_nor_ray(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.analysis import planted; from kdsearch.report.build import write_report\n"
        "s = planted.study(seeds=[0, 1]); write_report([(s, planted.grid_rows(s))], Path(sys.argv[1]), images=False)\n"
        "assert not {'torch', 'ray'} & set(sys.modules)"
    )
    root = Path(__file__).parent.parent.parent
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=root)


def test_numbers_are_written_with_the_digits_that_their_spread_allows() -> None:
    assert [decimals([s]) for s in (12.0, 1.2, 0.27, 0.031, 1e-9)] == [0, 1, 2, 3, 4]
    assert signed(-0.314, 2) == "−0.31" and signed(0.001, 2) == "+0.00" and signed(-0.001, 2) == "+0.00"
    assert plain("<b>") == "&lt;b&gt;" and slug("Bits=1", "2-heatmap") == "bits-1-2-heatmap" and slug("<>") == "study"
