"""Packets to tokens: the header fields of the packets that are kept, behind what is said of their burst."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from unlabeled.network import fields
from unlabeled.network.bursts import ways
from unlabeled.network.cuts import ACK
from unlabeled.network.options import ReaderOptions
from unlabeled.network.packets import BAD_HEADER, FRAGMENT, ICMP, ICMP6, TCP, TRUNCATED, UDP, Packets

Ints = NDArray[np.int64]
OTHER, IS_TCP, IS_UDP, IS_ICMP = range(4)
_HEADERS = {
    OTHER: (),
    IS_TCP: fields.TRANSPORT["tcp"],
    IS_UDP: fields.TRANSPORT["udp"],
    IS_ICMP: fields.TRANSPORT["icmp"],
}
FAST_FROM = 1 << 18  # packets
_met = 0
_BURST, _IP = len(fields.BURST), len(fields.IP)


class Layout:
    """Which tokens a packet of each kind has, behind the four of its burst.

    ids (4, W): token types, by kind (OTHER, IS_TCP, ...), with the burst's first; counts (4,): how many of a packet are there
    (TCP 12, UDP 6, ICMP 7, other 5; with payload 18, 12, 13; TCP with its options 20 more). kept: the record of a packet.
    """

    def __init__(self, options: ReaderOptions) -> None:
        self.options = options
        behind = {kind: _HEADERS[kind] for kind in _HEADERS}
        if options.tcp_options:
            behind[IS_TCP] += fields.OPTIONS
        if options.payload:
            behind = {kind: types + fields.PAYLOAD * (kind != OTHER) for kind, types in behind.items()}
        rows = {
            k: [fields.first(t.name) + i for t in (*fields.BURST, *fields.IP, *v) for i in range(t.tokens)]
            for k, v in behind.items()
        }
        self.counts = np.array([len(rows[kind]) - _BURST for kind in range(4)])
        self.width = max(map(len, rows.values()))
        self.ids = np.zeros((4, self.width), np.uint8)
        for kind, row in rows.items():
            self.ids[kind, : len(row)] = row
        self.template = np.zeros((4, self.width, 6), np.uint8)
        self.template[:, :, 0] = self.ids
        self.template[:, :_BURST, 5] = np.arange(_BURST)
        self.template[:, _BURST:, 5] = np.arange(self.width - _BURST)
        self.kept = np.dtype(
            [
                ("flow", "i8"),
                ("time", "i8"),
                ("length", "u2"),
                ("burst", "u1"),
                ("place", "u1"),
                ("back", "?"),
                ("kind", "u1"),
                ("lost", "?"),
                ("held", "u1"),
                ("optional", "u1"),
                ("values", "u2", (self.width,)),
            ]
        )

    def valid(self, kept: NDArray[np.void]) -> NDArray[np.bool_]:
        """(N, W): False for payload and options that a packet has not or were not captured, and for a header that was not."""
        valid = np.ones((len(kept), self.width), bool)
        for kind in (IS_TCP, IS_UDP, IS_ICMP):
            of = kept["kind"] == kind
            valid[of & kept["lost"], _BURST + _IP : _BURST + self.counts[kind]] = False
            end = _BURST + self.counts[kind]
            if self.options.payload:
                valid[of, end - 6 : end] &= np.arange(0, 12, 2) < kept["held"][of, None]
                end -= 6
            if self.options.tcp_options and kind == IS_TCP:
                valid[of, end - 20 : end] &= np.arange(0, 40, 2) < kept["optional"][of, None]
        return valid


def kinds(packets: Packets) -> NDArray[np.uint8]:
    """Which header follows the IP header: OTHER also for a fragment that is not the first."""
    kind = np.full(len(packets), OTHER, np.uint8)
    for protocol, is_ in ((TCP, IS_TCP), (UDP, IS_UDP), (ICMP, IS_ICMP), (ICMP6, IS_ICMP)):
        kind[packets.protocol == protocol] = is_
    kind[(packets.flags & FRAGMENT) != 0] = OTHER
    return kind


def keep(layout: Layout, packets: Packets, base: NDArray[np.uint32], back: NDArray[np.bool_]) -> NDArray[np.void]:
    """The records of packets, without flow, time, burst and place.

    base (N, 2): the sequence numbers that count as 0 in their flows, of the client and back. An acknowledgement without
    its flag counts as 0. Values of 16 bits; seq and ack wrap at 2^32.
    """
    kind = kinds(packets)
    kept = np.zeros(len(packets), layout.kept)
    kept["length"], kept["back"], kept["kind"] = packets.length, back, kind
    short = np.where(kind == IS_TCP, packets.offset == 0, (kind == IS_UDP) & (packets.udp_length == 0))
    kept["lost"] = short & ((packets.flags & (TRUNCATED | BAD_HEADER)) != 0)
    kept["held"], kept["optional"] = packets.held, packets.options_length
    values = kept["values"]
    (fast.fill if (fast := compiled(len(kept))) else fill)(values, kind, packets, base, back)
    at = _BURST + _IP
    if layout.options.tcp_options:
        _words(values, np.flatnonzero(kind == IS_TCP), at + 7, packets.options)
    if layout.options.payload:
        for is_ in (IS_TCP, IS_UDP, IS_ICMP):
            _words(values, np.flatnonzero(kind == is_), _BURST + int(layout.counts[is_]) - 6, packets.payload)
    return kept


def fill(
    values: NDArray[np.uint16],
    kind: NDArray[np.uint8],
    packets: Packets,
    base: NDArray[np.uint32],
    back: NDArray[np.bool_],
) -> None:
    """Writes what the headers of IP, TCP, UDP and ICMP say into (N, W), behind the place of the burst."""
    for i, name in enumerate(("header", "tos", "length", "bits", "ttl"), start=_BURST):
        values[:, i] = getattr(packets, name)
    at = _BURST + _IP
    rows = np.flatnonzero(kind == IS_TCP)
    side = back[rows].astype(np.intp)
    seq = packets.seq[rows] - base[rows, side]
    ack = np.where((packets.tcp_flags[rows] & ACK) != 0, packets.ack[rows] - base[rows, 1 - side], np.uint32(0))
    parts = (
        packets.tcp_flags[rows],
        packets.window[rows],
        seq >> 16,
        seq & 0xFFFF,
        ack >> 16,
        ack & 0xFFFF,
        packets.urgent[rows],
    )
    for i, part in enumerate(parts, start=at):
        values[rows, i] = part
    rows = np.flatnonzero(kind == IS_UDP)
    values[rows, at] = packets.udp_length[rows]
    rows = np.flatnonzero(kind == IS_ICMP)
    values[rows, at], values[rows, at + 1] = packets.icmp_type[rows], packets.icmp_code[rows]


def rows(
    template: NDArray[np.uint8],
    counts: Ints,
    values: NDArray[np.uint16],
    kind: NDArray[np.uint8],
    burst: NDArray[np.uint8],
    place: NDArray[np.uint8],
) -> NDArray[np.uint8]:
    """The tokens (T, 6) of packets, those of the burst before its first one; template, counts: of Layout."""
    made = template[kind]
    made[:, :, 1], made[:, :, 2] = values >> 8, values & 255
    made[:, :, 3] = burst[:, None]
    made[:, _BURST:, 4] = place[:, None] + 1
    chosen = there(counts, kind, place, values.shape[1])
    return made.reshape(-1, 6).view("V6").ravel()[chosen.ravel()].view(np.uint8).reshape(-1, 6)


def there(counts: Ints, kind: NDArray[np.uint8], place: NDArray[np.uint8], width: int) -> NDArray[np.bool_]:
    """(N, W): which tokens packets have."""
    chosen = (np.arange(width) < _BURST + counts[:, None])[kind]
    chosen[:, :_BURST] = (place == 0)[:, None]
    return chosen


def compiled(packets: int) -> ModuleType | None:
    """`fill` and `rows` by numba, where it is installed and so many packets were met that loading it takes less than it saves."""
    global _met
    _met += packets
    if _met < FAST_FROM or importlib.util.find_spec("numba") is None:
        return None
    from unlabeled.network import tokenise_fast

    return tokenise_fast


def _words(values: NDArray[np.uint16], rows: Ints, at: int, content: NDArray[np.uint8]) -> None:
    """Pairs of bytes, high first, into the columns from `at` on."""
    high, low = content[rows, 0::2].astype(np.uint16), content[rows, 1::2]
    values[rows, at : at + high.shape[1]] = high << 8 | low


def tokenise(layout: Layout, kept: NDArray[np.void]) -> tuple[NDArray[np.uint8], NDArray[np.bool_], Ints]:
    """Tokens (T, 6), valid (T,) and offsets (F + 1,) of the F flows, in the order of their numbers: see `Flows`.

    Before the packets of a burst stand its direction (1: back), bytes with IP headers, packets, and gap: us from the
    start of the burst before in the same direction, 0 for the first; the last three as octaves. Bytes and packets are
    those of the kept packets, as in netFound: what more a burst holds does not become tokens.
    """
    place = kept["flow"] << 16 | kept["burst"].astype(np.int64) << 8 | kept["place"]
    if (place[1:] <= place[:-1]).any():
        kept = kept[np.argsort(place, kind="stable")]
    n = len(kept)
    heads = np.flatnonzero(kept["place"] == 0)
    begins = np.flatnonzero(np.diff(kept["flow"], prepend=-1))
    values = np.ascontiguousarray(kept["values"])
    if n:
        bursts = kept[["flow", "time", "back"]][heads]
        by = ways(np.cumsum(np.diff(bursts["flow"], prepend=bursts["flow"][:1]) != 0), bursts["back"])
        start = bursts["time"][by.order]
        gap = np.diff(start, prepend=start[:1])
        gap[by.first] = 0
        values[heads, 0] = bursts["back"]
        values[heads, 1] = fields.octaves(np.add.reduceat(kept["length"], heads, dtype=np.int64))
        values[heads, 2] = fields.octaves(np.diff(heads, append=n))
        values[heads[by.order], 3] = fields.octaves(gap / 1000)
    kind, first = np.ascontiguousarray(kept["kind"]), kept["place"] == 0
    tokens = (fast.rows if (fast := compiled(0)) else rows)(
        layout.template,
        layout.counts,
        values,
        kind,
        np.ascontiguousarray(kept["burst"]),
        np.ascontiguousarray(kept["place"]),
    )
    exact = layout.options.payload or layout.options.tcp_options or bool(kept["lost"].any())
    valid = np.ones(len(tokens), bool)
    if exact:
        valid = layout.valid(kept)[there(layout.counts, kind, kept["place"], layout.width)]
    sizes = layout.counts[kind] + _BURST * first
    offsets = np.append(np.concatenate([[0], np.cumsum(sizes)])[begins], sizes.sum())
    return tokens, valid, offsets
