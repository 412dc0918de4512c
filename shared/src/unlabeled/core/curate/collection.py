"""Collection: what is curated, read once. Of every item a small thumbnail is held; the item itself is read again on demand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from unlabeled.core.contracts import RequestError

Picture = NDArray[np.uint8]  # (H, W, C)

# cells of a thumbnail by rank: 4,096 bytes for each item, whatever its rank
CELLS = {1: (4096,), 2: (64, 64), 3: (16, 16, 16)}
COLOUR = (32, 32, 3)


@dataclass(frozen=True)
class Collection:
    """N items by position; what could not be read is in `failed` alone.

    keys        stable ids: relative paths of pictures (with `/`), keys of records
    groups      keyed hashes of what items come from: the folder of a picture, the group of a record
    cells       (N,) int64, cells of the whole item (width times height)
    sha256      (N, 32) uint8, of the decoded content, so that the same pixels in two formats are equal
    grey        (N, *CELLS[rank]) uint8 thumbnails: means over a coarse grid; may be mapped from disk
    colour      (N, 32, 32, 3) uint8 the same in colour; None where items are no pictures
    read        item -> uint8 (H, W, C), for `picture`
    failed      key -> reason: what could not be read
    ignored     names of files that do not look like data
    embeddings  (N, D) float32, where they were given
    """

    keys: Sequence[str]
    groups: Sequence[str]
    cells: NDArray[np.int64]
    sha256: NDArray[np.uint8]
    grey: NDArray[np.uint8]
    colour: NDArray[np.uint8] | None
    read: Callable[[int], Picture]
    failed: Mapping[str, str] = field(default_factory=dict)
    ignored: Sequence[str] = ()
    embeddings: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def rank(self) -> int:
        """Axes of an item: 1 for signals, 2 for pictures, 3 for volumes."""
        return self.grey.ndim - 1

    def picture(self, i: int) -> Picture:
        """Item i as uint8 (H, W, C), C = 1 or 3 for files, its longer side at most 1,024 cells: larger ones are reduced.

        Raises RequestError where items are no pictures, BadInput where the file can no longer be read.
        """
        if self.rank != 2:
            raise RequestError(f"these records have {self.rank} axes, and this step looks at pictures; leave it out")
        return self.read(i)

    def embedded(self, step: str) -> NDArray[np.float32]:
        """The embeddings (N, D). Raises RequestError where none were given."""
        if self.embeddings is None:
            raise RequestError(
                f"{step} needs embeddings; name a bundle with --bundle or a file of `embed` by --embeddings"
            )
        return self.embeddings

    def with_(self, embeddings: NDArray[np.float32]) -> Collection:
        return replace(self, embeddings=embeddings)
