"""The tidy table, levels and cells: what counts, what does not, and differences to the baseline."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from kdsearch.analysis.cells import cells, main_baseline
from kdsearch.analysis.frame import levels_axis, readable, study_frame
from kdsearch.analysis.levels import ABSENT, default_axes, levels_of
from kdsearch.record.trials import TrialRow
from kdsearch.spec.study import Study
from tests.analysis import planted


def _small(values: dict[tuple[int, float, int], float], **fields: Any) -> tuple[Study, list[TrialRow]]:
    study = planted.study(seeds=[0, 1, 2], **fields)
    rows = [planted.row(i, {"temperature": t, "width": w}, {s: v}) for i, ((t, w, s), v) in enumerate(values.items())]
    return study, rows


def test_a_repeated_run_counts_once_and_its_trial_still_counts() -> None:
    study = planted.study()
    rows = [planted.row(i, {"temperature": 1, "width": 2}, {0: 80.0}) for i in range(3)]
    frame = study_frame(study, rows)
    assert len(frame.finished) == 1
    assert frame.counts()["COMPLETE"] == 3
    assert cells(frame, "temperature", "width").table["n"].sum() == 1


def test_the_last_value_of_a_pruned_trial_is_never_a_final_one() -> None:
    study = planted.adaptive()
    row = planted.row(0, {"temperature": 2.0, "width": 2, "coefficient": 0.5, "schedule": "constant"}, {}, state="PRUNED", last=99.0)
    row.value = 99.0
    frame = study_frame(study, [row])
    assert frame.finished.empty and frame.configs.empty
    found = cells(frame, "temperature", "width").table
    assert found["mean"].isna().all()
    assert found.loc[found["pruned"] > 0, "status"].tolist() == ["pruned"]


def test_an_interrupted_trial_is_not_a_failed_one() -> None:
    failed = planted.row(0, {"temperature": 1, "width": 1}, {}, state="FAIL")
    cut = dataclasses.replace(failed, number=1, reason="interrupted")
    frame = study_frame(planted.study(), [failed, cut])
    assert frame.counts()["FAIL"] == 1


def test_cells_hold_mean_count_pooled_interval_and_what_was_not_run() -> None:
    values = {(1, 1, 0): 10.0, (1, 1, 1): 12.0, (1, 1, 2): 14.0, (2, 1, 0): 20.0, (2, 1, 1): 21.0, (2, 1, 2): 22.0, (5, 2, 0): 30.0}
    study, rows = _small(values)
    found = cells(study_frame(study, rows), "temperature", "width")
    table = found.table.set_index(["x", "y"])
    assert len(table) == 25
    assert table.loc[("1", "1"), ["n", "mean", "sd"]].tolist() == [3, 12.0, 2.0]
    assert found.noise.sd == pytest.approx(math.sqrt((8 + 2) / 4))
    assert table.loc[("5", "2"), "status"] == "few"
    assert table.loc[("5", "2"), "half"] == pytest.approx(math.sqrt(3) * table.loc[("1", "1"), "half"])
    assert table.loc[("20", "4"), "status"] == "not run"
    assert (table["n"] > 0).sum() == 3


def test_differences_to_the_baseline_are_paired_by_seed() -> None:
    luck = {0: -3.0, 1: 0.0, 2: 3.0}
    values = {(1, 1, s): 10 + v for s, v in luck.items()} | {(2, 1, s): 12 + v for s, v in luck.items()}
    study, rows = _small(values)
    rows.append(planted.row(0, {}, {s: 9 + v for s, v in luck.items()}, role="baseline", baseline="no_kd"))
    found = cells(study_frame(study, rows), "temperature", "width").table
    measured = found[found["n"] > 0]
    assert measured["diff"].tolist() == pytest.approx([1.0, 3.0])
    assert measured["paired"].tolist() == [3, 3]
    assert measured["diff_half"].max() < 1e-6 < 1 < measured["half"].min()  # the luck of a seed drops out of the pair, not of the mean


def test_without_shared_seeds_the_difference_is_of_plain_means() -> None:
    study, rows = _small({(1, 1, 0): 10.0, (1, 1, 1): 12.0})
    rows.append(planted.row(0, {}, {7: 9.0, 8: 9.5}, role="baseline", baseline="no_kd"))
    found = cells(study_frame(study, rows), "temperature", "width").table
    row = found[found["n"] > 0].iloc[0]
    assert row["paired"] == 0
    assert row["diff"] == pytest.approx(11 - 9.25)
    assert row["diff_half"] > row["half"]


def test_a_tuned_baseline_is_taken_at_its_best_and_no_kd_comes_first() -> None:
    study = planted.study()
    rows = [
        planted.row(0, {}, {0: 70.0}, role="baseline", baseline="other"),
        planted.row(1, {"temperature": 1}, {0: 80.0}, role="baseline", baseline="no_kd"),
        planted.row(2, {"temperature": 2}, {0: 81.0, 200_000: 99.0}, role="baseline", baseline="no_kd"),
    ]
    found = main_baseline(study_frame(study, rows))
    assert found is not None
    assert (found.name, dict(found.by_seed)) == ("no_kd", {0.0: 81.0})  # a confirmation's fresh seeds stay out


def test_other_parameters_are_averaged_or_fixed() -> None:
    study = planted.adaptive(seeds=[0, 1], sampler={"name": "random"}, pruner={"name": "none"})
    rows = [
        planted.row(i, {"temperature": 2.0, "width": 2, "coefficient": 0.5, "schedule": s}, {0: v, 1: v + 1})
        for i, (s, v) in enumerate((("constant", 10.0), ("cr_linear", 20.0)))
    ]
    frame = study_frame(study, rows)
    both = cells(frame, "temperature", "width").table
    assert both["mean"].max() == pytest.approx(15.5)
    one = cells(frame, "temperature", "width", {"schedule": "cr_linear"})
    assert one.table["mean"].max() == pytest.approx(20.5)
    assert one.fixed == {"schedule": "cr_linear"} and "schedule" not in one.averaged


def test_bins_of_a_log_scaled_parameter_are_equal_in_its_logarithm() -> None:
    frame = study_frame(planted.adaptive(), planted.adaptive_rows(planted.adaptive()))
    temperature, coefficient = levels_of(frame, "temperature"), levels_of(frame, "coefficient")
    assert np.diff(np.log(temperature.edges)) == pytest.approx(np.full(6, math.log(20) / 6))
    assert temperature.log and not coefficient.log
    assert np.diff(coefficient.edges) == pytest.approx(np.full(6, 0.15))
    inside = temperature.index(frame.finished)
    assert inside.min() >= 0 and inside.max() <= 5
    assert frame.axes["temperature"].scaled([1, math.sqrt(20), 20, None])[:3] == pytest.approx([0, 0.5, 1])


def test_a_conditional_parameter_gets_a_level_for_where_it_does_not_exist() -> None:
    weights = {"shin": {"quantizer": "shin", "bits": 2, "step_policy": "$policy"}, "lsq": {"quantizer": "lsq", "bits": 2}}
    study = planted.study(
        recipe={**planted.RECIPE, "precision": {"weights": "$weights"}, "distill": None},
        space={"weights": {"choices": weights}, "policy": {"choices": ["once", "every_step"]}},
        baselines={},
    )
    rows = [
        planted.row(0, {"weights": "shin", "policy": "once"}, {0: 1.0}),
        planted.row(1, {"weights": "shin", "policy": "every_step"}, {0: 2.0}),
        planted.row(2, {"weights": "lsq"}, {0: 3.0}),
    ]
    frame = study_frame(study, rows)
    found = cells(frame, "weights", "policy").table.set_index(["x", "y"])
    assert levels_of(frame, "policy").labels == ("once", "every_step", ABSENT)
    assert found.loc[("lsq", ABSENT), "mean"] == 3.0
    assert found.loc[("lsq", "once"), "status"] == "not run"


def test_numbers_are_ordered_as_numbers_and_words_as_declared() -> None:
    assert levels_axis("w", [4, 1, 1.5]).labels == ("1", "1.5", "4")
    assert levels_axis("s", ["b", "a"]).labels == ("b", "a")


def test_the_default_axes_are_temperature_and_width_or_the_most_varied() -> None:
    frame = study_frame(planted.adaptive(), planted.adaptive_rows(planted.adaptive()))
    assert default_axes(frame) == ("temperature", "width")
    axes = {name: axis for name, axis in frame.axes.items() if name not in ("temperature", "width")}
    assert default_axes(dataclasses.replace(frame, axes=axes)) == ("coefficient", "schedule")
    assert default_axes(dataclasses.replace(frame, axes={})) == (None, None)


def test_a_configuration_reads_with_three_digits() -> None:
    assert readable("temperature=2.57713 width=1.5 schedule=cr_linear") == "temperature 2.58, width 1.5, schedule cr_linear"


@pytest.mark.parametrize("count", [0, 1])
def test_no_trial_and_one_trial_give_cells_without_intervals(count: int) -> None:
    study = planted.study()
    rows = [planted.row(0, {"temperature": 1, "width": 1}, {0: 80.0})][:count]
    found = cells(study_frame(study, rows), "temperature", "width")
    assert found.table["n"].sum() == count
    assert found.noise.df == 0 and found.table["half"].isna().all()
