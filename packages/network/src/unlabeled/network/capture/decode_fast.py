"""The scans and `decode` again, one frame after the other, compiled by numba; the numpy ones are the reference.

The compiled code is kept in `$UNLABELED_CACHE/numba`, else `~/.cache/unlabeled/numba`; where nothing can be written there,
each process compiles anew.
"""

# what is compiled has the types that numba finds
# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment"

from __future__ import annotations

import hashlib
import os
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

from unlabeled.network.capture import decode as reference
from unlabeled.network.capture import headers as h
from unlabeled.network.capture import links as k
from unlabeled.network.capture import packets as p_
from unlabeled.network.capture import pcapng
from unlabeled.network.capture.packets import KINDS, Packets
from unlabeled.network.capture.window import Bytes, Frames, Places

Function = TypeVar("Function", bound=Callable[..., Any])
Columns = namedtuple("Columns", tuple(KINDS))  # type: ignore[misc]  # as numba takes them

# what numba cannot take from a dict
LEAST, LEAST_SIMPLE = pcapng.LEAST[pcapng.ENHANCED], pcapng.LEAST[pcapng.SIMPLE]
EXTENSIONS = h.EXTENSIONS


def _cache() -> Path | None:
    """A folder for the compiled code that names the constants frozen in it; None where it cannot be written."""
    named = os.environ.get("UNLABELED_CACHE")
    sources = (h, k, p_, pcapng, reference)
    digest = hashlib.sha256(b"".join(Path(str(m.__file__)).read_bytes() for m in sources)).hexdigest()[:16]
    folder = (Path(named) if named else Path.home() / ".cache" / "unlabeled") / "numba" / digest
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


FOLDER = _cache()


def compiled(function: Function) -> Function:
    """By numba. Its own choice of a folder would be the one of this code, so the setting is lent for the moment it is read."""
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(FOLDER or "")
    try:
        return numba.njit(cache=FOLDER is not None, nogil=True)(function)  # type: ignore[no-any-return]
    finally:
        numba.config.CACHE_DIR = before


