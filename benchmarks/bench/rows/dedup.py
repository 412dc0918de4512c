"""Pairs of near hashes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from bench.row import Row, Work
from unlabeled.core.curate.groups import near
from unlabeled.core.curate.hashes import Hashes, hamming

DISTANCE = 6  # bits, as in Less is More


def hashes(n: int) -> Hashes:
    """n hashes by lot, of which each second one is a copy of another with 0 to 8 bits turned."""
    draw = np.random.default_rng(0)
    values = draw.integers(0, 2**64, n, dtype=np.uint64)
    for i in range(8):
        turned = np.uint64(1) << draw.integers(0, 64, n // 2).astype(np.uint64)
        values[n // 2 : 2 * (n // 2)] = (values[: n // 2] if not i else values[n // 2 : 2 * (n // 2)]) ^ np.where(
            draw.random(n // 2) < 0.6, turned, np.uint64(0)
        )
    return values[np.sort(np.unique(values, return_index=True)[1])]


def ours(values: Hashes) -> NDArray[np.int64]:
    found = list(near(values, values, DISTANCE))
    return np.concatenate([p.left * len(values) + p.right for p in found])


def all_pairs(values: Hashes) -> NDArray[np.int64]:
    """XOR and popcount of each block of rows with everything after it."""
    found = []
    rows = max(1, (1 << 22) // len(values))
    for at in range(0, len(values), rows):
        i, j = np.nonzero(hamming(values[at : at + rows, None], values[None, at:]) <= DISTANCE)
        i, j = i + at, j + at
        found.append((i * len(values) + j)[i < j])
    return np.concatenate(found)


def pair(device: torch.device, tiny: bool) -> tuple[Work, Work]:
    values = hashes(2000 if tiny else 100_000)
    assert np.array_equal(np.sort(ours(values)), np.sort(all_pairs(values)))
    return lambda: ours(values), lambda: all_pairs(values)


ROW = Row(
    what="All pairs of 100,000 hashes of 64 bits that differ in at most 6, on the CPU.",
    peer_name="numpy, all pairs: XOR and popcount in blocks",
    like_for_like=True,
    difference="Both give the same pairs, which is looked at before. Ours (multi-index hashing) compares only hashes of which one "
    "of four bands differs in at most one bit, in two threads; the peer compares all, in one.",
    target=0.05,
    make=pair,
    turns=5,
)
