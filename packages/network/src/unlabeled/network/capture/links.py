"""From the link layer to the IP header, for many frames at once: Ethernet, VLANs, MPLS, PPP, Linux cooked, tunnels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unlabeled.network.capture.window import NO_LINK, Bytes, Places

# What stands next: an EtherType, or one of these. Below 0x600 it is a length, and LLC follows (IEEE 802.3).
IP4, IP6, ARP, LLDP, MPLS, MPLS_MANY, PPPOE, BRIDGED, PPP_GRE = (
    0x0800, 0x86DD, 0x0806, 0x88CC, 0x8847, 0x8848, 0x8864, 0x6558, 0x880B,
)  # fmt: skip
VLANS = (0x8100, 0x88A8, 0x9100, 0x9200)
LLC = 0x600
ETHERNET, COOKED, COOKED2, HDLC, NULL, PPP, PROTOCOL, NIBBLE, GRE, VXLAN, GTP = range(1 << 16, (1 << 16) + 11)
LAYERS = 32  # steps of one frame; beyond, it is an attack

# What was found: an IP header, or why there is none, as an index in REASONS
FOUND = 0
REASONS = ("", "truncated before IP", "arp", "lldp", "802.3", "non-IP", "other link type", "no interface")
TRUNCATED, IS_ARP, IS_LLDP, IS_LLC, NON_IP, OTHER_LINK, NO_INTERFACE = range(1, 8)

# link type of the capture -> what stands first
LINKS = {
    1: ETHERNET, 113: COOKED, 276: COOKED2, 104: HDLC, 0: NULL, 108: NULL, 9: PPP, 12: NIBBLE, 14: NIBBLE, 101: NIBBLE,
    228: IP4, 229: IP6,
}  # fmt: skip
# what -> bytes of its header, and where the EtherType is in it
TYPED = {ETHERNET: (14, 12), BRIDGED: (14, 12), COOKED: (16, 14), COOKED2: (20, 0), HDLC: (4, 2)} | dict.fromkeys(
    VLANS, (4, 2)
)
IP6_FAMILIES = (10, 24, 28, 30)  # AF_INET6 of Linux, NetBSD, FreeBSD and Darwin
LLC_SNAP = 8
# bytes without which nothing can be said
LEAST = {what: size for what, (size, _) in TYPED.items()} | {
    MPLS: 4, MPLS_MANY: 4, NIBBLE: 1, NULL: 4, PPPOE: 6, PPP: 1, PPP_GRE: 1, PROTOCOL: 1, GRE: 4, VXLAN: 8, GTP: 8,
    IP4: 20, IP6: 40,
}  # fmt: skip
ENDS = {ARP: IS_ARP, LLDP: IS_LLDP}
PPP_TYPES = {0x21: IP4, 0x57: IP6, 0x281: MPLS, 0x283: MPLS_MANY}


def u16(data: Bytes, at: Places) -> Places:
    return data[at].astype(np.int64) << 8 | data[at + 1]


def starts(link: NDArray[np.int32]) -> Places:
    """What stands first in frames of these link types; minus a reason where that cannot be read."""
    kind = np.full(len(link), -OTHER_LINK, np.int64)
    for number in np.unique(link).tolist():
        kind[link == number] = -NO_INTERFACE if number == NO_LINK else LINKS.get(number, -OTHER_LINK)
    return kind


def network(data: Bytes, kind: Places, pos: Places, end: Places) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Walks to the IP header, in place: `pos`, and `kind`, which says what stands there, or minus why nothing can.

    Gives the reason (FOUND where at `pos` is an IP header of the version that `kind`, IP4 or IP6, says, whole but for
    options), and the first VLAN id that is not 0.
    """
    reason, vlan = np.where(kind < 0, -kind, FOUND).astype(np.uint8), np.zeros(len(kind), np.uint16)
    todo = np.flatnonzero(kind >= 0)
    for _ in range(LAYERS):
        if not len(todo):
            break
        left = []
        now = kind[todo]
        for what in np.unique(now).tolist():
            rows = todo[now == what]
            p, room = pos[rows], end[rows] - pos[rows]
            if what in ENDS:
                reason[rows] = ENDS[what]
                continue
            least = LEAST.get(what, LLC_SNAP if what < LLC else 0)
            if not least:
                reason[rows] = NON_IP
                continue
            whole = room >= least
            reason[rows[~whole]] = IS_LLC if what < LLC else TRUNCATED
            rows, p, room = rows[whole], p[whole], room[whole]
            if what in (IP4, IP6):
                reason[rows] = np.where(data[p] >> 4 == (4 if what == IP4 else 6), FOUND, NON_IP)
                continue
            if what in VLANS:
                vlan[rows] = np.where(vlan[rows], vlan[rows], u16(data, p) & 0xFFF)
            then, size = _step(data, what, p, room)
            then = np.where((then >= 0) & (size > room), -TRUNCATED, then)
            kind[rows], pos[rows] = then, p + size
            reason[rows[then < 0]] = -then[then < 0]
            left.append(rows[then >= 0])
        todo = np.concatenate(left) if left else todo[:0]
    reason[todo] = NON_IP
    return reason, vlan


