import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize

from unlabeled.core.measures.logme import logme

Floats = NDArray[np.float64]


def log_evidence(f: Floats, y: Floats, log_alpha: float, log_beta: float) -> float:
    """log N(y; 0, I / beta + F F' / alpha) / N, from its definition."""
    n = len(y)
    cover = np.eye(n) * np.exp(-log_beta) + f @ f.T * np.exp(-log_alpha)
    sign, volume = np.linalg.slogdet(cover)
    assert sign > 0
    return float(-0.5 * (n * np.log(2 * np.pi) + volume + y @ np.linalg.solve(cover, y)) / n)


def by_search(f: Floats, y: Floats) -> float:
    starts = [(a, b) for a in (-4.0, 0.0, 4.0) for b in (-2.0, 2.0)]
    precise = {"xatol": 1e-9, "fatol": 1e-13, "maxiter": 4000}
    found = [
        minimize(lambda p: -log_evidence(f, y, *p), at, method="Nelder-Mead", options=precise).fun for at in starts
    ]
    return -min(found)


@pytest.mark.parametrize(("n", "d"), [(30, 4), (15, 15), (12, 20)])
def test_it_is_the_largest_evidence_that_a_search_finds(n: int, d: int) -> None:
    """Fewer features than items, as many, and more, where the official code does not count all of the prior."""
    rng = np.random.default_rng(n)
    f = rng.standard_normal((n, d))
    y = f[:, 0] - 0.5 * f[:, 1] + 0.5 * rng.standard_normal(n)
    assert logme(f, y) == pytest.approx(by_search(f, y), abs=1e-6)


def test_classes_are_each_against_the_rest_and_targets_are_averaged() -> None:
    rng = np.random.default_rng(0)
    f, code = rng.standard_normal((24, 3)), np.arange(24) % 3
    hits = np.eye(3)[code]
    one = [by_search(f, hits[:, c]) for c in range(3)]
    assert logme(f, code) == pytest.approx(np.mean(one), abs=1e-6)
    assert logme(f, hits) == pytest.approx(logme(f, code), abs=1e-12)
    assert logme(f, code * 5 - 7) == pytest.approx(logme(f, code), abs=1e-12)  # whatever the classes are called


def test_orthogonal_design() -> None:
    """F = c U with U'U = I: s_i = c^2 for all k features, so with q = 1 + c^2 / t, a = |U'y|^2 and r = |y|^2 - a

    log p / N = -(log(2 pi (a / q + r) / N) + 1 + k log(q) / N) / 2. Its derivative by q is 0 where a / (q (a + r q)) = k / (N q),
    that is q = a (N - k) / (k r), where that is above 1; else q = 1, and features explain nothing.
    """
    rng = np.random.default_rng(1)
    n, k = 20, 4
    u = np.linalg.qr(rng.standard_normal((n, n)))[0]
    for inside, outside, c in ((5.0, 1.0, 1.0), (1.0, 2.0, 30.0), (0.2, 3.0, 1.0)):
        y = u[:, :k] @ np.full(k, np.sqrt(inside / k)) + np.sqrt(outside) * u[:, k]
        q = max(inside * (n - k) / (k * outside), 1)
        noise = (inside / q + outside) / n
        assert logme(c * u[:, :k], y) == pytest.approx(
            -(np.log(2 * np.pi * noise) + 1 + k * np.log(q) / n) / 2, abs=1e-9
        )
    assert q == 1  # the last one has features that explain less than their number


@pytest.mark.parametrize(("n", "d"), [(30, 6), (10, 25)])
def test_rotation_and_scale_of_the_features_change_nothing(n: int, d: int) -> None:
    rng = np.random.default_rng(2)
    f, code = rng.standard_normal((n, d)), np.arange(n) % 3
    f[:, :3] += 2 * np.eye(3)[code]
    turn = np.linalg.qr(rng.standard_normal((d, d)))[0]
    assert logme(f @ turn, code) == pytest.approx(logme(f, code), abs=1e-9)
    for c in (1e-4, 1e4):
        assert logme(c * f, code) == pytest.approx(logme(f, code), abs=1e-9)
    # and a feature that is always 0 is none
    assert logme(np.concatenate([f, np.zeros((n, 2))], 1), code) == pytest.approx(logme(f, code), abs=1e-9)


def test_better_features_have_more_evidence() -> None:
    rng = np.random.default_rng(3)
    code, noise = np.arange(90) % 3, rng.standard_normal((90, 8))
    found = []
    for gap in (0.0, 1.0, 2.0, 4.0):
        f = noise.copy()
        f[:, :3] += gap * np.eye(3)[code]
        found.append(logme(f, code))
    assert found == sorted(found) and found[-1] > found[0] + 0.3


def test_ends() -> None:
    # features of nothing: noise of the targets' mean square, here 1/2 * log: y = 0 or 1 in halves
    assert logme(np.zeros((4, 2)), np.array([0.0, 1.0, 0.0, 1.0])) == pytest.approx(-(np.log(2 * np.pi * 0.5) + 1) / 2)
    assert np.isnan(logme(np.ones((4, 2)), np.zeros(4)))
    # a perfect fit has no largest evidence; it is a large number and not infinite
    f = np.random.default_rng(4).standard_normal((20, 2))
    assert 5 < logme(f, f[:, 0]) < 50
