"""Flows against a plain dictionary, packet by packet, and the rules at their limits."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unlabeled.network import capture
from unlabeled.network.capture.packets import Packets
from unlabeled.network.flow import keys as flow_keys
from unlabeled.network.flow.assemble import Assembler, flows_of
from unlabeled.network.flow.flows import ENDS, Flows
from unlabeled.network.flow.statistics import NAMES, SHORTCUTS
from unlabeled.network.options import ReaderOptions

from .data import captures, flow_reference
from .data.flow_reference import ACK, FIN, RST, START, SYN, S, lot, made

OPTIONS = ReaderOptions()
NDPI = Path(__file__).resolve().parents[4] / "shared" / "data" / "ndpi"


def assembled(parts: Sequence[Packets], options: ReaderOptions = OPTIONS, block: int = 1 << 17) -> Flows:
    """All flows by number."""
    assembler = Assembler(options, block)
    found = Flows.joined([*(assembler.add(p) for p in parts), assembler.finish()])
    return by_number(found)


def by_number(flows: Flows) -> Flows:
    return flows.take(np.argsort(flows.number))


def same(a: Flows, b: Flows) -> None:
    for name in Flows.__dataclass_fields__:
        assert np.array_equal(getattr(a, name), getattr(b, name)), name


def compare(p: Packets, found: Flows, options: ReaderOptions = OPTIONS, block: int | None = None) -> None:
    """Everything of every flow against the reference."""
    expected = flow_reference.flows(p, options, block)
    assert found.number.tolist() == [f.number for f in expected]
    assert [ENDS[e] for e in found.ended] == [f.ended for f in expected]
    for i, flow in enumerate(expected):
        assert (found.start[i], found.end[i]) == (flow.start, flow.last)
        assert (*found.src[i].tolist(), found.sport[i]) == flow.client and (
            *found.dst[i].tolist(),
            found.dport[i],
        ) == flow.server
        assert (found.vlan[i], found.protocol[i], found.version[i]) == (
            flow.key[2],
            flow.key[4],
            p.version[flow.rows[0]],
        )
        wanted = flow_reference.statistics(p, flow, options)
        assert found.packets[i].tolist() == [wanted["packets 0"], wanted["packets 1"]]
        assert found.bytes[i].tolist() == [wanted["bytes 0"], wanted["bytes 1"]]
        assert found.payload[i].tolist() == [wanted["payload 0"], wanted["payload 1"]]
        # a deviation as the difference of two squares: 1e-7 of the mean is lost
        np.testing.assert_allclose(found.statistics[i], [wanted[n] for n in NAMES], rtol=1e-5, atol=1e-5)
        rows = flow_reference.tokens(p, flow, options)
        span = slice(found.offsets[i], found.offsets[i + 1])
        assert found.tokens[span].tolist() == [list(r[:6]) for r in rows]
        assert found.valid[span].tolist() == [r[6] for r in rows]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "more", [{}, {"payload": True, "tcp_options": True, "bursts": 3, "packets": 2, "active": 30.0}]
)
def test_equals_a_plain_dictionary(seed: int, more: dict[str, Any]) -> None:
    options = ReaderOptions(**more)
    p = lot(1500, seed, gap=(5e6, 1e8, 2e9)[seed % 3])
    compare(p, assembled([p], options), options)


@pytest.mark.parametrize("block", [1, 2, 7, 64, 1000])
def test_flows_do_not_depend_on_the_blocks_while_time_goes_on(block: int) -> None:
    p = lot(1000, 11, gap=1e8)
    same(assembled([p], block=block), assembled([p]))


@pytest.mark.parametrize("block", [16, 100, 1 << 17])
def test_parts_and_files_may_be_cut_anywhere(block: int) -> None:
    p = lot(700, 12, gap=1e8, back=0.05)
    whole = assembled([p], block=block)
    draw = np.random.default_rng(0)
    for cuts in (range(1, 700), [0, 0, 350], *(sorted(draw.choice(700, 4, replace=False)) for _ in range(3))):
        edges = [0, *cuts, 700]
        same(assembled([p.take(slice(a, b)) for a, b in itertools.pairwise(edges)], block=block), whole)


@pytest.mark.parametrize("seed", range(4))
def test_a_clock_that_runs_back_stands_still(seed: int) -> None:
    p = lot(800, seed, gap=3e7, back=0.1)
    assembler = Assembler(OPTIONS, 64)
    found = by_number(Flows.joined([assembler.add(p), assembler.finish()]))
    compare(p, found, block=64)
    assert (found.statistics[:, NAMES.index("gap least 0")] >= 0).all() and (found.end >= found.start).all()
    assert assembler.counts["packets earlier than the one before in their flow"] > 0


@pytest.mark.parametrize("block", [1, 50])
def test_the_longest_silent_flows_are_evicted(block: int) -> None:
    options = ReaderOptions(max_flows=9)
    p = lot(1000, 3, hosts=8, ports=8)
    assembler = Assembler(options, block)
    found = by_number(Flows.joined([assembler.add(p), assembler.finish()]))
    compare(p, found, options, block)
    assert assembler.counts["evicted"] == (found.ended == ENDS.index("evicted")).sum() > 100


def test_keys_of_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hash of 4 bits meets in every block, until a later seed gives the whole one."""
    whole = flow_keys.mixed
    seeds = []

    def weak(words: Any, seed: int) -> Any:
        seeds.append(seed)
        h = whole(words, seed)
        return h if seed >= 3 else h & np.uint64(0xF000000000000000)

    p = lot(600, 5)
    expected = assembled([p])
    monkeypatch.setattr("unlabeled.network.flow.assemble.mixed", weak)
    same(assembled([p], block=50), expected)
    assert max(seeds) == 3


