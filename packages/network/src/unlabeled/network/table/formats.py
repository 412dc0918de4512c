"""The logs of flows that are read, by their columns: Zeek's conn.log, nfdump's CSV, CICFlowMeter's CSV."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, eq=False)
class Format:
    """A kind of log. columns: what is read -> the names it has had, in lower case; needed: without them it is another log.

    duration: microseconds in one unit of the log's.
    """

    name: str
    title: str
    columns: Mapping[str, tuple[str, ...]]
    needed: tuple[str, ...]
    duration: float = 1e6


# https://docs.zeek.org/en/v8.2.0/scripts/base/protocols/conn/main.zeek.html, Conn::Info
ZEEK = Format(
    "zeek",
    "Zeek's conn.log",
    {
        "start": ("ts",),
        "duration": ("duration",),
        "protocol": ("proto",),
        "packets out": ("orig_pkts",),
        "packets back": ("resp_pkts",),
        "bytes out": ("orig_ip_bytes",),
        "bytes back": ("resp_ip_bytes",),
        "payload out": ("orig_bytes",),
        "payload back": ("resp_bytes",),
        "state": ("conn_state",),
        "port out": ("id.orig_p",),
        "port back": ("id.resp_p",),
    },
    ("start", "protocol", "state"),
)
# nfdump(1): `-o csv` of 1.6 (ts, td, ...), and of 1.7 (firstSeen, duration, ...), whose flows go one way only
NETFLOW = Format(
    "netflow",
    "nfdump's CSV",
    {
        "start": ("ts", "firstseen"),
        "duration": ("td", "duration"),
        "protocol": ("pr", "proto"),
        "packets out": ("ipkt", "packets"),
        "packets back": ("opkt",),
        "bytes out": ("ibyt", "bytes"),
        "bytes back": ("obyt",),
        "flags": ("flg",),
        "port out": ("sp", "srcport"),
        "port back": ("dp", "dstport"),
    },
    ("start", "duration", "protocol", "packets out", "bytes out"),
)
# both spellings, of the files of 2017 and of those since 2018; its lengths are those of the payload, its times microseconds
CICFLOWMETER = Format(
    "cicflowmeter",
    "CICFlowMeter's CSV",
    {
        "start": ("timestamp",),
        "duration": ("flow duration",),
        "protocol": ("protocol",),
        "packets out": ("tot fwd pkts", "total fwd packets", "total fwd packet"),
        "packets back": ("tot bwd pkts", "total backward packets", "total bwd packets"),
        "payload out": ("totlen fwd pkts", "total length of fwd packets", "total length of fwd packet"),
        "payload back": ("totlen bwd pkts", "total length of bwd packets", "total length of bwd packet"),
        "syn": ("syn flag cnt", "syn flag count"),
        "fin": ("fin flag cnt", "fin flag count"),
        "rst": ("rst flag cnt", "rst flag count"),
        "port out": ("src port", "source port"),
        "port back": ("dst port", "destination port"),
    },
    ("duration", "packets out", "packets back"),
    duration=1.0,
)
FORMATS = (ZEEK, NETFLOW, CICFLOWMETER)
NUMBERS = ("duration", "packets out", "packets back", "bytes out", "bytes back", "payload out", "payload back")
