"""A domain of .npy files: GROUP/NAME.npy holds (2, T) at 10 Hz. Installed for a test by `conftest.toy`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from unlabeled.core.contracts import Domain, Input, MethodCard, Sample
from unlabeled.core.contracts.recipe import Data, Strict


class Options(Strict):
    pass


class Reader:
    def __init__(self, options: Options, root: Path) -> None:
        self.options, self.root = options, root

    def files(self, root: Path) -> list[Path]:
        return sorted(root.glob("*/*.npy"))

    def read(self, path: Path) -> list[Sample]:
        x = Input(np.load(path, allow_pickle=False), ("a", "b"), ("g", "g"), unit="s", spacing=(0.1,))
        return [Sample({"x": x}, key=f"{path.parent.name}/{path.stem}", group=path.parent.name)]


class Stats:
    def fit(self, samples: Sequence[Sample]) -> Self:
        return self

    def features(self, samples: Sequence[Sample]) -> NDArray[np.float64]:
        x = np.stack([s.inputs["x"].data for s in samples])
        return np.concatenate([x.mean(2), x.std(2)], 1)


class Foreign(Stats):
    """Of other data than any study here has."""

    @staticmethod
    def suits(data: Data) -> bool:
        return data.path.name == "foreign"


def jitter(x: Any, draw: Any, spec: Any, *, amount: float = 0.1) -> Any:
    from dataclasses import replace

    return replace(x, values=x.values + amount * draw.normal("jitter", *x.values.shape[1:]))


def card(name: str, target: str = "Stats") -> MethodCard:
    return MethodCard(name, "baseline", "statistics", f"{__name__}:{target}", "mean and deviation")


domain = Domain(
    name="toy",
    title="Toy",
    summary="arrays",
    reader=f"{__name__}:Reader",
    options=f"{__name__}:Options",
    axes=("time",),
    views={"jitter": f"{__name__}:jitter"},
    baselines=(card("foreign+logreg", "Foreign"), card("stats+logreg"), card("stats+forest")),
)
