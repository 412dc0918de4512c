"""SimCore: Kim et al. 2023, Coreset Sampling from Open-Set for Fine-Grained Self-Supervised Learning."""

from __future__ import annotations

from fnmatch import fnmatchcase
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from unlabeled.core.contracts import RequestError
from unlabeled.core.curate.base import Decision
from unlabeled.core.curate.collection import Collection
from unlabeled.core.data.clusters import Values, hierarchical, scaled

Ids = NDArray[np.int64]


class Coreset:
    """Of an open set, keep what lies nearest to a target set.

    The target's embeddings, scaled to length 1, are put into clusters by k-means. Then in each round every centroid takes
    the nearest item that is still free (their iterative sampling), until a round's mean cosine is below `tau` times that of
    the first round (their stopping criterion), or the budget is spent. The score of an item that is dropped is its largest cosine to a
    centroid.

    Deviations: two centroids never take one item in the same round (in the authors' code they do, and the one's next best
    is passed over); the greater cosine goes first, and the last round of a budget takes its greatest cosines rather than
    by lot; `tau` refers to the first round (their code: to a round given by `patience`). Items of the target are kept.
    """

    class Options(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")

        target: str = Field(
            description="what is wanted: a file of `embed` (.parquet), or a pattern of keys as `birds/*`"
        )
        clusters: int = Field(100, ge=1, description="clusters of the target; one for each item where it has fewer")
        tau: float = Field(
            0.95, gt=0, le=1, description="stop when a round's mean cosine falls below so much of the first's"
        )
        budget: int | None = Field(
            None, ge=1, description="items chosen at most, beside the target; none: as `tau` says"
        )
        seed: int = Field(0, description="of k-means")

    def __init__(self, options: Options) -> None:
        self.options = options

    def run(self, collection: Collection, kept: NDArray[np.bool_]) -> list[Decision]:
        o, items = self.options, np.flatnonzero(kept)
        values = collection.embedded("coreset")
        wanted, inside = self._target(collection, kept)
        if wanted.shape[1] != values.shape[1]:
            raise RequestError(
                f"{o.target} has embeddings of width {wanted.shape[1]}, the collection of {values.shape[1]}; "
                "make both with the same bundle"
            )
        centroids = scaled(hierarchical(wanted, (o.clusters,), o.seed).centroids[0])
        free = items[~np.isin(items, inside)]
        cosines = scaled(values[free]) @ centroids.T
        stays = np.zeros(len(free), bool)
        stays[nearest(cosines, o.tau, o.budget)] = True
        return [
            Decision(int(free[i]), "lies farther from the target than what is kept", score=float(cosines[i].max()))
            for i in np.flatnonzero(~stays)
        ]

    def _target(self, collection: Collection, kept: NDArray[np.bool_]) -> tuple[Values, Ids]:
        """Embeddings of the target, and which items of the collection belong to it."""
        named = self.options.target
        keys = np.array(collection.keys, object)
        if named.endswith(".parquet"):
            wanted, names = read_embeddings(Path(named))
            return wanted, np.flatnonzero(np.isin(keys, names))
        inside = np.flatnonzero(kept & np.array([fnmatchcase(key, named) for key in keys], bool))
        if not len(inside):
            raise RequestError(
                f"coreset.target {named!r} fits no key; give a pattern as `birds/*` or a file of `embed`"
            )
        return collection.embedded("coreset")[inside], inside


def nearest(cosines: Values, tau: float, budget: int | None = None) -> Ids:
    """Rows of cosines (N, K) in the order in which they are chosen: in a round one for each of the K columns, while any is free.

    Memory beside the cosines: their ranking, of the same shape.
    """
    n, k = cosines.shape
    left = n if budget is None else min(budget, n)
    ranking = np.argsort(-cosines, axis=0, kind="stable")
    at, free = np.zeros(k, np.int64), np.ones(n, bool)
    picked: list[int] = []
    first = None
    while left:
        round_ = _round(cosines, ranking, at, free, min(k, int(free.sum())))
        mean = float(np.mean([cosines[i, c] for i, c in round_]))
        first = mean if first is None else first
        # below the first, also where that is negative
        if mean < first - (1 - tau) * abs(first):
            break
        rows = [i for i, _ in round_][:left]
        picked += rows
        left -= len(rows)
    return np.array(picked, np.int64)


def _round(cosines: Values, ranking: Ids, at: Ids, free: NDArray[np.bool_], count: int) -> list[tuple[int, int]]:
    """`count` pairs (row, column) of different rows and columns, the greatest cosine first; takes the rows, moves `at` on."""
    pairs: list[tuple[int, int]] = []
    waiting = [(-cosines[ranking[i, c], c], c) for c, i in enumerate(at)]
    heapify(waiting)
    while len(pairs) < count:
        _, c = heappop(waiting)
        row = int(ranking[at[c], c])
        if free[row]:
            free[row] = False
            pairs.append((row, c))
        else:
            at[c] += 1  # never beyond the end, since some row is free
            heappush(waiting, (-cosines[ranking[at[c], c], c], c))
    return pairs


def read_embeddings(path: Path) -> tuple[Values, NDArray[Any]]:
    """Embeddings (N, D) and keys (N,) of a file that `embed` wrote. Raises RequestError where it is none."""
    try:
        table = pq.read_table(path, columns=["key", "embedding"])
        values = np.array(table["embedding"].to_pylist(), np.float32)
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise RequestError(
            f"{path} is no file of `embed` ({error}); write one with `embed BUNDLE PATH -o FILE`"
        ) from None
    if values.ndim != 2 or not len(values):
        raise RequestError(f"{path} holds no embeddings; write it anew with `embed BUNDLE PATH -o FILE`")
    return values, np.array(table["key"].to_pylist(), object)
