"""A gzip file as a stream that gives all that stands before a fault, which `gzip.open` does not."""

from __future__ import annotations

import zlib
from pathlib import Path

PIECE = 1 << 16  # compressed bytes at a time
GZIP = 31  # zlib's name for a window of 32 KiB with a gzip header
MAGIC = b"\x1f\x8b"


class Inflate:
    """Reads like a raw file. `fault` says, with offsets only, why the file ends before its end; "" where it does not."""

    def __init__(self, path: Path) -> None:
        self.fault = ""
        self._file = path.open("rb")
        self._member = zlib.decompressobj(GZIP)
        self._given = b""  # compressed, not yet read
        self._ready = memoryview(b"")

    def close(self) -> None:
        self._file.close()

    def readinto(self, into: memoryview) -> int:
        """Fills `into` as far as one step goes; 0 only at the end."""
        while not self._ready:
            if self.fault or not self._step(len(into)):
                return 0
        n = min(len(into), len(self._ready))
        into[:n] = self._ready[:n]
        self._ready = self._ready[n:]
        return n

    def _step(self, most: int) -> bool:
        """Inflates a piece into `_ready`; False at the end of the file."""
        if self._member.eof:
            self._given = self._member.unused_data.lstrip(b"\0")  # members may be padded
            self._given += self._file.read(PIECE) if len(self._given) < len(MAGIC) else b""
            if not self._given.strip(b"\0"):
                return False
            if not self._given.startswith(MAGIC):
                self.fault = "what stands behind the end of its gzip data is no gzip, and was left out"
                return False
            self._member = zlib.decompressobj(GZIP)
        self._given = self._given or self._file.read(PIECE)
        if not self._given:
            self.fault = f"its gzip data are cut at byte {self._file.tell()}"
            return False
        before = self._member.copy()
        try:
            self._ready = memoryview(self._member.decompress(self._given, most))
            self._given = b"" if self._member.eof else self._member.unconsumed_tail
        except zlib.error:
            # zlib keeps for itself what it made of a piece before the fault in it
            self._ready, good = _before_fault(before, self._given)
            self.fault = f"its gzip data are corrupt near byte {self._file.tell() - len(self._given) + good}"
        return True


def _before_fault(member: zlib._Decompress, piece: bytes) -> tuple[memoryview, int]:
    """What comes out of a piece byte by byte, and how many bytes were good."""
    made = []
    for i in range(len(piece)):
        try:
            made.append(member.decompress(piece[i : i + 1]))
        except zlib.error:
            return memoryview(b"".join(made)), i
    return memoryview(b"".join(made)), len(piece)
