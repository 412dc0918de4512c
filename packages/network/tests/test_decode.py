"""Columns: equal to dpkt's packet by packet but for listed differences, and numpy equal to numba."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unlabeled.network import capture
from unlabeled.network.capture import decode
from unlabeled.network.capture import packets as flag
from unlabeled.network.capture.packets import Packets
from unlabeled.network.capture.window import Frames

from .data import captures as make
from .data import plain
from .data.mutations import alone, differing, real, whole

COMPILED = importlib.util.find_spec("numba") is not None
FAST = [False, True] if COMPILED else [False]
if COMPILED:
    from unlabeled.network.capture import decode_fast
needs_numba = pytest.mark.skipif(not COMPILED, reason="numba is not installed")
ODD = make.odd()

# Where dpkt and we differ, and why; the tests fail for a difference without an entry, and for an entry without a difference.
DIFFERENCES = {
    "tunnel": "dpkt leaves VXLAN and GTP-U as the bytes of UDP; we look into them",
    "depth": "dpkt goes into any number of tunnels, we into 4",
    "AH": "dpkt leaves AH in IPv4 as bytes; we pass it, as in IPv6",
    "tags": "dpkt reads two VLAN tags and knows none in Linux cooked captures; we read any number",
    "link": "dpkt has no PPP or HDLC captures, no loopback in network order, and not Linux's number of IPv6",
    "broken": "dpkt refuses an IPv4 header below 20 bytes, and what a cut IPv6 extension header follows; we keep the IP fields",
    "version": "dpkt reads IPv4 where the header says another version; that is no IP to us",
    "cut": "of a packet that was not captured whole we give the length that was sent, dpkt the bytes that are there",
    "udp length": "of a UDP length below the IP length we keep what UDP says, dpkt all",
    "protocol": "dpkt goes on to the next protocol's number behind an extension header that is cut",
}


def row(p: Packets, i: int) -> dict[str, Any]:
    """A packet by the names of the columns, as `plain.row` gives it."""
    named = {n: getattr(p, n)[i].tolist() for n in flag.KINDS}
    named |= {"src": tuple(named["src"]), "dst": tuple(named["dst"])}
    named["payload"] = bytes(named["payload"][: named["held"]])
    named["options"] = bytes(named["options"][: named["options_length"]])
    return named


def missing(link: int, frame: bytes, own: dict[str, Any] | None) -> str:
    """Why only one side finds an IP header."""
    if own is None:
        return "version" if frame[14 if link == 1 else 0] >> 4 not in (4, 6) or link in (228, 229) else "?"
    if own["flags"] & (flag.BAD_HEADER | flag.TRUNCATED):
        return "broken"
    if own["vlan"]:
        return "tags"
    return "link" if link in (0, 9, 104, 108) else "?"


def reason(name: str, own: dict[str, Any], theirs: Any) -> str:
    """Why a column differs."""
    if name == "protocol" and theirs == 51 and own["version"] == 4:
        return "AH"
    if name == "protocol" and own["flags"] & flag.EXTENDED and own["flags"] & flag.TRUNCATED:
        return "protocol"
    if name == "payload_length" and own["flags"] & flag.TRUNCATED and own["payload_length"] > theirs:
        return "cut"
    if name in ("payload", "payload_length") and own["protocol"] == 17 and own["flags"] & flag.BAD_LENGTH:
        return "udp length"
    return "?"


def compared(path: Path, tunnels: bool, seen: Counter[str]) -> None:
    """Counts the packets of a pcap file that equal dpkt's under "", and the reasons of those that do not."""
    p = whole(capture.read(path, options=True, tunnels=tunnels, fast=False))
    rows = {int(f): i for i, f in enumerate(p.frame)}
    for n, (link, frame, sent) in enumerate(plain.frames(path)):
        own, ips = row(p, rows[n]) if n in rows else None, plain.layers(link, frame)
        if own is None or not ips:
            if own is not None or ips:
                seen[missing(link, frame, own)] += 1
            continue
        assert (own["captured"], own["sent"]) == (len(frame), sent)
        if tunnels and own["tunnel"] != len(ips) - 1:
            seen["depth" if len(ips) > 5 and own["tunnel"] == 4 else "tunnel" if own["tunnel"] == 1 else "?"] += 1
            continue
        theirs = plain.row(ips[-1] if tunnels else ips[0])
        found = {reason(name, own, theirs[name]) for name in theirs if own[name] != theirs[name]}
        assert "?" not in found, (path.name, n, [name for name in theirs if own[name] != theirs[name]])
        seen.update(found or {""})


