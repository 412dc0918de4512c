"""Packets to tokens: the header fields of the packets that are kept, behind what is said of their burst."""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unlabeled.network.capture.packets import BAD_HEADER, FRAGMENT, ICMP, ICMP6, TCP, TRUNCATED, UDP, Packets
from unlabeled.network.flow import fields
from unlabeled.network.flow.bursts import ways
from unlabeled.network.flow.cuts import ACK
from unlabeled.network.options import ReaderOptions

Ints = NDArray[np.int64]
Records = NDArray[np.void]
OTHER, IS_TCP, IS_UDP, IS_ICMP = range(4)
_HEADERS = {
    OTHER: (),
    IS_TCP: fields.TRANSPORT["tcp"],
    IS_UDP: fields.TRANSPORT["udp"],
    IS_ICMP: fields.TRANSPORT["icmp"],
}
FAST_FROM = 1 << 18  # packets
_met = 0
_BURST, _IP, _LENGTH = len(fields.BURST), len(fields.IP), 2  # tokens of each; which one of IP is its length


class Layout:
    """Which tokens a packet of each kind has, behind the four of its burst.

    ids (4, W): token types, by kind (OTHER, IS_TCP, ...), with the burst's first; counts (4,): how many of a packet are there
    (TCP 12, UDP 6, ICMP 7, other 5; with payload 18, 12, 13; TCP with its options 20 more). kept: the record of a packet,
    with the 16 bits of each of its own tokens.
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
        places = [
            ("flow", "i8"),
            ("time", "i8"),
            ("values", "u2", (self.width - _BURST,)),
            ("back", "?"),
            ("lost", "?"),
        ]
        small = [(name, "u1") for name in ("kind", "burst", "place", "held", "optional")]
        self.kept = np.dtype([*places, *small], align=True)

    def valid(self, kept: Records) -> NDArray[np.bool_]:
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


class Where(NamedTuple):
    """Where packets stand, (N,) each: number of the flow, ns, burst of the flow, place in the burst, direction."""

    flow: Ints
    time: Ints
    burst: Ints
    place: Ints
    back: NDArray[np.bool_]


def keep(layout: Layout, packets: Packets, at: Ints, base: NDArray[np.uint32], where: Where) -> Records:
    """The records of the packets in the rows `at`.

    base (N, 2): the sequence numbers that count as 0 in their flows, of the client and back. An acknowledgement without
    its flag counts as 0. Values of 16 bits; seq and ack wrap at 2^32.
    """
    kept = np.zeros(len(at), layout.kept)
    (fast.fill if (fast := compiled(len(kept))) else fill)(kept, packets, at, base, where)
    kind, values = kept["kind"], kept["values"]
    if layout.options.tcp_options:
        _words(values, np.flatnonzero(kind == IS_TCP), at, _IP + 7, packets.options)
    if layout.options.payload:
        for is_ in (IS_TCP, IS_UDP, IS_ICMP):
            _words(values, np.flatnonzero(kind == is_), at, int(layout.counts[is_]) - 6, packets.payload)
    return kept


def fill(kept: Records, packets: Packets, at: Ints, base: NDArray[np.uint32], where: Where) -> None:
    """Writes into records what the headers of IP, TCP, UDP and ICMP say, and where they stand.

    The kind is that of the header behind that of IP: OTHER also for a fragment that is not the first.
    """
    for name, column in where._asdict().items():
        kept[name] = column
    kind, values, protocol, flags = kept["kind"], kept["values"], packets.protocol[at], packets.flags[at]
    for number, is_ in ((TCP, IS_TCP), (UDP, IS_UDP), (ICMP, IS_ICMP), (ICMP6, IS_ICMP)):
        kind[(protocol == number) & ((flags & FRAGMENT) == 0)] = is_
    short = np.where(kind == IS_TCP, packets.offset[at] == 0, (kind == IS_UDP) & (packets.udp_length[at] == 0))
    kept["lost"] = short & ((flags & (TRUNCATED | BAD_HEADER)) != 0)
    kept["held"], kept["optional"] = packets.held[at], packets.options_length[at]
    for i, name in enumerate(("header", "tos", "length", "bits", "ttl")):
        values[:, i] = getattr(packets, name)[at]
    rows = np.flatnonzero(kind == IS_TCP)
    of, side = at[rows], where.back[rows].astype(np.intp)
    said = packets.tcp_flags[of]
    seq = packets.seq[of] - base[rows, side]
    ack = np.where((said & ACK) != 0, packets.ack[of] - base[rows, 1 - side], np.uint32(0))
    parts = (said, packets.window[of], seq >> 16, seq & 0xFFFF, ack >> 16, ack & 0xFFFF, packets.urgent[of])
    for i, part in enumerate(parts, start=_IP):
        values[rows, i] = part
    rows = np.flatnonzero(kind == IS_UDP)
    values[rows, _IP] = packets.udp_length[at[rows]]
    rows = np.flatnonzero(kind == IS_ICMP)
    values[rows, _IP], values[rows, _IP + 1] = packets.icmp_type[at[rows]], packets.icmp_code[at[rows]]


def look(kept: Records) -> tuple[bool, bool]:
    """Whether records stand by flow, burst and place; and whether a header of any is lost."""
    at = _order(kept)
    return bool((at[1:] >= at[:-1]).all()), bool(kept["lost"].any())


def _order(kept: Records) -> Ints:
    order: Ints = kept["flow"] << 16 | kept["burst"].astype(np.int64) << 8 | kept["place"]
    return order


def measure(counts: Ints, kept: Records) -> tuple[Ints, Ints]:
    """Of records in order (4, B): direction, bytes, packets and gap (ns) of each burst; and the offsets of `tokenise`.

    counts: of Layout.
    """
    n, heads = len(kept), np.flatnonzero(kept["place"] == 0)
    begins = np.flatnonzero(np.diff(kept["flow"], prepend=-1))
    found = np.zeros((4, len(heads)), np.int64)
    if n:
        flow = np.searchsorted(begins, heads, side="right") - 1
        found[0] = kept["back"][heads]
        by = ways(flow, found[0] > 0)
        start = kept["time"][heads[by.order]]
        gap = np.diff(start, prepend=start[:1])
        gap[by.first] = 0
        found[1] = np.add.reduceat(kept["values"][:, _LENGTH], heads, dtype=np.int64)
        found[2], found[3, by.order] = np.diff(heads, append=n), gap
    sizes = counts[kept["kind"]] + _BURST * (kept["place"] == 0)
    return found, np.append(np.cumsum(sizes)[begins] - sizes[begins], sizes.sum())


def rows(layout: Layout, kept: Records, said: NDArray[np.uint16], total: int) -> NDArray[np.uint8]:
    """The tokens (total, 6) of records in order, those of a burst, said (B, 4), before its first packet."""
    made, first = layout.template[kept["kind"]], kept["place"] == 0
    made[first, :_BURST, 1], made[first, :_BURST, 2] = said >> 8, said & 255
    made[:, _BURST:, 1], made[:, _BURST:, 2] = kept["values"] >> 8, kept["values"] & 255
    made[:, :, 3] = kept["burst"][:, None]
    made[:, _BURST:, 4] = kept["place"][:, None] + 1
    tokens: NDArray[np.void] = made.reshape(-1, 6).view("V6").ravel()[there(layout, kept).ravel()]
    return tokens.view(np.uint8).reshape(total, 6)


def there(layout: Layout, kept: Records) -> NDArray[np.bool_]:
    """(N, W): which tokens packets have."""
    chosen: NDArray[np.bool_] = (np.arange(layout.width) < _BURST + layout.counts[:, None])[kept["kind"]]
    chosen[:, :_BURST] = (kept["place"] == 0)[:, None]
    return chosen


def compiled(packets: int) -> ModuleType | None:
    """The same by numba, where it is installed and so many packets were met that loading it takes less than it saves."""
    global _met
    _met += packets
    if _met < FAST_FROM or importlib.util.find_spec("numba") is None:
        return None
    from unlabeled.network.flow import tokenise_fast

    return tokenise_fast


def _words(values: NDArray[np.uint16], rows: Ints, at: Ints, first: int, content: NDArray[np.uint8]) -> None:
    """Pairs of bytes, high first, into the columns from `first` on."""
    high, low = content[at[rows], 0::2].astype(np.uint16), content[at[rows], 1::2]
    values[rows, first : first + high.shape[1]] = high << 8 | low


def tokenise(layout: Layout, kept: Records) -> tuple[NDArray[np.uint8], NDArray[np.bool_], Ints]:
    """Tokens (T, 6), valid (T,) and offsets (F + 1,) of the F flows, in the order of their numbers: see `Flows`.

    Before the packets of a burst stand its direction (1: back), bytes with IP headers, packets, and gap: us from the
    start of the burst before in the same direction, 0 for the first; the last three as octaves. Bytes and packets are
    those of the kept packets, as in netFound: what more a burst holds does not become tokens.
    """
    by: Any = compiled(0)
    ordered, lost = (by.look if by else look)(kept)
    if not ordered:
        kept = kept[np.argsort(_order(kept))]
    (direction, size, packets, gap), offsets = (by.measure if by else measure)(layout.counts, kept)
    said = np.stack(
        [direction, *map(fields.octaves, (size, packets, gap / 1000))], 1, dtype=np.uint16, casting="unsafe"
    )
    tokens = (by.rows if by else rows)(layout, kept, said, int(offsets[-1]))
    valid = np.ones(len(tokens), bool)
    if layout.options.payload or layout.options.tcp_options or lost:
        valid = layout.valid(kept)[there(layout, kept)]
    return tokens, valid, offsets
