"""pcapng files as the places and times of their frames (draft-ietf-opsawg-pcapng).

Sections of both byte orders, interfaces each with its own clock, link type and snapshot length; enhanced, simple and
obsolete packet blocks. Every other block is skipped by its length. dpkt reads the clock of the first interface only
(kbandla/dpkt#681).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from unlabeled.core.contracts import BadInput
from unlabeled.network.capture.window import NO_LINK, Bytes, Frames, Places, Window, words

MAGIC = b"\x0a\x0d\x0d\x0a"
SECTION, INTERFACE, OBSOLETE, SIMPLE, ENHANCED = 0x0A0D0D0A, 1, 2, 3, 6
ORDER = 0x1A2B3C4D
TSRESOL, TSOFFSET = 9, 14  # options of an interface
MOST = 262_144  # bytes of a frame, as in libpcap: beyond, a record is corrupt
MOST_BLOCK = 1 << 24  # bytes of a block that has to be held
LEAST = {ENHANCED: 32, OBSOLETE: 32, SIMPLE: 16}  # bytes of a packet's block around the frame
MORE, OTHER, CORRUPT = 0, 1, 2  # the next block: is not whole, holds no packet, or cannot be
LAST = 9_223_372_035  # the last whole second since 1970 that an int64 of ns holds

# (data, where to begin, byte order) -> where blocks with packets begin, where the next block does, and what it is
Scan = Callable[[Bytes, int, str], tuple[Places, int, int]]


@dataclass(frozen=True)
class Interface:
    """Its link type, the bytes it keeps of a frame (0: all), ticks of a second, and seconds to add."""

    link: int
    snaplen: int
    ticks: int
    offset: int


@dataclass
class Section:
    """The byte order, the interfaces so far, and the time of the last packet."""

    order: str = "<"
    interfaces: list[Interface] = field(default_factory=list)
    last: int = 0
    untimed: int = 0
    clipped: int = 0

    def block(self, data: Bytes, at: int) -> int | None:
        """Takes in a block that holds no packet. Its bytes; 0 where more of it is needed, None where it is corrupt."""
        held, order = len(data) - at, self.order
        kind, size = struct.unpack_from(order + "II", data.data, at)
        if kind == SECTION:
            if held < 12:
                return 0
            order = next((o for o in "<>" if struct.unpack_from(o + "I", data.data, at + 8)[0] == ORDER), "")
            if not order:
                return None
            (size,) = struct.unpack_from(order + "I", data.data, at + 4)
        if size < (28 if kind == SECTION else 20 if kind == INTERFACE else 12) or size % 4:
            return None
        if kind in (SECTION, INTERFACE):
            if size > MOST_BLOCK:
                return None
            if size > held:
                return 0
            if struct.unpack_from(order + "I", data.data, at + size - 4)[0] != size:
                return None
            if kind == SECTION:
                self.order, self.interfaces = order, []
            else:
                made = _interface(data[at : at + size].tobytes(), order)
                if made is None:
                    return None
                self.interfaces.append(made)
        return int(size)

    def frames(self, data: Bytes, at: Places) -> Frames:
        """The frames of the packet blocks at these places."""
        kind, second = words(data, at, self.order), words(data, at + 8, self.order)
        simple = kind == SIMPLE
        # a simple block is at least 16 bytes, so what would be the fields of another is looked up in its own start
        other = np.where(simple, at - 12, at)
        high, low, captured, sent = (words(data, np.maximum(other + i, 0), self.order) for i in (12, 16, 20, 24))
        which = second.astype(np.int64)
        if (kind == OBSOLETE).any():
            which[kind == OBSOLETE] = (second if self.order == "<" else second >> 16)[kind == OBSOLETE] & 0xFFFF
        if simple.any():
            which[simple] = 0
            kept = self.interfaces[0].snaplen if self.interfaces else 0
            room = words(data, at + 4, self.order) - np.uint32(LEAST[SIMPLE])
            sent = np.where(simple, second, sent)
            captured = np.where(simple, np.minimum(np.minimum(second, room), kept or MOST), captured)
        time = self._time(high.astype(np.uint64) << np.uint64(32) | low, which, simple)
        links = np.array([i.link for i in self.interfaces] + [NO_LINK], np.int32)
        link = links[np.minimum(which, len(self.interfaces))]
        return Frames(data, at + np.where(simple, 12, 28), captured, sent, time, link)

    def _time(
        self, ticks: NDArray[np.uint64], which: NDArray[np.int64], simple: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """ns since 1970. A simple packet has no time: it gets that of the packet before it."""
        time = np.zeros(len(ticks), np.int64)
        none = simple | (which >= len(self.interfaces))
        for i, interface in enumerate(self.interfaces):
            rows = np.flatnonzero((which == i) & ~none)
            if len(rows):
                time[rows], clipped = _nanoseconds(ticks[rows], interface)
                self.clipped += clipped
        if none.any():
            before = np.maximum.accumulate(np.where(none, -1, np.arange(len(time))))
            time = np.where(before < 0, self.last, time[before])
            self.untimed += int(none.sum())
        self.last = int(time[-1])
        return time


def _nanoseconds(ticks: NDArray[np.uint64], interface: Interface) -> tuple[NDArray[np.int64], int]:
    """ns since 1970 of a clock's ticks, and how many were moved to 1970 or 2262, beyond which an int64 does not count."""
    second, rest = np.divmod(ticks, np.uint64(interface.ticks))
    if interface.ticks <= 1 << 34:  # so the product stays within 64 bits
        ns = rest * np.uint64(10**9) // np.uint64(interface.ticks)
    elif interface.ticks % 10:
        ns = (rest >> np.uint64(interface.ticks.bit_length() - 35)) * np.uint64(10**9) >> np.uint64(34)
    else:
        ns = rest // np.uint64(interface.ticks // 10**9)
    offset = min(max(interface.offset, -4 * LAST), 4 * LAST)
    whole = np.minimum(second, np.uint64(4 * LAST)).astype(np.int64) + offset
    inside = np.clip(whole, 0, LAST)
    return inside * 10**9 + ns.astype(np.int64), int((inside != whole).sum())


