"""Packets to flows, in one pass and bounded memory.

The rules (the specification's A4.2): both ways of a pair of ends (address and port; of ICMP echo its identifier; addresses
alone where there are no ports), VLAN and tunnel depth are one flow. It ends with a silence of more than `idle`, at more than
`active` after its start, and at its close: a reset, or FIN both ways, and then a SYN, or anything later than 2 s after. A
packet right at a limit still belongs to the flow. Fragments go with the first one of their packet.

Packets count in the order of the file. Where a flow's clock runs back it stands still until the file has caught up, so that
no gap is negative; such packets are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unlabeled.network import capture
from unlabeled.network.capture.packets import (
    BAD_HEADER,
    BAD_LENGTH,
    EXTENDED,
    FRAGMENT,
    TCP,
    TRUNCATED,
    TUNNELLED,
    Packets,
)
from unlabeled.network.flow import statistics
from unlabeled.network.flow.bursts import Before, bursts, ways
from unlabeled.network.flow.cuts import ACK, LATE, NEVER, SYN, Begun, cut, over
from unlabeled.network.flow.flows import ENDS, Flows
from unlabeled.network.flow.keys import WORDS, Fragments, keys, mixed
from unlabeled.network.flow.tokenise import Layout, Records, Where, keep, tokenise
from unlabeled.network.options import ReaderOptions

# Packets that are looked at together, counted from the first one of the capture, so that flows do not depend on how the
# capture came in parts. Silent flows leave, and too many are evicted, at the end of each block.
BLOCK = 1 << 17
PIECE = 1 << 14  # flows that are made at a time
PLAIN = ("frames", "packets", "flows", *(end for end in ENDS if end != "evicted"))  # counts of what is not odd
_FLAGS = {
    TRUNCATED: "packets not captured whole",
    BAD_HEADER: "packets with a bad header",
    BAD_LENGTH: "packets whose lengths contradict each other",
    FRAGMENT: "fragments",
    EXTENDED: "packets with IPv6 extension headers",
    TUNNELLED: "packets in tunnels",
}

_STATE = np.dtype(
    [
        *(("hash", "u8"), ("words", "u8", (WORDS,)), ("number", "i8")),
        *(("start", "i8"), ("last", "i8"), ("closed", "i8"), ("base", "u4", (2,))),
        *(("bursts", "i8"), ("seen", "i8", (2,)), ("burst", "i8", (2,)), ("place", "i8", (2,)), *statistics.CARRIED),
        *(("flip", "?"), ("version", "u1"), ("ended", "u1"), ("fin", "?", (2,)), ("based", "?", (2,))),
    ],
    align=True,
)
IDLE, ACTIVE, CLOSED, END, EVICTED = range(len(ENDS))

State = NDArray[np.void]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Assembler:
    """Puts the packets of one capture into flows; give it their parts in order.

    counts: flows, packets, why flows ended, what was odd. Of an open flow stay its sums and those of its packets that become
    tokens, at most `bursts` x `packets`. At most `max_flows` stay open.
    """

    def __init__(self, options: ReaderOptions, block: int = BLOCK) -> None:
        self.counts: Counter[str] = Counter()
        self._options, self._layout = options, Layout(options)
        self._size, self._low = block, np.uint64((1 << (block - 1).bit_length()) - 1)
        self._parts: list[Packets] = []
        # the rows of flows, which are open or free, grow and never move; those of flows that ended wait to be made
        self._open, self._used = np.zeros(0, _STATE), np.zeros(0, bool)
        self._ended, self._kept = list[State](), list[Records]()
        self._fragments = Fragments(options.max_flows)
        self._numbers = self._seed = 0

    def add(self, packets: Packets) -> Flows:
        """Takes the next packets; flows that have ended, by number, once there are enough to be made together."""
        self.take(packets)
        many = sum(map(len, self._ended)) > min(PIECE, int(self._used.sum()))
        return self._flows(self._all_ended() if many else self._open[:0])

    def take(self, packets: Packets) -> None:
        """Takes the next packets, and keeps the flows that end."""
        self.counts["packets"] += len(packets)
        self._parts.append(packets)
        waiting = sum(map(len, self._parts))
        if waiting >= self._size:
            whole = self._parts[0] if len(self._parts) == 1 else Packets.joined(self._parts)
            at = range(0, waiting - self._size + 1, self._size)
            for i in at:
                self._block(whole.take(slice(i, i + self._size)))
            self._parts = [whole.take(slice(at[-1] + self._size, None))]

    def finish(self) -> Flows:
        """All flows that were not given yet, by number."""
        return self._flows(self._rest())

    def pieces(self) -> Iterator[Flows]:
        """The same piece by piece, so that not all of their tokens are in memory at once."""
        rest = self._rest()
        for at in range(0, max(len(rest), 1), PIECE):
            yield self._flows(rest[at : at + PIECE])

    def _rest(self) -> State:
        """Ends what is open; the rows of the flows that were not given yet."""
        if any(map(len, self._parts)):
            self._block(Packets.joined(self._parts))
        left = self._open[self._used]
        left["ended"] = np.where(left["closed"] != NEVER, CLOSED, END)
        self._ended.append(left)
        self._parts, self._open, self._used = [], self._open[:0], self._used[:0]
        return self._all_ended()

    def _all_ended(self) -> State:
        """The rows of the flows that ended, by number."""
        ended: State = np.concatenate([self._open[:0], *self._ended])
        self._ended = []
        return ended[np.argsort(ended["number"])]

    def _block(self, packets: Packets) -> None:
        """Takes a block of packets."""
        words, way = keys(packets)
        for flag, what in _FLAGS.items():
            self.counts[what] += int(np.count_nonzero(packets.flags & flag))
        self.counts["fragments without their first"] += self._fragments.join(packets, words, way)
        order, begins, known = self._sorted(words)
        # from here on rows are by key, and within one in the order of the file
        n, way = len(order), way[order]
        time, protocol = packets.time[order], packets.protocol[order]
        group = np.repeat(np.arange(len(begins)), np.diff(begins, append=n))
        carried = known >= 0
        old = np.zeros(len(known), _STATE)  # rows of keys that are not known say nothing
        old[carried] = self._open[known[carried]]
        time = self._clock(time, begins, group, np.where(carried, old["last"], NEVER))
        tcp = (protocol == TCP) & ((packets.flags[order] & FRAGMENT) == 0)
        flags = packets.tcp_flags[order] * tcp

        # runs without a long silence, then flows
        o = self._options
        idle = np.where(protocol == TCP, _ns(o.idle), _ns(o.idle_other))
        silent = np.diff(time, prepend=time[:1]) > idle
        before = Begun(old["start"], old["fin"], old["closed"])
        opens = (flags[begins] & (SYN | ACK)) == SYN
        stops = over(time[begins], opens, old["last"], before, idle[begins], _ns(o.active))
        quiet = carried & (time[begins] - old["last"] > idle[begins])
        fresh = ~carried | stops
        silent[begins] = True
        first = np.flatnonzero(silent)
        begun = Begun.fresh(time[first])
        goes_on = np.searchsorted(first, begins[~fresh])
        begun.start[goes_on], begun.fin[goes_on], begun.closed[goes_on] = (
            old[f][~fresh] for f in ("start", "fin", "closed")
        )
        found = cut(time, flags, way, first, begun, _ns(o.active))

        flow = np.zeros(n, np.int64)
        flow[found.first] = 1
        flow = np.cumsum(flow) - 1
        state = np.zeros(len(found.first), _STATE)
        statistics.begin(state)
        new = np.ones(len(state), bool)
        new[np.searchsorted(found.first, begins[~fresh])] = False
        state[~new] = old[~fresh]
        heads = order[found.first[new]]
        state["words"][new], state["flip"][new] = words[:, heads].T, way[found.first[new]]
        state["hash"][new], state["version"][new] = self._hash(words[:, heads]), packets.version[heads]
        state["number"][new] = self._numbers + np.argsort(np.argsort(heads))
        self._numbers += len(heads)
        last = np.append(found.first[1:], n) - 1
        state["start"], state["fin"], state["closed"], state["last"] = found.start, found.fin, found.closed, time[last]

        self._fill(state, flow, packets, order, time, way != state["flip"][flow], flags, tcp)
        gone = old[carried & fresh].copy()
        gone["ended"] = _reason(gone, quiet[carried & fresh])
        final = group[found.first] != np.append(group[found.first[1:]], -1)  # of its key: it stays open
        follower = np.append(found.first[1:], 0)
        state["ended"] = _reason(state, silent[follower])
        self._ended += [gone, state[~final]]
        known[~carried] = self._free(len(known) - int(carried.sum()))
        self._open[known], self._used[known] = state[final], True
        self._leave(int(packets.time[-1]))

    def _free(self, n: int) -> Ints:
        """So many rows that are free."""
        free = np.flatnonzero(~self._used)
        if len(free) < n:
            size = len(self._used)
            rows = np.zeros(2 * size + n, _STATE)  # of what is not used yet, the system gives no memory
            rows[:size] = self._open
            self._open, self._used = rows, np.append(self._used, np.zeros(size + n, bool))
            free = np.flatnonzero(~self._used)
        return free[:n]

    def _sorted(self, words: NDArray[np.uint64]) -> tuple[Ints, Ints, Ints]:
        """The packets by key: their rows; where each key begins among them; its row among the open flows, or -1.

        Sorts 64 bits: a hash of the key, and the row below it. Another seed where two keys share a hash.
        """
        row = np.arange(words.shape[1], dtype=np.uint64)
        while True:
            both = np.sort(self._hash(words) | row)
            order = (both & self._low).astype(np.int64)
            hashes = both & ~self._low
            change = np.diff(hashes, prepend=~hashes[:1]) != 0
            begins = np.flatnonzero(change)
            used = np.flatnonzero(self._used)
            table = self._open["hash"][used]
            sort = np.argsort(table)
            at, table = used[sort], table[sort]
            place = np.searchsorted(table, hashes[begins])
            hit = np.append(table, 0)[place] == hashes[begins]
            hit &= place < len(table)
            known = np.where(hit, np.append(at, -1)[place], -1)
            by = words[:, order]
            alike = ((by[:, 1:] == by[:, :-1]).all(0) | change[1:]).all() and (table[1:] != table[:-1]).all()
            if alike and (self._open["words"][known[hit]] == by[:, begins[hit]].T).all():
                return order, begins, known
            self._seed += 1
            self._open["hash"] = self._hash(self._open["words"].T)

    def _hash(self, words: NDArray[np.uint64]) -> NDArray[np.uint64]:
        return mixed(words, self._seed) & ~self._low

    def _clock(self, time: Ints, begins: Ints, group: Ints, last: Ints) -> Ints:
        """Times that never go back within a key."""
        back = np.diff(time, prepend=time[:1]) < 0
        back[begins] = time[begins] < last
        if not back.any():
            return time
        given, time = time, np.maximum(time, last[group])
        values, rank = np.unique(time, return_inverse=True)
        rank = np.maximum.accumulate(rank + group * len(values)) - group * len(values)
        found = values[rank]
        self.counts["packets earlier than the one before in their flow"] += int((found > given).sum())
        return found

    def _fill(
        self,
        state: State,
        flow: Ints,
        packets: Packets,
        order: Ints,
        time: Ints,
        back: Bools,
        flags: NDArray[np.uint16],
        tcp: Bools,
    ) -> None:
        """Adds the packets of a block, put by flow as `order` says, to their flows, and keeps those that become tokens."""
        o, by = self._options, ways(flow, back)
        now = np.where(state["packets"] > 0, state["place"] + 1, 0)
        found = bursts(flow, back, time, _ns(o.gap), Before(state["bursts"], state["seen"], state["burst"], now), by)
        statistics.add(state, packets, order, flow, by, found.gap)
        state["bursts"] = found.count
        tail = by.order[np.append(by.first[1:], len(flow)) - 1]
        at = (by.pair >> 1, by.pair & 1)
        state["seen"][at], state["burst"][at], state["place"][at] = time[tail], found.burst[tail], found.place[tail]
        # the sequence number that counts as 0, each way: of its first packet, or what was acknowledged before that
        n = len(flow)
        begins = np.flatnonzero(np.diff(flow, prepend=-1))
        acks = (flags & ACK) != 0
        for side in (0, 1):
            own = tcp & (back == side)
            row = np.minimum.reduceat(np.where(own | acks, np.arange(n), n), begins)
            new = ~state["based"][:, side] & (row < n)
            first, mine = order[row[new]], own[row[new]]
            state["base"][new, side] = np.where(mine, packets.seq[first], packets.ack[first])
            state["based"][new, side] = True
        rows = np.flatnonzero((found.burst < o.bursts) & (found.place < o.packets))
        of = flow[rows]
        where = Where(state["number"][of], time[rows], found.burst[rows], found.place[rows], back[rows])
        self._kept.append(keep(self._layout, packets, order[rows], state["base"][of], where))

    def _leave(self, now: int) -> None:
        """Takes the flows that have ended by `now`, and the longest silent ones where too many are open, from the table."""
        rows, o = np.flatnonzero(self._used), self._options
        last, closed, number = (self._open[name][rows] for name in ("last", "closed", "number"))
        tcp = ((self._open["words"][rows, 4] >> np.uint64(8)) & np.uint64(255)) == TCP
        idle = now - last > np.where(tcp, _ns(o.idle), _ns(o.idle_other))
        goes = idle | ((closed != NEVER) & (now - np.where(closed != NEVER, closed, now) > LATE))
        evicted = np.zeros(len(rows), bool)
        over_ = len(rows) - int(goes.sum()) - o.max_flows
        if over_ > 0:
            stay = np.flatnonzero(~goes)
            evicted[stay[np.lexsort((number[stay], last[stay]))[:over_]]] = True
        goes |= evicted
        left = self._open[rows[goes]]
        left["ended"] = np.where(evicted[goes], EVICTED, _reason(left, idle[goes]))
        self._used[rows[goes]] = False
        self._ended.append(left)

    def _flows(self, state: State) -> Flows:
        """The rows of flows that ended, by number, as `Flows`, with the tokens of their packets."""
        self.counts["flows"] += len(state)
        for reason, n in enumerate(np.bincount(state["ended"], minlength=len(ENDS))):
            self.counts[ENDS[reason]] += int(n)
        rows = [np.zeros(0, self._layout.kept)]
        for i, block in enumerate(self._kept if len(state) else ()):  # so that never all of it is there twice
            mine = np.isin(block["flow"], state["number"])
            rows.append(block[mine])
            self._kept[i] = block[~mine]
        self._kept = [block for block in self._kept if len(block)]
        kept = np.concatenate(rows)
        few = state["packets"].sum(1) < self._options.min_packets
        if few.any():
            self.counts["flows of too few packets"] += int(few.sum())
            kept, state = kept[~few[np.searchsorted(state["number"], kept["flow"])]], state[~few]
        tokens, valid, offsets = tokenise(self._layout, kept)
        ends = np.where(state["flip"][:, None], state["words"][:, [2, 3, 0, 1]], state["words"][:, :4])
        ports = np.stack([state["words"][:, 4] >> np.uint64(s) & np.uint64(0xFFFF) for s in (48, 32)], 1).astype(
            np.uint16
        )
        ports = np.where(state["flip"][:, None], ports[:, ::-1], ports)
        return Flows(
            number=state["number"],
            start=state["start"],
            end=state["last"],
            src=ends[:, :2],
            dst=ends[:, 2:],
            sport=ports[:, 0],
            dport=ports[:, 1],
            protocol=(state["words"][:, 4] >> np.uint64(8)).astype(np.uint8),
            vlan=(state["words"][:, 4] >> np.uint64(16)).astype(np.uint16),
            version=state["version"],
            packets=state["packets"],
            bytes=state["bytes"],
            payload=state["payload"],
            ended=state["ended"],
            statistics=statistics.statistics(state, state["last"] - state["start"], state["bursts"]),
            shortcuts=statistics.shortcuts(state, ends[:, :2], ends[:, 2:], ports, state["version"]),
            tokens=tokens,
            valid=valid,
            offsets=offsets,
        )


def _ns(seconds: float) -> int:
    return min(round(seconds * 1e9), 1 << 62)


def _reason(flows: State, idle: Bools) -> NDArray[np.uint8]:
    """Why flows ended that a silence, or else their length or their close, has ended."""
    return np.where(flows["closed"] != NEVER, CLOSED, np.where(idle, IDLE, ACTIVE)).astype(np.uint8)


def flows_of(path: Path, options: ReaderOptions) -> tuple[Flows, Counter[str], list[str]]:
    """All flows of a capture, by number; how often each odd thing was met; and sentences on what is odd of the file.

    Raises BadInput as `capture.read` does.
    """
    assembler = Assembler(options)
    source = capture.read(path, options=options.tcp_options, tunnels=options.tunnels)
    for packets in source:
        assembler.take(packets)
    found = assembler.finish()
    counts = source.counts + assembler.counts
    odd = Counter({what: n for what, n in counts.items() if what not in PLAIN})
    return found, odd, source.flags
