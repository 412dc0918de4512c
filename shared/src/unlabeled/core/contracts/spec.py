"""InputSpec: what an encoder may be fed, written into every bundle and enforced at every later use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from unlabeled.core.contracts.errors import Incompatible
from unlabeled.core.contracts.sample import Input, Layout

# how a contract may be met: conversions, and values or sizes far from pretraining's, taken as they are (evaluation.guard)
Allowed = Literal["order", "units", "rate", "range", "size"]

# factor from the first unit to the second; the inverse is implied
UNIT_FACTORS: dict[tuple[str, str], float] = {
    ("g", "m/s^2"): 9.80665,
    ("g", "mg"): 1000.0,
    ("rad/s", "deg/s"): 180.0 / np.pi,
    ("V", "uV"): 1e6,
    ("V", "mV"): 1e3,
    ("mV", "uV"): 1e3,
}


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Constants(Frozen):
    """x -> (x - offset) / scale, per channel."""

    offset: tuple[float, ...]
    scale: tuple[float, ...]


# integers that a batch carries to the device as they are
SMALL = (np.uint8, np.int16)


class Normaliser(Frozen):
    """How values are brought to a common range, with the constants of every source they were measured on."""

    method: str = Field(
        "none",
        description="none; standard: mean and deviation per channel; sensor: one scale per sensor, no offset; or the name "
        "of one of the domain's, with fixed constants",
    )
    constants: dict[str, Constants] = Field(default_factory=dict, description="by source")

    def check(self, source: str, what: str = "input") -> None:
        """Raises Incompatible where there are no constants for this source."""
        if self.method != "none" and source not in self.constants:
            known = ", ".join(repr(k) for k in sorted(self.constants)) or "none"
            raise Incompatible(
                f"{what}: the normaliser has no constants for the source {source!r} (known: {known}); "
                "name a known source for these files or pretrain with them"
            )

    def apply(self, x: Input) -> Input:
        """`x` as float32, normalised by the constants of its source; invalid positions become 0.

        Raises Incompatible where the source is unknown.
        """
        data = x.data.astype(np.float32)
        axes = (slice(None), *[None] * (data.ndim - 1)) if x.layout == "dense" else (None, slice(None))
        self.check(x.source)
        if self.method != "none":
            c = self.constants[x.source]
            data = (data - np.asarray(c.offset, np.float32)[axes]) / np.asarray(c.scale, np.float32)[axes]
        if x.valid is not None:
            valid = x.valid if x.layout == "dense" else x.valid[:, None]
            data = np.where(valid, data, np.float32(0))
        return x.with_(data=np.ascontiguousarray(data, dtype=np.float32))

    def put_off(self, x: Input) -> Input:
        """As `apply`, but small integers on a grid stay as they are and carry their constants (`Input.ready` ends it).

        A quarter or half of the memory here, and of what travels to the device, where the arithmetic costs nothing.
        """
        if x.layout != "dense" or x.data.dtype not in SMALL:
            return self.apply(x)
        self.check(x.source)
        n = len(x.channels)
        c = Constants(offset=(0.0,) * n, scale=(1.0,) * n) if self.method == "none" else self.constants[x.source]
        return x.with_(data=np.ascontiguousarray(x.data), offset=c.offset, scale=c.scale)


class Conversion(Frozen):
    """A named conversion of the domain, applied to every sample before anything else, and logged."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)


