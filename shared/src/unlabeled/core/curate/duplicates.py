"""Near copies: found by perceptual hash or by embedding, and dropped where the content agrees."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from unlabeled.core.curate.alike import likeness
from unlabeled.core.curate.base import Decision
from unlabeled.core.curate.collection import Collection
from unlabeled.core.curate.groups import Ids, Pairs, near
from unlabeled.core.curate.hashes import Hashes, differences, hamming, packed

log = logging.getLogger(__name__)

Window = list[tuple[float, float]]
Scores = NDArray[np.float32]
Agree = Callable[[Ids, Ids], Scores]

MARGIN = 0.5  # grey levels: smaller differences between neighbouring cells are noise of compression, and no bits
TOLD = 3  # differences above it that a window must have: the hash of less says nothing
FIRST = 64  # pictures of one hash that others are compared with
MOST = 20_000_000  # candidate pairs: 320 MB
# of copies with a twentieth of each side cut away anywhere, one of these lies within an eightieth
CROPS = [[(y, y + 0.95), (x, x + 0.95)] for y in (0.0, 0.025, 0.05) for x in (0.0, 0.025, 0.05)]

# Decided on real pictures (tests/curate/test_duplicates.py): copies lie well inside; just outside lie other tiles of one wall of
# bricks, and other words in the layout of a page.
OVERLAP, LEVEL, DETAIL, CONTRAST, TINT = 0.85, 5.0, 0.8, 0.3, 12.0


class Duplicates:
    """Of copies of one picture, keep the largest, of several the one whose key comes first.

    Copies of equal content are found by SHA-256. Candidates for the others are pairs whose difference hashes (Zauner 2010)
    differ in few bits, the whole of one against the whole and nine crops of the other, or whose embeddings have a large cosine
    (as Precision at Scale does). Each is laid over the other and compared in
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
        cosine: float = Field(
            0.95, gt=0, le=1, description="embedding: least cosine of candidates; all pairs are looked at"
        )
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
        left, right, agree = self._candidates(collection, order)
        gone = np.zeros(len(order), np.bool_)
        while len(left):
            open_ = np.zeros(len(order), np.bool_)
            open_[right] = True
            settled = ~open_[left]  # none is left that could take its place
            a, b = left[settled], right[settled]
            score = agree(a, b)
            for p in np.lexsort((a, b)).tolist():  # of several that agree, the best stands for it
                if score[p] > 0 and not gone[b[p]]:
                    gone[b[p]] = True
                    said = round(float(score[p]), 4)
                    decisions.append(Decision(int(order[b[p]]), "a near copy", int(order[a[p]]), said))
            rest = ~settled & ~gone[left] & ~gone[right]
            left, right = left[rest], right[rest]
        return decisions

    def _candidates(self, collection: Collection, order: Ids) -> tuple[Ids, Ids, Agree]:
        """left < right (P,) places in `order`, and what says how alike some of them are; what is not above 0 is not."""
        o = self.options
        windows: list[Window] = [[(0.0, 1.0)] * collection.rank, *(CROPS if collection.rank == 2 else [])]
        hashes, told = _hashes(collection.grey, order, windows)
        values = _unit(collection.embedded("duplicates")[order]) if "embedding" in o.by else None
        found = np.zeros(0, np.int64)
        if "hash" in o.by:
            found = _by_hash(hashes, told, o.distance)
        if values is not None:
            found = np.union1d(found, _by_cosine(values, o.cosine))

        def near(a: Ids, b: Ids) -> Scores:
            """Without content: the cosine where there is one, else the share of bits that agree."""
            if values is not None:
                return np.asarray(np.einsum("pd,pd->p", values[a], values[b]))
            return np.asarray(1 - hamming(hashes[a], hashes[b][:, :1]).min(1) / 64, np.float32)

        left, right = np.divmod(found, len(order))
        return left, right, _Content(collection, order, hashes, windows) if o.content else near


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


class _Listed:
    """Every hash once, and which items have it: those of `values[v]` are `items[start[v] : start[v + 1]]`, the best first."""

    def __init__(self, hashes: Hashes, told: NDArray[np.bool_]) -> None:
        item = np.broadcast_to(np.arange(len(hashes))[:, None], hashes.shape)[told]
        hashes = hashes[told]
        order = np.lexsort((item, hashes))
        hashes, item = hashes[order], item[order]
        new = np.ones(len(item), np.bool_)
        new[1:] = (hashes[1:] != hashes[:-1]) | (item[1:] != item[:-1])
        hashes, self.items = hashes[new], item[new]
        self.values, begin = np.unique(hashes, return_index=True)
        self.start = np.append(begin, len(hashes))


