"""The strong simple baselines of URLs, as features.

A card's name is FEATURES+HEAD: the class below gives the features, the head (logreg, forest) is fitted on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from unlabeled.core.contracts import Sample
from unlabeled.core.contracts.recipe import Data
from unlabeled.network.kinds import kind_of
from unlabeled.network.options import ReaderOptions
from unlabeled.network.url.urls import PARTS, as_bytes, parse

Floats = NDArray[np.float64]

# of a polynomial hash and its finaliser (splitmix64, Steele, Lea, Flood 2014), so that it is the same everywhere
_BASE, _M1, _M2 = (np.uint64(k) for k in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


class _OfURLs:
    """What needs no fitting, and reads the canonical form of a URL."""

    @staticmethod
    def suits(data: Data) -> bool:
        """Whether the data are lists of URLs."""
        return kind_of(data.path, ReaderOptions.model_validate(data.options)) == "urls"

    def fit(self, samples: Sequence[Sample]) -> Self:
        """Nothing is learned."""
        return self


class NGrams(_OfURLs):
    """How often each sequence of 3 to 5 bytes stands in a URL, by its hash; log(1 + count)."""

    def __init__(self, columns: int = 4096) -> None:
        self.columns = columns

    def features(self, samples: Sequence[Sample]) -> Floats:
        """(N, columns). Two sequences may share a column."""
        rows = np.zeros((len(samples), self.columns))
        for row, sample in zip(rows, samples, strict=True):
            # with an end and a beginning, so that what stands there is told
            text = np.frombuffer(b"\n" + as_bytes(sample.meta["url"]) + b"\n", np.uint8).astype(np.uint64)
            for n in (3, 4, 5):
                row += np.bincount(self._columns(text, n), minlength=self.columns)
        return np.log1p(rows)

    def _columns(self, text: NDArray[np.uint64], n: int) -> NDArray[np.int64]:
        """Of every sequence of n bytes; arithmetic modulo 2^64."""
        x = np.full(max(0, len(text) - n + 1), n, np.uint64)
        for i in range(n):
            x = x * _BASE + text[i : i + len(x)] + np.uint64(1)
        x = (x ^ (x >> np.uint64(30))) * _M1
        x = (x ^ (x >> np.uint64(27))) * _M2
        return ((x ^ (x >> np.uint64(31))) % np.uint64(self.columns)).astype(np.int64)


class Lengths(_OfURLs):
    """How long the parts of a URL are and how many there are of each, and nothing of what stands in them.

    It shows a shortcut of the data: benign URLs that end after the host, and phishing ones that do not.
    """

    def features(self, samples: Sequence[Sample]) -> Floats:
        """(N, 2 P + 3): bytes of and number of the P parts, bytes in all, dots of the host, segments of the path."""
        rows = np.zeros((len(samples), 2 * len(PARTS) + 3))
        for row, sample in zip(rows, samples, strict=True):
            url = parse(sample.meta["url"])
            for part, start, end in url.spans:
                row[PARTS.index(part)] += end - start
                row[len(PARTS) + PARTS.index(part)] += 1
            row[-3:] = len(url.raw), url.host.count("."), url.pieces.path.count(b"/") if url.pieces else 0
        return rows