@pytest.mark.parametrize("tunnels", [True, False])
def test_columns_equal_dpkts_on_generated_captures(tmp_path: Path, tunnels: bool) -> None:
    seen = Counter[str]()
    made = make.files(tmp_path)
    for name in ("ns", "us swapped", "snapped", *make.others()):
        compared(made[name], tunnels, seen)
    assert seen.pop("") > 300
    assert seen.keys() == DIFFERENCES.keys() - (set() if tunnels else {"tunnel", "depth"})


@pytest.mark.skipif(not real(), reason="the real captures are not here")
@pytest.mark.parametrize("tunnels", [True, False])
def test_columns_equal_dpkts_on_real_captures(tunnels: bool) -> None:
    seen = Counter[str]()
    for path in real():
        if path.read_bytes()[:4] in (b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\xc3\xd4"):
            compared(path, tunnels, seen)
    assert seen.pop("") > 15_000 and "?" not in seen
    assert sum(seen.values()) < 200 and seen.keys() <= DIFFERENCES.keys()


def one(
    frame: bytes, link: int = 1, tunnels: bool = True, sent: int | None = None
) -> tuple[dict[str, Any] | None, int]:
    """The row of one frame and the reason of none: with numpy and numba."""
    n = np.array([len(frame)], np.uint32)
    data = np.frombuffer(frame, np.uint8)
    wire = n if sent is None else np.array([sent], np.uint32)
    frames = Frames(data, np.zeros(1, np.int64), n, wire, np.zeros(1, np.int64), np.full(1, link, np.int32))
    p, counts = decode.decode(frames, 0, True, tunnels)
    if COMPILED:
        q, others = decode_fast.decode(frames, 0, True, tunnels)
        assert not differing(p, q) and (counts == others).all()
    return (row(p, 0) if len(p) else None), int(np.argmax(counts))


def odd(name: str, tunnels: bool = True) -> dict[str, Any]:
    found, _ = one(ODD[name], tunnels=tunnels)
    assert found is not None
    return found


TCP_DATA = {"protocol": 6, "sport": 1234, "dport": 80, "seq": 5, "ack": 6, "offset": 20, "payload_length": 40}
UDP_DATA = {"protocol": 17, "sport": 1111, "dport": 53, "payload_length": 40, "udp_length": 48}
V4, V6 = {"src": (0, 0xFFFF01010101), "version": 4}, {"src": (0x20010DB800000000, 1), "version": 6}
IN = {"flags": flag.TUNNELLED, "tunnel": 1}


@pytest.mark.parametrize(
    ("name", "want"),
    [
        # A4.3 of the design: what dpkt was seen to give
        ("qinq", TCP_DATA | V4 | {"vlan": 10}),
        ("qinq 802.1ad", TCP_DATA | V6 | {"vlan": 30}),
        ("hop by hop", UDP_DATA | V6 | {"flags": flag.EXTENDED, "header": 40}),
        ("first fragment", {"protocol": 17, "sport": 1111, "bits": 1, "flags": 0, "payload_length": 64}),
        ("second fragment", {"protocol": 17, "sport": 0, "fragment": 72, "flags": flag.FRAGMENT, "payload_length": 64}),
        ("second fragment 6", {"sport": 0, "fragment": 72, "identifier": 8, "flags": flag.FRAGMENT | flag.EXTENDED}),
        ("gre", TCP_DATA | V4 | IN),
        ("doff 3", {"offset": 12, "flags": flag.BAD_HEADER, "payload_length": 0, "sport": 1234, "seq": 5}),
        ("ihl 3", {"header": 12, "flags": flag.BAD_HEADER, "protocol": 6, "sport": 0, "payload_length": 0}),
        ("ethernet padding", {"payload_length": 0, "held": 0, "captured": 60, "flags": 0}),
        # and the others
        ("vlan x5", TCP_DATA | {"vlan": 1}),
        ("vlan priority", TCP_DATA | {"vlan": 4094}),
        ("mpls x2 6", TCP_DATA | V6),
        ("pppoe6", TCP_DATA | V6),
        ("snap", TCP_DATA | V4),
        ("first fragment 6", {"sport": 1111, "bits": 1, "identifier": 8, "flags": flag.EXTENDED, "payload_length": 64}),
        ("all extensions", TCP_DATA | V6 | {"flags": flag.EXTENDED}),
        ("ah", TCP_DATA | V4 | {"flags": 0}),
        ("ah6", UDP_DATA | V6 | {"flags": flag.EXTENDED}),
        ("esp", {"protocol": 50, "sport": 0, "dport": 0, "payload_length": 32}),
        ("no next header", {"protocol": 59, "flags": 0, "payload_length": 0, "length": 40}),
        ("unknown protocol", {"protocol": 200, "sport": 0, "payload_length": 40, "held": 12}),
        ("sctp", {"protocol": 132, "sport": 2905, "dport": 2906, "payload_length": 24}),
        ("icmp echo", {"icmp_type": 8, "sport": 4242, "dport": 4242, "payload": bytes(range(12))}),
        ("icmp unreachable", {"icmp_type": 3, "icmp_code": 3, "sport": 0, "dport": 0, "payload_length": 28}),
        ("icmp6 echo", {"icmp_type": 128, "sport": 4243, "payload_length": 9, "held": 9}),
        ("tcp nonce", {"tcp_flags": 0x1C2, "urgent": 77, "window": 65535}),
        (
            "tcp options",
            {"options_length": 20, "offset": 40, "options": b"\2\4\5\xb4\4\2\x08\x0a\0\0\0\1\0\0\0\0\3\3\7\0"},
        ),
        ("ip options", TCP_DATA | {"header": 32}),
        ("gre options", TCP_DATA | V6 | IN),
        ("gre ethernet", TCP_DATA | V4 | IN),
        ("gre unknown", {"protocol": 47, "tunnel": 0, "payload_length": 44}),
        ("vxlan", UDP_DATA | V4 | IN),
        ("vxlan vlan", TCP_DATA | V6 | IN | {"vlan": 3}),
        ("vxlan arp", {"dport": 4789, "tunnel": 0, "flags": 0, "payload_length": 50}),
        ("6in4", TCP_DATA | V6 | IN),
        ("4in6 behind options", TCP_DATA | V4 | IN),
        ("gtp", TCP_DATA | V4 | IN),
        ("gtp sequence", TCP_DATA | V4 | IN),
        ("gtp echo", {"dport": 2152, "tunnel": 0}),
        ("ip in ip x4", TCP_DATA | V4 | {"tunnel": 4}),
        ("ip in ip x6", {"tunnel": 4, "protocol": 4, "sport": 0, "payload_length": 20 + 20 + 60 + 20 - 20}),
        # lengths that are wrong: the captured bytes bound
        ("length 0", TCP_DATA | {"length": 0, "flags": flag.BAD_LENGTH}),
        ("length too large", TCP_DATA | {"length": 65535, "flags": flag.BAD_LENGTH}),
        ("length below header", TCP_DATA | {"length": 10, "flags": flag.BAD_LENGTH}),
        (
            "length within tcp header",
            {"length": 30, "sport": 1234, "flags": flag.BAD_HEADER, "payload_length": 0, "seq": 0},
        ),
        ("length 0 6", TCP_DATA | {"length": 40, "flags": flag.BAD_LENGTH}),
        ("length too large 6", TCP_DATA | {"length": 65535, "flags": flag.BAD_LENGTH}),
        ("udp length 3", UDP_DATA | {"udp_length": 3, "flags": flag.BAD_LENGTH}),
        ("udp length 0", UDP_DATA | {"udp_length": 0, "flags": flag.BAD_LENGTH}),
        ("udp length large", UDP_DATA | {"udp_length": 4095, "flags": flag.BAD_LENGTH}),
        ("udp length small", UDP_DATA | {"udp_length": 16, "payload_length": 8, "held": 8, "flags": flag.BAD_LENGTH}),
        ("extension beyond the end", {"protocol": 0, "sport": 0, "flags": flag.BAD_HEADER | flag.EXTENDED}),
        ("doff 15", {"offset": 60, "flags": flag.BAD_HEADER, "payload_length": 0, "sport": 1}),
        ("ihl 15 beyond the end", {"header": 60, "protocol": 17, "sport": 0, "payload_length": 0}),
    ],
)
def test_known_values(name: str, want: dict[str, Any]) -> None:
    found = odd(name)
    assert {key: found[key] for key in want} == want


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("arp", "arp"),
        ("lldp", "lldp"),
        ("stp", "802.3"),
        ("unknown ethertype", "non-IP"),
        ("pppoe lcp", "non-IP"),
        ("pppoe discovery", "non-IP"),
        ("version 7", "non-IP"),
        ("13 bytes", "truncated before IP"),
        ("vlan without type", "truncated before IP"),
        ("tcp, first 29", "truncated before IP"),
    ],
)
def test_frames_without_ip_are_counted_by_reason(name: str, said: str) -> None:
    from unlabeled.network.capture.links import REASONS

    found, at = one(ODD[name])
    assert found is None and REASONS[at] == said


