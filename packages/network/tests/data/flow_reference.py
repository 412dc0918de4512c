"""Packets by hand and by lot, and a plain reference of flows, bursts, statistics and tokens: a dictionary, packet by packet."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unlabeled.network.capture.packets import Packets
from unlabeled.network.flow import fields
from unlabeled.network.options import ReaderOptions

S = 1_000_000_000
START = 1_700_000_000 * S
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16


def made(rows: list[dict[str, Any]], options: bool = False) -> Packets:
    """Packets of these columns; src and dst are last words of IPv4-mapped addresses; what is not said is that of a TCP ACK."""
    packets = Packets.empty(len(rows), options)
    usual = {"version": 4, "protocol": 6, "header": 20, "length": 40, "ttl": 64, "offset": 20, "tcp_flags": ACK}
    for i, row in enumerate(rows):
        for name, value in {**usual, "frame": i, **row}.items():
            if name in ("src", "dst"):
                value = (0, 0xFFFF00000000 + value)
            getattr(packets, name)[i] = value
    return packets


def lot(n: int, seed: int, hosts: int = 5, ports: int = 3, gap: float = 5e6, back: float = 0.0) -> Packets:
    """n packets by lot, of few ends, so that flows are long, close often and meet again.

    gap: mean ns between two; a thousandth of them are silences of up to 200 s. back: share of packets whose clock is early.
    """
    draw = np.random.default_rng(seed)
    p = Packets.empty(n, options=True)
    wait = draw.exponential(gap, n)
    silences = draw.random(n) < 0.001
    wait[silences] = draw.uniform(0, 200 * S, silences.sum())
    p.time[:] = START + np.cumsum(wait).astype(np.int64)
    early = draw.random(n) < back
    p.time[early] -= draw.integers(0, 4 * S, early.sum())
    p.frame[:] = np.arange(n)
    six = draw.random(n) < 0.2
    ends = draw.integers(1, hosts + 1, (2, n)).astype(np.uint64)
    for column, end in zip((p.src, p.dst), ends, strict=True):
        column[:, 0] = np.where(six, np.uint64(0x20010DB800000000), np.uint64(0))
        column[:, 1] = np.where(six, end << np.uint64(40), np.uint64(0xFFFF0A000000) + end)
    p.version[:] = np.where(six, 6, 4)
    p.protocol[:] = draw.choice([6, 6, 6, 17, 1, 58, 50], n)
    tcp, udp, icmp = p.protocol == 6, p.protocol == 17, np.isin(p.protocol, [1, 58])
    p.sport[:], p.dport[:] = (np.where(tcp | udp, draw.integers(1, ports + 1, n), 0) for _ in range(2))
    p.vlan[:] = draw.choice([0, 0, 0, 7], n)
    p.tunnel[:] = draw.choice([0, 0, 0, 1], n)
    p.header[:], p.tos[:], p.length[:] = np.where(six, 40, 20), draw.integers(0, 256, n), draw.integers(40, 1500, n)
    p.bits[:], p.ttl[:] = draw.choice([0, 2], n), draw.integers(1, 256, n)
    p.tcp_flags[:] = np.where(
        tcp, draw.choice([16, 24, 2, 18, 17, 4, 20], n, p=[0.6, 0.2, 0.05, 0.05, 0.06, 0.02, 0.02]), 0
    )
    for name in ("window", "urgent"):
        getattr(p, name)[:] = np.where(tcp, draw.integers(0, 65536, n), 0)
    p.seq[:], p.ack[:] = (np.where(tcp, draw.integers(0, 2**32, n), 0) for _ in range(2))
    p.offset[:], p.udp_length[:] = np.where(tcp, 20, 0), np.where(udp, draw.integers(8, 1000, n), 0)
    p.icmp_type[:], p.icmp_code[:] = (np.where(icmp, draw.integers(0, 12, n), 0) for _ in range(2))
    p.payload_length[:] = draw.integers(0, 30, n)
    p.held[:] = np.minimum(p.payload_length, draw.choice([12, 12, 5], n))
    p.payload[:] = draw.integers(0, 256, (n, 12)) * (np.arange(12) < p.held[:, None])
    p.options_length[:] = np.where(tcp, draw.choice([0, 4, 12, 40], n), 0)
    p.options[:] = draw.integers(0, 256, (n, 40)) * (np.arange(40) < p.options_length[:, None])
    # fragments: some begin a datagram of few identifiers, others go on with one
    p.identifier[:] = draw.integers(0, 3, n)
    begins = draw.random(n) < 0.05
    p.bits[begins] |= 1
    later = ~begins & (draw.random(n) < 0.05)
    p.flags[later], p.fragment[later] = 8, 64
    for name in (
        "sport",
        "dport",
        "tcp_flags",
        "window",
        "seq",
        "ack",
        "urgent",
        "offset",
        "udp_length",
        "held",
        "options_length",
    ):
        getattr(p, name)[later] = 0
    p.payload[later] = p.options[later] = 0
    return p


@dataclass
class Flow:
    number: int
    key: tuple[Any, ...]
    client: tuple[int, int, int]  # address, port
    server: tuple[int, int, int]
    start: int
    last: int
    rows: list[int] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    back: list[bool] = field(default_factory=list)
    fins: set[bool] = field(default_factory=set)
    closed: int | None = None
    ended: str = ""


def flows(p: Packets, o: ReaderOptions, block: int | None = None) -> list[Flow]:
    """The flows of packets, by number. block: silent flows leave, and too many are evicted, each so many packets."""
    rows = list(
        zip(*(getattr(p, n).tolist() for n in ("time", "src", "dst", "sport", "dport", "protocol")), strict=True)
    )
    rest = list(
        zip(
            *(
                getattr(p, n).tolist()
                for n in ("vlan", "tunnel", "tcp_flags", "flags", "identifier", "fragment", "bits")
            ),
            strict=True,
        )
    )
    table: dict[Any, Flow] = {}
    leads: dict[Any, tuple[int, int, int]] = {}
    done: list[Flow] = []
    made = 0

    def idle_of(protocol: int) -> int:
        return round((o.idle if protocol == 6 else o.idle_other) * S)

    def end(flow: Flow, why: str) -> None:
        flow.ended = "closed" if flow.closed is not None and why != "evicted" else why
        done.append(table.pop(flow.key))

    def leave(now: int) -> None:
        for flow in list(table.values()):
            if now - flow.last > idle_of(flow.key[4]):
                end(flow, "idle")
            elif flow.closed is not None and now - flow.closed > 2 * S:
                end(flow, "closed")
        for flow in sorted(table.values(), key=lambda f: (f.last, f.number))[: max(0, len(table) - o.max_flows)]:
            end(flow, "evicted")

    for i, ((time, src, dst, sport, dport, protocol), (vlan, tunnel, bits, odd, name, offset, ip)) in enumerate(
        zip(rows, rest, strict=True)
    ):
        later, orphan = bool(odd & 8), False
        datagram = (*src, *dst, name, protocol, vlan, tunnel)
        if later:
            lead = leads.get(datagram)
            orphan = lead is None or time - lead[0] > 60 * S
            if lead is not None and not orphan:
                sport, dport = lead[1:]
        elif offset == 0 and ip & 1:
            leads[datagram] = (time, sport, dport)
        ends = ((*src, sport), (*dst, dport))
        key = (*sorted(ends), vlan, tunnel, protocol, orphan)
        flow = table.get(key)
        flags = bits if protocol == 6 and not later else 0
        if flow is not None:
            time = max(time, flow.last)
            opens = flags & (SYN | ACK) == SYN
            if time - flow.last > idle_of(protocol):
                end(flow, "idle")
                flow = None
            elif time - flow.start > round(o.active * S):
                end(flow, "active")
                flow = None
            elif flow.closed is not None and (opens or time - flow.closed > 2 * S):
                end(flow, "closed")
                flow = None
        if flow is None:
            flow = table[key] = Flow(made, key, ends[0], ends[1], time, time)
            made += 1
        flow.rows.append(i)
        flow.times.append(time)
        flow.back.append(ends[0] != flow.client)
        flow.last = time
        if flags & FIN:
            flow.fins.add(ends[0] == key[0])
        if flow.closed is None and (flags & RST or len(flow.fins) == 2):
            flow.closed = time
        if block and (i + 1) % block == 0:
            leave(rows[i][0])
    if len(p):
        leave(rows[-1][0])
    for flow in list(table.values()):
        end(flow, "end")
    return sorted(done, key=lambda f: f.number)


def bursts(times: list[int], back: list[bool], gap: int) -> list[list[int]]:
    """The definition: per direction, maximal runs of gaps of at most `gap`; ordered by their first packets."""
    found: list[list[int]] = []
    for way in (False, True):
        mine = [i for i, b in enumerate(back) if b == way]
        for before, i in zip([None, *mine], mine, strict=False):
            if before is None or times[i] - times[before] > gap:
                found.append([])
            found[-1].append(i)
    return sorted(found, key=lambda burst: burst[0])


def octaves(value: float) -> int:
    return min(round(256 * math.log2(1 + value)), 65535)


def tokens(p: Packets, flow: Flow, o: ReaderOptions) -> list[tuple[int, int, int, int, int, int, bool]]:
    """Rows of (field, high, low, burst, packet, place, valid), packet by packet."""
    base: dict[bool, int] = {}
    for row, way in zip(flow.rows, flow.back, strict=True):
        if p.protocol[row] == 6 and not p.flags[row] & 8:
            base.setdefault(way, int(p.seq[row]))
            if p.tcp_flags[row] & ACK:
                base.setdefault(not way, int(p.ack[row]))
    found: list[tuple[int, int, int, int, int, int, bool]] = []
    starts: dict[bool, int] = {}

    def put(name: str, value: int, burst: int, packet: int, place: int, part: int = 0, valid: bool = True) -> None:
        found.append((fields.first(name) + part, value >> 8, value & 255, burst, packet, place, valid))

    for b, burst in enumerate(bursts(flow.times, flow.back, round(o.gap * S))[: o.bursts]):
        kept, way, start = burst[: o.packets], flow.back[burst[0]], flow.times[burst[0]]
        gap = (start - starts.get(way, start)) / 1000
        starts[way] = start
        size = sum(int(p.length[flow.rows[i]]) for i in kept)
        for place, (name, value) in enumerate(
            (("direction", int(way)), ("bytes", octaves(size)), ("packets", octaves(len(kept))), ("gap", octaves(gap)))
        ):
            put(name, value, b, 0, place)
        for k, i in enumerate(kept, start=1):
            row = flow.rows[i]
            q = {
                n: int(getattr(p, n)[row])
                for n in (
                    "header",
                    "tos",
                    "length",
                    "bits",
                    "ttl",
                    "tcp_flags",
                    "window",
                    "seq",
                    "ack",
                    "urgent",
                    "udp_length",
                    "icmp_type",
                    "icmp_code",
                    "held",
                    "options_length",
                )
            }
            lot = [
                ("header length", q["header"], 0, True),
                ("service", q["tos"], 0, True),
                ("length", q["length"], 0, True),
                ("flags", q["bits"], 0, True),
                ("ttl", q["ttl"], 0, True),
            ]
            protocol = 0 if p.flags[row] & 8 else int(p.protocol[row])
            if protocol == 6:
                seq = (q["seq"] - base[flow.back[i]]) % 2**32
                ack = (q["ack"] - base[not flow.back[i]]) % 2**32 if q["tcp_flags"] & ACK else 0
                lot += [("tcp flags", q["tcp_flags"], 0, True), ("window", q["window"], 0, True)]
                lot += [
                    (n, v >> s & 0xFFFF, part, True)
                    for n, v in (("seq", seq), ("ack", ack))
                    for part, s in enumerate((16, 0))
                ]
                lot += [("urgent", q["urgent"], 0, True)]
                if o.tcp_options:
                    raw = bytes(p.options[row])
                    lot += [
                        ("tcp options", raw[2 * j] << 8 | raw[2 * j + 1], j, 2 * j < q["options_length"])
                        for j in range(20)
                    ]
            elif protocol == 17:
                lot += [("udp length", q["udp_length"], 0, True)]
            elif protocol in (1, 58):
                lot += [("icmp type", q["icmp_type"], 0, True), ("icmp code", q["icmp_code"], 0, True)]
            if o.payload and protocol in (6, 17, 1, 58):
                raw = bytes(p.payload[row])
                lot += [("payload", raw[2 * j] << 8 | raw[2 * j + 1], j, 2 * j < q["held"]) for j in range(6)]
            # a header of which nothing was captured
            lost = bool(p.flags[row] & 3) and (
                (protocol == 6 and not p.offset[row]) or (protocol == 17 and not q["udp_length"])
            )
            for place, (name, value, part, valid) in enumerate(lot):
                put(name, value, b, k, place, part, valid and not (lost and place >= 5))
    return found


def statistics(p: Packets, flow: Flow, o: ReaderOptions) -> dict[str, float]:
    """By the names of `unlabeled.network.flow.statistics.NAMES`."""
    seconds = (flow.last - flow.start) / 1e9
    found: dict[str, float] = {"duration": seconds, "bursts": len(bursts(flow.times, flow.back, round(o.gap * S)))}
    found["packets per second"] = len(flow.rows) / seconds if seconds else 0
    sizes: dict[int, int] = {}
    for way in (0, 1):
        mine = [i for i, b in enumerate(flow.back) if b == way]
        length = [int(p.length[flow.rows[i]]) for i in mine]
        gap = [(flow.times[j] - flow.times[i]) / 1e9 for i, j in itertools.pairwise(mine)]
        sizes[way] = sum(length)
        found[f"packets {way}"], found[f"bytes {way}"] = len(mine), sum(length)
        found[f"payload {way}"] = sum(int(p.payload_length[flow.rows[i]]) for i in mine)
        found[f"pushed {way}"] = sum(bool(p.tcp_flags[flow.rows[i]] & PSH) for i in mine)
        found[f"bytes per second {way}"] = sum(length) / seconds if seconds else 0
        for name, values in (("length", length), ("gap", gap)):
            known = values or [0]
            found[f"{name} mean {way}"], found[f"{name} deviation {way}"] = float(np.mean(known)), float(np.std(known))
            found[f"{name} least {way}"], found[f"{name} most {way}"] = min(known), max(known)
    found["share of bytes back"] = sizes[1] / sum(sizes.values()) if sum(sizes.values()) else 0
    return found
