"""From the packets of flows to tokens."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.row import Row, Work
from unlabeled.core.training.memory import keep_freed
from unlabeled.network.capture.packets import TCP, UDP, Packets
from unlabeled.network.flow import fields, tokenise
from unlabeled.network.flow.tokenise import Layout, Where, keep
from unlabeled.network.options import ReaderOptions

BURSTS, PACKETS = 6, 5  # of each flow, and of each burst
NUMBA = importlib.util.find_spec("numba") is not None
LAYOUT = Layout(ReaderOptions())
_FIRST = {t[0]: fields.first(t[0]) for t in fields.TYPES}
_COLUMNS = (
    "protocol",
    "header",
    "tos",
    "length",
    "bits",
    "ttl",
    "tcp_flags",
    "window",
    "seq",
    "ack",
    "urgent",
    "udp_length",
)


def lot(flows: int) -> tuple[Packets, Where, NDArray[np.uint32]]:
    """Packets of TCP (four in five) and UDP, where each stands, and the sequence numbers that are 0 in its flow."""
    n = flows * BURSTS * PACKETS
    i, draw = np.arange(n), np.random.default_rng(0)
    p = Packets.empty(n)
    burst = i // PACKETS % BURSTS
    at = Where(i // (BURSTS * PACKETS), i * 1_000_000, burst, i % PACKETS, burst % 2 == 1)
    tcp = at.flow % 5 != 0
    p.protocol[:] = np.where(tcp, TCP, UDP)
    for name in ("length", "window", "seq", "ack", "ttl", "tos", "bits"):
        column = getattr(p, name)
        column[:] = draw.integers(0, min(np.iinfo(column.dtype).max, 2**32 - 1), n) * (
            tcp | (name not in ("window", "seq", "ack"))
        )
    p.header[:], p.tcp_flags[:], p.offset[:], p.udp_length[:] = 20, 24 * tcp, 20 * tcp, 8 * ~tcp
    base = np.repeat(draw.integers(0, 2**32, (flows, 2), dtype=np.uint32), BURSTS * PACKETS, 0)
    return p, at, base


def ours(p: Packets, at: Where, base: NDArray[np.uint32]) -> NDArray[np.uint8]:
    return tokenise.tokenise(LAYOUT, keep(LAYOUT, p, np.arange(len(p)), base, at))[0]


def plain(
    packets: list[tuple[int, ...]], places: list[tuple[Any, ...]], bases: list[tuple[int, int]]
) -> list[tuple[int, ...]]:
    """Packet by packet: a tuple for each token."""
    found: list[tuple[int, ...]] = []
    starts: dict[tuple[int, bool], int] = {}
    n = len(packets)
    for i in range(n):
        flow, time, burst, place, back = places[i]
        protocol, header, tos, length, bits, ttl, flags, window, seq, ack, urgent, udp_length = packets[i]
        if place == 0:
            end = i + 1
            while end < n and places[end][3] > 0:
                end += 1
            size = sum(packets[j][3] for j in range(i, end))
            gap = (time - starts.get((flow, back), time)) / 1000
            starts[flow, back] = time
            said = (int(back), octave(size), octave(end - i), octave(gap))
            for where, (name, value) in enumerate(zip(("direction", "bytes", "packets", "gap"), said, strict=True)):
                found.append((_FIRST[name], value >> 8, value & 255, burst, 0, where))
        values = [("header length", header), ("service", tos), ("length", length), ("flags", bits), ("ttl", ttl)]
        if protocol == TCP:
            relative = (seq - bases[i][back]) % 2**32
            acked = (ack - bases[i][not back]) % 2**32 if flags & 16 else 0
            values += [("tcp flags", flags), ("window", window), ("seq", relative >> 16), ("seq", relative & 0xFFFF)]
            values += [("ack", acked >> 16), ("ack", acked & 0xFFFF), ("urgent", urgent)]
        elif protocol == UDP:
            values.append(("udp length", udp_length))
        for where, (name, value) in enumerate(values):
            part = where in (8, 10)  # the low half of a field of 32 bits
            found.append((_FIRST[name] + part, value >> 8, value & 255, burst, place + 1, where))
    return found


def octave(value: float) -> int:
    return min(round(256 * math.log2(1 + value)), 65535)


def pair(device: torch.device, tiny: bool, fast: bool = NUMBA) -> tuple[Work, Work]:
    """fast: ours is compiled. Each side has a process of its own, so what is set here is set for this row alone."""
    tokenise.FAST_FROM = 0 if fast else 1 << 62
    keep_freed()  # on both sides; else what is measured is how the kernel gives out pages
    p, at, base = lot(20 if tiny else 3000)
    packets = list(zip(*(getattr(p, name).tolist() for name in _COLUMNS), strict=True))
    places = list(zip(*(column.tolist() for column in at), strict=True))
    bases = [tuple(b) for b in base.tolist()]
    assert np.array_equal(ours(p, at, base), plain(packets, places, bases))
    return lambda: ours(p, at, base), lambda: plain(packets, places, bases)


ROW = Row(
    what="Tokens of 90,000 packets of 3,000 flows of TCP and UDP, from header fields, on one core.",
    peer_name="plain Python, packet by packet, a tuple for each token",
    like_for_like=True,
    difference="Both give the same tokens, which is looked at before. Ours reads columns of header fields, the peer tuples of them "
    "that were made ready. Both keep the memory that they freed, as a training process does. Ours is compiled "
    "where numba is installed, and the compiling is not timed.",
    target=0.02 if NUMBA else None,
    make=pair,
)