def test_a_cut_frame_gives_what_it_has() -> None:
    frame = ODD["tcp"]  # 14 + 20 + 20 + 40
    for n in range(34, len(frame)):
        found, _ = one(frame[:n], sent=len(frame))
        assert found is not None and found["flags"] == flag.TRUNCATED
        assert (found["sport"], found["dport"]) == ((1234, 80) if n >= 38 else (0, 0))
        assert found["seq"] == (5 if n >= 54 else 0)
        # the payload that was sent, and how much of its first 12 bytes is here
        assert (found["payload_length"], found["held"]) == ((40, min(n - 54, 12)) if n >= 54 else (0, 0))
    found, _ = one(frame[:53])  # said to be whole: its IP length says otherwise
    assert found is not None and found["flags"] == flag.BAD_LENGTH | flag.BAD_HEADER


def test_without_tunnels_the_outermost_header_counts() -> None:
    for name in ("gre", "vxlan", "gtp", "6in4", "ip in ip x4"):
        found = odd(name, tunnels=False)
        assert (found["src"], found["tunnel"], found["flags"]) == ((0, 0xFFFF09090901), 0, 0)


def test_any_number_of_headers_ends() -> None:
    tags, v4 = bytes.fromhex("81000001"), ODD["tcp"][12:]
    assert one(ODD["tcp"][:12] + tags * 30 + v4)[0] is not None
    assert one(ODD["tcp"][:12] + tags * 1000 + v4)[0] is None
    six = bytearray(ODD["hop by hop"])
    chain = bytes(six[:54]) + (b"\0" + bytes(7)) * 5000
    found, _ = one(chain[:18] + (4000).to_bytes(2, "big") + chain[20:])
    assert found is not None and found["flags"] == flag.EXTENDED | flag.BAD_HEADER


