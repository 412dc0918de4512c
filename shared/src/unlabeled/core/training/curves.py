"""Curves of a run, from its metrics.jsonl: every number of its lines, whatever it is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST = 240  # points of a curve; more steps are averaged, evenly


@dataclass(frozen=True)
class Curve:
    """steps (N,) and values (N,), NaN where the run had no finite value. every: steps averaged to a point."""

    steps: NDArray[np.float64]
    values: NDArray[np.float64]
    every: int = 1


def numbers(line: Mapping[str, Any], where: str = "") -> dict[str, float | None]:
    """The numbers of a line by key, those of a part as `part/key`; None is what was not finite, a bool is 0 or 1."""
    found: dict[str, float | None] = {}
    for key, value in line.items():
        name = f"{where}/{key}" if where else key
        if isinstance(value, Mapping):
            found |= numbers(value, name)
        elif value is None or isinstance(value, bool | int | float):
            found[name] = None if value is None else float(value)
    return found


def curves(lines: Sequence[Mapping[str, Any]]) -> dict[str, Curve]:
    """By key, in the order in which the keys come up, over the steps whose line has the key; averaged to `MOST` points."""
    at: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        for key, value in numbers(line).items():
            if key not in ("step", "epoch"):
                at.setdefault(key, []).append((line["step"], np.nan if value is None else value))
    return {key: thinned(np.array(points, np.float64)) for key, points in at.items()}


def thinned(points: NDArray[np.float64], most: int = MOST) -> Curve:
    """points (N, 2) as at most `most` means over equally many neighbours, which leave out what is NaN."""
    every = -(-len(points) // most)
    parts = [points[i : i + every] for i in range(0, len(points), every)]
    values = [float(p[there, 1].mean()) if (there := ~np.isnan(p[:, 1])).any() else np.nan for p in parts]
    return Curve(np.array([p[:, 0].mean() for p in parts]), np.array(values), every)