class InputSpec(Frozen):
    """The contract of one named input."""

    layout: Layout = "dense"
    channels: tuple[str, ...] = Field(description="channel names, in order")
    units: tuple[str, ...] = Field(description="unit of each channel")
    axes: tuple[str, ...] = Field(("time",), description="names of the grid's axes")
    unit: str = Field("s", description="unit of spacing and coordinates")
    spacing: tuple[float, ...] | None = Field(None, description="grid step per axis; None: given by each item")
    value_range: tuple[float, float] | None = Field(None, description="values seen in pretraining, before normalising")
    normaliser: Normaliser = Normaliser()
    convert: tuple[Allowed, ...] = Field(
        ("order", "units"), description="conversions allowed without asking: channel order, known units, sampling rate"
    )

    @property
    def width(self) -> int:
        return len(self.channels)

    @property
    def rank(self) -> int:
        """Number of coordinates of a token."""
        return len(self.axes)

    @classmethod
    def of(cls, x: Input, axes: tuple[str, ...] = ("time",), **changes: Any) -> InputSpec:
        """The contract that `x` itself fulfils."""
        return cls(
            layout=x.layout, channels=x.channels, units=x.units, axes=axes, unit=x.unit, spacing=x.spacing, **changes
        )

    def adapt(self, x: Input, what: str = "input") -> tuple[Input, tuple[str, ...]]:
        """`x` in this contract's channel order, units and spacing, and one line for each conversion made.

        Raises Incompatible, in one sentence that names the fix, where the contract allows no such conversion.
        """
        log: list[str] = []
        if x.layout != self.layout:
            raise Incompatible(
                f"{what}: the layout is {x.layout}, the contract asks for {self.layout}; use another reader"
            )
        x = self._channels(x, what, log)
        x = self._units(x, what, log)
        if x.layout == "dense":
            x = self._spacing(x, what, log)
        return x, tuple(log)

    def check(self, facts: Mapping[str, Any], what: str) -> tuple[str, ...]:
        """What `adapt` would log, from what a manifest knows of an input (no values); raises as it and the normaliser would."""
        shape = (
            (len(facts["channels"]), *[1] * len(facts["shape"]))
            if facts["layout"] == "dense"
            else (1, len(facts["channels"]))
        )
        _, lines = self.adapt(
            Input(
                data=np.zeros(shape, np.float32),
                channels=tuple(facts["channels"]),
                units=tuple(facts["units"]),
                layout=facts["layout"],
                unit=facts["unit"],
                spacing=facts["spacing"] and tuple(facts["spacing"]),
                edges=np.zeros((2, 0), np.int64) if facts["layout"] == "graph" else None,
            ),
            what,
        )
        self.normaliser.check(str(facts["source"]), what)
        return lines

    def _channels(self, x: Input, what: str, log: list[str]) -> Input:
        if x.channels == self.channels:
            return x
        missing = [c for c in self.channels if c not in x.channels]
        if missing:
            raise Incompatible(
                f"{what}: channel {', '.join(missing)} is missing (found {', '.join(x.channels)}); "
                f"this contract needs {', '.join(self.channels)} under these names"
            )
        if "order" not in self.convert:
            raise Incompatible(
                f"{what}: channels {x.channels} differ from {self.channels}; allow it with --convert order"
            )
        at = [x.channels.index(c) for c in self.channels]
        dropped = [c for c in x.channels if c not in self.channels]
        log.append(f"channels taken by name{' without ' + ', '.join(dropped) if dropped else ''}")
        valid = x.valid
        if valid is not None and x.layout == "dense" and valid.shape[0] > 1:
            valid = valid[at]
        return x.with_(
            data=x.data[at] if x.layout == "dense" else x.data[:, at],
            channels=self.channels,
            units=tuple(x.units[i] for i in at),
            valid=valid,
        )

    def _units(self, x: Input, what: str, log: list[str]) -> Input:
        if x.units == self.units:
            return x
        factors = []
        for channel, have, want in zip(self.channels, x.units, self.units, strict=True):
            factor = 1.0 if have == want else unit_factor(have, want)
            if factor is None or "units" not in self.convert:
                raise Incompatible(
                    f"{what}: channel {channel} is in {have or 'no unit'}, the contract asks for {want or 'no unit'}; "
                    f"convert the files{'' if factor is None else ' or allow it with --convert units'}"
                )
            factors.append(factor)
            if have != want:
                log.append(f"{channel} from {have} to {want}")
        shape = (-1, *[1] * (x.data.ndim - 1)) if x.layout == "dense" else (1, -1)
        return x.with_(data=x.data * np.asarray(factors, np.float32).reshape(shape), units=self.units)

    def _spacing(self, x: Input, what: str, log: list[str]) -> Input:
        assert x.spacing is not None
        if x.unit != self.unit:
            raise Incompatible(f"{what}: the grid is in {x.unit}, the contract asks for {self.unit}; convert the files")
        if self.spacing is None or np.allclose(x.spacing, self.spacing, rtol=1e-3):
            return x
        if "rate" not in self.convert:
            raise Incompatible(
                f"{what}: {_steps(x.spacing, x.unit)}, the contract asks for {_steps(self.spacing, self.unit)}; "
                "resample the files or allow it with --convert rate"
            )
        log.append(f"from {_steps(x.spacing, x.unit)} to {_steps(self.spacing, self.unit)}")
        return resample(x, self.spacing)


def _steps(spacing: tuple[float, ...], unit: str) -> str:
    """`50 Hz` for time, `0.7 x 0.7 x 5 mm` for space."""
    if unit == "s" and len(spacing) == 1:
        return f"{1 / spacing[0]:g} Hz"
    return " x ".join(f"{s:g}" for s in spacing) + f" {unit}"


def unit_factor(have: str, want: str) -> float | None:
    """Factor that brings `have` to `want`, or None where none is known."""
    if (have, want) in UNIT_FACTORS:
        return UNIT_FACTORS[have, want]
    if (want, have) in UNIT_FACTORS:
        return 1 / UNIT_FACTORS[want, have]
    return None


def resample(x: Input, spacing: tuple[float, ...]) -> Input:
    """`x` on a grid of another step: linear interpolation, after a moving mean where the step grows.

    A resampled position is valid where both its neighbours are.
    """
    from scipy.ndimage import uniform_filter1d  # here, since only this conversion needs scipy

    assert x.spacing is not None
    data = x.data.astype(np.float32)
    valid = np.ones((1, *x.shape), bool) if x.valid is None else x.valid
    for axis, (old, new) in enumerate(zip(x.spacing, spacing, strict=True), start=1):
        n = data.shape[axis]
        m = max(1, int(np.floor((n - 1) * old / new + 1e-6)) + 1)
        at = np.minimum(np.arange(m) * new / old, n - 1)
        low = np.floor(at + 1e-9).astype(int)
        high = np.ceil(at - 1e-9).astype(int)  # a position on a sample needs that sample alone
        if new > old:  # a mean over the new step keeps what lies above its Nyquist rate from folding back
            data = uniform_filter1d(data, size=round(new / old), axis=axis, mode="nearest")
        w = (at - low).astype(np.float32).reshape(-1, *[1] * (data.ndim - 1 - axis))
        data = data.take(low, axis) * (1 - w) + data.take(high, axis) * w
        valid = valid.take(low, axis) & valid.take(high, axis)
    return x.with_(data=data, spacing=spacing, valid=None if x.valid is None else valid)
