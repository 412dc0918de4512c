"""The field's strong simple baseline, sizes and times of a flow, and the shortcut no model should be proud to equal: ports.

A card's name is FEATURES+HEAD: the class below gives the features, the head (logreg, forest, boosting) is fitted on them.
Both need captures: a table of flows or a list of URLs has neither packets to count nor shortcuts to take.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from unlabeled.core.contracts import Sample
from unlabeled.core.contracts.recipe import Data, validated
from unlabeled.network.flow.statistics import SHORTCUTS
from unlabeled.network.kinds import kind_of
from unlabeled.network.options import ReaderOptions

Floats = NDArray[np.float64]


def of_captures(data: Data) -> bool:
    """Whether the recipe's folder holds captures."""
    return kind_of(data.path, validated(ReaderOptions, data.options, "data.options")) == "captures"


def compressed(values: NDArray[np.floating]) -> Floats:
    """sign(v) log(1 + |v|): sizes and times of any scale, side by side. Non-finite values are 0."""
    finite = np.nan_to_num(np.asarray(values, np.float64), posinf=0, neginf=0)
    return np.asarray(np.sign(finite) * np.log1p(np.abs(finite)))


class Statistics:
    """The statistics of each flow, log-compressed; see `statistics.NAMES`."""

    suits = staticmethod(of_captures)

    def fit(self, samples: Sequence[Sample]) -> Self:
        """Nothing is learned."""
        return self

    def features(self, samples: Sequence[Sample]) -> Floats:
        """(N, S) finite float64."""
        return compressed(np.stack([s.meta["statistics"] for s in samples]))


class Ports:
    """The lesser and the greater port number, as they are: trees need no scale."""

    columns = tuple(SHORTCUTS.index(name) for name in ("port least", "port most"))
    suits = staticmethod(of_captures)

    def fit(self, samples: Sequence[Sample]) -> Self:
        """Nothing is learned."""
        return self

    def features(self, samples: Sequence[Sample]) -> Floats:
        """(N, 2)."""
        return np.stack([s.meta["shortcuts"] for s in samples])[:, self.columns].astype(np.float64)
