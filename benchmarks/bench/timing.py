"""Two works in turns, so that whatever else the machine does falls on both."""

from __future__ import annotations

import time

from bench.row import Work

WARM = 4


def in_turns(ours: Work, peer: Work, turns: int) -> tuple[list[float], list[float]]:
    """Seconds of every turn of ours and of the peer, after WARM turns of each; who begins changes from turn to turn."""
    for _ in range(WARM):
        ours(), peer()
    found: tuple[list[float], list[float]] = ([], [])
    for turn in range(turns):
        for side in (0, 1) if turn % 2 == 0 else (1, 0):
            found[side].append(_seconds((ours, peer)[side]))
    return found


def _seconds(work: Work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
