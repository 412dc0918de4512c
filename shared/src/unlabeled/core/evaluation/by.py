"""By scanner, site or sex: what an embedding sees of a column of the labels, and for whom a model works."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlabeled.core.evaluation.labels import UNLABELLED, Labels
from unlabeled.core.measures.confusion import confusion, counts, f1_of
from unlabeled.core.measures.intervals import Interval
from unlabeled.core.measures.purity import purity
from unlabeled.core.measures.subgroups import by_subgroup

Ints = NDArray[np.int64]


def purities(
    values: NDArray[np.floating], record: NDArray[np.integer], column: Labels, groups: NDArray[np.str_], k: int
) -> dict[str, Any]:
    """Purity of a column among items, values (N, P) of record (N,); groups (R,) of the records.

    Where all records of a group have one value (a person has one sex), items of the own group are no neighbours: they would
    share the value whatever the embedding sees. Else only those of the own record are none; so too where the value names the
    group, since who it is would be all there is to see.
    """
    at = column.codes[record] != UNLABELLED
    values, record = values[at], record[at]
    code, group = column.codes[record], np.unique(groups[record], return_inverse=True)[1]
    pairs = len(np.unique(np.stack([code, group]), axis=1).T)
    fixed = len(np.unique(code)) < pairs == len(np.unique(group))
    found = purity(values, code, k, group if fixed else record)
    return {
        "purity": finite(found.value),
        "chance": finite(found.chance),
        "ratio": finite(found.ratio),
        "items": found.n,
        "not_counted": "own group" if fixed else "own record",
    }


def subgroups(column: Labels, truth: Ints, predicted: Ints, group: Ints, classes: int) -> dict[str, Any]:
    """Macro-F1 of each value of a column; truth, predicted (R,) are -1 for records that are not scored, group (R,) 0 ... G - 1."""
    tallies, records = {}, {}
    for code, name in enumerate(column.classes):
        at = np.flatnonzero((column.codes == code) & (predicted >= 0))
        if len(at) == 0:  # only in groups that are not tested on
            continue
        tally = np.zeros((int(group.max()) + 1, classes, classes), np.int64)
        for g in np.unique(group[at]):
            inside = at[group[at] == g]
            tally[g] = confusion(truth[inside], predicted[inside], classes)
        tallies[name], records[name] = counts(tally), len(at)
    found = by_subgroup(f1_of, tallies, records)
    return {
        "scores": {name: {"n": s.n, **ends(s.score)} for name, s in found.scores.items()},
        "suppressed": list(found.suppressed),
        "gap": None if found.gap is None else ends(found.gap),
    }


def ends(interval: Interval) -> dict[str, float | None]:
    """JSON has no NaN."""
    return {"score": finite(interval.mean), "low": finite(interval.low), "high": finite(interval.high)}


def finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def lines(by: Mapping[str, Any], label: Mapping[str, Any]) -> list[str]:
    """What `evaluate` prints of the columns, one line each."""
    out = [f"neighbours of the same label: {_share(label)}"]
    for name, found in by.items():
        out.append(f"neighbours of the same {name}: {_share(found['purity'])}")
    for name, found in by.items():
        for value, s in found["scores"].items():
            out.append(f"{name} {value}: {_interval(s)} on {s['n']} records")
        if found["gap"] is not None:
            out.append(f"{name}, best less worst: {_interval(found['gap'])}")
        if found["suppressed"]:
            out.append(f"{name}: under 10 records, so not shown: {', '.join(found['suppressed'])}")
    return out


def _share(found: Mapping[str, Any]) -> str:
    def said(one: Mapping[str, Any]) -> str:
        if one["purity"] is None:
            return "not defined"
        times = "" if one["ratio"] is None else f" ({one['ratio']:.1f} times chance)"
        return f"{one['purity']:.3f}{times}"

    return ", ".join(f"{start} {said(one)}" for start, one in found.items())


def _interval(s: Mapping[str, Any]) -> str:
    if s["score"] is None:
        return "not defined"
    return f"{s['score']:.3f}" + (" (no interval)" if s["low"] is None else f" [{s['low']:.3f}, {s['high']:.3f}]")
