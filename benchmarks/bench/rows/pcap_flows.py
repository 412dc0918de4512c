"""From a capture to flows with bursts."""

from __future__ import annotations

import importlib.util
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bench import traffic
from bench.row import Row, Work
from unlabeled.network import capture
from unlabeled.network.flow import tokenise
from unlabeled.network.flow.assemble import flows_of
from unlabeled.network.flow.statistics import NAMES
from unlabeled.network.options import ReaderOptions

OPTIONS = ReaderOptions()
GAP = 0.01
NUMBA = importlib.util.find_spec("numba") is not None
FEW = 2000  # packets for scapy
_kept: list[Any] = []  # the folder of the capture, as long as the process runs


def ours(path: Path) -> tuple[int, int]:
    """Flows and bursts."""
    found = flows_of(path, OPTIONS)[0]
    return len(found), int(found.statistics[:, NAMES.index("bursts")].sum())


def plain(path: Path) -> tuple[int, int]:
    """dpkt for the headers, a dictionary for the flows, and lists for what they hold."""
    import dpkt

    table: dict[Any, dict[str, Any]] = {}
    done: list[dict[str, Any]] = []
    with path.open("rb") as file:
        for time, frame in dpkt.pcap.Reader(file):
            link = dpkt.ethernet.Ethernet(frame)
            ip = link.data
            if not isinstance(ip, (dpkt.ip.IP, dpkt.ip6.IP6)):
                continue
            segment, flags, sport, dport = ip.data, 0, 0, 0
            if isinstance(segment, (dpkt.tcp.TCP, dpkt.udp.UDP)):
                sport, dport = segment.sport, segment.dport
            if isinstance(segment, dpkt.tcp.TCP):
                flags = segment.flags
            tags = getattr(link, "vlan_tags", None)
            ends = (ip.src, sport), (ip.dst, dport)
            key = (min(ends), max(ends), ip.p, tags[0].id if tags else 0)
            flow = table.get(key)
            if flow is not None and _over(flow, time, flags, ip.p):
                done.append(table.pop(key))
                flow = None
            if flow is None:
                flow = {
                    "client": ends[0],
                    "start": time,
                    "closed": None,
                    "fins": set(),
                    "packets": [],
                    "bursts": [],
                    "last": {},
                }
                table[key] = flow
            way = ends[0] != flow["client"]
            before = flow["last"].get(way)
            if before is None or time - before > GAP:
                flow["bursts"].append([])
            flow["bursts"][-1].append(len(flow["packets"]))
            flow["packets"].append((time, way, len(ip), flags))
            flow["last"][way] = flow["seen"] = time
            if flags & 1:
                flow["fins"].add(way)
            if flow["closed"] is None and (flags & 4 or len(flow["fins"]) == 2):
                flow["closed"] = time
    done.extend(table.values())
    return len(done), sum(len(f["bursts"]) for f in done)


def _over(flow: dict[str, Any], time: float, flags: int, protocol: int) -> bool:
    idle = OPTIONS.idle if protocol == socket.IPPROTO_TCP else OPTIONS.idle_other
    late = flow["closed"] is not None and (flags & 18 == 2 or time - flow["closed"] > 2)
    return time - flow["seen"] > idle or time - flow["start"] > OPTIONS.active or late


def scapy_seconds(path: Path, packets: int) -> str:
    """What it takes to read the same capture and to put it by its sessions, by the first FEW packets."""
    from scapy.layers import inet, inet6, l2  # noqa: F401  # what its reader finds is what was imported
    from scapy.utils import rdpcap

    begin = time.perf_counter()
    found = rdpcap(str(path), count=FEW)
    found.sessions()
    seconds = (time.perf_counter() - begin) * packets / len(found)
    return f"scapy's rdpcap and sessions take {seconds:.3g} s for the same, by its first {len(found)} packets"


def pair(device: torch.device, tiny: bool, fast: bool = NUMBA) -> tuple[Work, Work]:
    """fast: ours is compiled. Each side has a process of its own, so what is set here is set for this row alone."""
    capture.FAST_FROM = tokenise.FAST_FROM = 0 if fast else 1 << 62
    folder = tempfile.TemporaryDirectory()
    _kept.append(folder)
    path = Path(folder.name) / "lot.pcap"
    packets = 2000 if tiny else 200_000
    traffic.write(path, packets, 200 if tiny else 8000)
    assert ours(path) == plain(path)
    beside = [scapy_seconds]

    def peer() -> tuple[int, int]:
        if beside:  # once, and in a turn that is not counted
            print(beside.pop()(path, packets), file=sys.stderr)
        return plain(path)

    return lambda: ours(path), peer


ROW = Row(
    what="Flows with bursts of a capture of 200,000 packets, 8,000 ends and 88 MB in the page cache, on one core.",
    peer_name="dpkt, with a dictionary of flows and lists of packets",
    like_for_like=True,
    difference="Both find the same flows and bursts, which is looked at before. Ours also makes the tokens, the statistics and the "
    "shortcuts of each flow; the peer keeps time, direction, length and flags of each packet. Ours is compiled where numba is "
    "installed, and the compiling is not timed. Scapy is printed beside.",
    target=0.12 if NUMBA else 0.5,
    make=pair,
    turns=5,
)
