import numpy as np
import pytest

from unlabeled.core.measures.logme import logme
from unlabeled.core.measures.ped import moved, ped, pushed

CODE = np.arange(90) % 3


def blobs(gap: float, seed: int = 0, d: int = 8) -> np.ndarray:
    f = np.random.default_rng(seed).standard_normal((90, d))
    f -= np.stack([f[np.equal(CODE, c)].mean(0) for c in range(3)])[CODE]  # so that a gap of 0 is no separation at all
    f[:, :3] += gap * np.eye(3)[CODE]
    return f


def test_a_pair_is_pushed_along_the_line_between_it_by_the_depth_of_the_overlap() -> None:
    # radii 2 and 1, 2.5 apart: overlap 0.5, and each moves 0.5 * 0.2^2 * 0.5 = 0.01 away from the other
    at = np.array([[0.0, 0.0], [1.5, 2.0]])
    np.testing.assert_allclose(pushed(at, np.array([2.0, 1.0]), 0.2), [[-0.006, -0.008], [0.006, 0.008]])
    assert not pushed(at, np.array([1.0, 1.0]), 0.2).any()  # radii of 2 in all do not touch
    # a step may be as long as it likes: no further than the overlap
    np.testing.assert_allclose(np.linalg.norm(pushed(at, np.array([2.0, 1.0]), 9.0), axis=1), 0.5)
    # forces add up, and keep the centre where it is
    three = np.random.default_rng(0).standard_normal((3, 4))
    np.testing.assert_allclose(pushed(three, np.full(3, 5.0), 0.1).sum(0), 0, atol=1e-15)


def test_six_steps_of_two_classes() -> None:
    """Of two classes that touch at a distance T the gap is T - (T - d) 0.99^6 after six steps.

    In every step each moves 0.5 * 0.1^2 (T - d), so T - d shrinks by 1 - 0.01, and no step is under half of the first one.
    """
    rng = np.random.default_rng(0)
    half = rng.standard_normal((200, 2))
    half -= half.mean(0)
    f, code = np.concatenate([half, half + np.array([1.0, 0.0])]), np.repeat([0, 1], 200)
    spread = f.std(0)
    d, touch = 1 / spread[0], 2 * 0.6 * np.sqrt((half / spread).var(0).sum())
    assert touch > d
    out = moved(f, code) / spread
    gap = out[code == 1].mean(0) - out[code == 0].mean(0)
    np.testing.assert_allclose(gap, [touch - (touch - d) * 0.99**6, 0], atol=1e-12)
    # a class moves as a whole
    np.testing.assert_allclose(out[code == 0] - out[code == 0].mean(0), half / spread, atol=1e-12)


def test_classes_further_apart_score_higher_and_identical_ones_lowest() -> None:
    for seed in range(5):
        found = [ped(blobs(gap, seed), CODE) for gap in (0.0, 0.3, 0.6, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)]
        assert np.all(np.diff(found) > 0)


def test_what_does_not_touch_stays_and_identical_means_do_not_break_it() -> None:
    f = blobs(20.0)
    np.testing.assert_allclose(moved(f, CODE), f)
    assert ped(f, CODE) == pytest.approx(logme(f, CODE))
    assert ped(blobs(1.0), CODE, size=0.0) == pytest.approx(logme(blobs(1.0), CODE))
    # equal but for rounding: no direction is better than another, and none is made of the last digits
    np.testing.assert_allclose(moved(blobs(0.0), CODE), blobs(0.0), atol=1e-9)
    with_none = blobs(0.0)
    with_none[:, 3] = 4.0
    np.testing.assert_allclose(moved(with_none, CODE), with_none, atol=1e-9)
    assert np.isfinite(ped(np.ones((90, 3)), CODE))


def test_scale_changes_nothing_and_moving_helps() -> None:
    f = blobs(1.0)
    for c in (1e-3, 1e3):
        assert ped(c * f, CODE) == pytest.approx(ped(f, CODE), abs=1e-9)
    assert ped(f, CODE) > logme(f, CODE)
    np.testing.assert_allclose(moved(f + 5, CODE), moved(f, CODE) + 5, atol=1e-9)


def test_another_score_may_be_taken() -> None:
    assert ped(blobs(1.0), CODE, score=lambda x, y: float(len(x) + y.max())) == 92
