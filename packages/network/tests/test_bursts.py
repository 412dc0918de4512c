"""Bursts against their definition, and the hand flow of the specification."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from unlabeled.network.flow.bursts import Before, bursts, ways

from .data import flow_reference

MS = 1_000_000


def one(times: list[int], back: list[int], gap: int = 10 * MS) -> list[list[int]]:
    """Rows of each burst of one flow."""
    n = len(times)
    found = bursts(np.zeros(n, np.int64), np.array(back, bool), np.array(times, np.int64), gap)
    rows: list[list[int]] = [[] for _ in range(int(found.count[0]))]
    for i, (burst, place) in enumerate(zip(found.burst, found.place, strict=True)):
        assert place == len(rows[burst])
        rows[burst].append(i)
    return rows


def lot(draw: np.random.Generator, flows: int = 40) -> tuple[Any, Any, Any]:
    flow = np.sort(draw.integers(0, flows, 1000))
    flow = np.unique(flow, return_inverse=True)[1]
    return flow, draw.random(1000) < 0.4, np.cumsum(draw.integers(0, 3, 1000) * draw.choice([1, 10], 1000))


@pytest.mark.parametrize("seed", range(10))
def test_equals_the_definition(seed: int) -> None:
    flow, back, time = lot(np.random.default_rng(seed))
    found = bursts(flow, back, time, 10)
    for f in np.unique(flow):
        rows = np.flatnonzero(flow == f)
        expected = flow_reference.bursts(time[rows].tolist(), back[rows].tolist(), 10)
        assert found.count[f] == len(expected)
        for number, burst in enumerate(expected):
            assert found.burst[rows[burst]].tolist() == [number] * len(burst)
            assert found.place[rows[burst]].tolist() == list(range(len(burst)))


# SYN, SYN-ACK, ACK, GET (5 ms later), response (30 ms later), and its second half
BACK = [0, 1, 0, 0, 1, 1]
TIMES = [0, 1 * MS, 2 * MS, 7 * MS, 37 * MS, 38 * MS]


@pytest.mark.parametrize(
    ("gap", "expected"),
    [
        # Gaps of the client: 2 and 5 ms; of the server: 36 and 1 ms. On paper:
        (1 * MS, [[0], [1], [2], [3], [4, 5]]),
        (3 * MS, [[0, 2], [1], [3], [4, 5]]),
        (20 * MS, [[0, 2, 3], [1], [4, 5]]),
        (80 * MS, [[0, 2, 3], [1, 4, 5]]),
    ],
)
def test_hand_flow(gap: int, expected: list[list[int]]) -> None:
    assert one(TIMES, BACK, gap) == expected


@pytest.mark.parametrize(("off", "expected"), [(-1, 2), (0, 2), (1, 3)])
def test_a_nanosecond_flips_exactly_one_boundary(off: int, expected: int) -> None:
    """Gaps of the client: 2, 5, and 10 ms + off: only beyond 10 ms a third burst, of the last packet alone, begins."""
    rows = one([0, 1 * MS, 2 * MS, 7 * MS, 17 * MS + off], [0, 1, 0, 0, 0])
    assert rows == ([[0, 2, 3, 4], [1]] if expected == 2 else [[0, 2, 3], [1], [4]])


def test_the_other_direction_between_cuts_nothing() -> None:
    assert one([0, 1, 2, 3, 4, 5], [0, 1, 0, 1, 0, 1]) == [[0, 2, 4], [1, 3, 5]]


def test_ways_put_the_packets_back_behind_those_forth() -> None:
    found = ways(np.array([0, 0, 0, 1, 2, 2]), np.array([1, 0, 1, 1, 0, 0], bool))
    assert found.order.tolist() == [1, 0, 2, 3, 4, 5]
    assert found.first.tolist() == [0, 1, 3, 4] and found.pair.tolist() == [0, 1, 3, 4]
    assert found.start().tolist() == [0, 1, 1, 3, 4, 4]


@pytest.mark.parametrize("seed", range(4))
def test_a_flow_may_go_on_from_what_it_left_behind(seed: int) -> None:
    """One flow in two stretches, cut at each place, against the flow at once."""
    draw = np.random.default_rng(seed)
    back, time = draw.random(60) < 0.4, np.cumsum(draw.choice([1, 9, 12], 60))
    flow = np.zeros(60, np.int64)
    whole = bursts(flow, back, time, 10)
    for at in range(1, 60):
        first = bursts(flow[:at], back[:at], time[:at], 10)
        last = [[i for i in range(at) if back[i] == way][-1:] for way in (0, 1)]
        carried = [[[int(v[x[0]]) if x else 0 for x in last]] for v in (time, first.burst, first.place + 1)]
        before = Before(first.count, *(np.array(c) for c in carried))
        rest = bursts(flow[at:], back[at:], time[at:], 10, before)
        for name in ("burst", "place", "gap"):
            joined = np.concatenate([getattr(first, name), getattr(rest, name)])
            assert np.array_equal(joined, getattr(whole, name)), (at, name)
        assert rest.count.tolist() == whole.count.tolist()
