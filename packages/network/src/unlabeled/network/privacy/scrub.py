"""One frame -> its headers alone, and where addresses and ports stand in them, at every depth of encapsulation.

What is left begins with an Ethernet header of zeros (its VLAN tags stay, since they tell flows apart), whatever the link was,
and ends behind the innermost TCP, UDP, SCTP or ICMP header. Bytes between that may hold an address, a name or a clock are
overwritten by zeros or no-operations of the same length: MAC addresses of inner frames, IPv4 options (RFC 791: routes), bodies
of IPv6 extension headers (RFC 8200: routes, home addresses), TCP options but those listed below (RFC 8684: addresses), the
gateway of an ICMP redirect, and the bodies of all ICMP errors (RFC 792: headers of other packets).
"""

from __future__ import annotations

from dataclasses import dataclass, field

ETHERNET, TAG, LABEL = 14, 4, 4  # bytes
VLAN = (0x8100, 0x88A8, 0x9100, 0x9200)
IPV4, IPV6, ARP, MPLS, PPPOE, PPP, BRIDGED = 0x0800, 0x86DD, 0x0806, (0x8847, 0x8848), 0x8864, 0x880B, 0x6558
VXLAN, GTP = 4789, 2152  # UDP ports
DEPTH = 8  # IP headers in one another
OPTIONS = (2, 3, 4, 5, 8)  # of TCP, that stay: segment size, window scale, selective acknowledgements, clocks
ECHO = {1: (0, 8), 58: (128, 129)}  # of ICMP and of ICMPv6: nothing but these has an identifier and data of its own
AUTHENTICATION = 51  # a header of 4 (2 + length) bytes, RFC 4302
SKIPPED = (0, 43, 60, 135, 139, 140)  # IPv6 extension headers of 8 (1 + length) bytes

RAW = (12, 14, 101, 228, 229)
FAMILIES = (2, 10, 24, 28, 30)


class Dropped(Exception):
    """A frame of which nothing stays: why."""


@dataclass
class Bare:
    """data begins with Ethernet, and its IP header stands `moved` bytes further back than in the frame; positions are in data.

    addresses  (position, bytes); headers: IPv4 headers (position, bytes), whose checksums are still to be made
    ports      of the innermost TCP, UDP or SCTP
    """

    data: bytearray
    moved: int
    addresses: list[tuple[int, int]] = field(default_factory=list)
    headers: list[tuple[int, int]] = field(default_factory=list)
    ports: list[int] = field(default_factory=list)


def scrub(frame: bytes, linktype: int, payload: int = 0) -> Bare:
    """The headers of a frame, and `payload` bytes behind those of TCP, UDP and ICMP echo. Raises Dropped where it holds no IP.

    linktype  as in the files, https://www.tcpdump.org/linktypes.html: 0, 1, 9, 12, 14, 101, 104, 108, 113, 228, 229, 276.
    """
    try:
        tags, start = _network(frame, linktype)
        version = frame[start] >> 4
    except IndexError:
        raise Dropped("cut short before an IP header") from None
    if version not in (4, 6):
        raise Dropped("no IP")
    if len(frame) - start < (20 if version == 4 else 40):
        raise Dropped("cut short within the IP header")
    kind = (IPV4 if version == 4 else IPV6).to_bytes(2, "big")
    bare = Bare(bytearray(bytes(12) + tags + kind + frame[start:]), ETHERNET + len(tags) - start)
    cut = _ip(bare, ETHERNET + len(tags), len(bare.data), payload, 1)
    del bare.data[cut:]
    return bare


def _pair(data: bytes | bytearray, at: int) -> int:
    return data[at] << 8 | data[at + 1]


# links: how far it is to the IP header. Each raises IndexError where the frame ends before that


def _network(frame: bytes, linktype: int) -> tuple[bytes, int]:
    """VLAN tags, and where IP begins. Raises Dropped for what is no IP."""
    if linktype == 1:
        return _typed(frame, _pair(frame, 12), ETHERNET)
    if linktype in RAW:
        return b"", 0
    if linktype in (0, 108):
        four = frame[:4]
        if int.from_bytes(four, "big") in FAMILIES or int.from_bytes(four, "little") in FAMILIES:
            return b"", 4
        raise Dropped("no IP")
    if linktype == 113:
        return _typed(frame, _pair(frame, 14), 16)
    if linktype == 104:
        return _typed(frame, _pair(frame, 2), 4)
    if linktype == 276:
        return _typed(frame, _pair(frame, 0), 20)
    if linktype == 9:
        return b"", _ppp(frame, 0)
    raise Dropped("unknown link type")


