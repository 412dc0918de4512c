"""Near copies: found by perceptual hash or by embedding, and dropped where the content agrees."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from unlabeled.core.curate.alike import likeness
from unlabeled.core.curate.base import Decision
from unlabeled.core.curate.collection import Collection
from unlabeled.core.curate.groups import Ids, near
from unlabeled.core.curate.hashes import Hashes, count, differences, hamming, packed

log = logging.getLogger(__name__)

Window = list[tuple[float, float]]

MARGIN = 0.5  # grey levels: smaller differences between neighbouring cells are noise of compression, and no bits
TOLD = 8  # differences above it that a window must have: the hash of less says nothing
FIRST = 64  # pictures of one hash that others are compared with
MOST = 20_000_000  # candidate pairs: 320 MB
# of copies with a twentieth of each side cut away anywhere, one of these lies within an eightieth
CROPS = [[(y, y + 0.95), (x, x + 0.95)] for y in (0.0, 0.025, 0.05) for x in (0.0, 0.025, 0.05)]

# What real pictures say (a thousand tiles of twenty; tests/curate/test_duplicates.py): copies lie well inside, and what lies
# outside are other tiles of one wall of bricks.
OVERLAP, LEVEL, DETAIL, CONTRAST, TINT = 0.85, 5.0, 0.6, 0.2, 12.0


class Duplicates:
    """Of copies of one picture, keep the largest, of several the one whose key comes first.

    Copies of equal content are found by SHA-256. Candidates for the others are pairs whose difference hashes (Zauner 2010)
    differ in few bits, the whole of one against the whole and nine crops of the other, or whose embeddings have a large cosine
    (Precision at Scale, arXiv 2403.08730... see Lee et al. 2022 for text). Each is laid over the other and compared in
    brightness and detail (`alike`), so that an equal hash or a near embedding alone drops nothing. What is dropped agrees
    with the very item that is kept in its place, so no chain of small changes joins what differs. The score is the
    correlation of detail, or the cosine where content is not compared.

    Pictures without detail (blank pages, gradients) are dropped only where they are equal. Signals and volumes are compared as they
    stand, without crops.

    Deviations: the papers take what the hash or the cosine says; here each pair is verified. A hash's bit must differ by
    half a grey level. Of pictures that share one hash, each is compared with the 64 best alone; if more than 20 million pairs
    are within `distance`, it is lowered until they are fewer, which the log says.
    """

    class Options(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")

        by: tuple[Literal["hash", "embedding"], ...] = Field(
            ("hash",), min_length=1, description="how candidates are found: hash, embedding or both"
        )
        distance: int = Field(8, ge=0, le=16, description="hash: bits of 64 in which candidates differ at most")
        cosine: float = Field(0.95, gt=0, le=1, description="embedding: least cosine of candidates; all pairs are looked at")
        content: bool = Field(
            True, description="compare the content of candidates too; without, also what only means the same is dropped"
        )

    def __init__(self, options: Options) -> None:
        self.options = options

    def run(self, collection: Collection, kept: NDArray[np.bool_]) -> list[Decision]:
        cells, keys = collection.cells, collection.keys
        order = np.array(sorted(np.flatnonzero(kept).tolist(), key=lambda i: (-cells[i], keys[i])), np.int64)
        order, decisions = _equal(collection, order)
        if len(order) < 2:
            return decisions
        left, right, score = self._pairs(collection, order)
        by_left = np.lexsort((right, left))
        left, right, score = left[by_left], right[by_left], score[by_left]
        begins = np.searchsorted(left, np.arange(len(order) + 1))
        gone = np.zeros(len(order), np.bool_)
        for i in np.unique(left).tolist():  # the best first; what is gone stands for nothing
            if gone[i]:
                continue
            for p in range(begins[i], begins[i + 1]):
                if not gone[right[p]]:
                    gone[right[p]] = True
                    decisions.append(
                        Decision(int(order[right[p]]), "a near copy", int(order[i]), round(float(score[p]), 4))
                    )
        return decisions

    def _pairs(self, collection: Collection, order: Ids) -> tuple[Ids, Ids, NDArray[np.float32]]:
        """left < right (P,) places in `order`, and how alike they are."""
        o = self.options
        windows: list[Window] = [[(0.0, 1.0)] * collection.rank, *(CROPS if collection.rank == 2 else [])]
        hashes, told = _hashes(collection.grey, order, windows)
        found = np.zeros(0, np.int64)
        n = len(order)
        if "hash" in o.by:
            found = np.union1d(found, _by_hash(hashes, told, o.distance))
        if "embedding" in o.by:
            found = np.union1d(found, _by_cosine(collection.embedded("duplicates")[order], o.cosine))
        left, right = np.divmod(found, n)
        if o.content:
            return _verified(collection, order, hashes, windows, left, right)
        if "embedding" in o.by:
            values = _unit(collection.embedded("duplicates")[order])
            return left, right, np.einsum("pd,pd->p", values[left], values[right])
        return left, right, 1 - hamming(hashes[left], hashes[right][:, :1]).min(1).astype(np.float32) / 64


def _equal(collection: Collection, order: Ids) -> tuple[Ids, list[Decision]]:
    """The first of each content, and decisions on the others."""
    _, first, each = np.unique(collection.sha256[order], axis=0, return_index=True, return_inverse=True)
    least = first[each.reshape(-1)]
    again = np.flatnonzero(least != np.arange(len(order)))
    decisions = [Decision(int(order[i]), "the same content", int(order[least[i]]), 1.0) for i in again]
    return order[np.sort(first)], decisions


def _hashes(grey: NDArray[np.uint8], order: Ids, windows: list[Window]) -> tuple[Hashes, NDArray[np.bool_]]:
    """(n, W) hashes of each window, and whether it has differences enough to tell by."""
    hashes = np.empty((len(order), len(windows)), np.uint64)
    told = np.empty((len(order), len(windows)), np.bool_)
    for at in range(0, len(order), 4096):
        some = grey[order[at : at + 4096]]
        for w, window in enumerate(windows):
            differ = differences(some, window)
            hashes[at : at + 4096, w] = packed(differ > MARGIN)
            told[at : at + 4096, w] = (np.abs(differ) > MARGIN).sum(1) >= TOLD
    return hashes, told


def _by_hash(hashes: Hashes, told: NDArray[np.bool_], distance: int) -> Ids:
    """left * n + right of every pair, left < right, of which the whole of one is near a window of the other."""
    n = len(hashes)
    whole, of_whole, wholes = _listed(hashes[:, :1], told[:, :1])
    window, of_window, many = _listed(hashes, told)
    first = np.minimum(many, FIRST)
    found: list[Ids] = []
    bits: list[NDArray[np.uint8]] = []
    total, limit = 0, distance
    for pairs in near(whole, window, distance):
        near_enough = pairs.bits <= limit
        left, right, differ = (x[near_enough] for x in pairs)
        for a, b, d in _expanded(wholes[left], first[right], left, right, differ):
            i, j = of_whole[a], of_window[b]
            new = i != j
            found.append((np.minimum(i, j) * n + np.maximum(i, j))[new])
            bits.append(d[new])
            total += len(found[-1])
            while total > MOST and limit > 0:
                limit -= 1
                log.warning("duplicates: too many pictures look alike; the distance is lowered to %d bits", limit)
                found = [f[b_ <= limit] for f, b_ in zip(found, bits, strict=True)]
                bits = [b_[b_ <= limit] for b_ in bits]
                total = sum(map(len, found))
    return np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)
