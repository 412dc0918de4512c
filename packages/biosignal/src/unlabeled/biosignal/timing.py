"""From time stamps to a regular grid. Nothing is filled forward; what is mended is flagged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unlabeled.core.contracts import BadInput

MAX_RATE = 1e5
BACKWARD = 1.0  # seconds; a clock that falls back further was set anew, less is disorder of the rows
BRIDGED = 2  # missing samples that linear interpolation may bridge
_ON_GRID = 0.02  # of a step; stamps rounded to 1 ms at 32 Hz are 0.016 of a step off
_REPEATED = 0.1  # share of repeated stamps above which the clock is too coarse to order the rows

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Part:
    """values (C, T), NaN where invalid, on a grid of `step` seconds, and what was mended."""

    values: Floats
    step: float
    flags: tuple[str, ...] = ()


def regular(time: Floats, values: Floats, rate: float | None, max_gap: float, name: str) -> list[Part]:
    """The recording on a regular grid, in parts where the clock falls back or stands still for longer than `max_gap`.

    time (N,) seconds, values (C, N), rate in Hz where it is known. Raises BadInput where the stamps give no regular
    grid or contradict `rate`.
    """
    missing = np.flatnonzero(~np.isfinite(time))
    if len(missing):
        raise BadInput(f"{name}: row {missing[0] + 1} has no time; fill the time column or remove the row")
    flags = []
    cuts = np.flatnonzero(np.diff(time) < -BACKWARD) + 1
    if len(cuts):
        flags.append(f"split where the clock falls back ({_count(len(cuts), 'time')})")
    chunks = []
    for at in np.split(np.arange(len(time)), cuts):
        t, v, mended = _ordered(time[at], values[:, at], name)
        chunks.append((t, v))
        flags += mended
    step = _step(np.concatenate([np.diff(t) for t, _ in chunks]), rate, name)
    parts = []
    pauses = lone = 0
    for t, v in chunks:
        at = np.flatnonzero(np.diff(t) > max(max_gap, (BRIDGED + 1.5) * step)) + 1
        pauses += len(at)
        for tp, vp in zip(np.split(t, at), np.split(v, at, axis=1), strict=True):
            if len(tp) > 1:
                parts.append(_gridded(tp, vp, step))
            else:
                lone += 1
    if pauses:
        flags.append(f"split at {_count(pauses, 'gap')} of more than {max_gap:g} s")
    if lone:
        flags.append(f"{_count(lone, 'lone row')} dropped")
    return [Part(p.values, step, (*dict.fromkeys(flags), *p.flags)) for p in parts]


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' if n > 1 else ''}"


def _ordered(time: Floats, values: Floats, name: str) -> tuple[Floats, Floats, list[str]]:
    flags = []
    if (np.diff(time) < 0).any():
        order = np.argsort(time, kind="stable")
        time, values = time[order], values[:, order]
        flags.append("rows sorted by time")
    keep = np.concatenate([[True], np.diff(time) > 0])
    repeated = int((~keep).sum())
    if repeated > _REPEATED * len(time):
        raise BadInput(
            f"{name}: {repeated} of {len(time)} rows repeat a time stamp, so the clock is too coarse to order them; "
            "remove the time column and give options.rate"
        )
    if repeated:
        flags.append(f"{_count(repeated, 'row')} with a repeated time stamp dropped")
    return time[keep], values[:, keep], flags


def _step(steps: Floats, rate: float | None, name: str) -> float:
    """Seconds from sample to sample."""
    if not len(steps):
        raise BadInput(f"{name}: too few rows to tell a sampling rate; give a longer recording")
    median = float(np.median(steps))
    near = steps[np.abs(steps / median - 1) < 0.5]
    if len(near) < 0.5 * len(steps):
        raise BadInput(
            f"{name}: the time steps are irregular (more than half are over 50 % off their median of {median:g} s); "
            "resample the recording to one rate"
        )
    # the mean over the near-regular steps is not caught by the rounding of the stamps, as the median is
    found = 1 / float(near.mean())
    if rate is not None:
        if abs(found / rate - 1) > 0.01:
            raise BadInput(
                f"{name}: the time column runs at {found:g} Hz, the stated rate is {rate:g} Hz; "
                "correct the rate or options.time_unit"
            )
        return 1 / rate
    if found > MAX_RATE:
        raise BadInput(f"{name}: the time column runs at {found:g} Hz, above {MAX_RATE:g} Hz; set options.time_unit")
    whole = round(found)
    # a clock that is off by less than a thousandth is meant to run at the whole number
    return 1 / whole if whole and abs(found / whole - 1) < 1e-3 else 1 / found


def _gridded(time: Floats, values: Floats, step: float) -> Part:
    """Linear interpolation between the rows beside each grid point, and NaN inside gaps too long for it."""
    flags = []
    offset = (time - time[0]) / step
    nearest = np.round(offset)
    on_grid = np.abs(offset - nearest).max() < _ON_GRID and np.diff(nearest).min() >= 1
    if on_grid:
        offset = nearest
    else:
        flags.append("irregular time steps interpolated to the grid")
    grid = np.arange(int(offset[-1] + 1e-6) + 1)
    low = np.clip(np.searchsorted(offset, grid, "right") - 1, 0, len(offset) - 2)
    gap = offset[low + 1] - offset[low]
    part = np.clip((grid - offset[low]) / gap, 0, 1)
    before, after = values[:, low], values[:, low + 1]
    # a value of weight 0 is left out, not multiplied: 0 * NaN would spoil its neighbour
    out = np.where(part == 0, before, np.where(part == 1, after, before + part * (after - before)))
    between = (part > 0) & (part < 1)
    lost = between & (gap >= BRIDGED + 1.5)
    out[:, lost] = np.nan
    if lost.any():
        flags.append(f"{_count(len(np.unique(low[lost])), 'gap')} marked invalid, {lost.sum() * step:.3g} s")
    if on_grid and (between & ~lost).any():
        flags.append(f"{_count(int((between & ~lost).sum()), 'missing sample')} interpolated")
    return Part(out, step, tuple(flags))