def records(data: Bytes, at: int, order: str, header: int) -> tuple[Places, int, bool]:
    """`containers.records`."""
    # no record is shorter than its header
    starts = np.empty((len(data) - at) // header + 1, np.int64)
    n, at, corrupt = _records(data, at, order == ">", header, starts)
    return starts[:n], int(at), bool(corrupt)


def blocks(data: Bytes, at: int, order: str) -> tuple[Places, int, int]:
    """`pcapng.blocks`."""
    starts = np.empty(max(len(data) - at, 0) // LEAST_SIMPLE + 1, np.int64)
    n, at, state = _blocks(data, at, order == ">", starts)
    return starts[:n], int(at), int(state)


def decode(frames: Frames, first: int, options: bool, tunnels: bool) -> tuple[Packets, NDArray[np.int64]]:
    """`decode.decode`."""
    made = Packets.empty(len(frames), options)
    columns = Columns(*(getattr(made, name) for name in KINDS))
    counts = np.zeros(len(k.REASONS), np.int64)
    depth = reference.DEPTH if tunnels else 0
    kind = k.starts(frames.link)
    n = _decode(frames.data, frames.at, frames.captured, frames.sent, frames.time, kind, first, depth, columns, counts)
    return made.take(slice(0, n)), counts


@compiled
def _word(d, p, big):
    a, b, c, e = np.int64(d[p]), np.int64(d[p + 1]), np.int64(d[p + 2]), np.int64(d[p + 3])
    if big:
        return a << 24 | b << 16 | c << 8 | e
    return e << 24 | c << 16 | b << 8 | a


@compiled
def _u16(d, p):
    return np.int64(d[p]) << 8 | np.int64(d[p + 1])


@compiled
def _records(d, at, big, header, starts):
    n, end = 0, len(d)
    while at + header <= end:
        captured = _word(d, at + 8, big)
        if captured > pcapng.MOST or (captured == 0 and _word(d, at + 12, big) == 0):
            return n, at, True
        if at + header + captured > end:
            break
        starts[n] = at
        n += 1
        at += header + captured
    return n, at, False


@compiled
def _blocks(d, at, big, starts):
    n, end = 0, len(d)
    while at + 8 <= end:
        kind, size = _word(d, at, big), _word(d, at + 4, big)
        simple = kind == pcapng.SIMPLE
        if not simple and kind != pcapng.ENHANCED and kind != pcapng.OBSOLETE:
            return n, at, pcapng.OTHER
        least, most = (LEAST_SIMPLE, pcapng.MOST + LEAST_SIMPLE) if simple else (LEAST, pcapng.MOST_BLOCK)
        if size < least or size > most or size % 4:
            return n, at, pcapng.CORRUPT
        if at + size > end:
            break
        if _word(d, at + size - 4, big) != size:
            return n, at, pcapng.CORRUPT
        if not simple and _word(d, at + 20, big) > min(size - 32, pcapng.MOST):
            return n, at, pcapng.CORRUPT
        starts[n] = at
        n += 1
        at += size
    return n, at, pcapng.MORE


@compiled
def _network(d, what, p, end):
    """`links.network` of one frame: the reason, what was found, where, and its VLAN."""
    vlan = 0
    for _ in range(k.LAYERS):
        room = end - p
        if what == k.ETHERNET or what == k.BRIDGED:
            if room < 14:
                return k.TRUNCATED, what, p, vlan
            what, p = _u16(d, p + 12), p + 14
        elif what == k.IP4 or what == k.IP6:
            if room < (20 if what == k.IP4 else 40):
                return k.TRUNCATED, what, p, vlan
            return (k.FOUND if d[p] >> 4 == (4 if what == k.IP4 else 6) else k.NON_IP), what, p, vlan
        elif what == 0x8100 or what == 0x88A8 or what == 0x9100 or what == 0x9200:
            if room < 4:
                return k.TRUNCATED, what, p, vlan
            vlan = vlan if vlan else _u16(d, p) & 0xFFF
            what, p = _u16(d, p + 2), p + 4
        elif what < k.LLC:
            if room < 8 or _word(d, p, True) != 0xAAAA0300 or d[p + 4] or d[p + 5]:
                return k.IS_LLC, what, p, vlan
            what, p = _u16(d, p + 6), p + 8
        elif what == k.ARP:
            return k.IS_ARP, what, p, vlan
        elif what == k.LLDP:
            return k.IS_LLDP, what, p, vlan
        elif what == k.COOKED:
            if room < 16:
                return k.TRUNCATED, what, p, vlan
            what, p = _u16(d, p + 14), p + 16
        elif what == k.COOKED2:
            if room < 20:
                return k.TRUNCATED, what, p, vlan
            what, p = _u16(d, p), p + 20
        elif what == k.HDLC:
            if room < 4:
                return k.TRUNCATED, what, p, vlan
            what, p = _u16(d, p + 2), p + 4
        elif what == k.NIBBLE:
            if room < 1:
                return k.TRUNCATED, what, p, vlan
            version = d[p] >> 4
            if version != 4 and version != 6:
                return k.NON_IP, what, p, vlan
            what = k.IP4 if version == 4 else k.IP6
        elif what == k.NULL:
            if room < 4:
                return k.TRUNCATED, what, p, vlan
            family = _word(d, p, True)
            if family & 0xFFFF == 0:  # of a machine of the other byte order
                family = _word(d, p, False)
            if family == 2:
                what = k.IP4
            elif family == 10 or family == 24 or family == 28 or family == 30:
                what = k.IP6
            else:
                return k.NON_IP, what, p, vlan
            p += 4
        elif what == k.MPLS or what == k.MPLS_MANY:
            if room < 4:
                return k.TRUNCATED, what, p, vlan
            what, p = (k.NIBBLE if d[p + 2] & 1 else what), p + 4
        elif what == k.PPPOE:
            if room < 6:
                return k.TRUNCATED, what, p, vlan
            what, p = k.PROTOCOL, p + 6
        elif what == k.PPP or what == k.PPP_GRE:
            if room < 1:
                return k.TRUNCATED, what, p, vlan
            what, p = k.PROTOCOL, p + (2 if room > 1 and d[p] == 0xFF and d[p + 1] == 3 else 0)
        elif what == k.PROTOCOL:
            if room < 1 or (room < 2 and not d[p] & 1):
                return k.TRUNCATED, what, p, vlan
            number, p = (np.int64(d[p]), p + 1) if d[p] & 1 else (_u16(d, p), p + 2)
            if number == 0x21:
                what = k.IP4
            elif number == 0x57:
                what = k.IP6
            elif number == 0x281:
                what = k.MPLS
            elif number == 0x283:
                what = k.MPLS_MANY
            else:
                return k.NON_IP, what, p, vlan
        elif what == k.GRE:
            if room < 4:
                return k.TRUNCATED, what, p, vlan
            bits = _u16(d, p)
            if bits & 7 > 1 or bits & 0x4000:
                return k.NON_IP, what, p, vlan
            size = 4 + 4 * ((bits >> 15 & 1) + (bits >> 13 & 1) + (bits >> 12 & 1))
            size += 4 * (bits >> 7 & 1) if bits & 7 == 1 else 0
            if size > room:
                return k.TRUNCATED, what, p, vlan
            what, p = _u16(d, p + 2), p + size
        elif what == k.VXLAN:
            if room < 8:
                return k.TRUNCATED, what, p, vlan
            if not d[p] & 8:
                return k.NON_IP, what, p, vlan
            what, p = k.ETHERNET, p + 8
        elif what == k.GTP:
            size = _gtp(d, p, room)
            if size > room:
                return k.TRUNCATED, what, p, vlan
            if size == 0:
                return k.NON_IP, what, p, vlan
            what, p = k.NIBBLE, p + size
        else:
            return k.NON_IP, what, p, vlan
    return k.NON_IP, what, p, vlan


@compiled
def _gtp(d, p, room):
    """`links._gtp`: the bytes of the header; 0 where no packet of a user follows."""
    if room < 8:
        return 8
    if d[p] >> 4 != 3 or d[p + 1] != 255:
        return 0
    size = 12 if d[p] & 7 else 8
    if not d[p] & 4 or room < 12:
        return size
    following = d[p + 11]
    for _ in range(4):
        if following == 0 or size >= room:
            break
        size += 4 * np.int64(d[p + size])
        following = d[p + size - 1] if size <= room else 0
    return 0 if following else size


@compiled
def _header(d, what, p, end, stop, c, i):
    """`headers.Layer` of one packet, into row i. What may be in it, where, and the end and stop of that; what: -1 for none."""
    flags, live, part, lost, fragment, bits = 0, True, False, False, 0, 0
    if what == k.IP4:
        header, total, field = np.int64(d[p] & 15) * 4, _u16(d, p + 2), _u16(d, p + 6)
        c.version[i], c.tos[i], c.length[i], identifier = 4, d[p + 1], total, _u16(d, p + 4)
        bits, fragment, c.ttl[i], protocol = field >> 13, (field & 0x1FFF) * 8, d[p + 8], np.int64(d[p + 9])
        c.src[i, 0], c.dst[i, 0] = 0, 0
        c.src[i, 1] = np.uint64(_word(d, p + 12, True)) | h.V4
        c.dst[i, 1] = np.uint64(_word(d, p + 16, True)) | h.V4
        wrong = total < header
    else:
        header, identifier, total = 40, 0, _u16(d, p + 4) + 40
        c.version[i], c.tos[i], c.length[i] = 6, _u16(d, p) >> 4 & 0xFF, min(total, 65535)
        protocol, c.ttl[i] = np.int64(d[p + 6]), d[p + 7]
        for half in range(2):
            a, b = p + 8 + 8 * half, p + 24 + 8 * half
            c.src[i, half] = np.uint64(_word(d, a, True)) << np.uint64(32) | np.uint64(_word(d, a + 4, True))
            c.dst[i, half] = np.uint64(_word(d, b, True)) << np.uint64(32) | np.uint64(_word(d, b + 4, True))
        wrong = total == 40 and protocol != h.NONE
    c.header[i] = header
    if wrong or p + total > stop:
        flags |= p_.BAD_LENGTH
        stop = end
    else:
        stop = p + total
    end = min(end, stop)
    cut = _cut(p + header, end, stop)
    flags |= cut
    if header < 20:
        flags |= p_.BAD_HEADER
    if cut or header < 20:
        live, lost = False, True
    else:
        p += header
    if what == k.IP4 and fragment:
        flags |= p_.FRAGMENT
        live = False
    elif what == k.IP4 and field & 0x2000:
        part = True

    six = what == k.IP6
    if live and six and EXTENSIONS[protocol]:
        flags |= p_.EXTENDED
    steps = 0
    while live and EXTENSIONS[protocol] and (six or protocol == h.AH):
        if steps == k.LAYERS:
            flags |= p_.BAD_HEADER
            live = False
            break
        steps += 1
        cut = _cut(p + 8, end, stop)
        if not cut:
            more = np.int64(d[p + 1])
            size = more * 4 + 8 if protocol == h.AH else 8 if protocol == h.FRAGMENTED else more * 8 + 8
            cut = _cut(p + size, end, stop)
        if cut:
            flags |= cut
            live = False
            break
        if protocol == h.FRAGMENTED:
            field = _u16(d, p + 2)
            fragment, identifier, bits, part = field & 0xFFF8, _word(d, p + 4, True), field & 1, False
            if fragment:
                flags |= p_.FRAGMENT
                live = False
            else:
                part = field & 1 > 0
        protocol = np.int64(d[p])
        p += size
    c.protocol[i], c.identifier[i], c.fragment[i], c.bits[i] = protocol, identifier, fragment, bits

    body, last, then = p, stop, -1
    sport = dport = tcp_flags = window = seq = ack = urgent = offset = udp_length = kind = code = options = 0
    if live:
        tcp, udp, sctp = protocol == p_.TCP, protocol == p_.UDP, protocol == h.SCTP
        icmp = protocol == p_.ICMP or protocol == p_.ICMP6
        if (tcp or udp or sctp) and p + 4 <= end:
            sport, dport = _u16(d, p), _u16(d, p + 2)
        if icmp and p + 2 <= end:
            kind, code = np.int64(d[p]), np.int64(d[p + 1])
        least = 20 if tcp else 12 if sctp else 8 if udp or icmp else 0
        cut = _cut(p + least, end, stop) if least else 0
        if cut:
            flags |= cut
            lost = True
        elif tcp:
            seq, ack = _word(d, p + 4, True), _word(d, p + 8, True)
            tcp_flags, window, urgent = _u16(d, p + 12) & 0x1FF, _u16(d, p + 14), _u16(d, p + 18)
            offset = np.int64(d[p + 12] >> 4) * 4
            flags |= _cut(p + offset, end, stop)
            if offset < 20 or p + offset > stop:
                flags |= p_.BAD_HEADER
                lost = True
            else:
                body = p + offset
                options = min(body, end) - p - 20
        elif udp:
            udp_length = _u16(d, p + 4)
            after = p + udp_length
            if udp_length < 8 or (after != stop and not (part and after > stop)):
                flags |= p_.BAD_LENGTH
            body = p + 8
            last = stop if udp_length < 8 else min(after, stop)
            then = k.VXLAN if dport == h.VXLAN_PORT else k.GTP if dport == h.GTP_PORT else -1
        elif sctp:
            body = p + 12
        elif icmp:
            body = p + 8
            if (kind == 0 or kind == 8) if protocol == p_.ICMP else (kind == 128 or kind == 129):
                sport = dport = _u16(d, p + 4)
        elif protocol == h.IP_IN_IP:
            then = k.IP4
        elif protocol == h.IP6_IN_IP:
            then = k.IP6
        elif protocol == h.GRE:
            then = k.GRE
    if lost:
        last = body
    c.sport[i], c.dport[i], c.tcp_flags[i], c.window[i], c.seq[i], c.ack[i] = sport, dport, tcp_flags, window, seq, ack
    c.urgent[i], c.offset[i], c.udp_length[i], c.icmp_type[i], c.icmp_code[i] = urgent, offset, udp_length, kind, code
    c.flags[i], c.payload_length[i], c.options_length[i] = flags, last - body, options
    held = max(min(min(end, last) - body, p_.PAYLOAD), 0)
    c.held[i] = held
    for j in range(p_.PAYLOAD):
        c.payload[i, j] = d[body + j] if j < held else 0
    for j in range(c.options.shape[1]):
        c.options[i, j] = d[p + 20 + j] if j < options else 0
    return then, body, min(end, last), last


@compiled
def _cut(behind, end, stop):
    """`Layer._ends`: the flag of a header that ends here."""
    if behind <= end:
        return 0
    return p_.BAD_HEADER if behind > stop else p_.TRUNCATED


@compiled
def _decode(d, at, captured, sent, time, kinds, first, depth, c, counts):
    n = 0
    for i in range(len(at)):
        if kinds[i] < 0:
            counts[-kinds[i]] += 1
            continue
        start, length, wire = at[i], np.int64(captured[i]), np.int64(sent[i])
        end, stop = start + length, start + max(length, wire)
        reason, what, p, vlan = _network(d, kinds[i], start, end)
        counts[reason] += 1
        if reason != k.FOUND:
            continue
        tunnel = 0
        what, p, end, stop = _header(d, what, p, end, stop, c, n)
        while what >= 0 and tunnel < depth:
            reason, what, p, inner = _network(d, what, p, end)
            if reason != k.FOUND:
                break
            tunnel += 1
            vlan = vlan if vlan else inner
            what, p, end, stop = _header(d, what, p, end, stop, c, n)
        c.frame[n], c.time[n], c.captured[n], c.sent[n] = first + i, time[i], length, wire
        c.vlan[n], c.tunnel[n] = vlan, tunnel
        if wire > length:
            c.flags[n] |= p_.TRUNCATED
        if tunnel:
            c.flags[n] |= p_.TUNNELLED
        n += 1
    return n