def _ppp(frame: bytes | bytearray, at: int) -> int:
    """Behind the address and control fields of PPP, where they are there, and its protocol field of one byte or two."""
    at += 2 if frame[at : at + 2] == b"\xff\x03" else 0
    one = frame[at] & 1
    if (frame[at] if one else _pair(frame, at)) not in (0x21, 0x57):
        raise Dropped("no IP")
    return at + 2 - one


def _typed(frame: bytes | bytearray, kind: int, at: int) -> tuple[bytes, int]:
    """Behind an EtherType, with the VLAN tags that follow it."""
    tags = b""
    while True:
        if kind in (IPV4, IPV6):
            return tags, at
        if kind in VLAN:
            tags += kind.to_bytes(2, "big") + frame[at : at + 2]
            kind, at = _pair(frame, at + 2), at + TAG
        elif kind in MPLS:
            while not frame[at + 2] & 1:  # bottom of the stack
                at += LABEL
            return tags, at + LABEL
        elif kind in (PPPOE, PPP):
            return tags, _ppp(frame, at + (6 if kind == PPPOE else 0))
        elif kind <= 1500 and frame[at : at + 6] == b"\xaa\xaa\x03\0\0\0":
            kind, at = _pair(frame, at + 6), at + 8
        else:
            raise Dropped("ARP" if kind == ARP else "no IP")


# headers: each gives where what is kept ends, at or before `end`


def _ip(bare: Bare, at: int, end: int, payload: int, depth: int) -> int:
    data = bare.data
    version = data[at] >> 4 if at < end else 0
    if version == 4 and end - at >= 20:
        return _ipv4(bare, at, end, payload, depth)
    if version == 6 and end - at >= 40:
        return _ipv6(bare, at, end, payload, depth)
    return min(at, end)


def _ipv4(bare: Bare, at: int, end: int, payload: int, depth: int) -> int:
    data = bare.data
    said = 4 * (data[at] & 15)
    head = min(max(said, 20), end - at)
    bare.addresses += [(at + 12, 4), (at + 16, 4)]
    bare.headers.append((at, head))
    data[at + 20 : at + head] = bytes(head - 20)
    total = _pair(data, at + 2)
    if total >= head:
        end = min(end, at + total)
    if said != head or _pair(data, at + 6) & 0x1FFF:  # a length that cannot be, or a fragment that is not the first
        return at + head
    return _inner(bare, data[at + 9], at + head, end, payload, depth)


def _ipv6(bare: Bare, at: int, end: int, payload: int, depth: int) -> int:
    data = bare.data
    bare.addresses += [(at + 8, 16), (at + 24, 16)]
    length = _pair(data, at + 4)
    if length:
        end = min(end, at + 40 + length)
    kind, at = data[at + 6], at + 40
    while at + 8 <= end:
        if kind == 44:
            more, offset = data[at], _pair(data, at + 2) & 0xFFF8
            kind, at = more, at + 8
            if offset:
                return at
        elif kind in SKIPPED or kind == AUTHENTICATION:
            size = 4 * (2 + data[at + 1]) if kind == AUTHENTICATION else 8 * (1 + data[at + 1])
            _blank(data, at + 2, min(at + size, end))
            if at + size > end:
                return end
            kind, at = data[at], at + size
        else:
            return _inner(bare, kind, at, end, payload, depth)
    return min(at, end) if kind in (44, AUTHENTICATION, *SKIPPED) else _inner(bare, kind, at, end, payload, depth)


def _inner(bare: Bare, kind: int, at: int, end: int, payload: int, depth: int) -> int:
    """Behind an IP header: transport, tunnels, and in IPv4 the authentication header before either."""
    data = bare.data
    if kind == AUTHENTICATION and end - at >= 12:
        size = 4 * (data[at + 1] + 2)
        _blank(data, at + 2, min(at + size, end))
        return _inner(bare, data[at], at + size, end, payload, depth) if at + size <= end else end
    if kind in (4, 41):
        return _ip(bare, at, end, payload, depth + 1) if depth < DEPTH else at
    if kind == 47:
        return _gre(bare, at, end, payload, depth)
    if kind == 6:
        return _tcp(bare, at, end, payload)
    if kind == 17:
        return _udp(bare, at, end, payload, depth)
    if kind == 132:
        return _ports(bare, at, end, 12, 8, 4)
    if kind in ECHO:
        _blank(data, at + 2, min(at + 4, end))
        if at < end and data[at] in ECHO[kind]:
            return min(at + 8 + payload, end)
        _blank(data, at + 4, min(at + 8, end))
        return min(at + 8, end)
    return at


