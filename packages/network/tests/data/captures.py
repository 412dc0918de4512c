"""Generators of real capture files: sessions of chosen addresses, ports and gaps, every odd frame, and every kind of file.

A frame is (time in ns since 1970, bytes). `session` and `datagrams` make the frames of one flow, `merged` sorts those of
several by time, `write_pcap` and `write_pcapng` write them.
"""

from __future__ import annotations

import gzip
import struct
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # scapy names ciphers that cryptography has moved
    from scapy.contrib.gtp import GTP_U_Header
    from scapy.contrib.mpls import MPLS
    from scapy.layers.inet import ICMP, IP, TCP, UDP
    from scapy.layers.inet6 import (
        ICMPv6EchoRequest,
        ICMPv6ND_NS,
        IPv6,
        IPv6ExtHdrDestOpt,
        IPv6ExtHdrFragment,
        IPv6ExtHdrHopByHop,
        IPv6ExtHdrRouting,
    )
    from scapy.layers.ipsec import AH, ESP
    from scapy.layers.l2 import ARP, GRE, LLC, SNAP, Dot1AD, Dot1Q, Dot3, Ether
    from scapy.layers.ppp import PPP, PPPoE, PPPoED
    from scapy.layers.sctp import SCTP, SCTPChunkData
    from scapy.layers.vxlan import VXLAN
    from scapy.packet import Packet, Raw

Frame = tuple[int, bytes]
START = 1_700_000_000_000_000_000  # ns
MS = 1_000_000
MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02")


def _ip(src: str, dst: str, ttl: int) -> Packet:
    return IPv6(src=src, dst=dst, hlim=ttl) if ":" in src else IP(src=src, dst=dst, ttl=ttl, id=src.count("1") + 7)


def _link(way: int, vlan: int) -> Packet:
    link = Ether(src=MACS[way], dst=MACS[1 - way])
    return link / Dot1Q(vlan=vlan) if vlan else link


