"""Coordinates by hand: the frame of a default plot reaches from x = 46 to 348 and from y = 186 (low) to 12 (high)."""

import math
import re
from xml.etree import ElementTree

import pytest

from unlabeled.core.report.svg import COLOURS, Axis, Plot, label, legend, trace


def plot(x=None, y=None):
    return Plot("Title <&>", "About", x or Axis(0, 10), y or Axis(0, 1))


def paths(made, kind):
    tree = ElementTree.fromstring(str(made.svg()))
    return [e.attrib["d"] for e in tree.iter("path") if kind in e.attrib["class"].split()]


def test_places_on_an_axis():
    # halfway between 2 and 4 lies halfway between 100 and 300; halfway between 1 and 100 on a log axis is 10
    assert Axis(2, 4).at(3, 100, 300) == 200
    assert Axis(1, 100, log=True).at(10, 0, 1) == pytest.approx(0.5)
    assert plot().px(0) == 46 and plot().px(10) == 348 and plot().px(5) == 197
    assert plot().py(0) == 186 and plot().py(1) == 12 and plot().py(0.25) == 186 - 0.25 * 174


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (Axis(0, 10), [0, 5, 10]),  # steps of 2 would be six ticks, five are the most
        (Axis(0, 8), [0, 2, 4, 6, 8]),
        (Axis(0.13, 0.48), [0.2, 0.3, 0.4]),  # steps of 0.05 would be seven
        (Axis(-1, 1), [-1, -0.5, 0, 0.5, 1]),
        (Axis(1, 100, log=True), [1, 3, 10, 30, 100]),  # 1, 2, 5, ... would be seven
        (Axis(5, 60, log=True), [5, 10, 20, 50]),
    ],
)
def test_ticks_are_round_and_few(axis, ticks):
    assert axis.ticks() == pytest.approx(ticks)


def test_ranges():
    # 5 % of the span 2 on each side; what is not finite does not count; one value alone gets room
    axis = Axis.around([1.0, 3.0, math.nan, math.inf])
    assert (axis.low, axis.high) == pytest.approx((0.9, 3.1))
    assert Axis.around([2.0]) == Axis(1.0, 3.0)
    assert Axis.around([]) == Axis(0.0, 1.0)
    # on a log axis 0 and below cannot be shown; 100 ** 0.05 on each side
    axis = Axis.around([0.0, 1.0, 100.0], log=True)
    assert (axis.low, axis.high) == pytest.approx((100**-0.05, 100**1.05))


def test_a_line_is_broken_where_a_value_is_not_finite():
    made = plot()
    made.line([0, 5, 6, 7, 10], [0, 1, math.nan, 0.5, 0])
    assert paths(made, "line") == ["M46 186L197 12", "M257.4 99L348 186"]
    made = plot()
    made.line([0, 5, 6], [0, math.nan, 1])  # two lone points: dots
    assert paths(made, "line") == []
    assert re.findall(r'cx="(.*?)" cy="(.*?)"', str(made.svg())) == [("46", "186"), ("227.2", "12")]


def test_intervals_points_and_the_line_of_nothing():
    made = plot(x=Axis(-1, 1))
    made.interval(0, 0.25, 0.75, series=3, shift=4)
    made.reach(0.5, -0.5, 0.5)
    made.interval(0, math.nan, 1)
    made.zero()
    # the middle of 46 ... 348 is 197; 0.25 and 0.75 of 174 px above 186 are 142.5 and 55.5; -0.5 and 0.5 are 121.5 and 272.5
    assert paths(made, "bar") == ["M201 142.5V55.5", "M121.5 99H272.5"]
    assert paths(made, "zero") == ["M197 12V186"]
    assert 'class="bar s3"' in str(made.svg())
    made.points([0, 1], [math.nan, 0], series=COLOURS + 1)  # the ninth colour is the first one
    assert 'class="dot s1" cx="348" cy="186"' in str(made.svg())


def test_texts_are_escaped_and_said_to_a_screen_reader():
    made = plot()
    made.axes({5.0: "<script>"})
    tree = ElementTree.fromstring(str(made.svg()))
    assert tree.attrib["role"] == "img" and tree.attrib["aria-label"] == "Title <&>. About"
    assert [e.text for e in tree if e.tag in ("title", "desc")] == ["Title <&>", "About"]
    assert "<script>" in [e.text for e in tree.iter("text")] and "<script>" not in str(made.svg())
    assert "<b>" not in str(legend(["<b>"]))


def test_traces_share_the_scale_of_another():
    # like: -1 ... 1, so the axis is -1.1 ... 1.1 over y = 62 ... 2, and 0 lies in the middle, 1 at 62 - 2.1 / 2.2 * 60
    [d] = re.findall(r' d="(.*?)"', str(trace([[0.0, 1.0, 0.0]], [[-1.0, 1.0, 0.0]], "x")))
    assert d == f"M2 32L110 {62 - 2.1 / 2.2 * 60:.2f}L218 32"


def test_labels_are_short():
    assert [label(v) for v in (0, 0.25, 1234.5, 12345.0, 0.00012, 1e-5, -2e7)] == [
        "0", "0.25", "1234", "1.2e4", "1.2e-4", "1e-5", "-2e7",
    ]  # fmt: skip
