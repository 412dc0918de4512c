import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, r2_score

from unlabeled.core.measures.regression import mae, moments, r2


def test_by_hand() -> None:
    # truth 1, 2, 6 (mean 3, squares 4 + 1 + 9 = 14), errors 1, 0, -2: MAE 3/3, R2 = 1 - 5/14
    m = moments(np.array([1.0, 2.0, 6.0]), np.array([2.0, 2.0, 4.0]), np.array([0, 0, 1]), 2)
    assert float(mae(m.sum(0))) == pytest.approx(1.0, abs=1e-15)
    assert float(r2(m.sum(0))) == pytest.approx(1 - 5 / 14, abs=1e-14)
    # the groups alone: errors 1, 0 and 2
    assert mae(m).tolist() == [0.5, 2.0]
    # group 0: mean 1.5, squares 0.5, error 1 -> 1 - 1 / 0.5; group 1 has one value, so nothing to explain
    assert r2(m)[0] == pytest.approx(-1.0, abs=1e-13)
    assert np.isnan(r2(m)[1])


def test_equals_sklearn_far_from_zero_and_over_groups() -> None:
    rng = np.random.default_rng(0)
    truth = 1e6 + rng.normal(size=40)
    predicted = truth + 0.5 * rng.normal(size=40)
    m = moments(truth, predicted, rng.integers(0, 5, 40), 5)
    assert m.shape == (5, 5)
    assert float(mae(m.sum(0))) == pytest.approx(mean_absolute_error(truth, predicted), rel=1e-12)
    assert float(r2(m.sum(0))) == pytest.approx(r2_score(truth, predicted), rel=1e-7)


def test_a_group_without_values_says_nothing() -> None:
    m = moments(np.array([1.0, 2.0]), np.array([1.0, 3.0]), np.array([0, 0]), 2)
    assert np.isnan(mae(m)[1]) and np.isnan(r2(m)[1])