def _blank(data: bytearray, begin: int, end: int) -> None:
    if end > begin:
        data[begin:end] = bytes(end - begin)


def _ports(bare: Bare, at: int, end: int, size: int, checksum: int, width: int) -> int:
    """A header that begins with two ports; its checksum becomes 0. One that ends before both has none."""
    if end - at < 4:
        return at
    bare.ports = [at, at + 2]
    _blank(bare.data, at + checksum, min(at + checksum + width, end))
    return min(at + size, end)


def _tcp(bare: Bare, at: int, end: int, payload: int) -> int:
    data = bare.data
    behind = _ports(bare, at, end, 20, 16, 2)
    if behind < at + 20:
        return behind
    stop = min(at + max(20, 4 * (data[at + 12] >> 4)), end)
    place = at + 20
    while place < stop:
        kind = data[place]
        size = 1 if kind < 2 else data[place + 1] if place + 1 < stop else 0
        if kind and (size == 0 or (size < 2 and kind > 1) or place + size > stop):  # broken: nobody knows what it holds
            kind, size = 0, stop - place
        if kind == 0:  # the end of the options
            size = stop - place
        if kind not in OPTIONS:
            data[place : place + size] = (b"\x01" if kind else b"\0") * size
        place += size
    return min(stop + payload, end)


def _udp(bare: Bare, at: int, end: int, payload: int, depth: int) -> int:
    data = bare.data
    behind = _ports(bare, at, end, 8, 6, 2)
    if behind < at + 8 or depth >= DEPTH:
        return behind
    if _pair(data, at + 2) == VXLAN and end - behind >= 8:
        return _ethernet(bare, behind + 8, end, payload, depth)
    if GTP in (_pair(data, at), _pair(data, at + 2)):
        return _gtp(bare, behind, end, payload, depth)
    return min(behind + payload, end)


def _ethernet(bare: Bare, at: int, end: int, payload: int, depth: int) -> int:
    if end - at < ETHERNET:
        return min(at, end)
    _blank(bare.data, at, at + 12)
    return _tunnel(bare, _pair(bare.data, at + 12), at + ETHERNET, end, payload, depth)


def _tunnel(bare: Bare, kind: int, at: int, end: int, payload: int, depth: int) -> int:
    """What an EtherType says, in a tunnel. The tunnel's own ports stay, so that a reader knows it again."""
    bare.ports = []
    try:
        _, inner = _typed(bare.data, kind, at)
    except (Dropped, IndexError):
        return min(at, end)
    return _ip(bare, inner, end, payload, depth + 1)


def _gre(bare: Bare, at: int, end: int, payload: int, depth: int) -> int:
    """RFC 2784 and 2890, and RFC 2637 as version 1; others, and source routes, are not looked into."""
    if end - at < 4 or depth >= DEPTH:
        return at
    data = bare.data
    flags, kind = _pair(data, at), _pair(data, at + 2)
    version = flags & 7
    if flags & 0x4000 or version > 1:
        return at + 4
    words = [
        15,
        13,
        12,
        *([7] if version else []),
    ]  # bits that say so of 4 bytes each: checksum, key, number, acknowledgement
    behind = at + 4 + 4 * sum(flags >> bit & 1 for bit in words)
    if flags & 0x8000:
        _blank(data, at + 4, min(at + 6, end))
    if kind == BRIDGED:
        return _ethernet(bare, behind, end, payload, depth)
    return _tunnel(bare, kind, behind, end, payload, depth)


def _gtp(bare: Bare, at: int, end: int, payload: int, depth: int) -> int:
    """GTP-U version 1, 3GPP TS 29.281: message 255 holds an IP packet, behind 4 bytes more where a flag is set."""
    data = bare.data
    if end - at < 8 or data[at] >> 4 != 3 or data[at + 1] != 255:
        return at
    behind = at + 8 + (4 if data[at] & 7 else 0)
    extension = data[behind - 1] if data[at] & 4 and behind <= end else 0
    while extension and behind < end:
        size = 4 * max(1, data[behind])
        if behind + size > end:
            return at
        extension, behind = data[behind + size - 1], behind + size
    bare.ports = []
    return _ip(bare, behind, end, payload, depth + 1) if behind <= end else at
