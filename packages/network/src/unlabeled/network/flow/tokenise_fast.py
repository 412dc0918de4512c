"""`fill`, `look`, `measure` and `rows` of `tokenise` again, compiled by numba; the numpy ones are the reference."""

# what is compiled has the types that numba finds
# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unlabeled.network.capture import packets as p_
from unlabeled.network.capture.decode_fast import compiled
from unlabeled.network.capture.packets import Packets
from unlabeled.network.flow.tokenise import Ints, Layout, Records, Where

# of tokenise and cuts, whose changes would not renew the compiled code
IS_TCP, IS_UDP, IS_ICMP, ACK = 1, 2, 3, 16


def fill(kept: Records, packets: Packets, at: Ints, base: NDArray[np.uint32], where: Where) -> None:
    """`tokenise.fill`."""
    p = packets
    ip = (p.protocol, p.flags, p.held, p.options_length, p.header, p.tos, p.length, p.bits, p.ttl)
    tcp = (p.tcp_flags, p.window, p.seq, p.ack, p.urgent, p.offset)
    _fill(kept, at, base, tuple(where), ip, tcp, p.udp_length, p.icmp_type, p.icmp_code)


def look(kept: Records) -> tuple[bool, bool]:
    """`tokenise.look`."""
    ordered, lost = _look(kept)
    return bool(ordered), bool(lost)


def measure(counts: Ints, kept: Records) -> tuple[Ints, Ints]:
    """`tokenise.measure`."""
    found, offsets = np.empty((4, len(kept)), np.int64), np.zeros(len(kept) + 1, np.int64)
    bursts, flows = _measure(kept, counts, found, offsets)
    return found[:, :bursts], offsets[: flows + 1]


def rows(layout: Layout, kept: Records, said: NDArray[np.uint16], total: int) -> NDArray[np.uint8]:
    """`tokenise.rows`."""
    tokens = np.empty((total, 3), np.uint16)
    _rows(kept, layout.ids.astype(np.uint16), layout.counts, said, tokens)
    return tokens.view(np.uint8)


@compiled
def _fill(kept, at, base, where, ip, tcp, udp_length, icmp_type, icmp_code):
    flow, time, burst, place, back = where
    protocol, odd, held, optional, header, tos, length, bits, ttl = ip
    flags, window, seq, ack, urgent, offset = tcp
    for n in range(len(at)):
        k, i = kept[n], at[n]
        row = k.values
        k.flow, k.time, k.burst, k.place, k.back = flow[n], time[n], burst[n], place[n], back[n]
        k.held, k.optional = held[i], optional[i]
        row[0], row[1], row[2], row[3], row[4] = header[i], tos[i], length[i], bits[i], ttl[i]
        cut = (odd[i] & (p_.TRUNCATED | p_.BAD_HEADER)) != 0
        if odd[i] & p_.FRAGMENT:
            continue
        if protocol[i] == p_.TCP:
            k.kind, k.lost = IS_TCP, offset[i] == 0 and cut
            side = 1 if back[n] else 0
            sent = np.uint32(seq[i] - base[n, side])
            seen = np.uint32(ack[i] - base[n, 1 - side]) if flags[i] & ACK else np.uint32(0)
            row[5], row[6], row[11] = flags[i], window[i], urgent[i]
            row[7], row[8] = sent >> 16, sent & 0xFFFF
            row[9], row[10] = seen >> 16, seen & 0xFFFF
        elif protocol[i] == p_.UDP:
            k.kind, k.lost = IS_UDP, udp_length[i] == 0 and cut
            row[5] = udp_length[i]
        elif protocol[i] == p_.ICMP or protocol[i] == p_.ICMP6:
            k.kind = IS_ICMP
            row[5], row[6] = icmp_type[i], icmp_code[i]


@compiled
def _look(kept):
    ordered, lost, before, flow = True, False, -1, -1
    for i in range(len(kept)):
        k = kept[i]
        place = np.int64(k.burst) << 8 | k.place
        ordered &= k.flow > flow or (k.flow == flow and place >= before)
        lost |= k.lost
        flow, before = k.flow, place
    return ordered, lost


@compiled
def _measure(kept, counts, found, offsets):
    burst = flow = -1
    total, last = 0, np.zeros(2, np.int64)
    for i in range(len(kept)):
        k = kept[i]
        side = 1 if k.back else 0
        if i == 0 or k.flow != kept[i - 1].flow:
            flow += 1
            offsets[flow] = total
            last[:] = -1  # the burst before in each direction
        if k.place == 0:
            burst += 1
            found[0, burst], found[1, burst], found[2, burst], found[3, burst] = side, 0, 0, 0
            if last[side] >= 0:
                found[3, burst] = k.time - kept[last[side]].time
            last[side] = i
            total += 4
        found[1, burst] += k.values[2]
        found[2, burst] += 1
        total += counts[k.kind]
    offsets[flow + 1] = total
    return burst + 1, flow + 1


@compiled
def _rows(kept, ids, counts, said, tokens):
    at, burst = 0, -1
    for i in range(len(kept)):
        k = kept[i]
        behind = np.uint16(k.burst) << 8
        if k.place == 0:
            burst += 1
            for j in range(4):
                value = said[burst, j]
                # two bytes at a time: numba has only machines where the low one comes first
                tokens[at, 0], tokens[at, 1], tokens[at, 2] = ids[0, j] | value & 0xFF00, value & 255 | behind, j << 8
                at += 1
        of, place = ids[k.kind], np.uint16(k.place) + 1
        for j in range(counts[k.kind]):
            value = k.values[j]
            tokens[at, 0] = of[4 + j] | value & 0xFF00
            tokens[at, 1], tokens[at, 2] = value & 255 | behind, place | j << 8
            at += 1