@pytest.mark.parametrize("fast", FAST)
def test_nothing_around_a_frame_is_read(fast: bool) -> None:
    """The same columns whatever stands before and behind each frame, with the last one at the end of the buffer."""
    decoder = decode_fast.decode if fast else decode.decode
    every = [*ODD.values(), *(f[:n] for f in ODD.values() for n in range(0, len(f), 11))]
    n = np.array([len(f) for f in every], np.uint32)
    data = np.frombuffer(b"".join(every), np.uint8)
    at = np.cumsum([0, *n[:-1]]).astype(np.int64)
    frames = Frames(data, at, n, n + 7, np.zeros(len(n), np.int64), np.ones(len(n), np.int32))
    first, counts = decoder(alone(frames, 0), 0, True, True)
    for poison in (0xFF, 0x45, 0x08):
        other, again = decoder(alone(frames, poison), 0, True, True)
        assert not differing(first, other) and (counts == again).all()
    assert not differing(first, decoder(frames, 0, True, True)[0])


@needs_numba
def test_numpy_equals_numba_on_every_capture(tmp_path: Path) -> None:
    paths = [*make.files(tmp_path).values(), make.large(tmp_path / "large.pcap", 40_000), *real()]
    for path in paths:
        for words in ({"options": True}, {"tunnels": False}):
            a, b = (capture.read(path, fast=fast, **words) for fast in FAST)
            assert not differing(whole(a), whole(b)), path.name
            assert (a.counts, a.flags) == (b.counts, b.flags)


