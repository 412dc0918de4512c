"""The field's strong simple baselines, as features of equal-length windows.

A card's name is FEATURES+HEAD: the class below gives the features, the head (logreg, forest, ridge) is fitted on them.
Shapes: N windows, C channels, T samples, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from unlabeled.biosignal.triplets import triplets
from unlabeled.core.contracts import RequestError, Sample

Floats = NDArray[np.float64]

# Hz: drift and posture, slow and fast limb movement, steps and their harmonics, tremor and impacts
BANDS = ((0.1, 0.5), (0.5, 1.0), (1.0, 2.0), (2.0, 4.0), (4.0, 8.0), (8.0, 16.0))


def _stacked(samples: Sequence[Sample]) -> tuple[Floats, NDArray[np.bool_]]:
    """Values (N, C, T), 0 where invalid, and valid of the same shape. Raises RequestError for unequal windows."""
    inputs = [s.inputs["x"] for s in samples]
    if not inputs or len({x.data.shape for x in inputs}) > 1:
        raise RequestError("baselines need windows of one length; set evaluation.window")
    values = np.stack([x.data for x in inputs]).astype(np.float64)
    valid = np.ones(values.shape, bool)
    for i, x in enumerate(inputs):
        if x.valid is not None:
            valid[i] = x.valid
    return np.where(valid, values, 0), valid


class Hand:
    """Statistics, crossings, spectrum and correlations per window, over its valid samples; 0 where there are none."""

    def fit(self, samples: Sequence[Sample]) -> Self:
        """Nothing is learned."""
        return self

    def features(self, samples: Sequence[Sample]) -> Floats:
        """(N, F) finite float64; F = 19 C + 17 per accelerometer or gyroscope + C (C - 1) / 2."""
        values, valid = _stacked(samples)
        x = samples[0].inputs["x"]
        assert x.spacing is not None
        found = [_statistics(values, valid), _changes(values, valid), _spectrum(values, valid, x.spacing[0])]
        for at in triplets(x.channels).values():
            norm = np.linalg.norm(values[:, list(at)], axis=1, keepdims=True)
            whole: NDArray[np.bool_] = np.logical_and.reduce(valid[:, list(at)], axis=1, keepdims=True)
            norm = np.where(whole, norm, 0)
            found += [_statistics(norm, whole), _changes(norm, whole)[..., :1], _spectrum(norm, whole, x.spacing[0])]
        flat = [f.reshape(len(values), -1) for f in found]
        return np.concatenate([*flat, _correlations(values, valid)], axis=1)


def _mean(x: Floats, weight: NDArray[Any]) -> Floats:
    """Weighted mean over the last axis, 0 where all weights are 0."""
    total: Floats = (x * weight).sum(-1) / np.maximum(weight.sum(-1), 1)
    return total


def _statistics(x: Floats, valid: NDArray[np.bool_]) -> Floats:
    """(N, C, 8): mean, deviation, root mean square, minimum, quartiles, maximum."""
    mean = _mean(x, valid)
    square = _mean(x**2, valid)
    deviation = np.sqrt(_mean((x - mean[..., None]) ** 2, valid))
    seen = np.where(valid | ~valid.any(-1, keepdims=True), x, np.nan)
    quantiles = np.moveaxis(np.nanquantile(seen, (0, 0.25, 0.5, 0.75, 1), axis=-1), 0, -1)
    return np.concatenate([np.stack([mean, deviation, np.sqrt(square)], -1), quantiles], -1)


def _changes(x: Floats, valid: NDArray[np.bool_]) -> Floats:
    """(N, C, 3): mean absolute difference, share of steps that cross zero, and that cross the mean."""
    both = valid[..., 1:] & valid[..., :-1]
    centred = x - _mean(x, valid)[..., None]
    crossings = [_mean((np.diff(np.signbit(v), axis=-1)).astype(np.float64), both) for v in (x, centred)]
    return np.stack([_mean(np.abs(np.diff(x, axis=-1)), both), *crossings], -1)


def _spectrum(x: Floats, valid: NDArray[np.bool_], step: float) -> Floats:
    """(N, C, 8): frequency of most power in Hz, log of the power, its share in each of BANDS (Hann window, no mean)."""
    centred = np.where(valid, x - _mean(x, valid)[..., None], 0)
    power = np.abs(np.fft.rfft(centred * np.hanning(x.shape[-1]))) ** 2 / x.shape[-1]
    frequency = np.fft.rfftfreq(x.shape[-1], step)
    power[..., 0] = 0
    total = power.sum(-1)
    shares = [power[..., (frequency >= a) & (frequency < b)].sum(-1) / np.where(total > 0, total, 1) for a, b in BANDS]
    return np.stack([frequency[power.argmax(-1)], np.log10(total + 1e-12), *shares], -1)


def _correlations(x: Floats, valid: NDArray[np.bool_]) -> Floats:
    """(N, C (C - 1) / 2): Pearson's r of every two channels where both are valid; 0 where one is constant."""
    found = [np.zeros((len(x), 0))]
    for i, j in combinations(range(x.shape[1]), 2):
        both = valid[:, i] & valid[:, j]
        a = x[:, i] - _mean(x[:, i], both)[:, None]
        b = x[:, j] - _mean(x[:, j], both)[:, None]
        spread = np.sqrt(_mean(a**2, both) * _mean(b**2, both))
        found.append((_mean(a * b, both) / np.where(spread > 1e-12, spread, np.inf))[:, None])
    return np.concatenate(found, axis=1)


class MiniRocket:
    """Shares of positive responses of 9,996 fixed convolutions, their biases drawn from the training windows.

    Dempster, Schmidt and Webb 2021, MiniRocket; the transform is aeon's. Invalid samples are 0, as for the encoder.
    """

    def __init__(self, seed: int = 0, kernels: int = 10_000) -> None:
        self.seed = seed
        self.kernels = kernels

    def fit(self, samples: Sequence[Sample]) -> Self:
        """Draw the biases from these windows, of at least 9 samples. Raises RequestError where aeon is missing."""
        try:
            from aeon.transformations.collection import convolution_based
        except ImportError:
            raise RequestError(
                "the baseline minirocket needs aeon; run pip install 'unlabeled-biosignal[baselines]'"
            ) from None
        values = _stacked(samples)[0]
        if values.shape[-1] < 9:
            raise RequestError(f"minirocket needs windows of 9 samples or more, these have {values.shape[-1]}")
        self._transform = convolution_based.MiniRocket(n_kernels=self.kernels, random_state=self.seed)
        self._transform.fit(values.astype(np.float32))
        return self

    def features(self, samples: Sequence[Sample]) -> Floats:
        """(N, F) shares in [0, 1]."""
        return np.asarray(self._transform.transform(_stacked(samples)[0].astype(np.float32)), np.float64)