def _interface(block: bytes, order: str) -> Interface | None:
    """None where its clock has a resolution that no clock has."""
    link, snaplen = struct.unpack_from(order + "H2xI", block, 8)
    ticks, offset, at = 10**6, 0, 16
    while at + 8 <= len(block):
        code, n = struct.unpack_from(order + "HH", block, at)
        value = block[at + 4 : at + 4 + n]
        if code == 0 or len(value) < n:
            break
        if code == TSRESOL and n >= 1:
            base, power = (2, value[0] & 127) if value[0] & 128 else (10, value[0])
            if power > (63 if base == 2 else 18):
                return None
            ticks = base**power
        if code == TSOFFSET and n == 8:
            (offset,) = struct.unpack(order + "q", value)
        at += 4 + n + -n % 4
    return Interface(link, snaplen, ticks, offset)


def frames(name: str, window: Window, flags: list[str], scan: Scan) -> Iterator[Frames]:
    """The frames of a file in stretches of the window. Raises BadInput where the first record is corrupt."""
    section, at, read, state = Section(), 0, False, OTHER
    while True:
        starts, at, state = scan(window.data, at, section.order)
        if len(starts):
            yield section.frames(window.data, starts)
            read = True
        size = section.block(window.data, at) if state == OTHER else 0
        if state == CORRUPT or size is None:
            corrupt(name, window.start + at, read, flags)
            break
        at += size
        if size == 0 or at > len(window.data):
            wanted = window.start + at
            if not window.more(at):
                if wanted != window.end:
                    flags.append(f"the last block is cut at byte {window.end}")
                break
            at = 0
    if section.untimed:
        flags.append(f"{section.untimed} packets have no time of their own and got that of the packet before them")
    if section.clipped:
        flags.append(f"{section.clipped} packets have a time outside of 1970 to 2262 and were moved there")


def blocks(data: Bytes, at: int, order: str) -> tuple[Places, int, int]:
    """See Scan."""
    two, word = struct.Struct(order + "II").unpack_from, struct.Struct(order + "I").unpack_from
    view, end, state = data.data, len(data), MORE
    starts: list[int] = []
    while at + 8 <= end:
        kind, size = two(view, at)
        if kind not in LEAST:
            state = OTHER
            break
        if size < LEAST[kind] or size % 4 or size > (MOST_BLOCK if kind != SIMPLE else MOST + LEAST[SIMPLE]):
            state = CORRUPT
            break
        after = at + size
        if after > end:
            break
        if word(view, after - 4)[0] != size or (kind != SIMPLE and word(view, at + 20)[0] > min(size - 32, MOST)):
            state = CORRUPT
            break
        starts.append(at)
        at = after
    return np.array(starts, np.int64), at, state


def corrupt(name: str, at: int, read: bool, flags: list[str]) -> None:
    """Says so; raises BadInput where nothing was read before."""
    if not read:
        raise BadInput(f"{name}: its first record, at byte {at}, is corrupt; capture it again")
    flags.append(f"the record at byte {at} is corrupt; what stands before it was read")
