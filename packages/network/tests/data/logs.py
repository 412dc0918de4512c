"""Logs of flows in the formats of Zeek, nfdump and CICFlowMeter, with known values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

# conn.log of Zeek 8.2, `Conn::Info` in its order, and the types that the log's header names
ZEEK_FIELDS = {
    "ts": "time", "uid": "string", "id.orig_h": "addr", "id.orig_p": "port", "id.resp_h": "addr", "id.resp_p": "port",
    "proto": "enum", "service": "string", "duration": "interval", "orig_bytes": "count", "resp_bytes": "count",
    "conn_state": "string", "local_orig": "bool", "local_resp": "bool", "missed_bytes": "count", "history": "string",
    "orig_pkts": "count", "orig_ip_bytes": "count", "resp_pkts": "count", "resp_ip_bytes": "count",
    "tunnel_parents": "set[string]", "ip_proto": "count",
}  # fmt: skip
# nfdump 1.6, output_csv.c
NFDUMP_FIELDS = (
    "ts,te,td,sa,da,sp,dp,pr,flg,fwd,stos,ipkt,ibyt,opkt,obyt,in,out,sas,das,smk,dmk,dtos,dir,nh,nhb,svln,dvln,ismc,odmc,"
    "idmc,osmc,mpls1,mpls2,mpls3,mpls4,mpls5,mpls6,mpls7,mpls8,mpls9,mpls10,cl,sl,al,ra,eng,exid,tr"
)
NFDUMP_17_FIELDS = "firstSeen,duration,proto,srcAddr,srcPort,dstAddr,dstPort,packets,bytes,flows"
# the columns of CICFlowMeter that are read, and some of those that are not, in both spellings
CIC_2018_FIELDS = (
    "Dst Port,Protocol,Timestamp,Flow Duration,Tot Fwd Pkts,Tot Bwd Pkts,TotLen Fwd Pkts,TotLen Bwd Pkts,Flow Byts/s,"
    "FIN Flag Cnt,SYN Flag Cnt,RST Flag Cnt,Label"
)
CIC_2017_FIELDS = (
    " Destination Port, Flow Duration, Total Fwd Packets, Total Backward Packets,Total Length of Fwd Packets, "
    "Total Length of Bwd Packets,Flow Bytes/s,FIN Flag Count, SYN Flag Count, RST Flag Count, Label"
)
CLIENT, SERVER = "198.51.100.23", "203.0.113.77"


@dataclass(frozen=True)
class Flow:
    """start in s since 1970, duration in s; packets, bytes (with IP headers) and payload by the client and back."""

    start: float = 1_700_000_000.25
    duration: float | None = 0.5
    protocol: str = "tcp"
    packets: tuple[int, int] = (7, 5)
    bytes: tuple[int, int] = (1000, 4000)
    payload: tuple[int, int] | None = (636, 3740)
    state: str = "SF"
    ports: tuple[int, int] = (51000, 443)


def flows(n: int, seed: int = 0, busy: float = 1.0) -> list[Flow]:
    """Web-like flows; `busy` multiplies what is sent by the client."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(n):
        packets = int(rng.integers(4, 20)), int(rng.integers(4, 40))
        payload = int(busy * packets[0] * rng.integers(20, 90)), int(packets[1] * rng.integers(300, 1200))
        out.append(
            Flow(
                start=1_700_000_000 + 2.0 * i + seed,
                duration=float(rng.uniform(0.05, 3)),
                packets=packets,
                bytes=(payload[0] + 52 * packets[0], payload[1] + 52 * packets[1]),
                payload=payload,
                ports=(int(rng.integers(40000, 60000)), 443),
            )
        )
    return out


def _zeek(flow: Flow, number: int) -> dict[str, object]:
    payload = flow.payload or (None, None)
    known = {
        "ts": flow.start, "uid": f"C{number:016x}", "id.orig_h": CLIENT, "id.orig_p": flow.ports[0],
        "id.resp_h": SERVER, "id.resp_p": flow.ports[1], "proto": flow.protocol, "service": None,
        "duration": flow.duration, "orig_bytes": payload[0], "resp_bytes": payload[1], "conn_state": flow.state,
        "local_orig": True, "local_resp": False, "missed_bytes": 0, "history": "ShADadFf", "orig_pkts": flow.packets[0],
        "orig_ip_bytes": flow.bytes[0], "resp_pkts": flow.packets[1], "resp_ip_bytes": flow.bytes[1],
        "tunnel_parents": (), "ip_proto": {"tcp": 6, "udp": 17, "icmp": 1}.get(flow.protocol, 255),
    }  # fmt: skip
    assert list(known) == list(ZEEK_FIELDS)
    return known


