"""How well a score tells anomalies from normal records: AUROC, average precision, and what is found at few false alarms.

None of them is a sum over records, but each is a function of how many records of either truth lie at and between the scores
of the anomalies. These counts add up over groups, so a bootstrap over groups has them exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlabeled.core.measures.intervals import Interval, over_groups, paired

BINS = 1000  # anomalies of different scores that have a bin of their own; more share them by quantiles, as ties
FALSE_ALARMS = 1e-3

Floats = NDArray[np.float64]


def tally(score: NDArray[np.floating], anomaly: NDArray[np.bool_], group: NDArray[np.integer]) -> NDArray[np.int64]:
    """(G, 2, B) how many anomalies, and normal records, are in each bin of the score, the highest first.

    score, anomaly, group (N,), groups 0 ... G - 1. Bins take turns: equal to an anomaly's score, and between two of them.
    """
    ends = np.unique(score[anomaly])
    if len(ends) > BINS:
        ends = np.unique(np.quantile(ends, np.linspace(0, 1, BINS), method="nearest"))
    at = 2 * len(ends) - np.searchsorted(ends, score) - np.searchsorted(ends, score, side="right")
    out = np.zeros((int(group.max()) + 1, 2, 2 * len(ends) + 1), np.int64)
    np.add.at(out, (group, np.where(anomaly, 0, 1), at), 1)
    return out


def auroc(tally: NDArray[Any]) -> Floats:
    """Chance that an anomaly scores higher than a normal record, ties half; (...) of (..., 2, B), NaN without both."""
    found, false = _sides(tally)
    below = false.sum(-1, keepdims=True) - false.cumsum(-1)
    return _ratio((found * (below + false / 2)).sum(-1), found.sum(-1) * false.sum(-1))


def average_precision(tally: NDArray[Any]) -> Floats:
    """Sum over scores of the rise of recall times the precision; NaN without both."""
    found, false = _sides(tally)
    right = found.cumsum(-1)
    area = (found * right / np.maximum(right + false.cumsum(-1), 1)).sum(-1)
    return np.where(false.sum(-1) > 0, _ratio(area, found.sum(-1)), np.nan)


def found_at_few_alarms(tally: NDArray[Any]) -> Floats:
    """Share of anomalies above the lowest threshold that at most FALSE_ALARMS of the normal records pass; NaN without both."""
    found, false = _sides(tally)
    few = false.cumsum(-1) <= FALSE_ALARMS * false.sum(-1, keepdims=True)
    right = np.where(few, found.cumsum(-1), 0).max(-1)
    return np.where(false.sum(-1) > 0, _ratio(right, found.sum(-1)), np.nan)


METRICS = {"auroc": auroc, "auprc": average_precision, "tpr_at_fpr_0.001": found_at_few_alarms}


def compared(scores: Mapping[str, Floats], anomaly: NDArray[np.bool_], group: NDArray[np.integer]) -> dict[str, Any]:
    """name -> metric -> score and interval over groups, and for all but the first the first's difference to it."""
    tallies = {name: tally(score, anomaly, group) for name, score in scores.items()}
    first = next(iter(tallies.values()))
    out: dict[str, Any] = {}
    for name, own in tallies.items():
        out[name] = {metric: _ends(over_groups(of, own, seed=0)) for metric, of in METRICS.items()}
        if own is not first:
            for metric, of in METRICS.items():
                gain = _ends(paired(of, first, own, seed=0))
                names = ("ours_minus", "ours_minus_low", "ours_minus_high")
                out[name][metric] |= dict(zip(names, gain.values(), strict=True))
    return out


def _ends(interval: Interval) -> dict[str, float | None]:
    """JSON has no NaN: one group tells nothing of another, and there is no interval."""
    ends = {"score": interval.mean, "low": interval.low, "high": interval.high}
    return {name: float(v) if np.isfinite(v) else None for name, v in ends.items()}


def _sides(tally: NDArray[Any]) -> tuple[Floats, Floats]:
    counts = np.asarray(tally, np.float64)
    return counts[..., 0, :], counts[..., 1, :]


def _ratio(a: Floats, b: Floats) -> Floats:
    return np.where(b > 0, a / np.maximum(b, 1), np.nan)
