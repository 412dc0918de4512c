"""Mirror: a left wrist as the right one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from unlabeled.biosignal.conversions import mirror
from unlabeled.core.contracts import BadInput, Input, RequestError, Sample

CHANNELS = ("acc_x", "acc_y", "acc_z", "ppg", "gyro_x", "gyro_y", "gyro_z")


def sample(side: str | None, channels: tuple[str, ...] = CHANNELS) -> Sample:
    data = np.arange(1, 1 + 2 * len(channels), dtype=np.float32).reshape(len(channels), 2)
    x = Input(data, channels, ("",) * len(channels), unit="s", spacing=(0.02,))
    return Sample({"x": x}, "a", "s1", meta={"side": side, "flags": []})


def test_signs_of_polar_and_axial_vectors() -> None:
    before = sample("left")
    after, line = mirror(before)
    assert line == "mirrored from the left to the right wrist" and after.meta["side"] == "right"
    # rows hold 1 2 | 3 4 | ...; acceleration changes x, angular velocity y and z, ppg nothing
    np.testing.assert_array_equal(
        after.inputs["x"].data, [[-1, -2], [3, 4], [5, 6], [7, 8], [9, 10], [-11, -12], [-13, -14]]
    )
    assert after.inputs["x"].data.dtype == np.float32
    np.testing.assert_array_equal(before.inputs["x"].data[0], [1, 2])  # the given sample is left alone


def test_cross_product_stays_true() -> None:
    # a mirror M = diag(-1, 1, 1) takes a polar v to M v and an axial w to -M w, and then (-M w) x (M v) = M (w x v)
    rng = np.random.default_rng(0)
    v, w = rng.normal(size=(2, 3))
    m = np.array([-1, 1, 1])
    np.testing.assert_allclose(np.cross(np.array([1, -1, -1]) * w, m * v), m * np.cross(w, v), atol=1e-15)


def test_twice_is_identity_and_the_right_side_stays() -> None:
    once, _ = mirror(sample("left"))
    back, line = mirror(once, to="left")
    assert line == "mirrored from the right to the left wrist" and back.meta == sample("left").meta
    np.testing.assert_array_equal(back.inputs["x"].data, sample("left").inputs["x"].data)
    right = sample("right")
    assert mirror(right) == (right, None)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (sample(None), "a: mirror needs the body side; add a column `side`"),
        (sample("left", ("ppg", "acc_x")), "a: mirror found no complete acc_x, acc_y, acc_z"),
    ],
)
def test_what_cannot_be_mirrored(given: Sample, says: str) -> None:
    with pytest.raises(BadInput) as caught:
        mirror(given)
    assert says in str(caught.value)


@pytest.mark.parametrize("to", ["middle", "Left", "", None])
@pytest.mark.parametrize("side", ["left", "right", None])
def test_another_side_is_a_wrong_request(to: Any, side: str | None) -> None:
    with pytest.raises(RequestError) as caught:
        mirror(sample(side), to=to)
    assert str(caught.value) == f"data.conversions mirror.to is {to!r}; write left or right"
