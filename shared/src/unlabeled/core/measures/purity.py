"""Purity of neighbourhoods: does an embedding see the scanner or the tissue?

Where neighbours share the site, the scanner or the batch far more often than chance has it, and the class hardly more often,
the embedding has learned where a record was made (Howard et al. 2021: sites can be told from stain-normalised slides).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ROWS = 1024
EQUAL = 9  # decimals to which similarities are compared: equal rows differ by rounding


@dataclass(frozen=True)
class Purity:
    """value: share of neighbours of an item's own group; chance: what it is expected to be if groups were dealt out by lot.

    n: items that have a neighbour.
    """

    value: float
    chance: float
    n: int

    @property
    def ratio(self) -> float:
        """NaN where chance is 0: every group is one record."""
        return self.value / self.chance if self.chance else float("nan")


def purity(
    values: NDArray[np.floating],
    groups: NDArray[np.int64],
    k: int = 10,
    record: NDArray[np.integer] | None = None,
) -> Purity:
    """Share of the k items most similar by cosine that have the item's group, mean over items; values (N, P), groups (N,).

    record (N,): what an item was cut from; items of its own record are no neighbours of it. None: every item is a record.
    All items of a record have one group. Items of which several are equally far share the places that are left, so that
    an embedding that is one point has the purity of chance. k above the number of others takes them all.

    Chance: of two records drawn without replacement both have the same group, sum n_g (n_g - 1) / (R (R - 1)). It is exact
    where groups are dealt out to records by lot, whatever the embedding.
    """
    record = np.arange(len(values)) if record is None else record
    z = np.asarray(values, np.float64)
    z = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    found = [_shares(z, groups, record, k, slice(at, at + ROWS)) for at in range(0, len(z), ROWS)]
    shares = np.concatenate(found) if found else np.zeros(0)
    shares = shares[~np.isnan(shares)]
    _, first = np.unique(record, return_index=True)
    counts = np.unique(groups[first], return_counts=True)[1]
    r = len(first)
    chance = float((counts * (counts - 1)).sum() / (r * (r - 1))) if r > 1 else float("nan")
    return Purity(float(shares.mean()) if len(shares) else float("nan"), chance, len(shares))


def _shares(
    z: NDArray[np.float64], groups: NDArray[np.int64], record: NDArray[np.integer], k: int, rows: slice
) -> NDArray[np.float64]:
    """Of these rows; NaN where there is no item of another record."""
    near = np.round(z[rows] @ z.T, EQUAL)
    other = record[rows, None] != record
    near[~other] = -np.inf
    least = np.partition(near, -min(k, len(z)), axis=1)[:, -min(k, len(z)), None]
    above = near > least
    tied = (near == least) & other
    left = np.maximum(k - above.sum(1), 0) / np.maximum(tied.sum(1), 1)
    weight = above + np.minimum(left, 1)[:, None] * tied
    total = weight.sum(1)
    same = (weight * (groups[rows, None] == groups)).sum(1)
    return np.asarray(np.where(total > 0, same / np.maximum(total, 1e-12), np.nan))
