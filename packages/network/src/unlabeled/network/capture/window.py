"""A stream, seen through a window of bounded size, and the frames that lie in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

NO_LINK = -1  # link type of a frame whose interface was never described
Bytes = NDArray[np.uint8]
Places = NDArray[np.int64]


class Stream(Protocol):
    """A raw file."""

    def readinto(self, into: memoryview, /) -> int | None: ...


@dataclass(frozen=True)
class Frames:
    """Frames in `data`: where each begins, bytes captured and sent, ns since 1970, link type or NO_LINK."""

    data: Bytes
    at: Places
    captured: NDArray[np.uint32]
    sent: NDArray[np.uint32]
    time: NDArray[np.int64]
    link: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.at)


class Window:
    """`data` are the bytes of a stream from `start` on that are at hand."""

    def __init__(self, stream: Stream, block: int) -> None:
        self._stream = stream
        self._held = np.empty(max(block, 1), np.uint8)
        self.data = self._held[:0]
        self.start = 0

    @property
    def end(self) -> int:
        return self.start + len(self.data)

    def more(self, at: int) -> bool:
        """Drops what stands before data[at], which may lie beyond the end, and reads on; False where nothing comes."""
        rest = self.data[at:].copy()
        skip = max(at - len(self.data), 0)
        self.start += at - skip
        if 2 * len(rest) > len(self._held):  # a record larger than the window
            self._held = np.empty(2 * len(self._held), np.uint8)
        self._held[: len(rest)] = rest
        while skip and (n := self._fill(0, min(skip, len(self._held)))):
            skip, self.start = skip - n, self.start + n
        n = 0 if skip else self._fill(len(rest), len(self._held))
        self.data = self._held[: len(rest) + n]
        return n > 0

    def _fill(self, start: int, stop: int) -> int:
        """Reads into these places; how many bytes came."""
        into = self._held.data[start:stop]
        done = 0
        while done < len(into) and (n := self._stream.readinto(into[done:])):
            done += n
        return done


def words(data: Bytes, at: Places, order: str) -> NDArray[np.uint32]:
    """The numbers of 32 bits at these places, in this byte order ("<", ">")."""
    # a view of every place; numpy reads words wherever they lie
    every = np.ndarray((max(len(data) - 3, 0),), f"{order}u4", data, strides=(1,))
    return every[at].astype(np.uint32)
