import numpy as np
import pytest
from sklearn.decomposition import PCA

from unlabeled.core.measures.pca import pca


def test_by_hand():
    # points on a line of slope 1: all of the variance on one axis, where they lie sqrt(2) apart, the larger first
    at, share = pca(np.array([[2.0, 2.0], [1.0, 1.0], [0.0, 0.0]]), 2)
    np.testing.assert_allclose(at, [[2**0.5, 0], [0, 0], [-(2**0.5), 0]], atol=1e-12)
    np.testing.assert_allclose(share, [1, 0], atol=1e-12)


def test_equals_scikit_learn():
    x = np.random.default_rng(0).normal(size=(40, 6)) * np.arange(1, 7)
    at, share = pca(x, 2)
    theirs = PCA(2).fit(x)
    np.testing.assert_allclose(np.abs(at), np.abs(theirs.transform(x)), atol=1e-9)
    np.testing.assert_allclose(share, theirs.explained_variance_ratio_, atol=1e-12)


@pytest.mark.parametrize("x", [np.ones((5, 3)), np.ones((1, 3)), np.arange(4.0)[:, None]])
def test_rows_without_a_second_axis_lie_on_0(x):
    at, share = pca(x, 2)
    assert at.shape == (len(x), 2) and share.shape == (2,)
    assert np.abs(at[:, 1]).max() < 1e-12 and share[1] < 1e-12
