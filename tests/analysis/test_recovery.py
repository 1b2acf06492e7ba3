"""A planted surface (best width rising with τ, known noise), searched by grid and by an adaptive search: what is recovered."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import inspection
from sklearn.ensemble import RandomForestRegressor

from kdsearch.analysis import surrogate
from kdsearch.analysis.cells import cells
from kdsearch.analysis.early import rank_correlation
from kdsearch.analysis.effects import effects, factorial_of
from kdsearch.analysis.frame import StudyFrame, study_frame
from kdsearch.analysis.panels import differences, panels_of_frames
from kdsearch.analysis.ridge import ridge
from kdsearch.analysis.select import best, candidates, cheapest_as_good
from kdsearch.analysis.summary import panel_sentences, summary
from tests.analysis import planted


def _said(frame: StudyFrame, forest: surrogate.Importances | None = None) -> str:
    shown, factorial = cells(frame, "temperature", "width"), factorial_of(frame)
    strengths = effects(factorial, draws=200) if factorial is not None else None
    return " ".join(summary(frame, shown, candidates(frame), strengths, ridge(shown, True), forest, "%"))


def test_the_grid_recovers_ridge_interaction_and_best_cell() -> None:
    study = planted.study()
    frame = study_frame(study, planted.grid_rows(study, sd=0.2, block_sd=0.3))
    track = ridge(cells(frame, "temperature", "width"), True)
    nearest = [min(planted.WIDTHS, key=lambda w, t=t: abs(math.log(w / planted.best_width(t)))) for t in planted.TEMPERATURES]
    off = [abs(planted.WIDTHS.index(w) - i) for w, i in zip(nearest, track.table["yi"], strict=True)]
    assert max(off) <= 1 and sum(off) <= 2
    assert track.slope_low > 0.5
    truth = {f"temperature={t} width={w:g}": planted.surface(t, w) for t in planted.TEMPERATURES for w in planted.WIDTHS}
    tied = candidates(frame).tied["config"].tolist()
    assert max(truth, key=lambda c: truth[c]) in tied
    said = _said(frame)
    assert "Temperature × width explains" in said
    assert "The best width rises with temperature: from 1 at temperature 1 to 4 at temperature 20" in said
    assert "Exploration" not in said


def test_large_noise_is_answered_with_cannot_tell() -> None:
    study = planted.study()
    said = _said(study_frame(study, planted.grid_rows(study, sd=40.0, seed=3)))
    assert "cannot tell that any parameter matters" in said
    assert "Whether temperature and width interact cannot be told" in said
    assert "Not enough seeds" in said
    assert "Whether the best width moves with temperature cannot be told" in said


def test_a_tpe_search_is_marked_as_exploration() -> None:
    study = planted.adaptive(trials=60)
    frame = study_frame(study, planted.tpe_rows(study))
    assert frame.exploration and cells(frame, "temperature", "width").exploration
    said = _said(frame, surrogate.importances(surrogate.inputs(frame), trees=20, draws=2))
    assert "Exploration, not proof" in said and "pruning took away" in said
    assert "there is no measure of noise" in said
    assert factorial_of(frame) is None
    top = frame.configs.iloc[0]
    assert planted.surface(top["p.temperature"], float(top["p.width"])) > 89  # of at most 90: the search did its work


@pytest.mark.parametrize("rows", [0, 1])
def test_nothing_finished_is_said_plainly(rows: int) -> None:
    study = planted.study()
    pruned = [planted.row(0, {"temperature": 1, "width": 1}, {}, state="PRUNED")][:rows]
    said = _said(study_frame(study, pruned))
    assert ("No trial yet" if rows == 0 else "No trial has finished (1 pruned)") in said


def test_one_trial_is_the_best_and_no_more_is_claimed() -> None:
    study = planted.study()
    said = _said(study_frame(study, [planted.row(0, {"temperature": 1, "width": 1}, {0: 80.0})]))
    assert "Best mean: temperature 1, width 1 with 80.00 %" in said and "cannot tell" in said


def test_the_best_are_ranked_with_intervals_pairs_and_keys() -> None:
    study = planted.study()
    rows = planted.grid_rows(study, sd=0.2)
    found = best(rows, study, "", 3)
    assert [choice.rank for choice in found] == [1, 2, 3]
    assert found[0].mean >= found[1].mean >= found[2].mean
    assert found[0].n == 5 and len(found[0].keys) == 5 and set(found[0].params) == {"temperature", "width"}
    assert found[0].difference_low < found[0].difference < found[0].difference_high
    assert 0 < sum(choice.p_best for choice in found) <= 1
    assert found[0].tied and found[0].source == "search"
    assert None not in [found[0].to_json()[k] for k in ("mean", "low", "high")]


def test_minimizing_ranks_the_smallest_first() -> None:
    study = planted.study(objective={"metric": "val_loss", "direction": "minimize"})
    rows = [planted.row(i, {"temperature": 1, "width": w}, {0: v, 1: v + 0.1}) for i, (w, v) in enumerate(((1, 0.5), (2, 0.3), (4, 0.9)))]
    assert [choice.params["width"] for choice in best(rows, study, "", 3)] == [2, 1, 4]


def test_confirmed_configurations_rank_by_their_fresh_seeds() -> None:
    study = planted.study()
    rows = [planted.row(i, {"temperature": 1, "width": w}, {0: v, 1: v}) for i, (w, v) in enumerate(((1, 90.0), (2, 89.0)))]
    rows += [
        planted.row(i, {"temperature": 1, "width": w}, {100_000: v, 100_001: v + 0.2}, role="confirm")
        for i, (w, v) in enumerate(((1, 85.0), (2, 88.0)))
    ]
    found = best(rows, study, "", 2)
    assert [choice.params["width"] for choice in found] == [2, 1]
    assert found[0].source == "confirm" and found[0].search_mean == 89.0
    assert [choice.params["width"] for choice in best(rows, study, "", 2, confirmed=False)] == [1, 2]


def test_the_cheapest_is_taken_among_those_not_told_apart() -> None:
    study = planted.study()
    found = candidates(study_frame(study, planted.grid_rows(study)))
    cheapest = cheapest_as_good(found)
    assert cheapest is not None and cheapest["tied"]
    assert cheapest["cost"] == found.tied["cost"].min()
    assert found.table.loc[found.table["on_front"], "mean"].max() == found.table["mean"].max()


def test_a_planted_difference_of_methods_is_recovered_paired_by_seed() -> None:
    studies = [planted.study(n) for n in ("kd_kd", "kd_kd_cr", "same")]
    shifts = (0.0, 0.5, 0.5)
    frames = [
        (s.name, study_frame(s, planted.grid_rows(s, sd=0.2, seed=i, shift=d)))
        for i, (s, d) in enumerate(zip(studies, shifts, strict=True))
    ]
    found = differences(panels_of_frames(frames, "temperature", "width"), to_first=False)
    assert [d.title for d in found] == ["kd_kd_cr − kd_kd", "same − kd_kd_cr"]
    assert found[0].overall == pytest.approx(0.5, abs=0.15) and found[0].table["paired"].all()
    assert found[0].overall - found[0].overall_half > 0
    said = panel_sentences(found, "points")
    assert "cannot tell" not in said[0] and "cannot tell whether there is a difference" in said[1]


def _inputs(y: np.ndarray, X: np.ndarray) -> surrogate.Inputs:
    names = tuple("abc"[: X.shape[1]])
    return surrogate.Inputs(names, X, y, None, np.zeros(X.shape[1], dtype=bool), tuple(map(str, range(len(y)))))


def test_the_h_statistic_is_near_0_for_additive_and_large_for_multiplicative_surfaces() -> None:
    rng = np.random.default_rng(0)
    X = rng.uniform(0, 1, (70, 2))
    noise = rng.normal(0, 0.02, 70)
    additive = surrogate.interactions(_inputs(2 * X[:, 0] + np.sin(3 * X[:, 1]) + noise, X), ["a", "b"], draws=3)
    product = surrogate.interactions(_inputs((X[:, 0] - 0.5) * (X[:, 1] - 0.5) * 4 + noise, X), ["a", "b"], draws=3)
    assert additive["h"].iloc[0] < 0.1 and additive["high"].iloc[0] < 0.2
    assert product["h"].iloc[0] > 0.9 and product["low"].iloc[0] > 0.8


def test_dependences_and_importances_are_scikit_learns() -> None:
    rng = np.random.default_rng(2)
    X = rng.uniform(0, 1, (60, 3))
    y = 4 * X[:, 0] * X[:, 1] + X[:, 2]
    data = _inputs(y + rng.normal(0, 0.05, 60), X)
    model = surrogate.fit(data)
    grids = [np.linspace(0.1, 0.9, 4), np.array([0.2, 0.5, 0.7])]
    for features in ((0, 2), (1,)):
        mine = surrogate.partial_dependence(model, X, grids[: len(features)], features)
        custom = dict(zip(features, grids, strict=False))
        theirs = inspection.partial_dependence(model.regressor, X, list(features), custom_values=custom, kind="average", method="brute")
        assert np.allclose(mine, theirs["average"][0])
    forest = RandomForestRegressor(30, random_state=0).fit(X, y)
    theirs = inspection.permutation_importance(forest, X, y, n_repeats=100, random_state=0).importances_mean
    assert np.allclose(surrogate.permutation_shares(forest, X, y, 1, 100), theirs / theirs.sum(), atol=0.02)


def test_the_forest_is_scikit_learns() -> None:
    rng = np.random.default_rng(4)
    X = rng.uniform(0, 1, (60, 3))
    y = 4 * X[:, 0] * X[:, 1] + X[:, 2] + rng.normal(0, 0.1, 60)
    mine = surrogate.Forest.grown(X, y, 40, 0)
    theirs = RandomForestRegressor(40, min_samples_leaf=2, oob_score=True, random_state=0).fit(X, y)
    assert np.allclose(mine.predict(X), theirs.predict(X))
    assert mine.unseen_r2(X, y) == pytest.approx(theirs.oob_score_)


def test_more_labels_without_order_than_grid_points_have_interactions() -> None:
    rng = np.random.default_rng(3)
    X = np.stack([rng.integers(0, 9, 90) / 8, rng.uniform(0, 1, 90)], axis=1)
    effect = rng.permutation(9)[np.rint(8 * X[:, 0]).astype(int)] / 8
    data = surrogate.Inputs(("a", "b"), X, (effect - 0.5) * (X[:, 1] - 0.5), None, np.array([True, False]), tuple(map(str, range(90))))
    assert surrogate.interactions(data, ["a", "b"], draws=2)["h"].iloc[0] > 0.7


def test_importances_find_the_strong_parameter_and_are_withheld_from_noise() -> None:
    rng = np.random.default_rng(1)
    X = rng.uniform(0, 1, (120, 3))
    strong = surrogate.importances(_inputs(5 * X[:, 1] + X[:, 0] + rng.normal(0, 0.1, 120), X), trees=60, draws=3)
    assert strong is not None and strong.shown and strong.table["effect"].iloc[0] == "b"
    assert strong.table["share"].sum() == pytest.approx(1)
    nothing = surrogate.importances(_inputs(rng.normal(0, 1, 120), X), trees=60, draws=2)
    assert nothing is not None and not nothing.shown


def test_the_process_predicts_a_smooth_surface_and_few_configurations_make_none() -> None:
    rng = np.random.default_rng(2)
    X = rng.uniform(0, 1, (60, 2))
    found = surrogate.cross_validated(_inputs(np.sin(4 * X[:, 0]) + X[:, 1] ** 2 + rng.normal(0, 0.02, 60), X))
    assert found is not None and found.r2 > 0.9
    assert surrogate.cross_validated(_inputs(X[:8, 0], X[:8])) is None
    assert surrogate.importances(_inputs(X[:8, 0], X[:8])) is None


def test_the_surrogates_surface_follows_the_planted_one() -> None:
    study = planted.adaptive(trials=80)
    frame = study_frame(study, planted.adaptive_rows(study, prune=False, sd=0.1))
    shown = cells(frame, "temperature", "width")
    found = surrogate.surface(frame, surrogate.inputs(frame), shown.x, shown.y)
    assert found is not None and len(found) == 30 and (found["sd"] > 0).all() and (found["sd"] < 3).all()
    truth = [planted.surface(shown.x.numbers[a], shown.y.numbers[b]) for a, b in zip(found["xi"], found["yi"], strict=True)]
    assert np.corrcoef(truth, found["mean"])[0, 1] > 0.85


def test_labels_without_order_reach_the_process_one_hot() -> None:
    study = planted.adaptive(trials=40)
    frame = study_frame(study, planted.adaptive_rows(study, prune=False))
    data = surrogate.inputs(frame)
    assert dict(zip(data.names, data.labels, strict=True)) == {"temperature": False, "width": False, "coefficient": False, "schedule": True}
    assert surrogate.fit(data).encoded(data.X).shape[1] == 6


def test_early_epochs_correlate_with_the_end_where_curves_do_not_cross() -> None:
    study = planted.study()
    found = rank_correlation(study_frame(study, planted.grid_rows(study)), draws=50)
    assert found["epoch"].tolist() == list(range(1, 12))
    assert (found["correlation"] > 0.8).all() and (found["low"] <= found["correlation"]).all()
    assert rank_correlation(study_frame(study, [])).empty
