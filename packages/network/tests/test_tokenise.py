"""Tokens: how many, their values, and what they must not depend on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from unlabeled.network.capture.packets import Packets
from unlabeled.network.flow import fields
from unlabeled.network.flow.flows import Flows
from unlabeled.network.options import ReaderOptions

from .data.flow_reference import ACK, PSH, START, SYN, lot, made, octaves
from .test_assemble import assembled, compare

MS = 1_000_000
A, B = {"src": 1, "dst": 2, "sport": 1000, "dport": 80}, {"src": 2, "dst": 1, "sport": 80, "dport": 1000}


def values(flows: Flows, name: str) -> list[int]:
    """Of the first flow, the values of a field, of 16 bits or 32."""
    rows = flows.tokens[flows.offsets[0] : flows.offsets[1]].astype(int)
    parts = [i for i, t in enumerate(fields.TYPES) if t[0] == name]
    found = [rows[rows[:, 0] == part] for part in parts]
    words = [f[:, 1] << 8 | f[:, 2] for f in found]
    return (words[0] if len(words) == 1 else words[0] << 16 | words[1]).tolist()


@pytest.mark.parametrize(
    ("protocol", "plain", "payload", "both"),
    # 5 of IP and 7 of TCP, 1 of UDP, 2 of ICMP; 6 of payload; 20 of TCP options
    [(6, 12, 18, 38), (17, 6, 12, 12), (1, 7, 13, 13), (58, 7, 13, 13), (50, 5, 5, 5), (132, 5, 5, 5)],
)
def test_counts(protocol: int, plain: int, payload: int, both: int) -> None:
    p = made([{**A, "protocol": protocol, "time": START}], options=True)
    for options, n in (({}, plain), ({"payload": True}, payload), ({"payload": True, "tcp_options": True}, both)):
        found = assembled([p], ReaderOptions(**options))
        assert len(found.tokens) == 4 + n and found.offsets.tolist() == [0, 4 + n]
        assert found.tokens[4:, 5].tolist() == list(range(n)) and found.tokens[:4, 5].tolist() == [0, 1, 2, 3]
        assert found.tokens[:, 4].tolist() == [0] * 4 + [1] * n


def test_a_later_fragment_has_the_tokens_of_ip_alone() -> None:
    assert len(assembled([made([{**A, "flags": 8, "time": START}])]).tokens) == 4 + 5


def test_at_most_twelve_bursts_of_six_packets() -> None:
    """20 bursts of 9 packets: 12 x 4 + 12 x 6 x 12 = 912 tokens, and bytes and packets are those of six."""
    rows = [{**A, "time": START + b * 20 * MS + i} for b in range(20) for i in range(9)]
    found = assembled([made(rows)])
    assert len(found.tokens) == 912 and found.packets[0, 0] == 180
    assert values(found, "packets") == [octaves(6)] * 12 and values(found, "bytes") == [octaves(240)] * 12
    # 20 ms from start to start: log2(20001) is 14.2878, times 256 is 3657.7
    assert values(found, "gap") == [0] + [3658] * 11


def test_seq_and_ack_of_a_handshake() -> None:
    rows = [
        {**A, "tcp_flags": SYN, "seq": 7000},
        {**B, "tcp_flags": SYN | ACK, "seq": 90, "ack": 7001},
        {**A, "seq": 7001, "ack": 91},
        {**A, "seq": 7001, "ack": 91, "tcp_flags": PSH | ACK},
        {**B, "seq": 91, "ack": 7101},
    ]
    p = made([{**r, "time": START + i * 20 * MS} for i, r in enumerate(rows)])
    assert values(assembled([p]), "seq") == [0, 0, 1, 1, 1]
    assert values(assembled([p]), "ack") == [0, 1, 1, 1, 101]
    # of a flow that had begun before: what the first packet acknowledges is where the other side counts from
    assert values(assembled([p.take(slice(2, None))]), "seq") == [0, 0, 0]
    assert values(assembled([p.take(slice(2, None))]), "ack") == [0, 0, 100]


def test_seq_wraps() -> None:
    """From 0xFFFFFFF0 32 bytes on: 0x10, which is 0x20 from the base."""
    rows = [{**A, "time": START, "seq": 0xFFFFFFF0}, {**A, "time": START + 1, "seq": 0x10}]
    assert values(assembled([made(rows)]), "seq") == [0, 0x20]


def test_payload_and_headers_that_are_not_there_are_invalid() -> None:
    options = ReaderOptions(payload=True, tcp_options=True)
    rows = [
        {**A, "time": START, "held": 5, "options_length": 4},
        {**A, "time": START + 1, "offset": 0, "flags": 1},  # cut before the TCP header
    ]
    p = made(rows, options=True)
    p.payload[0, :5], p.options[0, :4] = (1, 2, 3, 4, 5), (2, 4, 5, 180)
    found = assembled([p], options)
    assert len(found.tokens) == 4 + 2 * 38
    valid = found.valid.tolist()
    # 4 + 12 headers; 2 of 20 words of options; 3 of 6 words of payload, the last one half; then 5 of the second packet
    assert valid == [True] * 18 + [False] * 18 + [True] * 3 + [False] * 3 + [True] * 5 + [False] * 33
    first = fields.first("payload")
    assert found.tokens[36:39, 0].tolist() == [first, first + 1, first + 2]
    assert found.tokens[36:39, 1:3].tolist() == [[1, 2], [3, 4], [5, 0]]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "more", [{}, {"payload": True}, {"tcp_options": True, "bursts": 255, "packets": 255, "gap": 1.0}]
)
def test_equals_a_plain_tokenizer(seed: int, more: dict[str, Any]) -> None:
    options = ReaderOptions(**more)
    p = lot(800, seed + 50, hosts=2, ports=2, gap=3e6)
    compare(p, assembled([p], options), options)


@pytest.mark.parametrize("more", [{}, {"payload": True, "tcp_options": True}])
def test_compiled_tokens_are_the_same_bytes(more: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    from unlabeled.network.flow import tokenise, tokenise_fast

    p, options = lot(3000, 77, gap=1e7), ReaderOptions(**more)
    monkeypatch.setattr(tokenise, "compiled", lambda packets: None)
    plain = assembled([p], options)
    monkeypatch.setattr(tokenise, "compiled", lambda packets: tokenise_fast)
    fast = assembled([p], options)
    for name in ("tokens", "valid", "offsets"):
        assert np.array_equal(getattr(plain, name), getattr(fast, name)), name


def mapped(p: Packets, seed: int) -> Packets:
    """Addresses and ports through bijections: of all 64 bits of an address' half, and of all ports but 0."""
    draw = np.random.default_rng(seed)
    odd, offset = int(draw.integers(0, 2**63)) * 2 + 1, int(draw.integers(0, 2**63))
    ports = np.concatenate([[0], draw.permutation(65535) + 1]).astype(np.uint16)
    ends = {n: getattr(p, n) * np.uint64(odd) + np.uint64(offset) for n in ("src", "dst")}
    return replace(p, **ends, sport=ports[p.sport], dport=ports[p.dport])


@pytest.mark.parametrize("seed", range(5))
def test_addresses_ports_and_the_hour_change_no_token(seed: int) -> None:
    options = ReaderOptions(payload=True)
    p = lot(1500, seed, gap=1e7)
    found = assembled([p], options)
    for other in (
        mapped(p, seed),
        replace(p, time=p.time + 123_456_789_012_345),
        replace(p, identifier=p.identifier + 9),
    ):
        again = assembled([other], options)
        for name in ("number", "tokens", "valid", "offsets", "statistics", "ended"):
            assert np.array_equal(getattr(found, name), getattr(again, name)), name
    # absolute sequence numbers neither: a flow's both counters from anywhere else
    moved = replace(p, seq=p.seq + np.uint32(77), ack=p.ack + np.uint32(77))
    assert np.array_equal(found.tokens, assembled([moved], options).tokens)
