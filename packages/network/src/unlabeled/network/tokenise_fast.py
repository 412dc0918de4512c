"""`tokenise.fill` and `tokenise.rows` again, one packet after the other, compiled by numba; the numpy ones are the reference."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unlabeled.network.decode_fast import compiled
from unlabeled.network.packets import Packets

# of tokenise, which numba must not read from there: it imports this module
_AT, _ACK = 9, 16  # the first value behind the IP header; the flag of TCP
_TCP, _UDP, _ICMP = 1, 2, 3


def fill(
    values: NDArray[np.uint16], kind: NDArray[np.uint8], p: Packets, base: NDArray[np.uint32], back: NDArray[np.bool_]
) -> None:
    """`tokenise.fill`."""
    ip = (p.header, p.tos, p.length, p.bits, p.ttl)
    tcp = (p.tcp_flags, p.window, p.seq, p.ack, p.urgent)
    _fill(  # type: ignore[no-untyped-call]
        values, kind, ip, tcp, p.udp_length, p.icmp_type, p.icmp_code, base, back
    )


def rows(
    template: NDArray[np.uint8],
    counts: NDArray[np.int64],
    values: NDArray[np.uint16],
    kind: NDArray[np.uint8],
    burst: NDArray[np.uint8],
    place: NDArray[np.uint8],
) -> NDArray[np.uint8]:
    """`tokenise.rows`."""
    tokens = np.empty((int((counts[kind] + 4 * (place == 0)).sum()), 6), np.uint8)
    _rows(template, counts, values, kind, burst, place, tokens)  # type: ignore[no-untyped-call]
    return tokens


@compiled
def _fill(values, kind, ip, tcp, udp_length, icmp_type, icmp_code, base, back):  # type: ignore[no-untyped-def]
    header, tos, length, bits, ttl = ip
    flags, window, seq, ack, urgent = tcp
    for i in range(len(kind)):
        row = values[i]
        row[4], row[5], row[6], row[7], row[8] = header[i], tos[i], length[i], bits[i], ttl[i]
        if kind[i] == _TCP:
            side = 1 if back[i] else 0
            sent = np.uint32(seq[i] - base[i, side])
            seen = np.uint32(ack[i] - base[i, 1 - side]) if flags[i] & _ACK else np.uint32(0)
            row[_AT], row[_AT + 1], row[_AT + 6] = flags[i], window[i], urgent[i]
            row[_AT + 2], row[_AT + 3] = sent >> 16, sent & 0xFFFF
            row[_AT + 4], row[_AT + 5] = seen >> 16, seen & 0xFFFF
        elif kind[i] == _UDP:
            row[_AT] = udp_length[i]
        elif kind[i] == _ICMP:
            row[_AT], row[_AT + 1] = icmp_type[i], icmp_code[i]


@compiled
def _rows(template, counts, values, kind, burst, place, tokens):  # type: ignore[no-untyped-def]
    at = 0
    for i in range(len(kind)):
        k = kind[i]
        for j in range(0 if place[i] == 0 else 4, 4 + counts[k]):
            token = tokens[at]
            token[0] = template[k, j, 0]
            token[1], token[2] = values[i, j] >> 8, values[i, j] & 255
            token[3], token[4] = burst[i], 0 if j < 4 else place[i] + 1
            token[5] = template[k, j, 5]
            at += 1
