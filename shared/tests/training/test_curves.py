import math

import numpy as np

from unlabeled.core.training.curves import curves, numbers, thinned

LINES = [
    {"step": 0, "epoch": 0, "loss": 2.0, "parts": {"a": 1.5}, "skipped": False, "name": "x"},
    {
        "step": 1,
        "epoch": 0,
        "loss": None,
        "parts": {"a": 0.5},
        "skipped": True,
        "health": {"rank": 3, "deep": {"er": 1}},
    },
    {"step": 2, "epoch": 1, "loss": 1.0, "parts": {"a": 1.0}, "skipped": False},
]


def test_every_number_of_a_line_by_its_place():
    assert numbers(LINES[1]) == {
        "step": 1, "epoch": 0, "loss": None, "parts/a": 0.5, "skipped": 1.0, "health/rank": 3, "health/deep/er": 1,
    }  # fmt: skip
    assert "name" not in numbers(LINES[0])


def test_curves_over_the_steps_that_have_them():
    found = curves(LINES)
    assert list(found) == ["loss", "parts/a", "skipped", "health/rank", "health/deep/er"]
    np.testing.assert_array_equal(found["loss"].values, [2, math.nan, 1])
    assert (found["health/rank"].steps.tolist(), found["health/rank"].values.tolist()) == ([1], [3])


def test_more_points_than_fit_are_averaged():
    # 5 points to at most 2: means over 3 and over the 2 that are left; NaN is left out, and a stretch of it stays NaN
    points = np.array([[0, 1], [1, math.nan], [2, 3], [3, math.nan], [4, math.nan]])
    made = thinned(points, 2)
    assert (made.steps.tolist(), made.every) == ([1, 3.5], 3)
    np.testing.assert_array_equal(made.values, [2, math.nan])
