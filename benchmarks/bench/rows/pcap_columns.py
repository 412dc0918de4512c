"""From a capture to the columns of its packets, compiled where numba is installed."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bench import traffic
from bench.row import Row, Work
from unlabeled.network import capture

NUMBA = importlib.util.find_spec("numba") is not None
FEW = 2000  # packets for scapy
_kept: list[Any] = []  # the folder of the capture, as long as the process runs


def ours(path: Path, fast: bool) -> list[int]:
    """How many packets, and sums over them of what the peer reads too. All columns are made."""
    sums = [0] * 6
    for p in capture.read(path, fast=fast):
        columns = (p.sport, p.dport, p.length, p.seq, p.payload_length)
        sums = [n + more for n, more in zip(sums, (len(p), *(int(c.sum(dtype="int64")) for c in columns)), strict=True)]
    return sums


def plain(path: Path) -> list[int]:
    """dpkt's full parse, and every field that becomes a column, packet by packet."""
    import dpkt

    sums = [0] * 6
    with path.open("rb") as file:
        for at, (stamp, frame) in enumerate(dpkt.pcap.Reader(file)):
            link = dpkt.ethernet.Ethernet(frame)
            ip = link.data
            if isinstance(ip, dpkt.ip.IP):
                head: tuple[Any, ...] = (ip.hl, ip.tos, ip.len, ip.id, ip.offset, ip.df, ip.mf, ip.ttl, ip.p)
                length = ip.len
            elif isinstance(ip, dpkt.ip6.IP6):
                head = (40, ip.fc, ip.plen, 0, 0, 0, 0, ip.hlim, ip.p)
                length = ip.plen + 40
            else:
                continue
            data, sport, dport, seq = ip.data, 0, 0, 0
            if isinstance(data, dpkt.tcp.TCP):
                sport, dport, seq = data.sport, data.dport, data.seq
                head += (data.ack, data.flags, data.win, data.urp, data.off)
            elif isinstance(data, dpkt.udp.UDP):
                sport, dport = data.sport, data.dport
                head += (data.ulen,)
            tags = getattr(link, "vlan_tags", None)
            head += (at, stamp, len(frame), ip.src, ip.dst, tags[0].id if tags else 0, data.data[:12])
            found = (1, sport, dport, length, seq, len(data.data))
            sums = [n + more for n, more in zip(sums, found, strict=True)]
    return sums


def scapy_seconds(path: Path, packets: int) -> str:
    """What its PcapReader takes for the same capture, by the first FEW packets."""
    from scapy.layers import inet, inet6, l2  # noqa: F401  # what its reader finds is what was imported
    from scapy.utils import PcapReader

    with PcapReader(str(path)) as reader:
        begin = time.perf_counter()
        n = sum(1 for _, _ in zip(range(FEW), reader, strict=False))
    seconds = (time.perf_counter() - begin) * packets / n
    return f"scapy's PcapReader takes {seconds:.3g} s for the same, by its first {n} packets"


def pair(device: torch.device, tiny: bool, fast: bool = NUMBA) -> tuple[Work, Work]:
    folder = tempfile.TemporaryDirectory()
    _kept.append(folder)
    path = Path(folder.name) / "lot.pcap"
    packets = 2000 if tiny else 200_000
    traffic.write(path, packets, 200 if tiny else 8000)
    assert ours(path, fast) == plain(path)
    beside = [scapy_seconds]

    def peer() -> list[int]:
        if beside:  # once, and in a turn that is not counted
            print(beside.pop()(path, packets), file=sys.stderr)
        return plain(path)

    return lambda: ours(path, fast), peer


ROW = Row(
    what="All columns of a capture of 200,000 packets and 88 MB in the page cache, on one core.",
    peer_name="dpkt, its full parse of each frame",
    like_for_like=True,
    difference="Both read every field; sums over them are compared before they are timed. Ours is compiled where numba is "
    "installed, and the compiling is not timed. Scapy is printed beside.",
    target=0.05 if NUMBA else 0.33,
    make=pair,
    turns=5,
)
