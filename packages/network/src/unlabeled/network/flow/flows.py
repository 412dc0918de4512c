"""Flows: packets of two endpoints put together, with the tokens of their first bursts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# why a flow ended; `Flows.ended` counts in this list
ENDS = ("idle", "active", "closed", "end", "evicted")


@dataclass(frozen=True)
class Flows:
    """Bidirectional flows, N rows in the order of their first packets. The client is who sent the first packet.

    number    from 0 in their capture; start, end: ns since 1970
    src, dst (N, 2), sport, dport, protocol, vlan, version  as in `Packets`, of the first packet
    packets, bytes (with IP headers), payload (N, 2)  by the client, and back
    ended     index in ENDS
    statistics (N, S) float32 of all packets: sizes, times and shares, see `statistics.NAMES`; no address, no port, no byte
    shortcuts  (N, K) float32 of the first packets: what must not decide, see `statistics.SHORTCUTS`
    tokens    (T, 6) uint8: field, high, low, and the place: burst, packet of it from 1 (0: said of the whole burst), place
              in the packet; valid (T,): False for payload that was not there; offsets (N + 1,): of row n the tokens
              offsets[n] : offsets[n + 1]
    """

    number: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    src: NDArray[np.uint64]
    dst: NDArray[np.uint64]
    sport: NDArray[np.uint16]
    dport: NDArray[np.uint16]
    protocol: NDArray[np.uint8]
    vlan: NDArray[np.uint16]
    version: NDArray[np.uint8]
    packets: NDArray[np.int64]
    bytes: NDArray[np.int64]
    payload: NDArray[np.int64]
    ended: NDArray[np.uint8]
    statistics: NDArray[np.float32]
    shortcuts: NDArray[np.float32]
    tokens: NDArray[np.uint8]
    valid: NDArray[np.bool_]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.number)

    def take(self, rows: NDArray[np.integer]) -> Flows:
        """The flows of these rows, in this order, with their tokens."""
        sizes = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        at = np.repeat(self.offsets[:-1][rows] - offsets[:-1], sizes) + np.arange(offsets[-1])
        of = {n: rows for n in self.__dataclass_fields__ if n != "offsets"} | {"tokens": at, "valid": at}
        return Flows(**{n: getattr(self, n)[i] for n, i in of.items()}, offsets=offsets)

    @classmethod
    def joined(cls, parts: Sequence[Flows]) -> Flows:
        """The flows of all parts, one after the other."""
        names = [n for n in cls.__dataclass_fields__ if n != "offsets"]
        first = np.cumsum([0, *(len(p.tokens) for p in parts)])
        offsets = [p.offsets[:-1] + n for p, n in zip(parts, first[:-1], strict=True)]
        return cls(
            **{n: np.concatenate([getattr(p, n) for p in parts]) for n in names},
            offsets=np.concatenate([*offsets, first[-1:]]),
        )
