"""The field's strong simple baselines: features of whole windows, and of single cells for segmentation.

A card's name is FEATURES+HEAD: the class below gives the features, the head (logreg, forest, ridge) is fitted on them.
`features` takes windows, which need not be of one size; `cells` takes positions (n, 2) in one record. What is invalid
never counts, and a feature of nothing but invalid cells is 0. Shapes: N windows, n cells, C bands, P features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from unlabeled.core.contracts import RequestError, Sample

Floats = NDArray[np.float64]
Cells = NDArray[np.integer]


def _values(sample: Sample) -> tuple[Floats, NDArray[np.bool_]]:
    """Values (C, H, W), 0 where invalid, and valid of the same shape."""
    x = sample.inputs["x"]
    values = x.data.astype(np.float64)
    valid = np.isfinite(values) if x.valid is None else np.isfinite(values) & x.valid
    return np.where(valid, values, 0), valid


def _box(values: Floats, size: int) -> Floats:
    """Sums over boxes of size x size cells around each cell; beyond the record is 0."""
    sums: Floats = uniform_filter(values, size, mode="constant", axes=(-2, -1)) * size**2
    return sums


class _Unlearned:
    def fit(self, samples: Sequence[Sample]) -> Self:
        """Nothing is learned."""
        return self


class Bands(_Unlearned):
    """The values of the cell itself."""

    def cells(self, sample: Sample, at: Cells) -> Floats:
        """(n, C)."""
        return _values(sample)[0][:, at[:, 0], at[:, 1]].T


class Statistics(_Unlearned):
    """Mean, deviation, minimum and maximum of each band over the window: image statistics, which know no arrangement.

    Corley, Robinson, Dodhia, Ferres and Najafirad 2024, "Revisiting pre-trained remote sensing model benchmarks".
    """

    def features(self, samples: Sequence[Sample]) -> Floats:
        """(N, 4 C): all means, then deviations, minima and maxima."""
        return np.stack([self._of(*_values(s)) for s in samples])

    @staticmethod
    def _of(values: Floats, valid: NDArray[np.bool_]) -> Floats:
        count = valid.sum((1, 2))
        mean = values.sum((1, 2)) / np.maximum(count, 1)
        square = np.where(valid, (values - mean[:, None, None]) ** 2, 0).sum((1, 2)) / np.maximum(count, 1)
        low, high = np.where(valid, values, np.inf).min((1, 2)), np.where(valid, values, -np.inf).max((1, 2))
        return np.where(np.tile(count > 0, 4), np.concatenate([mean, np.sqrt(square), low, high]), 0)


class WindowStatistics(_Unlearned):
    """Mean and deviation of each band in windows of 3, 7 and 15 cells around the cell."""

    sizes = (3, 7, 15)

    def cells(self, sample: Sample, at: Cells) -> Floats:
        """(n, 6 C): for each size all means, then all deviations."""
        values, valid = _values(sample)
        # running sums lose digits to a large mean: the deviation of a level field would be noise
        middle = values.sum((1, 2), keepdims=True) / np.maximum(valid.sum((1, 2), keepdims=True), 1)
        centred = np.where(valid, values - middle, 0)
        found = []
        for size in self.sizes:
            count = np.round(_box(valid.astype(np.float64), size))
            mean = _box(centred, size) / np.maximum(count, 1)
            square = _box(centred**2, size) / np.maximum(count, 1)
            deviation = np.sqrt(np.maximum(square - mean**2, 0))
            found += [np.where(count > 0, mean + middle, 0), np.where(count > 0, deviation, 0)]
        return np.asarray(np.concatenate(found)[:, at[:, 0], at[:, 1]].T)


class Mosaiks:
    """Random convolutional features: mean responses, of both signs, to patches of 3 x 3 cells of the training windows.

    Rolf et al. 2021, "A generalizable and accessible approach to machine learning with global satellite imagery"
    (MOSAIKS): patches drawn by lot are whitened (ZCA) and scaled to unit length; a response is the product with the
    whitened surroundings of a cell, thresholded at +1 and at -1. Cells that are invalid or beyond the window are taken
    as the mean of their band, and their own responses do not count.
    """

    side = 3
    pooled = 7  # cells; with the patch a feature sees 9 x 9
    ridge = 0.1  # share of the mean variance: leaves directions of mere noise small, as Coates and Ng 2012 advise
    drawn = 20_000  # patches that mean and covariance are measured on
    chunk = 64  # filters convolved at once, for memory

    def __init__(self, seed: int = 0, filters: int = 512, whiten: bool = True) -> None:
        self.seed = seed
        self.filters = filters
        self.whiten = whiten

    def fit(self, samples: Sequence[Sample]) -> Self:
        """Draw filters (F, 9 C) and measure mean and covariance. Raises RequestError without a valid 3 x 3 patch."""
        rng = np.random.default_rng(self.seed)
        share = -(-self.drawn // max(len(samples), 1))
        found = [self._patches(*_values(s), share, rng) for s in samples]
        patches = np.concatenate(found or [np.zeros((0, self.side**2))])
        if len(patches) == 0:
            raise RequestError("mosaiks needs a patch of 3 x 3 valid cells to draw, these records hold none")
        bands = patches.shape[1] // self.side**2
        self._middle = patches.reshape(-1, bands, self.side**2).mean((0, 2))
        mean = np.repeat(self._middle, self.side**2)
        centred = patches - mean
        whitening = _zca(centred, self.ridge) if self.whiten else np.eye(len(mean))
        filters = centred[rng.choice(len(patches), self.filters, replace=len(patches) < self.filters)] @ whitening
        norm = np.linalg.norm(filters, axis=1, keepdims=True)
        self._weights = (filters / np.where(norm > 0, norm, 1)) @ whitening  # (F, 9 C), whitening is symmetric
        return self

    def features(self, samples: Sequence[Sample]) -> Floats:
        """(N, 2 F): responses of both signs, mean over the window."""
        rows = []
        for sample in samples:
            values, valid = _values(sample)
            there = valid.all(0)
            weight = there / max(there.sum(), 1)
            rows.append(np.concatenate([(r * weight).sum((1, 2)) for r in self._responses(values, valid)]))
        return np.stack(rows)

    def cells(self, sample: Sample, at: Cells) -> Floats:
        """(n, 2 F): the same, mean over 7 x 7 cells around the cell."""
        values, valid = _values(sample)
        there: Floats = np.asarray(valid.all(0), np.float64)
        count = np.round(_box(there, self.pooled))
        weight = np.where(count > 0, 1 / np.maximum(count, 1), 0)
        rows = [(_box(r * there, self.pooled) * weight)[:, at[:, 0], at[:, 1]] for r in self._responses(values, valid)]
        return np.asarray(np.concatenate(rows).T)

    def _patches(self, values: Floats, valid: NDArray[np.bool_], most: int, rng: np.random.Generator) -> Floats:
        """(at most `most`, 9 C): wholly valid patches by lot, each band's cells together."""
        width = len(values) * self.side**2
        if min(values.shape[1:]) < self.side:
            return np.zeros((0, width))
        whole = _windows(valid, self.side).all((0, 3, 4))
        at = np.argwhere(whole)
        at = at[np.sort(rng.choice(len(at), min(most, len(at)), replace=False))]
        cut = _windows(values, self.side)[:, at[:, 0], at[:, 1]]
        return np.ascontiguousarray(np.moveaxis(cut, 1, 0)).reshape(len(at), width)

    def _responses(self, values: Floats, valid: NDArray[np.bool_]) -> Any:
        """(2 chunk, H, W) at a time: relu(r - 1), then relu(-r - 1), for some of the filters."""
        centred = np.where(valid, values - self._middle[:, None, None], 0)
        edge = self.side // 2
        around = _windows(np.pad(centred, ((0, 0), (edge, edge), (edge, edge))), self.side)
        rows = np.moveaxis(around, 0, 2).reshape(-1, self._weights.shape[1])
        for first in range(0, self.filters, self.chunk):
            response = (rows @ self._weights[first : first + self.chunk].T).T.reshape(-1, *values.shape[1:])
            yield np.maximum(np.concatenate([response, -response]) - 1, 0)


def _windows(x: NDArray[Any], side: int) -> NDArray[Any]:
    """(C, H - side + 1, W - side + 1, side, side)."""
    found: NDArray[Any] = np.lib.stride_tricks.sliding_window_view(x, (side, side), axis=(1, 2))  # type: ignore[call-overload]
    return found


def _zca(centred: Floats, ridge: float) -> Floats:
    """The symmetric matrix that gives the rows unit covariance, but for what `ridge` adds to each variance."""
    variance, axes = np.linalg.eigh(centred.T @ centred / len(centred))
    return np.asarray((axes / np.sqrt(np.maximum(variance, 0) + ridge * variance.mean() + 1e-12)) @ axes.T)
