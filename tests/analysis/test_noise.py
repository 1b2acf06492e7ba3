"""Seed noise against what is known of it: coverage by simulation, degrees of freedom, choosing the best."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from kdsearch.analysis.noise import (
    Pooled,
    best_critical,
    pooled,
    pooled_by_seed,
    replicates,
    told_apart_from_best,
)
from kdsearch.analysis.select import p_best, pareto

REPEATS = 2000
# Three binomial standard errors of a coverage of 95% in 2,000 repeats.
TOLERANCE = 3 * math.sqrt(0.95 * 0.05 / REPEATS)


def test_the_pooled_sd_is_that_of_the_hand_worked_groups() -> None:
    groups = [np.array([1.0, 3.0]), np.array([2.0, 2.0, 5.0]), np.array([9.0])]
    found = pooled(groups)
    assert found.df == 3
    assert found.sd == pytest.approx(math.sqrt((2.0 + 6.0) / 3))
    assert found.half_width(4) == pytest.approx(stats.t.ppf(0.975, 3) * math.sqrt(8 / 3) / 2)


@pytest.mark.parametrize("block_sd", [0.0, 0.5, 2.0])
def test_pooled_intervals_of_cells_on_shared_seeds_cover_95_percent(block_sd: float) -> None:
    rng = np.random.default_rng(7)
    cells, seeds, sd = 6, 4, 0.7
    covered = 0
    for _ in range(REPEATS):
        matrix = rng.normal(0, sd, (cells, seeds)) + rng.normal(0, block_sd, seeds)
        half = pooled_by_seed(matrix, test=False).half_width(seeds)
        covered += abs(matrix[0].mean()) <= half
    assert covered / REPEATS == pytest.approx(0.95, abs=TOLERANCE + (0.012 if block_sd else 0.0))  # Satterthwaite is an approximation


def test_pooled_intervals_of_independent_groups_cover_95_percent() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(REPEATS):
        groups = [rng.normal(i, 1.3, n) for i, n in enumerate((3, 2, 4, 3))]
        covered += abs(groups[0].mean()) <= pooled(groups, test=False).half_width(3)
    assert covered / REPEATS == pytest.approx(0.95, abs=TOLERANCE)


def test_degrees_of_freedom_lie_between_those_of_one_cell_and_those_of_all() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, (20, 5))
    alone = pooled_by_seed(noise + rng.normal(0, 30, 5))  # the seed is nearly all the noise
    assert alone.df == pytest.approx(4, abs=0.5)
    assert pooled_by_seed(noise).df > 50


def test_single_values_give_no_noise_and_no_interval() -> None:
    for found in (pooled([np.array([1.0]), np.array([2.0])]), pooled_by_seed(np.array([[1.0], [2.0]])), pooled([])):
        assert found.df == 0
        assert math.isnan(found.half_width(3))


def test_levenes_test_finds_a_noisy_cell() -> None:
    rng = np.random.default_rng(5)
    even = [rng.normal(0, 1, 20) for _ in range(4)]
    assert pooled(even).levene > 0.01
    assert pooled([*even, rng.normal(0, 8, 20)]).levene < 1e-3


@pytest.mark.parametrize("gap", [0.0, 0.3, 0.8])
def test_the_probability_of_being_best_is_that_of_two_normals(gap: float) -> None:
    n, sd = 40, 1.0
    rng = np.random.default_rng(11)
    rows = {}
    for name, mean in (("a", gap), ("b", 0.0)):
        values = rng.normal(0, 1, n)
        values = (values - values.mean()) / values.std(ddof=1) * sd + mean
        rows[name] = {float(i + (100 if name == "b" else 0)): float(v) for i, v in enumerate(values)}
    expected = stats.t.cdf(gap / (sd * math.sqrt(2 / n)), 2 * (n - 1))
    assert p_best(replicates(rows), True, draws=20000)["a"] == pytest.approx(expected, abs=0.015)
    assert p_best(replicates(rows), False, draws=20000)["b"] == pytest.approx(expected, abs=0.015)


def test_a_seed_that_is_lucky_everywhere_does_not_blur_which_is_best() -> None:
    lucky = {0.0: -5.0, 1.0: 0.0, 2.0: 5.0}
    values = {
        name: {s: shift + luck + 0.01 * (s - 1) * sign for s, luck in lucky.items()} for name, shift, sign in (("a", 1, 1), ("b", 0, -1))
    }
    assert p_best(replicates(values), True)["a"] > 0.99
    assert told_apart_from_best(replicates(values), True).tolist() == [False, True]


def test_a_missing_run_still_lets_the_luck_of_a_seed_be_taken_out() -> None:
    rng = np.random.default_rng(4)
    lucky, truth = rng.normal(0, 5, 6), np.arange(5.0)
    values = {str(i): {float(s): truth[i] + lucky[s] + float(rng.normal(0, 0.05)) for s in range(6)} for i in range(5)}
    del values["4"][int(np.argmax(lucky))], values["0"][int(np.argmin(lucky))]
    data = replicates(values)
    assert data.shared_seeds and data.noise.df == 28 - 5 - 6 + 1
    assert data.noise.sd == pytest.approx(0.05, rel=0.5)
    assert np.diff(data.means) == pytest.approx(np.ones(4), abs=0.15)  # plain means would put them in another order


def test_the_true_best_stays_among_those_not_told_apart_in_95_percent() -> None:
    rng = np.random.default_rng(2)
    truth = np.array([0.0, -0.1, -0.2, -0.4, -0.8])
    kept = 0
    for _ in range(400):
        values = rng.normal(truth[:, None], 0.4, (5, 4))
        data = replicates({str(i): dict(enumerate(map(float, row))) for i, row in enumerate(values)})
        kept += not told_apart_from_best(data, True)[0]
    assert kept / 400 >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 400)


def test_the_critical_value_of_one_comparison_is_the_one_sided_t() -> None:
    assert best_critical(np.array([5, 5]), 8) == pytest.approx(stats.t.ppf(0.95, 8), rel=0.03)


def test_no_configuration_is_told_apart_without_replicates() -> None:
    data = replicates({"a": {0.0: 1.0}, "b": {0.0: 2.0}})
    assert not told_apart_from_best(data, True).any()
    assert all(math.isnan(p) for p in p_best(data, True).values())
    assert p_best(replicates({"a": {0.0: 1.0}}), True) == {"a": 1.0}


def test_half_width_needs_noise() -> None:
    assert math.isnan(Pooled(1.0, 0.0).half_width(3))


def test_the_pareto_front_holds_what_nothing_beats_in_both() -> None:
    cost = np.array([1.0, 2.0, 2.0, 3.0, math.nan])
    value = np.array([5.0, 7.0, 6.0, 6.5, 9.0])
    assert pareto(cost, value, True).tolist() == [True, True, False, False, False]
    assert pareto(cost, -value, False).tolist() == [True, True, False, False, False]
