import numpy as np
import pytest
from numpy.typing import NDArray

from unlabeled.core.measures.confusion import counts, f1_of, iou_of
from unlabeled.core.measures.intervals import difference, interval, jackknife, over_groups, paired, statistic
from unlabeled.core.measures.regression import mae, moments, r2

Confusions = NDArray[np.int64]


def drawn(seed: int, shape: tuple[int, int, int] = (3, 2, 10), classes: int = 3) -> Confusions:
    return np.random.default_rng(seed).integers(0, 6, (*shape, classes, classes))


def test_the_statistic_is_the_mean_over_seeds_and_draws_of_the_pooled_score() -> None:
    # two seeds: all right (1) and all wrong (0) on two groups; pooled over groups first, then the mean: 0.5
    right, wrong = np.diag([2, 2]), np.array([[0, 2], [2, 0]])
    assert statistic(np.stack([[[right, right]], [[wrong, wrong]]])) == 0.5


def test_any_metric_of_the_counts_may_be_named() -> None:
    # 3 of 4 right in both classes, in each of two equal groups: F1 = 2 * 3 / 8 = 3/4 and IoU = 3 / (8 - 3) = 3/5, in
    # every resample
    a = np.stack([[[np.array([[3, 1], [1, 3]])] * 2]])
    assert statistic(a) == 0.75 and statistic(a, iou_of) == 0.6
    found = interval(a, seed=0, of=iou_of)
    assert (found.mean, found.low, found.high) == pytest.approx((0.6, 0.6, 0.6))
    # against all right, 1: the difference is 2/5
    found = difference(np.stack([[[np.diag([4, 4])] * 2]]), a, seed=0, of=iou_of)
    assert (found.mean, found.low, found.high) == pytest.approx((0.4, 0.4, 0.4))


def test_a_start_against_itself_differs_by_exactly_nothing() -> None:
    a = drawn(0)
    found = difference(a, a.copy(), seed=3)
    assert (found.mean, found.low, found.high) == (0.0, 0.0, 0.0)


def test_one_group_and_one_seed_leave_nothing_to_resample() -> None:
    a = drawn(1, (1, 4, 1))
    found = interval(a, seed=0)
    assert found.low == pytest.approx(found.mean, abs=1e-12)
    assert found.high == pytest.approx(found.mean, abs=1e-12)


def test_seeds_are_paired_where_both_sides_have_them() -> None:
    # seed 0 is all right, seed 1 all wrong. Against itself every resample of seeds cancels. Against one perfect seed the
    # difference is 0, -1/2 or -1 with chances 1/4, 1/2, 1/4, so the 2.5 and 97.5 percentiles are -1 and 0.
    right, wrong = np.diag([2, 2]), np.array([[0, 2], [2, 0]])
    two = np.stack([[[right] * 4], [[wrong] * 4]])
    assert (difference(two, two, seed=0).low, difference(two, two, seed=0).high) == (0.0, 0.0)
    found = difference(two, two[:1], seed=0)
    assert (found.mean, found.low, found.high) == (-0.5, -1.0, 0.0)


def test_groups_are_paired() -> None:
    # every group is either all right or all wrong for both sides, which differ in one record of each wrong group: the
    # paired interval must be far narrower than either side's own
    right, wrong, nearly = np.diag([5, 5]), np.array([[0, 5], [5, 0]]), np.array([[1, 4], [5, 0]])
    a = np.stack([right, nearly] * 6)[None, None]
    b = np.stack([right, wrong] * 6)[None, None]
    gain, own = difference(a, b, seed=0), interval(a, seed=0)
    assert gain.high - gain.low < 0.25 * (own.high - own.low)
    assert gain.low > 0


def test_repeats_with_the_seed_and_differs_with_another() -> None:
    a = drawn(2)
    assert interval(a, 5) == interval(a, 5)
    assert interval(a, 5) != interval(a, 6)


def test_unpaired_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="not paired"):
        difference(drawn(0, (3, 2, 10)), drawn(0, (3, 1, 10)), seed=0)


