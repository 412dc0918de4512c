"""Bursts: maximal runs of packets of one direction whose gaps, within that direction, are at most so long."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Ways:
    """Rows by flow, put by flow and direction.

    order (N,): the row at each place; first (G,): where each direction of a flow begins there; pair (G,): 2 x its flow +
    its direction. Directions without a packet are not there.
    """

    order: Ints
    first: Ints
    pair: Ints

    def start(self) -> Ints:
        """Of each place, where its direction begins: (N,)."""
        return np.repeat(self.first, np.diff(self.first, append=len(self.order)))


def ways(flow: Ints, back: Bools) -> Ways:
    """flow (N,) ascending, back (N,): puts the packets back behind those forth of the same flow, without sorting."""
    n = len(flow)
    begins = np.flatnonzero(np.diff(flow, prepend=-1))
    sizes = np.diff(begins, append=n)
    before: Ints = np.cumsum(back, dtype=np.int64) - back
    first = np.repeat(begins, sizes)
    returned: Ints = before - np.repeat(before[begins], sizes)  # packets back before this one, in its flow
    forth = np.repeat(sizes - np.add.reduceat(back, begins, dtype=np.int64), sizes) if n else returned
    i = np.arange(n)
    order = np.empty(n, np.int64)
    order[np.where(back, first + forth + returned, i - returned)] = i
    pair = (2 * flow + back)[order]
    heads = np.flatnonzero(np.diff(pair, prepend=-1))
    return Ways(order, heads, pair[heads])


@dataclass(frozen=True)
class Before:
    """What earlier packets left behind, of F flows: how many bursts (F,); and of each direction (F, 2): the time of its
    last packet, its present burst, and how many packets that has; 0 packets where the direction had none."""

    bursts: Ints
    time: Ints
    burst: Ints
    packets: Ints


@dataclass(frozen=True)
class Bursts:
    """burst (N,): of its flow, from 0, by the first packet; place (N,): in the burst, from 0; gap (N,): ns since the packet
    before in this direction, -1 for the first; count (F,): bursts of each flow so far, with those before."""

    burst: Ints
    place: Ints
    gap: Ints
    count: Ints


def bursts(
    flow: Ints, back: Bools, time: Ints, gap: int, before: Before | None = None, by: Ways | None = None
) -> Bursts:
    """Segments packets by flow (ascending, from 0), in time order within each, into bursts; gap in ns.

    A gap longer than `gap` within one direction begins a burst (strictly: a gap of just `gap` does not). Packets of the
    other direction between them do not. netFound (Guthula et al. 2023, section 4).
    """
    by = by or ways(flow, back)
    flows = int(flow[-1]) + 1 if len(flow) else 0
    if before is None:
        none = np.zeros((flows, 2), np.int64)
        before = Before(np.zeros(flows, np.int64), none, none, none)
    of, side = by.pair >> 1, by.pair & 1
    size = before.packets[of, side]
    when = time[by.order]
    gaps = np.diff(when, prepend=when[:1])
    gaps[by.first] = np.where(size > 0, when[by.first] - before.time[of, side], -1)
    begins = gaps > gap
    begins[by.first] |= size == 0
    marks = np.empty(len(flow), bool)
    marks[by.order] = begins
    # a burst's number is how many began before it in its flow, so the number of the packet that begins it
    total = np.cumsum(marks)
    heads = np.flatnonzero(np.diff(flow, prepend=-1))
    sizes = np.diff(heads, append=len(flow))
    numbers = total - 1 + np.repeat(before.bursts[flow[heads]] - (total - marks)[heads], sizes)
    i = np.arange(len(flow))
    start = by.start()
    last = np.maximum.accumulate(np.where(begins, i, -1))
    own = last >= start  # its burst began here, not before
    n = np.diff(by.first, append=len(flow))
    burst, place, apart = np.empty_like(i), np.empty_like(i), np.empty_like(i)
    burst[by.order] = np.where(own, numbers[by.order][last], np.repeat(before.burst[of, side], n))
    place[by.order] = np.where(own, i - last, np.repeat(size, n) + i - start)
    apart[by.order] = gaps
    count = before.bursts.copy()
    np.add.at(count, flow[marks], 1)
    return Bursts(burst, place, apart, count)
