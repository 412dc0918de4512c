"""dHash: 64 bits of a thumbnail, one for each pair of neighbouring cells, on if the mean of the further one is larger.

Zauner 2010 compares perceptual hashes; the difference hash of 8 x 8 bits is the one of Less is More (Wolf et al. 2024).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

# cells by rank: along the last axis one more than bits, so that 64 differences remain
GRID = {1: (65,), 2: (8, 9), 3: (4, 4, 5)}
WEIGHTS = np.uint64(1) << np.arange(64, dtype=np.uint64)
CHUNK = 4096  # thumbnails at once


def dhash(grey: NDArray[np.uint8], margin: float = 1e-3) -> Hashes:
    """(N,) hashes of thumbnails (N, *S) of 1 to 3 axes: bit on if right - left > margin.

    margin  in grey levels; the default is more than rounding leaves of a constant
    """
    return packed(differences(grey, [(0.0, 1.0)] * (grey.ndim - 1)) > margin)


def differences(grey: NDArray[np.uint8], window: list[tuple[float, float]]) -> NDArray[np.float32]:
    """(N, 64) of right minus left neighbour, in grey levels, of the part between `window` (begin, end) along each axis.

    The cells are means under a tent that reaches into both neighbours: a window that lies off by a part of a cell then turns
    fewer bits than with boxes.
    """
    rank = grey.ndim - 1
    tents = [tent(n, c, *at) for n, c, at in zip(grey.shape[1:], GRID[rank], window, strict=True)]
    found = np.empty((len(grey), 64), np.float32)
    for at in range(0, len(grey), CHUNK):
        cells = grey[at : at + CHUNK].astype(np.float32)
        for weights in tents:  # always the first axis of the thumbnail, which then becomes the last
            cells = np.tensordot(cells, weights, (1, 1))
        found[at : at + CHUNK] = np.diff(cells, axis=-1).reshape(len(cells), 64)
    return found


def tent(n: int, cells: int, begin: float, end: float) -> NDArray[np.float32]:
    """(cells, n) weights that sum to 1: of each of n values for the mean around each of `cells` centres in begin..end."""
    width = (end - begin) * n / cells
    centre = begin * n + (np.arange(cells) + 0.5) * width
    weights = np.maximum(1 - np.abs(np.arange(n) + 0.5 - centre[:, None]) / max(width, 1.0), 0)
    edges = np.clip(np.arange(n + 1), begin * n, end * n)  # nothing beyond the window
    weights *= np.diff(edges)
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)


def packed(bits: NDArray[np.bool_]) -> Hashes:
    """(..., 64) bits as (...,) integers, the first bit lowest."""
    return np.asarray((bits * WEIGHTS).sum(-1, dtype=np.uint64))


_OF_A_BYTE = np.array([bin(i).count("1") for i in range(256)], np.uint8)


def count(values: Hashes) -> NDArray[np.uint8]:
    """Bits that are on, in each of `values`."""
    if hasattr(np, "bitwise_count"):  # numpy 2
        return np.asarray(np.bitwise_count(values))
    return np.asarray(
        _OF_A_BYTE[np.ascontiguousarray(values).view(np.uint8)].reshape(*values.shape, 8).sum(-1, dtype=np.uint8)
    )


def hamming(a: Hashes, b: Hashes) -> NDArray[np.uint8]:
    """Bits in which a and b differ; they broadcast."""
    return count(a ^ b)
