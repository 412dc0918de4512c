"""Capture files, pcap and pcapng, plain or in gzip, as the places and times of their frames.

pcap is draft-ietf-opsawg-pcap: both byte orders, us and ns, and Kuznetzov's longer record headers.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from unlabeled.core.contracts import BadInput
from unlabeled.network.capture import pcapng
from unlabeled.network.capture.inflate import MAGIC, Inflate
from unlabeled.network.capture.window import Bytes, Frames, Places, Window, words

HEADER = 24
# magic number: ns of a tick, bytes of a record's header
KINDS = {0xA1B2C3D4: (1000, 16), 0xA1B23C4D: (1, 16), 0xA1B2CD34: (1000, 24)}

# (data, where to begin, byte order, bytes of a record's header) -> where records begin, where the next one would, whether
# that one is corrupt
Scan = Callable[[Bytes, int, str, int], tuple[Places, int, bool]]


def frames(
    path: Path, block: int, flags: list[str], scan: Scan | None = None, scan_blocks: pcapng.Scan | None = None
) -> Iterator[Frames]:
    """The frames of a capture in stretches of about `block` bytes; each is gone once the next is asked for.

    `flags` gets a sentence for what ended the reading early. The scans are the compiled ones, if any. Raises BadInput
    where nothing can be read.
    """
    with path.open("rb") as file:
        zipped = file.read(len(MAGIC)) == MAGIC
    stream = Inflate(path) if zipped else path.open("rb", buffering=0)
    try:
        window = Window(stream, block)
        while len(window.data) < HEADER and window.more(0):
            pass
        head = window.data[:HEADER].tobytes()
        fault = stream.fault if isinstance(stream, Inflate) else ""
        if not head:
            raise BadInput(f"{path.name}: {fault or 'it is empty'}; capture it again")
        order = next((o for o in "<>" if struct.unpack(o + "I", head[:4].ljust(4, b"\0"))[0] in KINDS), "")
        if head.startswith(pcapng.MAGIC):
            yield from pcapng.frames(path.name, window, flags, scan_blocks or pcapng.blocks)
        elif not order:
            what = "no capture, its gzip holds what" if zipped else "no capture, it"
            raise BadInput(f"{path.name}: {what} begins with {head[:4].hex()}; pcap and pcapng files are read")
        elif len(head) < HEADER:
            raise BadInput(f"{path.name}: it is cut within its header, at byte {len(head)}; capture it again")
        else:
            yield from _pcap(path.name, window, order, flags, scan or records)
        if isinstance(stream, Inflate) and stream.fault:
            flags.append(stream.fault)
    finally:
        stream.close()


def _pcap(name: str, window: Window, order: str, flags: list[str], scan: Scan) -> Iterator[Frames]:
    magic, link = struct.unpack_from(order + "I16xI", window.data.data)
    ns, header = KINDS[magic]
    link &= 0x03FFFFFF  # above stands how the frame's check sum was kept
    at, read = HEADER, False
    while True:
        data = window.data
        starts, at, corrupt = scan(data, at, order, header)
        if len(starts):
            second, fraction, captured, sent = (words(data, starts + i, order) for i in (0, 4, 8, 12))
            time = second.astype(np.int64) * 10**9 + fraction.astype(np.int64) * ns
            yield Frames(data, starts + header, captured, sent, time, np.full(len(starts), link, np.int32))
            read = True
        if corrupt:
            pcapng.corrupt(name, window.start + at, read, flags)
            return
        wanted = window.start + at
        if not window.more(at):
            break
        at = 0
    if wanted != window.end:
        flags.append(f"the last record is cut at byte {window.end}")


def records(data: Bytes, at: int, order: str, header: int) -> tuple[Places, int, bool]:
    """See Scan. A record without a byte on the wire is corrupt too: so look files that were never filled."""
    sizes, view, end = struct.Struct(order + "8xII").unpack_from, data.data, len(data)
    starts: list[int] = []
    while at + header <= end:
        captured, sent = sizes(view, at)
        if captured > pcapng.MOST or not captured | sent:
            return np.array(starts, np.int64), at, True
        after = at + header + captured
        if after > end:
            break
        starts.append(at)
        at = after
    return np.array(starts, np.int64), at, False
