"""Packets: what a capture holds, one column per header field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

# bits of `Packets.flags`
TRUNCATED = 1  # less was captured than was sent (snaplen), or the frame ends inside of a header
BAD_HEADER = 2  # an IP or TCP header length below its least, or beyond the packet
BAD_LENGTH = 4  # a length field that contradicts another, or is 0 (offload); the captured bytes bound it
FRAGMENT = 8  # a fragment that is not the first: it has no ports
EXTENDED = 16  # IPv6 with extension headers
TUNNELLED = 32  # the columns are of the innermost IP header

TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
PAYLOAD = 12  # bytes of payload that are kept
OPTIONS = 40  # bytes of TCP options that are kept


@dataclass(frozen=True)
class Packets:
    """The IP packets of a stretch of a capture, N rows in the order of the file. Absent fields are 0.

    frame     number of the frame in its capture, from 0, counting what is no IP too
    time      ns since 1970
    captured, sent  bytes of the whole frame
    vlan      outermost VLAN id, 0 for none; tunnel: number of outer IP headers
    version   4 or 6; src, dst (N, 2): address as two halves, high first; IPv4 as ::ffff:a.b.c.d
    protocol  the IP protocol behind all IPv6 extension headers
    sport, dport  of TCP, UDP and SCTP; of an ICMP echo both are its identifier
    header    bytes of the IP header, 40 for IPv6; tos: or traffic class; length: of the packet with its IP header, IPv6:
              payload length + 40; identifier and fragment offset (bytes); bits: the three flags as in IPv4, reserved first;
              ttl: or hop limit
    tcp_flags (9 bits, NS first), window, seq, ack, urgent; offset: bytes of the TCP header; udp_length; icmp_type, icmp_code
    payload_length  bytes behind the TCP, UDP or ICMP header, bounded by the IP length, so without the padding of Ethernet
    payload   (N, 12) its first bytes; held: how many of them were captured
    options   (N, 40) TCP options and their number of bytes; of no width where they were not asked for
    flags     bits, see above
    """

    frame: NDArray[np.int64]
    time: NDArray[np.int64]
    captured: NDArray[np.uint32]
    sent: NDArray[np.uint32]
    vlan: NDArray[np.uint16]
    tunnel: NDArray[np.uint8]
    version: NDArray[np.uint8]
    src: NDArray[np.uint64]
    dst: NDArray[np.uint64]
    protocol: NDArray[np.uint8]
    sport: NDArray[np.uint16]
    dport: NDArray[np.uint16]
    header: NDArray[np.uint8]
    tos: NDArray[np.uint8]
    length: NDArray[np.uint16]
    identifier: NDArray[np.uint32]
    fragment: NDArray[np.uint16]
    bits: NDArray[np.uint8]
    ttl: NDArray[np.uint8]
    tcp_flags: NDArray[np.uint16]
    window: NDArray[np.uint16]
    seq: NDArray[np.uint32]
    ack: NDArray[np.uint32]
    urgent: NDArray[np.uint16]
    offset: NDArray[np.uint8]
    udp_length: NDArray[np.uint16]
    icmp_type: NDArray[np.uint8]
    icmp_code: NDArray[np.uint8]
    payload_length: NDArray[np.uint32]
    payload: NDArray[np.uint8]
    held: NDArray[np.uint8]
    options: NDArray[np.uint8]
    options_length: NDArray[np.uint8]
    flags: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.time)

    def take(self, at: NDArray[np.integer] | NDArray[np.bool_] | slice) -> Packets:
        """The packets at these rows."""
        return Packets(**{f.name: getattr(self, f.name)[at] for f in fields(self)})

    @classmethod
    def joined(cls, parts: Sequence[Packets]) -> Packets:
        """The packets of all parts, one after the other."""
        return cls(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)})

    @classmethod
    def empty(cls, n: int = 0, options: bool = False) -> Packets:
        """n rows of zeros."""
        widths = {"src": (2,), "dst": (2,), "payload": (PAYLOAD,), "options": (OPTIONS if options else 0,)}
        return cls(**{name: np.zeros((n, *widths.get(name, ())), kind) for name, kind in KINDS.items()})


# Type of each column, as its annotation says it.
KINDS: dict[str, type[np.generic]] = {
    f.name: getattr(np, str(f.type).removeprefix("NDArray[np.").removesuffix("]")) for f in fields(Packets)
}