A, B = {"src": 1, "dst": 2, "sport": 1000, "dport": 80}, {"src": 2, "dst": 1, "sport": 80, "dport": 1000}


def timed(*rows: dict[str, Any]) -> Flows:
    return assembled([made([{**row, "time": START + row["time"]} for row in rows])])


@pytest.mark.parametrize(("protocol", "limit"), [(6, 120), (17, 60)])
@pytest.mark.parametrize(("off", "flows"), [(-1, 1), (0, 1), (1, 2)])
def test_idle_to_the_nanosecond(protocol: int, limit: int, off: int, flows: int) -> None:
    row = {**A, "protocol": protocol}
    found = timed({**row, "time": 0}, {**row, "time": limit * S + off})
    assert len(found) == flows
    assert found.ended.tolist() == [ENDS.index("idle"), ENDS.index("end")][2 - flows :]


@pytest.mark.parametrize(("off", "flows"), [(-1, 1), (0, 1), (1, 2)])
def test_active_to_the_nanosecond(off: int, flows: int) -> None:
    """A packet each 100 s up to 1800 s, and then one at 1800 s + off."""
    rows = [{**A, "time": 100 * i * S} for i in range(18)]
    found = timed(*rows, {**A, "time": 1800 * S + off})
    assert found.packets[:, 0].tolist() == ([19] if flows == 1 else [18, 1])
    assert found.ended[0] == ENDS.index("end" if flows == 1 else "active")


@pytest.mark.parametrize(("off", "flows"), [(-1, 1), (0, 1), (1, 2)])
def test_late_packets_belong_to_the_closed_flow_for_two_seconds(off: int, flows: int) -> None:
    rows = [
        {**A, "time": 0, "tcp_flags": SYN},
        {**A, "time": 5, "tcp_flags": FIN | ACK},
        {**B, "time": 9, "tcp_flags": FIN | ACK},
    ]
    found = timed(*rows, {**A, "time": 9 + 2 * S + off})
    assert found.packets.sum(1).tolist() == ([4] if flows == 1 else [3, 1])
    assert found.ended[0] == ENDS.index("closed")


def test_a_syn_after_a_close_is_a_new_flow_of_the_same_ports() -> None:
    fin, rst, syn, synack = ({"tcp_flags": f} for f in (FIN | ACK, RST, SYN, SYN | ACK))
    # one FIN closes nothing; FIN both ways does; a SYN with ACK goes on with the old flow, a SYN opens the next
    found = timed(
        {**A, "time": 0, **syn}, {**A, "time": 1, **fin}, {**A, "time": 2, **syn}, {**B, "time": 3, **fin},
        {**B, "time": 4, **synack}, {**A, "time": 5}, {**B, "time": 6, **syn}, {**B, "time": 7, **rst}, {**A, "time": 8, **syn},
    )  # fmt: skip
    assert found.packets.sum(1).tolist() == [6, 2, 1]
    assert found.sport.tolist() == [1000, 80, 1000]  # the client is who sent the first packet
    assert [ENDS[e] for e in found.ended] == ["closed", "closed", "end"]


def test_fragments_go_with_their_first_one() -> None:
    first = {**A, "protocol": 17, "identifier": 5, "bits": 1}
    later = {"src": 1, "dst": 2, "protocol": 17, "identifier": 5, "flags": 8, "fragment": 64}
    rows = [
        {**later, "time": 0},  # before its first one: an orphan
        {**first, "time": 1},
        {**later, "time": 2},
        {**later, "time": 3, "identifier": 6},  # another datagram: an orphan
        {**later, "time": 4, "src": 2, "dst": 1},  # the other way: an orphan
        {**later, "time": 1 + 60 * S},
        {**later, "time": 2 + 60 * S},  # later than a minute: an orphan, of a new flow as the one before was silent
    ]
    rows = [{**r, "time": START + r["time"]} for r in rows]
    for block in (1, 3, 100):
        assembler = Assembler(ReaderOptions(idle_other=59.9999999), block)
        found = by_number(Flows.joined([assembler.add(made(rows)), assembler.finish()]))
        assert found.packets.sum(1).tolist() == [3, 2, 1, 1] and found.dport.tolist() == [0, 80, 80, 0]
        assert assembler.counts["fragments without their first"] == 4