def _by_hash(hashes: Hashes, told: NDArray[np.bool_], distance: int) -> Ids:
    """left * n + right of every pair, left < right, of which the whole of one is near a window of the other."""
    n = len(hashes)
    whole, window = _Listed(hashes[:, :1], told[:, :1]), _Listed(hashes, told)
    found: list[tuple[Ids, NDArray[np.uint8]]] = []
    limit = distance
    for pairs in near(whole.values, window.values, distance):
        for i, j, bits in _expanded(whole, window, pairs):
            new = (i != j) & (bits <= limit)
            found.append(((np.minimum(i, j) * n + np.maximum(i, j))[new], bits[new]))
        while sum(len(at) for at, _ in found) > MOST and limit > 0:
            limit -= 1
            log.warning("duplicates: too many pictures look alike; the distance is lowered to %d bits", limit)
            found = [(at[bits <= limit], bits[bits <= limit]) for at, bits in found]
    return np.unique(np.concatenate([at for at, _ in found])) if found else np.zeros(0, np.int64)


def _expanded(a: _Listed, b: _Listed, pairs: Pairs) -> Iterator[tuple[Ids, Ids, NDArray[np.uint8]]]:
    """The items of pairs of hashes; of the right one's the first ones alone."""
    many_a = np.diff(a.start)[pairs.left]
    many_b = np.minimum(np.diff(b.start)[pairs.right], FIRST)
    each = many_a * many_b
    parts = np.cumsum(each) // 1_000_000  # a million at once
    for part in np.unique(parts):
        some = parts == part
        left, right, differ, wide, size = (x[some] for x in (pairs.left, pairs.right, pairs.bits, many_b, each))
        at = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
        row, column = np.divmod(at, np.repeat(wide, size))
        yield (
            a.items[np.repeat(a.start[left], size) + row],
            b.items[np.repeat(b.start[right], size) + column],
            np.repeat(differ, size),
        )


def _by_cosine(values: NDArray[np.float32], least: float) -> Ids:
    """left * n + right of every pair, left < right, whose embeddings have this cosine."""
    unit, n = _unit(values), len(values)
    found = [np.zeros(0, np.int64)]
    for at in range(0, n, 512):
        left, right = np.nonzero(unit[at : at + 512] @ unit[at:].T >= least)
        after = left < right
        found.append((left[after] + at) * n + right[after] + at)
    return np.concatenate(found)


def _unit(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12), np.float32)


class _Content:
    """(P,) the correlation of detail of pairs of places in `order` that show the same, one as a window of the other; else -1."""

    def __init__(self, collection: Collection, order: Ids, hashes: Hashes, windows: list[Window]) -> None:
        self.collection, self.order, self.hashes = collection, order, hashes
        self.begins = np.array([[begin for begin, _ in window] for window in windows], np.float32)
        self.sizes = np.array([[end - begin for begin, end in window] for window in windows], np.float32)

    def __call__(self, a: Ids, b: Ids) -> Scores:
        score = np.full(len(a), -1, np.float32)
        for at in range(0, len(a), 4096):
            some = slice(at, at + 4096)
            score[some] = self._within(a[some], b[some])
            again = at + np.flatnonzero(score[some] < 0)
            if len(again):
                score[again] = self._within(b[again], a[again])
        return score

    def _within(self, a: Ids, b: Ids) -> Scores:
        """Where b is a window of a."""
        grey, colour = self.collection.grey, self.collection.colour
        a_, b_ = self.order[a], self.order[b]
        best = hamming(self.hashes[a], self.hashes[b][:, :1]).argmin(1)
        found = likeness(grey[a_], grey[b_], self.begins[best], self.sizes[best])
        ok = (found.overlap >= OVERLAP) & (found.level <= LEVEL) & (found.worst <= LEVEL + found.contrast / 2)
        ok &= (found.detail >= DETAIL) & (found.contrast >= CONTRAST)
        if colour is not None:
            ok &= np.abs(colour[a_].mean((1, 2)) - colour[b_].mean((1, 2))).max(1, initial=0) <= TINT
        return np.where(ok, found.detail, np.float32(-1))
