"""Captures by lot: trains of packets of TCP and UDP over IPv4 and IPv6, some with a VLAN, written without a loop over packets."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_ETHERNET = bytes(12)
_STRETCH = 1 << 18  # packets that are made at a time
_TRAIN = 5  # packets of one flow that follow each other


def _ip4(protocol: int) -> bytes:
    return struct.pack(">BBHHHBBH8x", 0x45, 0, 0, 1, 0x4000, 64, protocol, 0)


# frames without payload: (share, bytes, where are: the length of IP and what is added to it, the addresses, the ports)
_TCP, _UDP = struct.pack(">HHIIBBHHH", 0, 0, 0, 0, 0x50, 0x18, 8192, 0, 0), bytes(8)
_KINDS = (
    (0.6, _ETHERNET + b"\x08\0" + _ip4(6) + _TCP, 16, 40, 26, 4, 34),
    (0.2, _ETHERNET + b"\x08\0" + _ip4(17) + _UDP, 16, 28, 26, 4, 34),
    (0.1, _ETHERNET + b"\x86\xdd" + struct.pack(">IHBB", 6 << 28, 0, 6, 64) + bytes(32) + _TCP, 18, 20, 22, 16, 54),
    (0.1, _ETHERNET + b"\x81\0\0\x07\x08\0" + _ip4(6) + _TCP, 20, 40, 30, 4, 38),
)


def write(path: Path, packets: int, flows: int, payload: int = 380, gap: float = 20.0) -> None:
    """A pcap file in us. payload: mean bytes; gap: mean us between two packets. One in a hundred of TCP's resets."""
    draw = np.random.default_rng(0)
    kind = draw.choice(len(_KINDS), flows, p=[k[0] for k in _KINDS])
    now = 1_700_000_000_000_000
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for begin in range(0, packets, _STRETCH):
            n = min(_STRETCH, packets - begin)
            flow = np.repeat(draw.integers(0, flows, n // _TRAIN + 1), _TRAIN)[:n]
            time = now + np.cumsum(draw.exponential(gap, n)).astype(np.int64)
            now = int(time[-1])
            file.write(_stretch(draw, flow, kind[flow], time, payload))


def _stretch(
    draw: np.random.Generator, flow: NDArray[np.int64], kind: NDArray[np.int64], time: NDArray[np.int64], payload: int
) -> bytes:
    n = len(flow)
    sizes = np.array([len(k[1]) for k in _KINDS])[kind]
    data = draw.integers(0, 2 * payload + 1, n)
    offset = np.concatenate([[0], np.cumsum(16 + sizes + data)])
    out = np.zeros(offset[-1], np.uint8)

    def put(at: NDArray[np.int64], values: NDArray[np.integer], form: str) -> None:
        raw = values.astype(form)[:, None].view(np.uint8)
        out[at[:, None] + np.arange(raw.shape[1])] = raw

    start = offset[:-1]
    for i, values in enumerate((time // 10**6, time % 10**6, sizes + data, sizes + data)):
        put(start + 4 * i, values, "<u4")
    back = draw.random(n) < 0.4
    reset = draw.random(n) < 0.01
    for k, (_, header, length, more, addresses, wide, ports) in enumerate(_KINDS):
        rows = np.flatnonzero(kind == k)
        at, of, way = start[rows] + 16, flow[rows], back[rows]
        out[at[:, None] + np.arange(len(header))] = np.frombuffer(header, np.uint8)
        put(at + length, data[rows] + more, ">u2")
        for end, mine in ((0, way), (1, ~way)):  # the last four bytes of an address, and the port
            put(at + addresses + wide * (end + 1) - 4, np.where(mine, 0x0A000001 + of % 250, 0x0B000001 + of), ">u4")
            put(at + ports + 2 * end, np.where(mine, 443, 1024 + of % 60000), ">u2")
        if header.endswith(_TCP):
            put(at + ports + 4, draw.integers(0, 2**32, len(rows)), ">u4")
            put(at + ports + 13, np.where(reset[rows], 4, 24), ">u1")
        else:
            put(at + ports + 4, data[rows] + 8, ">u2")
    return out.tobytes()