def session(
    client: str = "10.0.0.1",
    server: str = "10.0.0.2",
    sport: int = 40000,
    dport: int = 80,
    data: Sequence[tuple[int, int | bytes] | tuple[int, int | bytes, int]] = ((0, 100), (1, 1000), (1, 400)),
    *,
    start: int = START,
    gap: int = MS,
    seq: tuple[int, int] = (1000, 900_000),
    ttl: tuple[int, int] = (64, 57),
    vlan: int = 0,
    handshake: bool = True,
    close: str = "fin",
    options: bool = False,
) -> list[Frame]:
    """The frames of one TCP connection over IPv4 or IPv6.

    data   (way, bytes or how many, gap before it in ns, `gap` where not said) of each segment; way 0 is by the client
    close  "fin" (three frames), "rst" (one, by the client) or "" (none)
    """
    at, frames, sent = start, [], list(seq)

    def add(way: int, flags: str, payload: bytes = b"", wait: int = gap) -> None:
        nonlocal at
        at += wait if frames else 0
        ends = ((client, sport), (server, dport))
        (src, a), (dst, b) = ends[way], ends[1 - way]
        known = sent[1 - way] if "A" in flags else 0
        more = [("NOP", None), ("NOP", None), ("Timestamp", (at // MS % 2**32, 0))] if options else []
        segment = TCP(sport=a, dport=b, flags=flags, seq=sent[way], ack=known, window=8192 + way, options=more)
        frames.append((at, bytes(_link(way, vlan) / _ip(src, dst, ttl[way]) / segment / Raw(payload))))
        sent[way] = (sent[way] + len(payload) + ("S" in flags or "F" in flags)) % 2**32

    if handshake:
        add(0, "S"), add(1, "SA"), add(0, "A")
    for way, what, *wait in data:
        add(way, "PA", what if isinstance(what, bytes) else bytes(i % 251 for i in range(what)), *wait)
    if close == "fin":
        add(0, "FA"), add(1, "FA"), add(0, "A")
    elif close == "rst":
        add(0, "R")
    return frames


def datagrams(
    client: str = "10.0.0.3",
    server: str = "10.0.0.4",
    sport: int = 50000,
    dport: int = 53,
    data: Sequence[tuple[int, int | bytes] | tuple[int, int | bytes, int]] = ((0, 30), (1, 90)),
    *,
    start: int = START,
    gap: int = MS,
    ttl: tuple[int, int] = (64, 57),
    vlan: int = 0,
) -> list[Frame]:
    """The frames of one UDP flow; `data` as in `session`."""
    at, frames = start, []
    for way, what, *wait in data:
        at += (wait[0] if wait else gap) if frames else 0
        ends = ((client, sport), (server, dport))
        (src, a), (dst, b) = ends[way], ends[1 - way]
        payload = what if isinstance(what, bytes) else bytes(i % 251 for i in range(what))
        frames.append((at, bytes(_link(way, vlan) / _ip(src, dst, ttl[way]) / UDP(sport=a, dport=b) / Raw(payload))))
    return frames


def pings(
    client: str = "10.0.0.5", server: str = "10.0.0.6", n: int = 2, *, start: int = START, gap: int = MS
) -> list[Frame]:
    """n ICMP echo requests and their replies, with the identifier 77."""
    frames = []
    for i in range(2 * n):
        src, dst, kind = (client, server, 8) if i % 2 == 0 else (server, client, 0)
        echo = ICMP(type=kind, id=77, seq=i // 2) / Raw(b"abcdefghijklmnop")
        frames.append((start + i * gap, bytes(_link(i % 2, 0) / _ip(src, dst, 64) / echo)))
    return frames


def merged(*flows: Iterable[Frame]) -> list[Frame]:
    """The frames of several flows in the order of time."""
    return sorted((f for flow in flows for f in flow), key=lambda frame: frame[0])


def _patched(packet: Packet, at: int, value: bytes) -> bytes:
    """The packet with some bytes overwritten."""
    raw = bytearray(bytes(packet))
    raw[at : at + len(value)] = value
    return bytes(raw)


def odd() -> dict[str, bytes]:
    """One frame of Ethernet for each odd case, by name. Inner packets go from 1.1.1.1 to 2.2.2.2."""
    link = Ether(src=MACS[0], dst=MACS[1])
    v4, v6 = IP(src="1.1.1.1", dst="2.2.2.2", id=9), IPv6(src="2001:db8::1", dst="2001:db8::2")
    outer, outer6 = IP(src="9.9.9.1", dst="9.9.9.2"), IPv6(src="2001:db8:9::1", dst="2001:db8:9::2")
    tcp, udp = TCP(sport=1234, dport=80, seq=5, ack=6, flags="PA"), UDP(sport=1111, dport=53)
    arp = ARP(hwsrc=MACS[0], psrc="1.1.1.1", pdst="2.2.2.2")
    data = Raw(bytes(range(40)))
    long = Raw(bytes(i % 256 for i in range(64)))
    plain, plain6 = v4 / tcp / data, v6 / tcp / data
    made: dict[str, Packet] = {
        "tcp": link / plain,
        "tcp6": link / plain6,
        "udp": link / v4 / udp / data,
        "udp6": link / v6 / udp / data,
        "icmp echo": link / v4 / ICMP(type=8, id=4242, seq=1) / data,
        "icmp unreachable": link / v4 / ICMP(type=3, code=3) / v4 / udp,
        "icmp6 echo": link / v6 / ICMPv6EchoRequest(id=4243, seq=2, data=bytes(9)),
        "icmp6 neighbour": link / v6 / ICMPv6ND_NS(tgt="2001:db8::2"),
        "sctp": link / v4 / SCTP(sport=2905, dport=2906) / SCTPChunkData(data=b"hello"),
        "esp": link / v4 / ESP(spi=7, seq=1, data=bytes(24)),
        "esp6": link / v6 / ESP(spi=7, seq=1, data=bytes(24)),
        "ah": link / v4 / AH(nh=6, payloadlen=4, spi=3, seq=1, icv=bytes(12)) / tcp / data,
        "ah6": link / v6 / AH(nh=17, payloadlen=4, spi=3, seq=1, icv=bytes(12)) / udp / data,
        "unknown protocol": link / IP(src="1.1.1.1", dst="2.2.2.2", proto=200) / data,
        "igmp": link / IP(src="1.1.1.1", dst="224.0.0.1", proto=2) / Raw(bytes(8)),
        "tcp options": link
        / v4
        / TCP(
            sport=1, dport=2, flags="S", options=[("MSS", 1460), ("SAckOK", b""), ("Timestamp", (1, 0)), ("WScale", 7)]
        ),
        "tcp nonce": link / v4 / TCP(sport=1, dport=2, flags=0x1C2, urgptr=77, window=65535),
        "ip options": link / IP(src="1.1.1.1", dst="2.2.2.2", options=b"\x01" * 12) / tcp / data,
        "vlan": link / Dot1Q(vlan=100) / plain,
        "vlan priority": link / Dot1Q(vlan=4094, prio=7) / plain,
        "qinq": link / Dot1Q(vlan=10) / Dot1Q(vlan=20) / plain,
        "qinq 802.1ad": link / Dot1AD(vlan=30) / Dot1Q(vlan=40) / plain6,
        "vlan x5": link / Dot1Q(vlan=1) / Dot1Q(vlan=2) / Dot1Q(vlan=3) / Dot1Q(vlan=4) / Dot1Q(vlan=5) / plain,
        "mpls": Ether(src=MACS[0], dst=MACS[1], type=0x8847) / MPLS(label=16, s=1) / plain,
        "mpls x2 6": Ether(src=MACS[0], dst=MACS[1], type=0x8847) / MPLS(label=16, s=0) / MPLS(label=17, s=1) / plain6,
        "pppoe": link / PPPoE(sessionid=1) / PPP(proto=0x21) / plain,
        "pppoe6": link / PPPoE(sessionid=1) / PPP(proto=0x57) / plain6,
        "pppoe lcp": link / PPPoE(sessionid=1) / PPP(proto=0xC021) / Raw(bytes(8)),
        "pppoe discovery": link / PPPoED(code=9),
        "first fragment": link / IP(src="1.1.1.1", dst="2.2.2.2", id=9, flags="MF") / udp / long,
        "second fragment": link / IP(src="1.1.1.1", dst="2.2.2.2", id=9, frag=9, proto=17) / long,
        "first fragment 6": link / v6 / IPv6ExtHdrFragment(id=8, m=1, offset=0, nh=17) / udp / long,
        "second fragment 6": link / v6 / IPv6ExtHdrFragment(id=8, m=0, offset=9, nh=17) / long,
        "hop by hop": link / v6 / IPv6ExtHdrHopByHop() / udp / data,
        "routing": link / v6 / IPv6ExtHdrRouting(addresses=["2001:db8::9"]) / tcp / data,
        "destination options": link / v6 / IPv6ExtHdrDestOpt() / tcp / data,
        "all extensions": link
        / v6
        / IPv6ExtHdrHopByHop()
        / IPv6ExtHdrRouting(addresses=["2001:db8::9"])
        / IPv6ExtHdrFragment(id=1, m=1)
        / IPv6ExtHdrDestOpt()
        / tcp
        / data,
        "no next header": link / IPv6(src="2001:db8::1", dst="2001:db8::2", nh=59),
        "gre": link / outer / GRE(proto=0x0800) / plain,
        "gre options": link / outer / GRE(proto=0x86DD, chksum_present=1, key_present=1, seqnum_present=1) / plain6,
        "gre ethernet": link / outer / GRE(proto=0x6558) / link / plain,
        "gre unknown": link / outer / GRE(proto=0x9999) / data,
        "vxlan": link / outer / UDP(sport=55555, dport=4789) / VXLAN(vni=42) / link / v4 / udp / data,
        "vxlan vlan": link / outer / UDP(sport=55555, dport=4789) / VXLAN(vni=42) / link / Dot1Q(vlan=3) / plain6,
        "vxlan arp": link / outer / UDP(sport=55555, dport=4789) / VXLAN(vni=42) / link / arp,
        "ip in ip": link / outer / plain,
        "6in4": link / outer / plain6,
        "4in6": link / outer6 / plain,
        "6in6": link / outer6 / plain6,
        "4in6 behind options": link / outer6 / IPv6ExtHdrDestOpt() / plain,
        "gtp": link / outer / UDP(sport=2152, dport=2152) / GTP_U_Header(teid=1, gtp_type=255) / plain,
        "gtp sequence": link / outer / UDP(sport=2152, dport=2152) / GTP_U_Header(teid=1, S=1, seq=1) / plain,
        "gtp echo": link / outer / UDP(sport=2152, dport=2152) / GTP_U_Header(teid=0, gtp_type=1),
        "ip in ip x4": link / outer / outer / outer / outer / plain,
        "ip in ip x6": link / outer / outer / outer / outer / outer / outer / plain,
        "arp": link / arp,
        "lldp": Ether(src=MACS[0], dst=MACS[1], type=0x88CC) / Raw(bytes(46)),
        "stp": Dot3(dst=MACS[0], src=MACS[1]) / LLC(dsap=0x42, ssap=0x42) / Raw(bytes(40)),
        "snap": Dot3(dst=MACS[0], src=MACS[1]) / LLC(dsap=0xAA, ssap=0xAA, ctrl=3) / SNAP(code=0x0800) / plain,
        "unknown ethertype": Ether(src=MACS[0], dst=MACS[1], type=0x9999) / data,
    }
    frames = {name: bytes(packet) for name, packet in made.items()}
    least = link / v4 / TCP(sport=1, dport=2, flags="A")
    frames |= {
        "ethernet padding": bytes(least) + bytes(6),
        "length 0": _patched(link / plain, 16, b"\0\0"),
        "length 0 udp": _patched(link / v4 / udp / data, 16, b"\0\0"),
        "length too large": _patched(link / plain, 16, b"\xff\xff"),
        "length below header": _patched(link / plain, 16, b"\0\x0a"),
        "length within tcp header": _patched(link / plain, 16, b"\0\x1e"),
        "length 0 6": _patched(link / plain6, 18, b"\0\0"),
        "length too large 6": _patched(link / plain6, 18, b"\xff\xff"),
        "ihl 3": _patched(link / plain, 14, b"\x43"),
        "ihl 15 beyond the end": bytes(_patched(link / v4 / udp, 14, b"\x4f"))[:50],
        "version 7": _patched(link / plain, 14, b"\x75"),
        "doff 3": _patched(link / plain, 46, b"\x30"),
        "doff 15": _patched(least, 46, b"\xf0"),
        "udp length 3": _patched(link / v4 / udp / data, 38, b"\0\3"),
        "udp length 0": _patched(link / v4 / udp / data, 38, b"\0\0"),
        "udp length large": _patched(link / v4 / udp / data, 38, b"\x0f\xff"),
        "udp length small": _patched(link / v4 / udp / data, 38, b"\0\x10"),
        "extension beyond the end": _patched(link / v6 / IPv6ExtHdrHopByHop() / udp, 55, b"\xff"),
        "13 bytes": bytes(link / plain)[:13],
        "vlan without type": bytes(link / Dot1Q(vlan=100) / plain)[:17],
    }
    whole = {
        "tcp": frames["tcp"],
        "tcp6": frames["tcp6"],
        "gre": frames["gre"],
        "all extensions": frames["all extensions"],
    }
    frames |= {f"{name}, first {n}": frame[:n] for name, frame in whole.items() for n in range(14, 90, 5)}
    return frames


def others() -> dict[str, tuple[int, list[bytes]]]:
    """Frames of link types other than Ethernet: name -> (link type, frames)."""
    v4 = bytes(IP(src="1.1.1.1", dst="2.2.2.2") / TCP(sport=1234, dport=80) / Raw(b"abc"))
    v6 = bytes(IPv6(src="2001:db8::1", dst="2001:db8::2") / UDP(sport=1, dport=2) / Raw(b"abcd"))
    v1, v2 = bytes(14), bytes(6) + struct.pack(">HBB", 1, 0, 6) + bytes(8)
    tag = struct.pack(">HH", 77, 0x0800)
    types = [struct.pack(">H", t) for t in (0x0800, 0x86DD, 0x0806, 0x8100)]
    cooked = [v1 + t + packet for t, packet in zip(types, (v4, v6, bytes(28), tag + v4), strict=True)]
    cooked2 = [t + v2 + packet for t, packet in zip(types, (v4, v6, bytes(28), tag + v4), strict=True)]
    families = [(2, v4), (10, v6), (24, v6), (28, v6), (30, v6), (7, v4)]
    null = [struct.pack(order, family) + p for order in ("<I", ">I") for family, p in families]
    ppp = [b"\0\x21" + v4, b"\xff\x03\0\x57" + v6, b"\x21" + v4, b"\xff\x03\x21" + v4, b"\xc0\x21" + bytes(8), b"\0"]
    raw = [v4, v6, b"\x70" + bytes(30), v4[:9]]
    return {
        "null": (0, [*null, b"\0\0"]),
        "loop": (108, [struct.pack(">I", family) + p for family, p in families]),
        "raw 12": (12, raw),
        "raw 14": (14, raw),
        "raw 101": (101, raw),
        "raw 228": (228, [v4, v6]),
        "raw 229": (229, [v6, v4]),
        "cooked": (113, [*cooked, bytes(15)]),
        "cooked 2": (276, [*cooked2, bytes(19)]),
        "ppp": (9, ppp),
    }


def write_pcap(
    path: Path,
    frames: Sequence[Frame],
    *,
    linktype: int = 1,
    order: str = "<",
    ns: bool = True,
    snaplen: int = 262_144,
    modified: bool = False,
    snap: int | None = None,
) -> Path:
    """A pcap file. order: "<" or ">"; modified: Kuznetzov's longer record headers; snap: bytes kept of each frame."""
    magic = 0xA1B2CD34 if modified else 0xA1B23C4D if ns else 0xA1B2C3D4
    parts = [struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, snaplen, linktype)]
    for time, frame in frames:
        second, fraction = divmod(time, 10**9)
        kept = frame if snap is None else frame[:snap]
        parts.append(
            struct.pack(
                order + "IIII", second, fraction if ns and not modified else fraction // 1000, len(kept), len(frame)
            )
        )
        parts += [struct.pack(order + "IHBB", 0, 0, 0, 0)] * modified + [kept]
    path.write_bytes(b"".join(parts))
    return path


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    """A block of a pcapng file, padded."""
    body += bytes(-len(body) % 4)
    size = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + size + body + size


def option(code: int, value: bytes, order: str = "<") -> bytes:
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def section(order: str = "<") -> bytes:
    """A section header."""
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(
    linktype: int = 1, order: str = "<", snaplen: int = 0, tsresol: int | None = 9, tsoffset: int | None = None
) -> bytes:
    """An interface description; tsresol as its byte is, 9 for ns; None leaves the option out."""
    options = option(2, b"if0", order)
    if tsresol is not None:
        options += option(9, bytes([tsresol]), order)
    if tsoffset is not None:
        options += option(14, struct.pack(order + "q", tsoffset), order)
    return block(1, struct.pack(order + "HHI", linktype, 0, snaplen) + options + option(0, b""), order)


def enhanced(ticks: int, frame: bytes, order: str = "<", at: int = 0, sent: int | None = None) -> bytes:
    """An enhanced packet; ticks in the resolution of interface `at`."""
    sent = len(frame) if sent is None else sent
    head = struct.pack(order + "IIIII", at, ticks >> 32, ticks & 0xFFFFFFFF, len(frame), sent)
    return block(6, head + frame + bytes(-len(frame) % 4) + option(0, b""), order)


def simple(frame: bytes, order: str = "<", sent: int | None = None) -> bytes:
    """A simple packet: of interface 0, without a time."""
    return block(3, struct.pack(order + "I", len(frame) if sent is None else sent) + frame, order)


def obsolete(ticks: int, frame: bytes, order: str = "<", at: int = 0) -> bytes:
    """The packet block of before 2004."""
    head = struct.pack(order + "HHIIII", at, 0, ticks >> 32, ticks & 0xFFFFFFFF, len(frame), len(frame))
    return block(2, head + frame, order)


def write_pcapng(path: Path, frames: Sequence[Frame], *, order: str = "<", linktype: int = 1) -> Path:
    """A pcapng file of one interface that counts ns."""
    head = section(order) + interface(linktype, order)
    path.write_bytes(head + b"".join(enhanced(time, frame, order) for time, frame in frames))
    return path


def write_many(path: Path, frames: Sequence[Frame]) -> Path:
    """A pcapng file of two sections and byte orders, interfaces of other clocks, and every block that holds a packet."""
    order, parts = "<", []
    for n, (time, frame) in enumerate(frames):
        if n % (1 + len(frames) // 2) == 0:
            order = ">" if n else "<"
            # us by default, ns, 2^-20 s, and ns after a second of 2020
            parts += [section(order), interface(1, order, tsresol=None), block(0x0BAD, b"unknown", order)]
            parts += [interface(1, order), interface(1, order, tsresol=0x80 | 20)]
            parts += [interface(1, order, tsoffset=1_600_000_000), block(5, bytes(12), order)]
        ticks = (time // 1000, time, (time << 20) // 10**9, time - 1_600_000_000 * 10**9)
        which = n % 6
        if which < 4:
            parts.append(enhanced(ticks[which], frame, order, at=which))
        else:
            parts.append(simple(frame, order) if which == 4 else obsolete(ticks[1], frame, order, at=1))
    path.write_bytes(b"".join(parts))
    return path


def zipped(path: Path) -> Path:
    """The file beside it with .gz."""
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzip.compress(path.read_bytes(), 1, mtime=0))
    return packed


def everything() -> list[Frame]:
    """Sessions of both IP versions, and every odd frame: a capture of Ethernet."""
    flows = merged(
        session(options=True),
        session("2001:db8::a", "2001:db8::b", 40001, 443, start=START + MS // 2, vlan=7),
        datagrams(start=START + MS // 3),
        pings(),
    )
    last = flows[-1][0]
    return flows + [(last + (i + 1) * MS, frame) for i, frame in enumerate(odd().values())]


def files(folder: Path) -> dict[str, Path]:
    """One capture of every kind of file and link type, by name."""
    frames = everything()
    us = [(time // 1000 * 1000, frame) for time, frame in frames]
    made = {
        "ns": write_pcap(folder / "ns.pcap", frames),
        "us": write_pcap(folder / "us.pcap", us, ns=False),
        "swapped": write_pcap(folder / "swapped.pcap", frames, order=">"),
        "us swapped": write_pcap(folder / "us-swapped.pcap", us, ns=False, order=">"),
        "modified": write_pcap(folder / "modified.pcap", us, modified=True),
        "snapped": write_pcap(folder / "snapped.pcap", frames, snap=60, snaplen=60),
        "pcapng": write_pcapng(folder / "plain.pcapng", frames),
        "pcapng swapped": write_pcapng(folder / "swapped.pcapng", frames, order=">"),
        "pcapng many": write_many(folder / "many.pcapng", frames),
    }
    for name, (linktype, other) in others().items():
        frames = [(START + i * MS, frame) for i, frame in enumerate(other)]
        made[name] = write_pcap(folder / f"{name.replace(' ', '-')}.pcap", frames, linktype=linktype)
    return made


def large(path: Path, n: int = 200_000, flows: int = 8_000, seed: int = 0) -> Path:
    """n packets of mixed flows, quickly: 80 % TCP, 10 % IPv6, 10 % with a VLAN, about 440 bytes. A pcap file with ns."""
    rng = np.random.default_rng(seed)
    tcp, udp = TCP(sport=1, dport=443, flags="PA", options=[("NOP", None)] * 12), UDP(sport=1, dport=53)
    made = []
    for vlan in (0, 5):
        for net in (IP(src="10.0.0.0", dst="10.0.0.0"), IPv6(src="2001:db8::", dst="2001:db8::")):
            for what, size in ((tcp, 0), (tcp, 120), (tcp, 1380), (udp, 60), (udp, 300)):
                frame = bytearray(bytes(_link(0, vlan) / net / what / Raw(bytes(size))))
                ip = 18 if vlan else 14
                # where the source address ends, the destination address ends, and the ports are
                made.append(
                    (frame, *((ip + 24, ip + 40, ip + 40) if frame[ip] >> 4 == 6 else (ip + 16, ip + 20, ip + 20)))
                )
    kind = 10 * (rng.random(flows) < 0.1) + 5 * (rng.random(flows) < 0.1) + 3 * (rng.random(flows) < 0.2)
    of, back = rng.integers(0, flows, n), rng.random(n) < 0.5
    size = rng.choice(3, n, p=[0.45, 0.25, 0.3])
    time = START + np.cumsum(rng.integers(1_000, 100_000, n))
    parts = [struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262_144, 1)]
    for i, flow in enumerate(of.tolist()):
        at = int(kind[flow])
        template, src, dst, ports = made[at + int(size[i]) % (2 if at % 5 == 3 else 3)]
        frame = bytearray(template)
        ends = [struct.pack(">H", flow), struct.pack(">H", 0x8000 + flow % 50)]
        near, far = struct.pack(">H", 1024 + flow), template[ports + 2 : ports + 4]
        if back[i]:
            ends, near, far = ends[::-1], far, near
        frame[src - 2 : src], frame[dst - 2 : dst] = ends
        frame[ports : ports + 4] = near + far
        t = int(time[i])
        parts += [struct.pack("<IIII", t // 10**9, t % 10**9, len(frame), len(frame)), frame]
    path.write_bytes(b"".join(parts))
    return path
