"""Pairs and groups of hashes that differ in few bits, by multi-index hashing (Norouzi et al. 2012, arXiv 1307.2982).

64 bits are cut into 4 bands of 16. Of two hashes that differ in at most t = 4 r + a bits, one of the first a + 1 bands differs in
at most r, or one of the others in at most r - 1 (their equation 5). So it is enough to compare hashes whose band differs by one
of few masks; these stand side by side when sorted by the band.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from math import comb
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from unlabeled.core.curate.ahead import ahead
from unlabeled.core.curate.hashes import Hashes, count, hamming

Ids = NDArray[np.int64]

BANDS = (0, 1, 2, 3)
BITS = 16
SIZE = 1 << BITS
BLOCK = 1 << 15  # comparisons at once: they stay in a core's cache
HEAVY = 1024  # a bucket of more is compared as a block, and split by the other bands where that is less work
LOOKUP = 4  # comparisons that take the time of looking up one bucket
SPLIT = 1 << 30  # comparisons of two buckets above which they are split
TURNS = (
    np.arange(64) * 37
) % 64  # neighbouring bits of a hash tend to agree: spread over the bands they fill more buckets


class Pairs(NamedTuple):
    """left, right (P,) positions, left < right where one list is compared with itself; bits (P,) in which they differ."""

    left: Ids
    right: Ids
    bits: NDArray[np.uint8]


def grouped(hashes: Hashes, distance: int) -> Ids:
    """(N,) for each hash the position of the first one of its group.

    A group is joined by single links: two that differ in more than `distance` bits are in one where others lie between.
    Memory: about 100 bytes a hash. Time: 1e6 hashes that are spread evenly take seconds at 6 bits and about a minute at 10.
    """
    values, first, each = np.unique(hashes, return_index=True, return_inverse=True)
    label = np.arange(len(values))
    for found in near(values, values, distance):
        label = linked(label, found.left, found.right)
    least = np.full(len(values), len(hashes))
    np.minimum.at(least, label, first)
    return np.asarray(least[label][each.reshape(-1)])


def linked(label: Ids, left: Ids, right: Ids) -> Ids:
    """The labels (N,), integers below N, when each left has been joined with its right one."""
    n = len(label)
    graph = coo_array((np.ones(len(left), np.bool_), (label[left], label[right])), shape=(n, n))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)[label]


def near(a: Hashes, b: Hashes, distance: int) -> Iterator[Pairs]:
    """Every pair of `a` and `b` that differs in at most `distance` bits, once, some at a time. Both hold no value twice.

    Where `b is a` each pair is left < right. Exact: no pair is missed and none capped, so the time grows with the pairs whose
    bands are alike. The order depends on the values alone.
    """
    same = a is b
    a_ = turned(a)
    yield from _near(
        a_, np.arange(len(a)), a_ if same else turned(b), np.arange(len(b)), same, distance, distance, BANDS
    )


def turned(hashes: Hashes) -> Hashes:
    """The same hashes with their bits in the order of TURNS."""
    bits = np.unpackbits(hashes.astype("<u8").view(np.uint8).reshape(-1, 8), axis=1)[:, TURNS]
    return np.ascontiguousarray(np.packbits(bits, axis=1)).view("<u8").reshape(-1).astype(np.uint64)


def _near(
    a: Hashes, at_a: Ids, b: Hashes, at_b: Ids, same: bool, distance: int, left_over: int, bands: tuple[int, ...]
) -> Iterator[Pairs]:
    """`near`, of hashes that differ in `distance - left_over` bits outside of `bands`, each and every pair."""
    if not len(a) or not len(b):
        return
    probes = sum(comb(BITS, r) for n in range(len(bands)) for r in range(radius(left_over, n, len(bands)) + 1))
    if not bands or len(a) * len(b) <= LOOKUP * probes * (SIZE + len(a) + len(b)):
        yield from _block(a, at_a, b, at_b, same, distance)
        return
    for number, band in enumerate(bands):
        left = _Sorted(a, at_a, band)
        right = left if same else _Sorted(b, at_b, band)
        masks = [m for r in range(radius(left_over, number, len(bands)) + 1) for m in _masks(r)]
        rest = tuple(other for other in bands if other != band)

        def probe(mask: int, left: _Sorted = left, right: _Sorted = right, rest: tuple[int, ...] = rest) -> list[Found]:
            return list(_probe(left, right, mask, same, distance, left_over, rest))

        for found in ahead(probe, masks):
            for pairs, differ in found:
                new = np.ones(len(differ), np.bool_)
                for earlier, other in enumerate(bands[:number]):  # found there already
                    new &= count(_of(differ, other)) > radius(left_over, earlier, len(bands))
                if new.any():
                    yield Pairs(pairs.left[new], pairs.right[new], pairs.bits[new])


def radius(distance: int, number: int, bands: int) -> int:
    """Bits in which band `number` of `bands` is searched; -1: not at all."""
    each, more = divmod(distance, bands)
    return min(each if number <= more else each - 1, BITS)


def _masks(bits: int) -> list[int]:
    return [sum(1 << i for i in at) for at in combinations(range(BITS), bits)]


def _of(hashes: Hashes, band: int) -> Hashes:
    return (hashes >> np.uint64(BITS * band)) & np.uint64(SIZE - 1)


class _Sorted:
    """Hashes in the order of one band: `values`, where they stood `at`, and where each of the buckets begins."""

    def __init__(self, values: Hashes, at: Ids, band: int) -> None:
        bucket = _of(values, band).astype(np.uint16)
        order = np.argsort(bucket, kind="stable")
        self.values, self.at = values[order], at[order]
        self.count = np.bincount(bucket, minlength=SIZE)
        self.start = np.concatenate(([0], np.cumsum(self.count)))


Found = tuple[Pairs, Hashes]


def _probe(
    a: _Sorted, b: _Sorted, mask: int, same: bool, distance: int, left_over: int, rest: tuple[int, ...]
) -> Iterator[Found]:
    """The pairs whose band differs in exactly `mask`, and all the bits in which they do."""
    u = np.flatnonzero(a.count)
    v = u ^ mask
    there = (b.count[v] > 0) & ((u < v) if same and mask else True)
    u, v = u[there], v[there]
    inner = same and not mask
    heavy = np.maximum(a.count[u], b.count[v]) > HEAVY
    yield from _rows(a, b, u[~heavy], v[~heavy], inner, distance)
    for x, y in zip(u[heavy].tolist(), v[heavy].tolist(), strict=True):
        left, right = slice(a.start[x], a.start[x + 1]), slice(b.start[y], b.start[y + 1])
        la, lb = a.values[left], b.values[right]
        own = (np.arange(left.start, left.stop), np.arange(right.start, right.stop))
        if len(la) * len(lb) > SPLIT:
            parts = _near(la, own[0], lb, own[1], inner, distance, left_over - mask.bit_count(), rest)
        else:
            parts = _block(la, own[0], lb, own[1], inner, distance)
        for part in parts:
            yield _placed(a, b, part.left, part.right, same)


def _placed(a: _Sorted, b: _Sorted, left: Ids, right: Ids, same: bool) -> Found:
    """From positions in the sorted lists to those in the lists that were given."""
    differ = a.values[left] ^ b.values[right]
    at, to = a.at[left], b.at[right]
    if same:
        at, to = np.minimum(at, to), np.maximum(at, to)
    return Pairs(at, to, count(differ)), differ


def _rows(a: _Sorted, b: _Sorted, u: Ids, v: Ids, inner: bool, distance: int) -> Iterator[Found]:
    """Every hash of the buckets u against all of the bucket v beside it: the first one of v for all, then the second."""
    if not len(u):
        return
    order = np.argsort(-b.count[v], kind="stable")  # so that those with a k-th partner come first
    u, v = u[order], v[order]
    each = a.count[u]
    item = np.repeat(a.start[u] - np.concatenate(([0], np.cumsum(each)[:-1])), each) + np.arange(each.sum())
    if inner:
        begin, many = item + 1, np.repeat(a.start[u + 1], each) - item - 1
        order = np.argsort(-many, kind="stable")
        item, begin, many = item[order], begin[order], many[order]
    else:
        begin, many = np.repeat(b.start[v], each), np.repeat(b.count[v], each)
    left: list[Ids] = []
    right: list[Ids] = []
    for at in range(0, len(item), BLOCK):
        block = slice(at, at + BLOCK)
        mine, to, most = a.values[item[block]], begin[block], many[block]
        falling = -most
        for k in range(int(most[0])):
            n = int(np.searchsorted(falling, -k, "left"))  # those with more than k partners
            other = to[:n] + k
            hit = np.flatnonzero(hamming(mine[:n], b.values[other]) <= distance)
            if len(hit):
                left.append(item[block][hit])
                right.append(other[hit])
    if left:
        yield _placed(a, b, np.concatenate(left), np.concatenate(right), a is b)


def _block(a: Hashes, at_a: Ids, b: Hashes, at_b: Ids, same: bool, distance: int) -> Iterator[Pairs]:
    """All of a against all of b."""
    rows = max(1, 8 * BLOCK // len(b))
    for at in range(0, len(a), rows):
        begin = at if same else 0  # a pair of one list is met once
        bits = hamming(a[at : at + rows, None], b[None, begin:])
        i, j = np.nonzero(bits <= distance)
        i, j, bits = i + at, j + begin, bits[i, j]
        if same:
            once = i < j
            i, j, bits = i[once], j[once], bits[once]
        if len(i):
            yield Pairs(at_a[i], at_b[j], bits)
