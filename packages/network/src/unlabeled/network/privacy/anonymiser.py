"""The keyed map of frames: headers alone, every address in them replaced, as records of a pcap file."""

from __future__ import annotations

import hmac
import struct
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from unlabeled.network.capture.window import Frames
from unlabeled.network.privacy.crypto_pan import CryptoPAn
from unlabeled.network.privacy.scrub import GTP, VXLAN, Bare, Dropped, scrub

HEADER = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262_144, 1)  # nanoseconds, little endian, Ethernet
KNOWN = 1_000_000  # addresses that are kept
SECOND = 1_000_000_000
LEAST, MOST = 86_400, 10 * 365 * 86_400  # seconds of a shift


class Anonymiser:
    """One key's map. Equal addresses have equal images in all captures, and those that share k bits share k bits after.

    payload  bytes that stay behind TCP, UDP and ICMP echo headers; ports: map these too, one to one, but not those that tell
             tunnels; shift: set all times back by 1 day to 10 years, the same for all captures of a key
    dropped  counts by reason, over all captures
    """

    def __init__(self, key: bytes, *, payload: int = 0, ports: bool = False, shift: bool = False) -> None:
        """Raises ValueError for a key that has not 32 bytes."""
        self._map = CryptoPAn(key)
        self._known: dict[bytes, bytes] = {}
        self._payload = payload
        self._ports = _permutation(_drawn(key, "ports")) if ports else None
        self._shift = (LEAST * SECOND + _number(_drawn(key, "shift")) % ((MOST - LEAST) * SECOND)) if shift else 0
        self.dropped: Counter[str] = Counter()

    def records(self, frames: Frames) -> Iterator[bytes]:
        """The records of a pcap file, in the order of the frames; its header is HEADER. Frames without IP are dropped."""
        begin, end = frames.at.tolist(), (frames.at + frames.captured).tolist()
        bare = [
            self._scrubbed(frames.data[i:j].tobytes(), k)
            for i, j, k in zip(begin, end, frames.link.tolist(), strict=True)
        ]
        self._learn(b for b in bare if b is not None)
        for time, sent, b in zip(frames.time.tolist(), frames.sent.tolist(), bare, strict=True):
            if b is not None:
                data = self._replaced(b)
                second, fraction = divmod(time - self._shift, SECOND)
                whole = max(sent + b.moved, len(data))
                yield struct.pack("<IIII", second % (1 << 32), fraction, len(data), whole) + data

    def _scrubbed(self, data: bytes, link: int) -> Bare | None:
        try:
            return scrub(data, link, self._payload)
        except Dropped as why:
            self.dropped[str(why)] += 1
            return None

    def _learn(self, frames: Iterable[Bare]) -> None:
        """Encrypt those addresses that were not there before."""
        if len(self._known) > KNOWN:
            self._known.clear()
        there = {bytes(b.data[at : at + width]) for b in frames for at, width in b.addresses}
        for width in (4, 16):
            new = [a for a in there if len(a) == width and a not in self._known]
            made = self._map(np.frombuffer(b"".join(new), np.uint8).reshape(-1, width))
            self._known.update(zip(new, (row.tobytes() for row in made), strict=True))

    def _replaced(self, b: Bare) -> bytes:
        data = b.data
        for at, width in b.addresses:
            data[at : at + width] = self._known[bytes(data[at : at + width])]
        for at, size in b.headers:
            data[at + 10 : at + 12] = bytes(2)
            data[at + 10 : at + 12] = checksum(data[at : at + size])
        if self._ports is not None:
            for at in b.ports:
                data[at : at + 2] = self._ports[data[at] << 8 | data[at + 1]]
        return bytes(data)


def checksum(header: bytes | bytearray) -> bytes:
    """The complement of the ones' complement sum of 16-bit words (RFC 1071)."""
    total: int = sum(struct.unpack(f">{len(header) // 2}H", header[: len(header) & ~1]))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF).to_bytes(2, "big")


def _drawn(key: bytes, name: str) -> bytes:
    return hmac.digest(key, f"unlabeled network {name}".encode(), "sha256")


def _number(drawn: bytes) -> int:
    return int.from_bytes(drawn, "big")


def _permutation(drawn: bytes) -> list[bytes]:
    """Where each of 65,536 ports goes; VXLAN's and GTP's stay."""
    order = np.random.default_rng(_number(drawn)).permutation(1 << 16)
    for port in (VXLAN, GTP):
        there = int(np.flatnonzero(order == port)[0])
        order[[there, port]] = order[[port, there]]
    return [int(port).to_bytes(2, "big") for port in order]
