"""Bootstrap intervals over groups and seeds, and paired differences.

Confusions have the shape (S, D, G, K, K): seeds, label draws, groups (subjects), classes. The statistic is the mean over
seeds and draws of a metric (macro-F1 where none is named) of the confusion summed over groups. A resample draws G
groups and S seeds with replacement (both are crossed: every seed is tested on every group), so it carries what another
set of subjects and another initial weight would change; with three seeds the seeds' share is a low estimate. Percentile
intervals, Efron and Tibshirani 1993, ch. 13.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from unlabeled.core.measures.confusion import counts, f1_of
from unlabeled.core.streams import rng

RESAMPLES = 4000
LEVEL = (2.5, 97.5)
AT_ONCE = 2**22  # cells of all resamples in memory at once

Tally = NDArray[Any]
Statistic = Callable[[Tally], NDArray[np.float64]]


@dataclass(frozen=True)
class Interval:
    """The statistic on all data, and the ends of its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def statistic(confusions: NDArray[np.int64], of: Statistic = f1_of) -> float:
    """of: the metric, a function of counts (..., 3, K)."""
    return float(of(counts(confusions.sum(2))).mean())


def interval(confusions: NDArray[np.int64], seed: int, resamples: int = RESAMPLES, of: Statistic = f1_of) -> Interval:
    return _interval(statistic(confusions, of), _resampled(confusions, seed, resamples, of))


def difference(
    a: NDArray[np.int64], b: NDArray[np.int64], seed: int, resamples: int = RESAMPLES, of: Statistic = f1_of
) -> Interval:
    """a - b, paired: the same resampled groups, the same draws, and the same seeds where both have equally many."""
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(f"confusions of shape {a.shape} and {b.shape} are not paired")
    mean = statistic(a, of) - statistic(b, of)
    return _interval(mean, _resampled(a, seed, resamples, of) - _resampled(b, seed, resamples, of))


def over_groups(of: Statistic, tally: Tally, seed: int, resamples: int = RESAMPLES) -> Interval:
    """The statistic `of` of a tally (G, ...) summed over groups; `of` maps (..., *shape of one group) to (...).

    One group tells nothing of another: its interval is NaN.
    """
    return _interval(float(of(tally.sum(0))), _drawn(of, tally, seed, resamples), len(tally))


def paired(of: Statistic, a: Tally, b: Tally, seed: int, resamples: int = RESAMPLES) -> Interval:
    """of(a) - of(b), on the same resampled groups."""
    if len(a) != len(b):
        raise ValueError(f"tallies of {len(a)} and {len(b)} groups are not paired")
    mean = float(of(a.sum(0)) - of(b.sum(0)))
    return _interval(mean, _drawn(of, a, seed, resamples) - _drawn(of, b, seed, resamples), len(a))


def jackknife(of: Callable[[NDArray[np.int64]], NDArray[np.float64]], group: NDArray[np.int64]) -> list[Interval]:
    """Of statistics that change where a row is there twice, as an evidence does, so that no resample may draw it twice.

    of: maps row numbers (M,) to (S,); rows belong to group (N,) in 0 ... G - 1, each of which is left out once. The interval is
    Student's with G - 1 degrees of freedom around the statistic of all rows (Efron and Tibshirani 1993, ch. 11); NaN for one
    group.
    """
    rows, groups = np.arange(len(group)), int(group.max()) + 1
    whole = of(rows)
    if groups < 2:
        return [Interval(float(m), float("nan"), float("nan")) for m in whole]
    without = np.array([of(rows[group != g]) for g in range(groups)])
    reach = stdtrit(groups - 1, 0.975) * np.sqrt((groups - 1) * without.var(0))
    return [Interval(float(m), float(m - r), float(m + r)) for m, r in zip(whole, reach, strict=True)]


def _drawn(of: Statistic, tally: Tally, seed: int, resamples: int) -> NDArray[np.float64]:
    """(R,) the statistic of sums over the drawn groups, a group drawn twice counting twice; a few resamples at a time."""
    times = _times(seed, "groups", len(tally), resamples).astype(np.float64)
    cells = tally.reshape(len(tally), -1).astype(np.float64)  # counts are exact, and products of floats are fast
    few = max(1, AT_ONCE // max(1, cells.shape[1]))
    sums = (times[i : i + few] @ cells for i in range(0, resamples, few))
    return np.concatenate([of(part.reshape(-1, *tally.shape[1:])) for part in sums])


def _interval(mean: float, values: NDArray[np.float64], groups: int = 2) -> Interval:
    """Resamples in which the statistic is not defined (no spread to explain, say) are left out."""
    values = values[~np.isnan(values)]
    if groups < 2 or len(values) == 0:
        return Interval(mean, float("nan"), float("nan"))
    low, high = np.percentile(values, LEVEL)
    return Interval(mean, float(low), float(high))


def _resampled(confusions: NDArray[np.int64], seed: int, resamples: int, of: Statistic) -> NDArray[np.float64]:
    """(R,) the statistic of every resample; which groups and seeds are drawn depends on `seed`, G and S only."""
    seeds, _, groups = confusions.shape[:3]
    by_group = _times(seed, "groups", groups, resamples)
    by_seed = _times(seed, "seeds", seeds, resamples)
    # (R, S, D, 3, K): sums over the drawn groups, a group drawn twice counting twice
    sums = np.einsum("rg,sdgck->rsdck", by_group, counts(confusions), optimize=True)
    return np.asarray((of(sums).mean(2) * by_seed).sum(1) / seeds)


def _times(seed: int, name: str, n: int, resamples: int) -> NDArray[np.int64]:
    """(R, n): how often each of n is drawn in n draws with replacement."""
    return rng(seed, "bootstrap", name).multinomial(n, np.full(n, 1 / n), size=resamples)
