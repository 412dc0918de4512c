"""Plots as SVG text: axes, lines, intervals, points. Coordinates are pixels from the upper left corner.

Colours, fonts and line widths are the page's, by class (`s0`, `s1`, ... of a series), so that light and dark are one file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np
from markupsafe import Markup, escape

COLOURS = 8  # series with a colour of their own; the ninth has the first one's

Values = Sequence[float]


@dataclass(frozen=True)
class Axis:
    """A range of values, linear or logarithmic."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def around(cls, values: Iterable[float], log: bool = False, pad: float = 0.05) -> Axis:
        """The range of the finite values, widened by `pad` of itself on both sides; 0 to 1 where there are none."""
        there = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
        if not there:
            return cls(1.0, 10.0, True) if log else cls(0.0, 1.0)
        low, high = min(there), max(there)
        if log:
            factor = (high / low) ** pad if high > low else 2.0
            return cls(low / factor, high * factor, True)
        wide = pad * (high - low) if high > low else max(abs(high), 1.0) * 0.5
        return cls(low - wide, high + wide)

    def at(self, value: float, start: float, stop: float) -> float:
        """Where `value` lies when `low` lies at `start` and `high` at `stop`."""
        a, b, v = (math.log(x) for x in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return start + (v - a) / (b - a) * (stop - start)

    def ticks(self, most: int = 5) -> list[float]:
        """Round values inside the range: multiples of 1, 2 or 5 times a power of ten; logarithmic: such numbers themselves."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for steps in ((1, 2, 5), (1, 3), (1,)):
                found = [s * 10.0**p for p in powers for s in steps if self.low <= s * 10.0**p <= self.high]
                if len(found) <= most:
                    break
            return found
        for power in count(math.floor(math.log10((self.high - self.low) / most))):
            for step in (s * 10.0**power for s in (1, 2, 5)):
                first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
                if last - first < most:
                    return [round(i * step, 12) for i in range(first, last + 1)]
        raise AssertionError


def many(n: int, what: str) -> str:
    """`1 group`, `2 groups`."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def label(value: float) -> str:
    """A number as short as a tick needs it."""
    if value == 0:
        return "0"
    if abs(value) >= 1e4 or abs(value) < 1e-3:
        mantissa, _, power = f"{value:.1e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(power)}"
    return f"{value:.4g}"


@dataclass
class Plot:
    """One panel. What is drawn is added in order; `svg` gives the whole.

    title, about  what a screen reader says
    """

    title: str
    about: str
    x: Axis
    y: Axis
    width: float = 360
    height: float = 220
    left: float = 46
    right: float = 12
    top: float = 12
    bottom: float = 34
    x_title: str = ""
    parts: list[Markup] = field(default_factory=list)

    def px(self, value: float) -> float:
        return self.x.at(value, self.left, self.width - self.right)

    def py(self, value: float) -> float:
        return self.y.at(value, self.height - self.bottom, self.top)

    def line(self, xs: Values, ys: Values, series: int = 0, style: str = "", shift: float = 0.0) -> None:
        """A line through the points, broken where a value is not finite; a lone point is a dot."""
        runs: list[list[tuple[float, float]]] = [[]]
        for x, y in zip(xs, ys, strict=True):
            if math.isfinite(x) and math.isfinite(y):
                runs[-1].append((self.px(x) + shift, self.py(y)))
            elif runs[-1]:
                runs.append([])
        for run in runs:
            if len(run) == 1:
                self._dot(*run[0], series, 1.5)
            elif run:
                d = "M" + "L".join(f"{_n(x)} {_n(y)}" for x, y in run)
                self._add('<path class="line s{} {}" d="{}"/>', series % COLOURS, style, d)

    def interval(self, x: float, low: float, high: float, series: int = 0, shift: float = 0.0) -> None:
        """A bar from low to high at x, moved `shift` pixels so that neighbours do not hide each other."""
        if math.isfinite(low) and math.isfinite(high):
            at = _n(self.px(x) + shift)
            d = f"M{at} {_n(self.py(low))}V{_n(self.py(high))}"
            self._add('<path class="bar s{}" d="{}"/>', series % COLOURS, d)

    def reach(self, y: float, low: float, high: float, series: int = 0) -> None:
        """A bar from low to high along x, at y."""
        if math.isfinite(low) and math.isfinite(high):
            d = f"M{_n(self.px(low))} {_n(self.py(y))}H{_n(self.px(high))}"
            self._add('<path class="bar s{}" d="{}"/>', series % COLOURS, d)

    def points(self, xs: Values, ys: Values, series: int = 0, radius: float = 2.2, shift: float = 0.0) -> None:
        for x, y in zip(xs, ys, strict=True):
            if math.isfinite(x) and math.isfinite(y):
                self._dot(self.px(x) + shift, self.py(y), series, radius)

    def zero(self) -> None:
        """A line where x is 0."""
        self._add('<path class="zero" d="{}"/>', f"M{_n(self.px(0.0))} {_n(self.top)}V{_n(self.height - self.bottom)}")

    def axes(self, x_labels: Mapping[float, str] | None = None, y: bool = True) -> None:
        """Grid lines and ticks, before anything else is drawn. x_labels: ticks of x and their text."""
        floor = self.height - self.bottom
        if y:
            for value in self.y.ticks():
                self._add(
                    '<path class="rule" d="M{} {}H{}"/>', _n(self.left), _n(self.py(value)), _n(self.width - self.right)
                )
                self._text(self.left - 6, self.py(value) + 3.5, label(value), "end")
        given = {v: label(v) for v in self.x.ticks()} if x_labels is None else x_labels
        for value, text in given.items():
            at = self.px(value)
            self._add('<path class="tick" d="M{} {}V{}"/>', _n(at), _n(floor), _n(floor + 4))
            self._text(at, floor + 15, text, "middle")
        self._add('<path class="axis" d="M{} {}H{}"/>', _n(self.left), _n(floor), _n(self.width - self.right))
        if self.x_title:
            self._text((self.left + self.width - self.right) / 2, self.height - 4, self.x_title, "middle", "name")

    def words(self, x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> None:
        """Text at pixels."""
        self._text(x, y, text, anchor, kind)

    def _dot(self, x: float, y: float, series: int, radius: float) -> None:
        self._add('<circle class="dot s{}" cx="{}" cy="{}" r="{}"/>', series % COLOURS, _n(x), _n(y), _n(radius))

    def _text(self, x: float, y: float, text: str, anchor: str, kind: str = "") -> None:
        self._add('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>', kind, _n(x), _n(y), anchor, text)

    def _add(self, form: str, *values: object) -> None:
        self.parts.append(Markup(form).format(*values))

    def svg(self) -> Markup:
        inner = Markup("").join(self.parts)
        return Markup(
            '<svg viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title><desc>{}</desc>{}</svg>'
        ).format(_n(self.width), _n(self.height), f"{self.title}. {self.about}", self.title, self.about, inner)


def _n(value: float) -> str:
    """Pixels to a hundredth."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def trace(
    values: Sequence[Values], like: Sequence[Values], title: str, width: float = 220, height: float = 64
) -> Markup:
    """Curves (C, T) over their index in one small frame without axes, on the scale of `like`; NaN is a gap."""
    x, y = np.asarray(values, np.float64), Axis.around(np.ravel(like).tolist())
    plot = Plot(title, "", Axis(0, max(1, x.shape[1] - 1)), y, width, height, 2, 2, 2, 2)
    for number, channel in enumerate(x):
        plot.line(list(range(len(channel))), channel.tolist(), number)
    return plot.svg()


def legend(names: Sequence[str]) -> Markup:
    """Coloured marks with their names."""
    items = Markup("").join(
        Markup('<li><span class="mark s{}"></span>{}</li>').format(i % COLOURS, escape(name))
        for i, name in enumerate(names)
    )
    return Markup('<ul class="legend">{}</ul>').format(items)
