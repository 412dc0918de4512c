"""Collections in memory, for the tests of curation steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from unlabeled.core.curate.collection import Collection, Picture


def embedded(values: ArrayLike, keys: Sequence[str] = ()) -> Collection:
    """N items of which there are the embeddings (N, D) and keys alone."""
    x = np.asarray(values, np.float32)
    return _made([np.zeros((8, 8, 3), np.uint8)] * len(x), keys, x)


def pictured(pictures: Sequence[Picture], keys: Sequence[str] = ()) -> Collection:
    """N images of any sizes; their thumbnails are blank."""
    return _made(pictures, keys, None)


def _made(pictures: Sequence[Picture], keys: Sequence[str], embeddings: np.ndarray | None) -> Collection:
    n = len(pictures)
    return Collection(
        keys=keys or [f"{i:06d}.png" for i in range(n)],
        groups=["one"] * n,
        cells=np.array([p.shape[0] * p.shape[1] for p in pictures], np.int64),
        sha256=np.zeros((n, 32), np.uint8),
        grey=np.zeros((n, 64, 64), np.uint8),
        colour=None,
        read=lambda i: pictures[i],
        embeddings=embeddings,
    )
