"""A simulated study with known true values: what confirming buys, and whether its interval keeps its word."""

from __future__ import annotations

import numpy as np
import pytest

from kdsearch.analysis.confirm import choose, fresh_seeds, t_interval

REPEATS, CONFIGURATIONS, SEEDS = 2000, 40, 5
TRUE_SD, SEED_SD, IMAGES_SD = 0.2, 0.5, 0.2
"""Points of accuracy: between configurations; between seeds of one (validation and test data share it); of each finite set of pictures."""


def _simulated(top: int, rng: np.random.Generator) -> tuple[float, float, bool, bool]:
    """True value of the confirmed choice, of the search's top trial; whether the interval covers the truth; whether the one that
    reuses the choice seeds' test data would."""
    true = rng.normal(90, TRUE_SD, CONFIGURATIONS)
    # A finite validation set favours some configurations on every seed; what is true is said of this test set.
    validation = true + rng.normal(0, IMAGES_SD, CONFIGURATIONS)
    order = np.argsort(-(validation + rng.normal(0, SEED_SD, CONFIGURATIONS)))
    luck = rng.normal(0, SEED_SD, (CONFIGURATIONS, SEEDS))
    names = [str(c) for c in order[:top]]
    chosen = int(choose({name: (validation[int(name)] + luck[int(name)]).tolist() for name in names})) if top > 1 else int(names[0])
    report = t_interval(true[chosen] + rng.normal(0, SEED_SD, SEEDS))
    reused = t_interval(true[chosen] + luck[chosen])
    covers = [interval.low <= true[chosen] <= interval.high for interval in (report, reused)]
    return true[chosen], true[order[0]], covers[0], covers[1]


@pytest.mark.parametrize("top", [1, 5, 10])
def test_the_interval_covers_the_truth_as_often_as_it_says_and_the_choice_beats_the_searchs_winner(top: int) -> None:
    rng = np.random.default_rng(top)
    chosen, first, covered, reused = np.array([_simulated(top, rng) for _ in range(REPEATS)]).T
    error = 3 * np.sqrt(0.95 * 0.05 / REPEATS)
    assert abs(covered.mean() - 0.95) < error
    gain = chosen - first
    if top == 1:
        assert (gain == 0).all()
    else:
        assert gain.mean() > 3 * gain.std() / np.sqrt(REPEATS)
    if top == 10:
        assert reused.mean() < 0.95 - error, "test data of the seeds that chose would do, so report seeds are a waste"


def test_the_interval_is_students_t() -> None:
    found = t_interval([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.half == pytest.approx(4.302653 / np.sqrt(3), rel=1e-5)
    assert np.isnan(t_interval([1.0]).low)
    with pytest.raises(ValueError, match="no values"):
        t_interval([])


def test_a_loss_is_chosen_downwards_and_equals_by_order() -> None:
    assert choose({"a": [1.0, 3.0], "b": [1.0, 1.5]}, maximize=False) == "b"
    assert choose({"a": [1.0], "b": [1.0]}) == "a"


def test_fresh_seeds_leave_out_those_of_the_study() -> None:
    assert fresh_seeds(100, 3, [0, 101]) == [100, 102, 103]