def _step(data: Bytes, what: int, p: Places, room: Places) -> tuple[Places, Places]:
    """What stands behind the header at p, or minus why nothing does, and the bytes of that header."""
    if what in TYPED:
        size, at = TYPED[what]
        return u16(data, p + at), np.full(len(p), size)
    if what < LLC:
        snap = (
            (data[p] == 0xAA)
            & (data[p + 1] == 0xAA)
            & (data[p + 2] == 3)
            & (u16(data, p + 3) == 0)
            & (data[p + 5] == 0)
        )
        return np.where(snap, u16(data, p + 6), -IS_LLC), np.full(len(p), LLC_SNAP)
    if what in (MPLS, MPLS_MANY):
        return np.where(data[p + 2] & 1, NIBBLE, what), np.full(len(p), 4)
    if what == NIBBLE:
        version = data[p] >> 4
        return np.where(version == 4, IP4, np.where(version == 6, IP6, -NON_IP)), np.zeros(len(p), np.int64)
    if what == NULL:
        low, high = u16(data, p), u16(data, p + 2)  # the byte order is that of the machine that captured
        family = np.where(low == 0, high, np.where(high == 0, low >> 8 | (low & 0xFF) << 8, 0))
        six = np.isin(family, IP6_FAMILIES)
        return np.where(family == 2, IP4, np.where(six, IP6, -NON_IP)), np.full(len(p), 4)
    if what == PPPOE:
        return np.full(len(p), PROTOCOL), np.full(len(p), 6)
    if what in (PPP, PPP_GRE):
        framed = (data[p] == 0xFF) & (data[p + np.minimum(room - 1, 1)] == 3)
        return np.full(len(p), PROTOCOL), np.where(framed, 2, 0)
    if what == PROTOCOL:
        first = data[p].astype(np.int64)
        short = first & 1 == 1
        number = np.where(short, first, first << 8 | data[p + np.minimum(room - 1, 1)])
        then = np.full(len(p), -NON_IP)
        for known, kind in PPP_TYPES.items():
            then[number == known] = kind
        return np.where(~short & (room < 2), -TRUNCATED, then), np.where(short, 1, 2)
    if what == GRE:
        return _gre(data, p)
    if what == VXLAN:
        return np.where(data[p] & 8, ETHERNET, -NON_IP), np.full(len(p), 8)
    return _gtp(data, p, room)


def _gre(data: Bytes, p: Places) -> tuple[Places, Places]:
    """RFC 2784, 2890 and, version 1, 2637. With a source route (RFC 1701) it is left closed, as RFC 2784 asks."""
    bits = u16(data, p)
    version = bits & 7
    size = 4 + 4 * ((bits >> 15 & 1) + (bits >> 13 & 1) + (bits >> 12 & 1) + ((version == 1) & (bits >> 7 & 1)))
    closed = (version > 1) | (bits & 0x4000 != 0)
    return np.where(closed, -NON_IP, u16(data, p + 2)), size


def _gtp(data: Bytes, p: Places, room: Places) -> tuple[Places, Places]:
    """GTP-U version 1 with a packet of a user (3GPP TS 29.281); at most 4 extension headers."""
    bits, size = data[p], np.full(len(p), 8)
    right = (bits >> 4 == 3) & (data[p + 1] == 255)
    size[bits & 7 != 0] = 12
    more = right & (bits & 4 != 0) & (room >= 12)
    following = np.zeros(len(p), np.uint8)
    following[more] = data[p[more] + 11]
    for _ in range(4):
        rows = np.flatnonzero((following != 0) & (size < room))
        size[rows] += 4 * data[p[rows] + size[rows]].astype(np.int64)
        inside = size[rows] <= room[rows]
        following[rows] = 0
        rows = rows[inside]
        following[rows] = data[p[rows] + size[rows] - 1]
    return np.where(right & (following == 0), NIBBLE, -NON_IP), size