def test_reversal_swaps_the_ends_and_nothing_else() -> None:
    p = lot(900, 4, gap=1e8)
    turned = replace(p, src=p.dst, dst=p.src, sport=p.dport, dport=p.sport)
    a, b = assembled([p]), assembled([turned])
    for name in ("number", "start", "end", "packets", "bytes", "payload", "ended", "tokens", "statistics", "offsets"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
    assert np.array_equal(a.src, b.dst) and np.array_equal(a.sport, b.dport)
    # of one session, the direction: who sent the first packet is the client, so the whole capture from its second packet on
    rows = [{**A, "time": START}, {**B, "time": START + 1}, {**A, "time": START + 2}]
    back = {r: assembled([made(rows[r:])]).packets[0].tolist() for r in (0, 1)}
    assert back == {0: [2, 1], 1: [1, 1]}


def test_two_captures_interleaved_by_time_are_the_two_apart() -> None:
    one, two = lot(600, 7, gap=1e8), lot(600, 8, gap=1e8)
    two.src[:, 1] += np.uint64(1000)
    two.dst[:, 1] += np.uint64(1000)
    both = Packets.joined([one, two])
    both = both.take(np.argsort(both.time, kind="stable"))
    found, apart = assembled([both]), [assembled([one]), assembled([two])]
    for name in ("start", "end", "src", "packets", "statistics", "shortcuts"):
        together = getattr(found, name)
        mine = np.concatenate([getattr(a, name) for a in apart])
        order = np.lexsort((np.concatenate([a.number for a in apart]), np.concatenate([a.start for a in apart])))
        assert np.array_equal(together, mine[order]), name


def test_shortcuts_are_of_the_first_packets() -> None:
    rows = [
        {**A, "time": START, "ttl": 64, "window": 10, "seq": 99, "identifier": 7, "src": 0x01020304, "dst": 0x05060708},
        {**B, "time": START + 1, "ttl": 57, "window": 20, "src": 0x05060708, "dst": 0x01020304, "held": 2},
        {**A, "time": START + 2, "ttl": 1, "window": 30, "src": 0x01020304, "dst": 0x05060708, "held": 3},
    ]
    p = made(rows)
    p.payload[1, :2], p.payload[2, :3] = (71, 69), (1, 2, 3)
    for block in (1, 100):
        said = dict(zip(SHORTCUTS, assembled([p], block=block).shortcuts[0].tolist(), strict=True))
        assert [said[n] for n in ("port least", "port most", "port of the client", "port of the server")] == [
            80,
            1000,
            1000,
            80,
        ]
        assert [said[n] for n in ("ttl 0", "ttl 1", "window 0", "window 1", "seq", "identifier")] == [
            64,
            57,
            10,
            20,
            99,
            7,
        ]
        assert [said[f"address {e} byte {i}"] for e in (0, 1) for i in range(4)] == [1, 2, 3, 4, 5, 6, 7, 8]
        assert [said[f"byte {i}"] for i in range(4)] == [71, 69, -1, -1]


def test_flows_of_few_packets_are_left_out_and_counted() -> None:
    p = lot(500, 9)
    whole, assembler = assembled([p]), Assembler(ReaderOptions(min_packets=3))
    found = by_number(Flows.joined([assembler.add(p), assembler.finish()]))
    few = whole.packets.sum(1) < 3
    assert (
        np.array_equal(found.number, whole.number[~few])
        and 0 < few.sum() == assembler.counts["flows of too few packets"]
    )
    assert np.array_equal(found.tokens, whole.take(np.flatnonzero(~few)).tokens)


def test_nothing_gives_no_flows() -> None:
    found = assembled([])
    assert len(found) == 0 and found.statistics.shape == (0, len(NAMES)) and found.offsets.tolist() == [0]
    assert len(assembled([Packets.empty(0)])) == 0


def read(path: Path) -> Packets:
    return Packets.joined([Packets.empty(0), *capture.read(path)])


def files(folder: Path) -> Iterator[Path]:
    yield captures.write_pcap(folder / "all.pcap", captures.everything())
    yield captures.write_pcapng(folder / "all.pcapng", captures.everything())


def test_generated_captures(tmp_path: Path) -> None:
    for path in files(tmp_path):
        p = read(path)
        found, counts, _ = flows_of(path, OPTIONS)
        compare(p, found)
        assert len(p) > 50 and counts["fragments without their first"] >= 0


@pytest.mark.skipif(not NDPI.is_dir(), reason="no captures of nDPI here")
@pytest.mark.parametrize("share", range(4))
def test_every_capture_of_ndpi(share: int) -> None:
    paths = sorted(NDPI.glob("*.pcap*"))[share::4]
    assert len(paths) > 50
    for path in paths:
        p = read(path)
        compare(p, flows_of(path, OPTIONS)[0], block=1 << 17)