def zeek(path: Path, rows: Sequence[Flow], more: Sequence[str] = ()) -> Path:
    """conn.log as Zeek writes it; `more` are lines after the rows."""

    def cell(name: str, value: object) -> str:
        if value is None:
            return "-"
        if isinstance(value, bool):
            return "T" if value else "F"
        if isinstance(value, float):
            return f"{value:.6f}"
        return "(empty)" if value == () else str(value)

    lines = [
        "#separator \\x09", "#set_separator\t,", "#empty_field\t(empty)", "#unset_field\t-", "#path\tconn",
        "#open\t2023-11-14-22-13-20", "#fields\t" + "\t".join(ZEEK_FIELDS), "#types\t" + "\t".join(ZEEK_FIELDS.values()),
        *("\t".join(cell(n, v) for n, v in _zeek(f, i).items()) for i, f in enumerate(rows)),
        *more, "#close\t2023-11-14-23-00-00",
    ]  # fmt: skip
    path.write_text("\n".join(lines) + "\n")
    return path


def zeek_json(path: Path, rows: Sequence[Flow], iso: bool = False, more: Sequence[str] = ()) -> Path:
    """One object a line, unset fields left out; `iso`: times as ISO 8601, as `LogAscii::json_timestamps` may say."""
    lines = []
    for i, flow in enumerate(rows):
        known = {n: v for n, v in _zeek(flow, i).items() if v not in (None, ())}
        if iso:
            known["ts"] = datetime.fromtimestamp(flow.start, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        lines.append(json.dumps(known))
    path.write_text("\n".join([*lines, *more]) + "\n")
    return path


def nfdump(path: Path, rows: Sequence[Flow], flags: str = "...AP.SF", more: Sequence[str] = ()) -> Path:
    """`nfdump -o csv` of 1.6, with the summary after the rows."""
    lines = [NFDUMP_FIELDS]
    for f in rows:
        first, last = (
            datetime.fromtimestamp(t, UTC).strftime("%Y-%m-%d %H:%M:%S") for t in (f.start, f.start + (f.duration or 0))
        )
        head = [first, last, f"{f.duration:.3f}", CLIENT, SERVER, *f.ports, f.protocol.upper(), flags, 0, 0]
        counts = [f.packets[0], f.bytes[0], f.packets[1], f.bytes[1]]
        rest = ["0"] * (len(NFDUMP_FIELDS.split(",")) - len(head) - len(counts))
        lines.append(",".join(map(str, [*head, *counts, *rest])))
    lines += [*more, "Summary", "flows,bytes,packets,avg_bps,avg_pps,avg_bpp", f"{len(rows)},1,1,1,1,1"]
    path.write_text("\n".join(lines) + "\n")
    return path


def nfdump_17(path: Path, rows: Sequence[Flow]) -> Path:
    """`nfdump -o csv` of 1.7: one way only."""
    lines = [NFDUMP_17_FIELDS]
    for f in rows:
        first = datetime.fromtimestamp(f.start, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        cells = (first, f"{f.duration:.3f}", f.protocol.upper(), CLIENT, f.ports[0], SERVER, f.ports[1])
        lines.append(",".join(map(str, (*cells, f.packets[0], f.bytes[0], 1))))
    path.write_text("\n".join(lines) + "\n")
    return path


def cicflowmeter(path: Path, rows: Sequence[Flow], year: int = 2018, more: Sequence[str] = ()) -> Path:
    """As in CSE-CIC-IDS2018, or without protocol and time and in the older spelling, as in CIC-IDS2017."""
    lines = [CIC_2018_FIELDS if year == 2018 else CIC_2017_FIELDS]
    for f in rows:
        assert f.duration is not None and f.payload is not None
        at = datetime.fromtimestamp(f.start, UTC).strftime("%d/%m/%Y %H:%M:%S")
        counts = (round(f.duration * 1e6), *f.packets, *f.payload)
        rest = ("Infinity", 1, 1, 0, "Benign")
        number = {"tcp": 6, "udp": 17, "icmp": 1}[f.protocol]
        cells = (f.ports[1], number, at, *counts, *rest) if year == 2018 else (f.ports[1], *counts, *rest)
        lines.append(",".join(map(str, cells)))
    path.write_text("\n".join([*lines, *more]) + "\n")
    return path