def test_options_have_no_width_where_they_are_not_asked_for(tmp_path: Path) -> None:
    path = make.write_pcap(tmp_path / "a.pcap", make.session(options=True))
    for fast in FAST:
        with_options, without = (whole(capture.read(path, options=o, fast=fast)) for o in (True, False))
        assert with_options.options.shape == (9, 40) and without.options.shape == (9, 0)
        assert differing(with_options, without) == ["options"]
        assert (without.options_length == 12).all()  # two paddings and a time stamp


def test_a_capture_is_the_same_read_twice_and_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = capture.read(make.files(tmp_path)["ns"], fast=False, block=500)
    first, counts, flags = whole(found), dict(found.counts), found.flags
    monkeypatch.setattr(capture, "ROWS", 10)
    monkeypatch.setattr(decode, "CHUNK", 3)
    assert not differing(first, whole(found)) and (dict(found.counts), found.flags) == (counts, flags)
    sizes = [len(part) for part in found]
    # the last may have fewer; a block of 500 bytes, and what is left of the one before, are few of these frames
    assert all(10 <= n < 30 for n in sizes[:-1]) and len(sizes) > 3 and sum(sizes) == len(first)


@needs_numba
def test_large_captures_are_compiled_and_small_ones_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    real_decode = decode_fast.decode
    monkeypatch.setattr(decode_fast, "decode", lambda *words: used.append(1) or real_decode(*words))
    path = make.write_pcap(tmp_path / "a.pcap", make.session())
    size = path.stat().st_size
    monkeypatch.setattr(capture, "_read_so_far", 0)
    monkeypatch.setattr(capture, "FAST_FROM", 3 * size)
    for n in (0, 0, 1):  # what was read before counts, since then compiling pays
        list(capture.read(path))
        assert len(used) == n


@needs_numba
def test_the_compiled_code_lies_in_no_package(tmp_path: Path) -> None:
    """And where its folder cannot be written, it is kept nowhere."""
    call = "from unlabeled.network.capture import decode_fast as f; print(f.FOLDER, f._cut.stats.cache_path)"
    (blocked := tmp_path / "file").write_text("no folder")
    for cache in (tmp_path / "cache", blocked):
        done = subprocess.run(
            [sys.executable, "-c", call],
            env=os.environ | {"UNLABELED_CACHE": str(cache)},
            capture_output=True,
            text=True,
            check=True,
        )
        folders = done.stdout.split()
        assert folders == ["None", "None"] if cache == blocked else all(f.startswith(str(cache)) for f in folders)
