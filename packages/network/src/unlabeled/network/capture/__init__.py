"""A capture file -> `Packets`, part by part in bounded memory."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np

from unlabeled.core.contracts import BadInput, RequestError
from unlabeled.network.capture import containers, decode
from unlabeled.network.capture.links import LINKS, OTHER_LINK, REASONS
from unlabeled.network.capture.packets import Packets
from unlabeled.network.capture.window import NO_LINK

ROWS = 1 << 16  # packets of a part, about
BLOCK = 1 << 20  # bytes that stay in the cache between the scan and the decoder
# Bytes that a process reads before it loads the compiled decoder: that takes 1.3 s (2 cores, numba 0.63), and saves about
# 5 ms a MB. The first time on a machine it takes 10 s more.
FAST_FROM = 256 << 20
_read_so_far = 0


def read(
    path: Path, *, options: bool = False, tunnels: bool = True, fast: bool | None = None, block: int = BLOCK
) -> Capture:
    """A pcap or pcapng file, plain or in gzip.

    options  keep the bytes of TCP options
    tunnels  look into GRE, VXLAN, GTP-U and IP in IP; otherwise the outermost IP header counts
    fast     with numba; None: where it is installed and the capture is large. The packets are the same
    block    bytes that are read at a time; a part holds about ROWS packets, or those of one block where that has more

    The file is opened by the iteration, which raises BadInput where it is no capture, of no supported link type, or where
    its first record is corrupt. Raises RequestError for `fast` without numba.
    """
    if fast and importlib.util.find_spec("numba") is None:
        raise RequestError("numba is not installed; install unlabeled-network[fast], or leave `fast` out")
    return Capture(path, options, tunnels, fast, block)


class Capture:
    """Iterated for its packets, in the order of the file. Then known:

    counts  "frames", "packets", and of the other frames how many for each reason, see links.REASONS
    flags   sentences on what was cut, corrupt or mended, with no more than offsets and counts
    """

    def __init__(self, path: Path, options: bool, tunnels: bool, fast: bool | None, block: int) -> None:
        self.path = path
        self.counts: Counter[str] = Counter()
        self.flags: list[str] = []
        self.options, self._tunnels, self._fast, self._block = options, tunnels, fast, block

    def __iter__(self) -> Iterator[Packets]:
        self.counts, self.flags = Counter({"frames": 0, "packets": 0}), []
        compiled = self._compiled()
        decoder = compiled.decode if compiled else decode.decode
        scans = (compiled.records, compiled.blocks) if compiled else (None, None)
        others: set[int] = set()
        waiting: list[Packets] = []
        last, back = 0, 0
        for found in containers.frames(self.path, self._block, self.flags, *scans):
            others |= {int(n) for n in np.unique(found.link)} - LINKS.keys() - {NO_LINK}
            back += int((np.diff(found.time, prepend=found.time[0] if not self.counts["frames"] else last) < 0).sum())
            last = int(found.time[-1])
            part, reasons = decoder(found, self.counts["frames"], self.options, self._tunnels)
            self.counts.update({name: int(n) for name, n in zip(REASONS, reasons, strict=True) if name and n})
            self.counts.update({"frames": len(found), "packets": len(part)})
            waiting.append(part)
            if sum(map(len, waiting)) >= ROWS:
                yield Packets.joined(waiting)
                waiting = []
        if any(map(len, waiting)):
            yield Packets.joined(waiting)
        self._end(others, back)

    def _end(self, others: set[int], back: int) -> None:
        """Flags for the whole capture; BadInput where none of its link types can be read."""
        numbers = ", ".join(str(n) for n in sorted(others))
        if others and self.counts[REASONS[OTHER_LINK]] == self.counts["frames"]:
            known = ", ".join(str(n) for n in sorted(LINKS))
            raise BadInput(
                f"{self.path.name}: its link type {numbers} is not supported; those with the numbers {known} are"
            )
        if others:
            self.flags.append(f"frames of link type {numbers}, which is not supported, were left out")
        if not self.counts["frames"]:
            self.flags.append("the capture has no frames")
        if back:
            self.flags.append(f"the clock runs backwards {back} times")

    def _compiled(self) -> ModuleType | None:
        """The compiled scans and decoder, where they are wanted."""
        global _read_so_far
        _read_so_far += self.path.stat().st_size
        if self._fast is False or (self._fast is None and _read_so_far < FAST_FROM):
            return None
        if importlib.util.find_spec("numba") is None:
            return None
        from unlabeled.network.capture import decode_fast

        return decode_fast