def test_coverage_on_simulated_groups() -> None:
    # 25 groups of 20 records of each of two classes; a group's chance of being right is a normal around 0.75 with
    # deviation 0.1, so by symmetry the true macro-F1 is 0.75. A 95 % percentile interval over 25 groups covers it in
    # about 93 % of 200 trials, with a binomial deviation of 1.8 %: three deviations below 0.93 is 0.875.
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        p = np.clip(rng.normal(0.75, 0.1, 25), 0, 1)
        hits = rng.binomial(20, p[:, None], (25, 2))
        confusions = np.stack(
            [np.stack([hits[:, 0], 20 - hits[:, 0]], -1), np.stack([20 - hits[:, 1], hits[:, 1]], -1)], 1
        )
        found = interval(confusions[None, None], seed=trial, resamples=500)
        covered += found.low <= 0.75 <= found.high
    assert 0.875 <= covered / 200 <= 0.99


def test_one_seed_and_draw_of_any_statistic_is_the_interval_over_groups() -> None:
    a, b = drawn(3, (1, 1, 8)), drawn(4, (1, 1, 8))
    own, gain = over_groups(f1_of, counts(a[0, 0]), seed=1), paired(f1_of, counts(a[0, 0]), counts(b[0, 0]), seed=1)
    for found, expected in ((own, interval(a, 1)), (gain, difference(a, b, 1))):
        assert (found.mean, found.low, found.high) == pytest.approx((expected.mean, expected.low, expected.high))


def test_two_groups_of_one_error_each() -> None:
    # errors 0 and 1: two draws of two groups give means 0, 1/2, 1 with chances 1/4, 1/2, 1/4, so the ends are 0 and 1
    m = moments(np.array([5.0, 7.0]), np.array([5.0, 8.0]), np.array([0, 1]), 2)
    found = over_groups(mae, m, seed=0)
    assert (found.mean, found.low, found.high) == (0.5, 0.0, 1.0)
    # R2 = 1 - 1/2; of the four draws the two of one group twice have no variance and are left out
    found = over_groups(r2, m, seed=0)
    assert (found.mean, found.low, found.high) == (0.5, 0.5, 0.5)


def test_leaving_out_groups_of_one_gives_the_interval_of_a_mean() -> None:
    # of a mean the jackknife's deviation is s / sqrt(n), with s the sample's: for 1, 2, 3, 4, 5 it is sqrt(2.5 / 5), and
    # Student's quantile for 4 degrees of freedom is 2.776
    x = np.arange(1.0, 6.0)
    mean, square = jackknife(lambda rows: np.array([x[rows].mean(), 4.0]), np.arange(5))
    reach = 2.7764451 * np.sqrt(0.5)
    assert (mean.mean, mean.low, mean.high) == pytest.approx((3, 3 - reach, 3 + reach))
    assert (square.mean, square.low, square.high) == (4, 4, 4)
    # whole groups are left out: three rows of one group count as one. Means 1, 2 without one: deviation |1 - 2| / 2
    found = jackknife(lambda rows: np.array([np.unique(x[rows] > 3).mean()]), np.array([0, 0, 0, 1, 1]))[0]
    assert found.mean == 0.5 and found.high - 0.5 == pytest.approx(12.7062 * 0.5, abs=1e-3)
    assert np.isnan(jackknife(lambda rows: np.array([1.0]), np.zeros(3, np.int64))[0].low)


def test_one_group_has_no_interval_and_unequal_tallies_are_refused() -> None:
    m = moments(np.array([1.0, 2.0]), np.array([1.0, 3.0]), np.array([0, 0]), 1)
    found = over_groups(mae, m, seed=0)
    assert found.mean == 0.5 and np.isnan(found.low) and np.isnan(found.high)
    with pytest.raises(ValueError, match="1 and 2 groups are not paired"):
        paired(mae, m, np.zeros((2, 5)), seed=0)
