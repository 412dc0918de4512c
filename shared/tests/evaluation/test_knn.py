import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from unlabeled.core.evaluation.knn import knn


@pytest.mark.parametrize("k", [1, 5, 10])
def test_the_plain_vote_equals_sklearn(k: int) -> None:
    rng = np.random.default_rng(k)
    train, labels, test = rng.normal(size=(60, 6)), rng.integers(0, 4, 60), rng.normal(size=(40, 6))
    expected = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(train, labels).predict(test)
    assert (knn(train, labels, test, 4, k).argmax(1) == expected).all()


def test_weighted_votes_by_hand() -> None:
    # cosines 1, 0 and -1 at T = 1/2: exp(0) for class 0, exp(-2) + exp(-4) for class 1 (scaled by exp(-1/T) throughout)
    train = np.array([[1.0, 0.0], [0.0, 1.0], [-2.0, 0.0]])
    votes = knn(train, np.array([0, 1, 1]), np.array([[3.0, 0.0]]), 2, k=3, temperature=0.5)
    np.testing.assert_allclose(votes, [[1.0, np.exp(-2) + np.exp(-4)]], rtol=1e-12)


def test_fewer_rows_than_neighbours() -> None:
    votes = knn(np.eye(2), np.array([0, 1]), np.ones((1, 2)), 3, k=10)
    assert votes.tolist() == [[1.0, 1.0, 0.0]]
