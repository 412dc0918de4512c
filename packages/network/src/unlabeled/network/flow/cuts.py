"""Where one flow of two endpoints ends and the next begins: silence, length, and the close of TCP."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FIN, SYN, RST, PUSH, ACK = 1, 2, 4, 8, 16
LATE = 2_000_000_000  # ns after a close in which packets other than a SYN still belong to the closed flow
NEVER = np.iinfo(np.int64).min

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Begun:
    """What is known of flows where a stretch begins: start (ns), FIN seen each way (F, 2), and when closed, or NEVER."""

    start: Ints
    fin: Bools
    closed: Ints

    @classmethod
    def fresh(cls, start: Ints) -> Begun:
        return cls(start, np.zeros((len(start), 2), bool), np.full(len(start), NEVER))


@dataclass(frozen=True)
class Cut:
    """Stretches of one flow each: their first rows, ascending, and what is known at their ends."""

    first: Ints
    start: Ints
    fin: Bools
    closed: Ints


def over(time: Ints, opens: Bools, last: Ints, begun: Begun, idle: Ints, active: int) -> Bools:
    """Whether a packet is not of the flow before it: after silence, too long after its start, or after its close.

    opens: it is a SYN without ACK. All limits are strict: a packet right at one still belongs to the flow.
    """
    closed = begun.closed != NEVER
    late = opens | (time - np.where(closed, begun.closed, time) > LATE)
    ends: Bools = (time - last > idle) | (time - begun.start > active) | (closed & late)
    return ends


def cut(time: Ints, flags: NDArray[np.uint16], way: Bools, first: Ints, begun: Begun, active: int) -> Cut:
    """Cuts runs of packets of one key, without a long silence in them, into flows.

    time, flags (of TCP, else 0), way (N,): rows by run, times that never go back within one; first (R,): where each run
    begins, with what is known of its flow there. Each round finds the next end in all runs at once.
    """
    n = len(time)
    step = np.diff(time, prepend=time[:1])
    step[first] = 0
    clock = np.cumsum(step)  # never goes back over all rows, and equals time but for a constant within a run

    def positions(chosen: Bools) -> Ints:
        return np.append(np.flatnonzero(chosen), n)

    fins = [positions(((flags & FIN) != 0) & (way == side)) for side in (False, True)]
    resets = positions((flags & RST) != 0)
    opens = positions((flags & (SYN | ACK)) == SYN)

    def following(where: Ints, row: Ints) -> Ints:
        found: Ints = where[np.searchsorted(where, row)]
        return found

    def after(moment: Ints, row: Ints) -> Ints:
        found: Ints = np.searchsorted(clock, clock[row] + (moment - time[row]), side="right")
        return found

    end = np.append(first[1:], n)
    done: list[Cut] = []
    while len(first):
        fin = [np.where(begun.fin[:, i], first, following(fins[i], first)) for i in (0, 1)]
        closing = np.minimum(following(resets, first), np.maximum(*fin))
        was = begun.closed != NEVER
        now = ~was & (closing < end)
        closed = np.where(was, begun.closed, time[np.where(now, closing, 0)])
        shut = np.minimum(following(opens, np.where(was, first, np.minimum(closing + 1, n))), end)
        shut[was | now] = np.minimum(shut, after(np.where(was | now, closed, time[first]) + LATE, first))[was | now]
        shut[~(was | now)] = end[~(was | now)]
        stop = np.minimum(shut, after(begun.start + active, first))
        stop = np.minimum(stop, end)
        closed = np.where(was | (now & (closing < stop)), closed, NEVER)
        seen = np.stack([begun.fin[:, i] | (fin[i] < stop) for i in (0, 1)], 1)
        done.append(Cut(first, begun.start, seen, closed))
        more = stop < end
        first, end = stop[more], end[more]
        begun = Begun.fresh(time[first])
    order = np.argsort(np.concatenate([d.first for d in done]), kind="stable")
    return Cut(*(np.concatenate([getattr(d, name) for d in done])[order] for name in Cut.__dataclass_fields__))
