"""Analysis of variance against a hand-worked table, least squares, and simulation."""

from __future__ import annotations

import numpy as np
import pytest

from kdsearch.analysis.effects import HIGHER, RESIDUAL, SEED, Effects, Factorial, effects, factorial_of, shares, sums_of_squares
from kdsearch.analysis.frame import study_frame
from tests.analysis import planted


def test_sums_of_squares_are_those_of_the_hand_worked_table() -> None:
    # 2 × 2 cells on 2 seeds, worked by hand: grand mean 5; A 8, B 32, A × B 2, seeds 2, residual 2, total 46.
    values = np.array([[[2.0, 2.0], [4.0, 6.0]], [[2.0, 4.0], [8.0, 12.0]]])
    found = {name: (float(ss), df) for name, (ss, df) in sums_of_squares(values, ["a", "b"]).items()}
    grand = values.mean()
    assert grand == 5
    assert found["a"] == (pytest.approx(8 * 1.5**2), 1)
    assert found["b"] == (pytest.approx(8 * 2.5**2), 1)
    assert found["a × b"] == (pytest.approx(8.0), 1)
    assert found[SEED] == (pytest.approx(8 * 1.0**2), 1)
    assert found[RESIDUAL] == (pytest.approx(4.0), 3)
    assert sum(ss for ss, _ in found.values()) == pytest.approx(float(((values - grand) ** 2).sum()))


def _least_squares(values: np.ndarray, names: list[str]) -> dict[str, float]:
    """An independent implementation: what each block of dummy columns takes off the residual sum of squares."""
    places = np.indices(values.shape).reshape(values.ndim, -1)
    y = values.ravel()

    def dummies(*axes: int) -> np.ndarray:
        codes = np.ravel_multi_index([places[a] for a in axes], [values.shape[a] for a in axes])
        return np.eye(codes.max() + 1)[codes]

    def residual(columns: list[np.ndarray]) -> float:
        X = np.hstack([np.ones((len(y), 1)), *columns])
        return float(((y - X @ np.linalg.lstsq(X, y, rcond=None)[0]) ** 2).sum())

    found, columns, before = {}, [], residual([])
    blocks = [(name, (i,)) for i, name in enumerate(names)]
    blocks += [(f"{names[i]} × {names[j]}", (i, j)) for i in range(len(names)) for j in range(i + 1, len(names))]
    if len(names) > 2:
        blocks.append((HIGHER, tuple(range(len(names)))))
    for name, axes in [*blocks, (SEED, (len(names),))]:
        columns.append(dummies(*axes))
        after = residual(columns)
        found[name], before = before - after, after
    return found | {RESIDUAL: before}


@pytest.mark.parametrize("shape", [(3, 4, 3), (2, 3, 4, 3)])
def test_sums_of_squares_agree_with_least_squares(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(1).normal(0, 1, shape)
    names = ["a", "b", "c"][: len(shape) - 1]
    expected = _least_squares(values, names)
    for name, (ss, _) in sums_of_squares(values, names).items():
        assert float(ss) == pytest.approx(expected[name], abs=1e-9), name


def test_pure_noise_has_shares_near_zero_and_they_add_to_one() -> None:
    values = np.random.default_rng(0).normal(0, 1, (400, 5, 5, 3))
    found = shares(sums_of_squares(values, ["a", "b"]))
    assert np.allclose(sum(found.values()), 1.0)
    raw, _ = sums_of_squares(values, ["a", "b"])["a × b"]
    assert np.median(found["a × b"]) < 0.03  # while the raw share of 16 of 74 degrees of freedom is about a fifth
    assert np.median(raw / (values.var(axis=(1, 2, 3)) * 75)) > 0.15


def test_bootstrap_intervals_of_a_share_cover_the_planted_one() -> None:
    a, b = np.linspace(-1, 1, 4)[:, None, None], np.linspace(-1, 1, 4)[None, :, None]
    mean, sd, seeds, repeats = 0.5 * a + 0.4 * b + 0.5 * a * b, 0.4, 3, 120
    whole = {n: float(ss) for n, (ss, _) in sums_of_squares(np.broadcast_to(mean, (4, 4, seeds)).copy(), ["a", "b"]).items()}
    truth = whole["a × b"] / (sum(whole.values()) + sd**2 * (16 * seeds - 1))
    covered = 0
    for repeat in range(repeats):
        values = mean + np.random.default_rng(repeat).normal(0, sd, (4, 4, seeds))
        row = effects(Factorial(("a", "b"), ((), ()), values), draws=300, seed=repeat).share("b", "a")
        assert row is not None
        covered += row["low"] <= truth <= row["high"]
    assert 0.88 <= covered / repeats <= 1.0  # a bootstrap of three seeds: near 95%, not exactly


def test_the_planted_interaction_is_found_and_widened_noise_hides_it() -> None:
    study = planted.study()

    def found(sd: float) -> Effects:
        factorial = factorial_of(study_frame(study, planted.grid_rows(study, sd=sd)))
        assert factorial is not None
        return effects(factorial)

    clear = found(0.3)
    row = clear.share("temperature", "width")
    assert row is not None and row["low"] > 0.5 and row["p"] < 1e-6
    assert clear.residual_sd == pytest.approx(0.3, rel=0.2)
    hidden = found(30.0)
    row = hidden.share("width", "temperature")
    assert row is not None and row["p"] > 0.05 and row["low"] == 0


def test_a_missing_run_costs_a_seed_or_a_level_and_is_named() -> None:
    study = planted.study()
    rows = planted.grid_rows(study)
    found = factorial_of(study_frame(study, [r for r in rows if not (r.role == "search" and r.number == 0)]))
    assert found is not None and not np.isnan(found.values).any()
    assert len(found.left_out) == 1


def test_a_grid_on_one_seed_has_no_shares() -> None:
    study = planted.study(seeds=[0])
    assert factorial_of(study_frame(study, planted.grid_rows(study))) is None
