"""What dpkt makes of a frame, as a row of columns: the plain reference of the decoder."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import dpkt

IPS = (dpkt.ip.IP, dpkt.ip6.IP6)
BETWEEN = (dpkt.llc.LLC, dpkt.pppoe.PPPoE, dpkt.ppp.PPP, dpkt.gre.GRE, dpkt.ethernet.Ethernet)
TOP = {
    0: dpkt.loopback.Loopback,
    1: dpkt.ethernet.Ethernet,
    113: dpkt.sll.SLL,
    276: dpkt.sll2.SLL2,
}


def frames(path: Path) -> list[tuple[int, bytes, int]]:
    """(link type, frame, bytes sent) of a little-endian or big-endian pcap file, up to a cut or corrupt record."""
    raw = path.read_bytes()
    order = "<" if raw[3] == 0xA1 else ">"
    (link,) = struct.unpack_from(order + "I", raw, 20)
    at, found = 24, []
    while at + 16 <= len(raw):
        captured, sent = struct.unpack_from(order + "8xII", raw, at)
        at += 16 + captured
        if at > len(raw):
            break
        found.append((link, raw[at - captured : at], sent))
    return found


def layers(link: int, frame: bytes) -> list[Any]:
    """The IP headers that dpkt finds, from the outermost to the innermost."""
    try:
        if link in TOP:
            top = TOP[link](frame).data
        elif link in (12, 14, 101, 228, 229):
            top = (dpkt.ip6.IP6 if frame[0] >> 4 == 6 else dpkt.ip.IP)(frame)
        else:
            return []
    except (dpkt.UnpackError, IndexError):
        return []
    found = []
    while isinstance(top, (*IPS, *BETWEEN)):
        if isinstance(top, IPS):
            found.append(top)
        top = top.data
    return found


def row(ip: Any) -> dict[str, Any]:
    """The fields of an IP header of dpkt's and of what follows it, by the names of the columns."""
    six = isinstance(ip, dpkt.ip6.IP6)
    out: dict[str, Any] = {"version": 6 if six else 4}
    pad = b"" if six else bytes(10) + b"\xff\xff"
    for name in ("src", "dst"):
        out[name] = struct.unpack(">QQ", pad + getattr(ip, name))
    if six:
        out |= {"header": 40, "tos": ip.fc, "length": min(ip.plen + 40, 65535), "ttl": ip.hlim}
        out |= {"protocol": ip.p} if hasattr(ip, "p") else {}
    else:
        out |= {"header": ip.hl * 4, "tos": ip.tos, "length": ip.len, "ttl": ip.ttl, "protocol": ip.p}
        out |= {"identifier": ip.id, "fragment": ip.offset * 8, "bits": ip.rf << 2 | ip.df << 1 | ip.mf}
    data = ip.data
    if isinstance(data, dpkt.tcp.TCP):
        out |= {"sport": data.sport, "dport": data.dport, "seq": data.seq, "ack": data.ack, "window": data.win}
        out |= {"tcp_flags": data.flags, "urgent": data.urp, "offset": data.off * 4, "payload_length": len(data.data)}
        out |= {"payload": data.data[:12], "options": data.opts}
    elif isinstance(data, dpkt.udp.UDP):
        out |= {"sport": data.sport, "dport": data.dport, "udp_length": data.ulen}
        out |= {"payload_length": len(data.data), "payload": bytes(data.data)[:12]}
    elif isinstance(data, (dpkt.icmp.ICMP, dpkt.icmp6.ICMP6)):
        out |= {"icmp_type": data.type, "icmp_code": data.code}
    elif isinstance(data, dpkt.sctp.SCTP):
        out |= {"sport": data.sport, "dport": data.dport}
    return out
