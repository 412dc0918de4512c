"""Which packets belong together: a key that is the same both ways, and for a fragment the key of its first one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unlabeled.network.capture.packets import FRAGMENT, Packets

WORDS = 5
ORPHAN = np.uint64(0x80)  # in the byte of the tunnel: a fragment whose first one was not seen
REASSEMBLY = 60_000_000_000  # ns that a fragment may come after its first one (RFC 8200, section 4.5)
_MORE = 1  # the last of the three flags of IP: more fragments follow

_ENTRY = np.dtype([("of", "u8", (WORDS,)), ("words", "u8", (WORDS,)), ("back", "?"), ("time", "i8")])


def keys(packets: Packets) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """The key of each packet, (5, N): both addresses, and ports, VLAN, protocol and tunnel depth in one word.

    The lower end comes first; the second value says where that is the receiver's.
    """
    s, d = packets.src, packets.dst
    sport, dport = packets.sport, packets.dport
    low = (s[:, 1] > d[:, 1]) | ((s[:, 1] == d[:, 1]) & (sport > dport))
    back = (s[:, 0] > d[:, 0]) | ((s[:, 0] == d[:, 0]) & low)
    words = np.empty((WORDS, len(packets)), np.uint64)
    for half in (0, 1):
        words[half] = np.where(back, d[:, half], s[:, half])
        words[2 + half] = np.where(back, s[:, half], d[:, half])
    ends = np.where(back, dport, sport).astype(np.uint64) << 48 | np.where(back, sport, dport).astype(np.uint64) << 32
    words[4] = ends | _rest(packets)
    return words, back


def _rest(packets: Packets) -> NDArray[np.uint64]:
    vlan, protocol = packets.vlan.astype(np.uint64), packets.protocol.astype(np.uint64)
    rest: NDArray[np.uint64] = np.left_shift(vlan, 16) | np.left_shift(protocol, 8) | packets.tunnel
    return rest


def mixed(words: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """64 well mixed bits of each column of (5, N); another seed gives others. Steps of SplitMix64 (Steele et al. 2014)."""
    h = np.full(words.shape[1], (seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) & (2**64 - 1), np.uint64)
    for word in words:
        h ^= word
        h *= np.uint64(0xBF58476D1CE4E5B9)
        h ^= h >> np.uint64(29)
    h *= np.uint64(0x94D049BB133111EB)
    return h ^ h >> np.uint64(32)


class Fragments:
    """The first fragments of the last minute, so that the others, which have no ports, find their flow.

    most: how many are remembered; the newest ones are.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._known = np.zeros(0, _ENTRY)

    def join(self, packets: Packets, words: NDArray[np.uint64], back: NDArray[np.bool_]) -> int:
        """Gives each fragment the key of its first one, in place; those without one get a key of their own.

        Returns how many have none. A fragment is of the last first fragment before it, in the order of the file, with
        the same addresses, identifier, protocol, VLAN and tunnel depth.
        """
        later = (packets.flags & FRAGMENT) != 0
        at = np.flatnonzero(later | ((packets.fragment == 0) & ((packets.bits & _MORE) != 0)))
        if not len(at):
            return 0
        entries = np.zeros(len(at), _ENTRY)
        few = packets.take(at)
        entries["of"][:, :2], entries["of"][:, 2:4] = few.src, few.dst
        entries["of"][:, 4] = few.identifier.astype(np.uint64) << 32 | _rest(few)
        entries["words"], entries["back"], entries["time"] = words[:, at].T, back[at], few.time
        known, rows = len(self._known), np.concatenate([self._known, entries])
        leads = np.concatenate([np.ones(known, bool), ~later[at]])
        order = np.lexsort(rows["of"].T)  # stable: the order of the file within one datagram
        rows, leads = rows[order], leads[order]
        begins = np.concatenate([[True], (rows["of"][1:] != rows["of"][:-1]).any(1)])
        i = np.arange(len(rows))
        lead = np.maximum.accumulate(np.where(leads, i, -1))
        seen = lead >= np.maximum.accumulate(np.where(begins, i, 0))
        near = seen & (rows["time"] - rows["time"][lead] <= REASSEMBLY)
        joins, alone = ~leads & near, ~leads & ~near
        to = at[order[joins] - known]
        words[:, to], back[to] = rows["words"][lead[joins]].T, rows["back"][lead[joins]]
        words[4, at[order[alone] - known]] |= ORPHAN
        last = lead[np.append(begins[1:], True) & seen]  # of each datagram the last first fragment
        self._known = rows[last[packets.time[-1] - rows["time"][last] <= REASSEMBLY]]
        if len(self._known) > self._most:
            self._known = self._known[np.argsort(self._known["time"], kind="stable")[-self._most :]]
        return int(alone.sum())
