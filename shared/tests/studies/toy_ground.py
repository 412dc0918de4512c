"""A domain of .npy files on a plane: GROUP/NAME.npy holds (2, H, W) at 10 m, NaN where nothing was measured.

Installed for a test by `conftest.ground`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from unlabeled.core.contracts import Domain, Input, MethodCard, Sample
from unlabeled.core.contracts.recipe import Strict
from unlabeled.core.nn.base import Encoder, Features


class Options(Strict):
    pass


class Reader:
    def __init__(self, options: Options, root: Path) -> None:
        self.options, self.root = options, root

    def files(self, root: Path) -> list[Path]:
        return sorted(root.glob("*/*.npy"))

    def read(self, path: Path) -> list[Sample]:
        values = np.load(path, allow_pickle=False)
        valid = ~np.isnan(values).any(0, keepdims=True)
        x = Input(np.where(valid, values, 0), ("a", "b"), ("", ""), unit="m", spacing=(10.0, 10.0), valid=valid)
        return [Sample({"x": x}, key=f"{path.parent.name}/{path.stem}", group=path.parent.name)]


class Values:
    """The channels at a cell, less the mean over all records it was fitted on, whose number is the last feature."""

    def fit(self, samples: Sequence[Sample]) -> Self:
        self.records = len(samples)
        self.mean = np.mean([s.inputs["x"].data.mean((1, 2)) for s in samples], 0)
        return self

    def cells(self, sample: Sample, at: NDArray[np.int64]) -> NDArray[np.float64]:
        x = sample.inputs["x"].data[(slice(None), *at.T)].T - self.mean
        return np.concatenate([x, np.full((len(at), 1), self.records)], 1)


class Windowed:
    """Features of windows only: no baseline of points."""

    def fit(self, samples: Sequence[Sample]) -> Self:
        return self

    def features(self, samples: Sequence[Sample]) -> NDArray[np.float64]:
        return np.stack([s.inputs["x"].data.mean((1, 2)) for s in samples])


class Flat(Encoder):
    """Tokens that lie on no grid."""

    class Options(Strict):
        pass

    def __init__(self, specs: Any, options: Any) -> None:
        super().__init__(specs, 2, 2)

    def forward(self, inputs: Any) -> Features:
        raise NotImplementedError


def card(name: str, of: str) -> MethodCard:
    return MethodCard(name, "baseline", "statistics", f"{__name__}:{of}", "simple features")


domain = Domain(
    name="ground",
    title="Ground",
    summary="arrays",
    reader=f"{__name__}:Reader",
    options=f"{__name__}:Options",
    axes=("y", "x"),
    encoders={"flat": f"{__name__}:Flat"},
    baselines=(card("windowed+logreg", "Windowed"), card("values+forest", "Values"), card("values+logreg", "Values")),
)
