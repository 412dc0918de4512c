"""The fields that become tokens: protocol by protocol, each with a type of its own and its value as high and low byte.

Never a token: MAC and IP addresses, VLANs, ports, IP identifiers, checksums, absolute sequence numbers, and, unless asked
for, TCP options and payload, which hold timestamps, names and random identifiers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

CHANNELS = ("field", "high", "low")
BYTES = 256

Of = Literal["burst", "ip", "tcp", "udp", "icmp", "options", "payload"]


@dataclass(frozen=True)
class FieldType:
    """A kind of token.

    name    of: the header, or the burst, that it stands in
    tokens  how many of 16 bits follow each other, each a type of its own: a field of 32 bits is two
    derived it can be computed from other tokens of the burst: no task for replaced-token detection
    """

    name: str
    of: Of
    tokens: int = 1
    derived: bool = False


# What is said of a whole burst stands before its packets. Bytes, packets and gap are octaves: see `octaves`.
BURST = (
    FieldType("direction", "burst"),
    FieldType("bytes", "burst", derived=True),
    FieldType("packets", "burst", derived=True),
    FieldType("gap", "burst"),
)
IP = (
    FieldType("header length", "ip"),
    FieldType("service", "ip"),
    FieldType("length", "ip", derived=True),
    FieldType("flags", "ip"),
    FieldType("ttl", "ip"),
)
TRANSPORT = {
    "tcp": (
        FieldType("tcp flags", "tcp"),
        FieldType("window", "tcp"),
        FieldType("seq", "tcp", 2, derived=True),
        FieldType("ack", "tcp", 2, derived=True),
        FieldType("urgent", "tcp"),
    ),
    "udp": (FieldType("udp length", "udp", derived=True),),
    "icmp": (FieldType("icmp type", "icmp"), FieldType("icmp code", "icmp")),
}
OPTIONS = (FieldType("tcp options", "options", 20),)
PAYLOAD = (FieldType("payload", "payload", 6),)

# One row per token type: (name, part of it from 0, header, derived); its position is the id in the channel `field`.
TYPES: tuple[tuple[str, int, str, bool], ...] = tuple(
    (f.name, part, f.of, f.derived)
    for f in (*BURST, *IP, *TRANSPORT["tcp"], *TRANSPORT["udp"], *TRANSPORT["icmp"], *OPTIONS, *PAYLOAD)
    for part in range(f.tokens)
)
VOCABULARY = (len(TYPES), BYTES, BYTES)


def first(name: str) -> int:
    """The id of the (first) token type of a field."""
    return next(i for i, t in enumerate(TYPES) if t[0] == name)


def octaves(value: NDArray[np.integer] | NDArray[np.floating]) -> NDArray[np.uint16]:
    """Counts, bytes and times in us as 16 bits: the high byte is the octave of 1 + value, the low one its 256ths.

    0 is 0, and steps are 0.27 % wide, so that sizes and times of any scale are told apart.
    """
    return np.minimum(np.round(256 * np.log2(1 + np.asarray(value, np.float64))), 65535).astype(np.uint16)


def value(octave: NDArray[np.integer]) -> NDArray[np.float64]:
    """What `octaves` was made from, to half a step."""
    return np.exp2(np.asarray(octave, np.float64) / 256) - 1
