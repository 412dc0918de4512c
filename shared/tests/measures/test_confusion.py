import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score, jaccard_score

from unlabeled.core.measures.confusion import confusion, iou_of, macro_f1
from unlabeled.core.measures.confusion import counts as counts_of


def test_macro_f1_by_hand() -> None:
    # class 0: TP 3, true 4, predicted 5 -> 6/9; class 1: TP 4, true 6, predicted 5 -> 8/11
    assert float(macro_f1(np.array([[3, 1], [2, 4]]))) == pytest.approx((6 / 9 + 8 / 11) / 2, abs=1e-15)


def test_a_class_that_is_never_true_is_left_out() -> None:
    # class 2 is predicted once but never true: the mean is over classes 0 (TP 1, true 2, predicted 1) and 1 (perfect)
    counts = np.array([[1, 0, 1], [0, 2, 0], [0, 0, 0]])
    assert float(macro_f1(counts)) == pytest.approx((2 / 3 + 1) / 2, abs=1e-15)
    assert np.isnan(macro_f1(np.zeros((3, 3), np.int64)))


def test_equals_sklearn_on_the_classes_that_are_there() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        truth, predicted = rng.integers(0, 5, 12), rng.integers(0, 5, 12)
        counts = confusion(truth, predicted, 5)
        assert (counts == confusion_matrix(truth, predicted, labels=range(5))).all()
        expected = f1_score(truth, predicted, labels=np.unique(truth), average="macro", zero_division=0)
        assert float(macro_f1(counts)) == pytest.approx(expected, abs=1e-12)


def test_leading_dimensions() -> None:
    rng = np.random.default_rng(1)
    truth, predicted = rng.integers(0, 3, 9), rng.integers(0, 3, (2, 4, 9))
    counts = confusion(truth, predicted, 3)
    assert counts.shape == (2, 4, 3, 3)
    for i, j in np.ndindex(2, 4):
        assert float(macro_f1(counts)[i, j]) == float(macro_f1(confusion(truth, predicted[i, j], 3)))


def test_mean_iou_by_hand_and_as_sklearn() -> None:
    # class 0: TP 3, true 4, predicted 5 -> 3/6; class 1: TP 4, true 6, predicted 5 -> 4/7
    assert float(iou_of(counts_of(np.array([[3, 1], [2, 4]])))) == pytest.approx((3 / 6 + 4 / 7) / 2, abs=1e-15)
    rng = np.random.default_rng(2)
    for _ in range(20):
        truth, predicted = rng.integers(0, 5, 12), rng.integers(0, 5, 12)
        expected = jaccard_score(truth, predicted, labels=np.unique(truth), average="macro", zero_division=0)
        found = float(iou_of(counts_of(confusion(truth, predicted, 5))))
        assert found == pytest.approx(expected, abs=1e-12)
    assert np.isnan(iou_of(np.zeros((3, 4))))
