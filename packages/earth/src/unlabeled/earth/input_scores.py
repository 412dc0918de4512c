"""Scores of frozen features for the study of inputs: neighbours and a linear probe, with whole groups left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from unlabeled.core.evaluation.heads import Head
from unlabeled.core.evaluation.knn import knn
from unlabeled.core.evaluation.probe import probe
from unlabeled.core.measures.confusion import confusion
from unlabeled.core.measures.intervals import interval, over_groups
from unlabeled.earth.input_chips import Chips, Ints

K = 5

Floats = NDArray[np.floating[Any]]


def scored(
    chips: Chips, features: Sequence[Floats], standardise: bool, head: Head | None = None
) -> dict[str, dict[str, Any]]:
    """Scores with 95 % intervals over the tested groups, of features (N, P) for each fold. head: of the linear probe."""
    tested = [g for fold in chips.folds for g in fold.test]
    at = {g: i for i, g in enumerate(tested)}
    classes, group = len(chips.classes), chips.group
    tallies: dict[str, NDArray[np.int64]] = {}
    for (train, test), x in zip(chips.splits, features, strict=True):
        for name, found in predicted(x, chips, train, test, standardise, head):
            tally = tallies.setdefault(name, np.zeros((len(tested), classes, classes), np.int64))
            for g in set(group[test].tolist()):
                here = group[test] == g
                tally[at[g]] += confusion(chips.label[test][here], found[here], classes)
    return {name: _score(tally) for name, tally in tallies.items()}


def predicted(
    x: Floats, chips: Chips, train: NDArray[np.bool_], test: NDArray[np.bool_], standardise: bool, head: Head | None
) -> Iterator[tuple[str, Ints]]:
    """Each head's name, and its classes of the tested chips from the features (N, P) of all."""
    label, classes = chips.label[train], len(chips.classes)
    near, far = x[train], x[test]
    if standardise:
        scaler = StandardScaler().fit(near)
        near, far = scaler.transform(near), scaler.transform(far)
    neighbours = KNeighborsClassifier(min(K, len(label)), algorithm="brute")
    yield "kNN, Euclidean", neighbours.fit(near, label).predict(far)
    yield "kNN, cosine", knn(near, label, far, classes, K).argmax(1)
    # chips of one block resemble each other: the probe's own splits keep blocks together
    record = chips.items.record.astype(np.int64)[train]
    yield "linear probe", probe(x[train], label, record, x[test], classes, head).scores.argmax(1)


def _score(tally: NDArray[np.int64]) -> dict[str, Any]:
    f1 = interval(tally[None, None], seed=0)
    right = over_groups(_accuracy, tally, seed=0)
    named = {"macro_f1": f1, "accuracy": right}
    return {name: {"score": s.mean, "low": s.low, "high": s.high} for name, s in named.items()}


def _accuracy(confusions: NDArray[Any]) -> NDArray[np.float64]:
    total = confusions.sum((-1, -2))
    return np.asarray(np.where(total > 0, np.trace(confusions, axis1=-2, axis2=-1) / np.maximum(total, 1), np.nan))
