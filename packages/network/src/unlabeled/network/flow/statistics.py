"""What is counted of a flow beside its tokens: statistics for strong simple baselines, shortcuts for `leakcheck`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlabeled.network.capture.packets import Packets
from unlabeled.network.flow.bursts import Ways
from unlabeled.network.flow.cuts import PUSH

Ints = NDArray[np.int64]

# by the client and back: suffixes 0 and 1
_EACH = ("packets", "bytes", "payload", "length mean", "length deviation", "length least", "length most", "gap mean", "gap deviation",
         "gap least", "gap most", "bytes per second", "pushed")  # fmt: skip
NAMES: tuple[str, ...] = (
    "duration",
    "bursts",
    "packets per second",
    "share of bytes back",
    *(f"{name} {way}" for name in _EACH for way in (0, 1)),
)
SHORTCUTS: tuple[str, ...] = (
    *("port least", "port most", "port of the client", "port of the server"),
    *("ttl 0", "ttl 1"),
    *("identifier", "seq", "window 0", "window 1"),
    *(f"address {end} byte {i}" for end in (0, 1) for i in range(4)),
    *(f"byte {i}" for i in range(12)),
)

_MOST = np.iinfo(np.int64).max
# What is carried of a flow from packet to packet, by the client and back: enough for all of NAMES and SHORTCUTS.
CARRIED = (
    *((name, "i8", (2,)) for name in ("packets", "bytes", "payload", "pushed", "length least", "length most")),
    *((name, "i8", (2,)) for name in ("gap sum", "gap least", "gap most")),
    *((name, "f8", (2,)) for name in ("length squares", "gap squares")),
    *(("ttl", "u1", (2,)), ("window", "u2", (2,)), ("identifier", "u4"), ("seq", "u4"), ("head", "u1", (12,)), ("held", "u1")),
)  # fmt: skip


def begin(flows: NDArray[np.void]) -> None:
    """Makes zeroed rows with the columns CARRIED ready for their first packets."""
    flows["length least"] = flows["gap least"] = _MOST


def add(flows: NDArray[np.void], packets: Packets, order: Ints, flow: Ints, by: Ways, gap: Ints) -> None:
    """Adds packets to their flows.

    order (N,): their rows, put by flow; flow (N,): which of `flows` each then belongs to, ascending; gap (N,): ns since the
    packet before in its direction, -1 for none.
    """
    at = (by.pair >> 1, by.pair & 1)
    n = np.diff(by.first, append=len(flow))
    before = flows["packets"][at]
    places = order[by.order]
    for name in ("ttl", "window"):
        flows[name][at] = np.where(before == 0, getattr(packets, name)[places[by.first]], flows[name][at])
    begins = np.flatnonzero(np.diff(flow, prepend=-1))
    new = flows["packets"][flow[begins]].sum(1) == 0
    rows, of = order[begins[new]], flow[begins[new]]
    flows["identifier"][of], flows["seq"][of] = packets.identifier[rows], packets.seq[rows]
    spoke = np.flatnonzero(packets.held[order] > 0)
    some, where = np.unique(flow[spoke], return_index=True)
    silent = flows["held"][some] == 0
    rows, of = order[spoke[where[silent]]], some[silent]
    flows["head"][of], flows["held"][of] = packets.payload[rows], packets.held[rows]

    length, gaps = packets.length[places].astype(np.int64), gap[by.order]
    has = gaps >= 0
    flows["packets"][at] += n
    flows["bytes"][at] += np.add.reduceat(length, by.first)
    flows["payload"][at] += np.add.reduceat(packets.payload_length[places], by.first, dtype=np.int64)
    flows["pushed"][at] += np.add.reduceat((packets.tcp_flags[places] & PUSH) != 0, by.first, dtype=np.int64)
    flows["length squares"][at] += np.add.reduceat(length.astype(np.float64) ** 2, by.first)
    flows["length least"][at] = np.minimum(flows["length least"][at], np.minimum.reduceat(length, by.first))
    flows["length most"][at] = np.maximum(flows["length most"][at], np.maximum.reduceat(length, by.first))
    wait = np.where(has, gaps, 0)
    flows["gap sum"][at] += np.add.reduceat(wait, by.first)
    flows["gap squares"][at] += np.add.reduceat(wait.astype(np.float64) ** 2, by.first)
    least = np.minimum.reduceat(np.where(has, gaps, _MOST), by.first)
    flows["gap least"][at] = np.minimum(flows["gap least"][at], least)
    flows["gap most"][at] = np.maximum(flows["gap most"][at], np.maximum.reduceat(wait, by.first))


def statistics(flows: NDArray[np.void], duration: Ints, bursts: Ints) -> NDArray[np.float32]:
    """(N, S) in the order of NAMES: sizes in bytes (of packets with their IP headers), times in s, pushed in packets.

    Means, deviations and extremes of nothing are 0, and so is a rate over no time.
    """
    seconds, packets = duration / 1e9, flows["packets"]
    gaps = np.maximum(packets - 1, 0)
    found: dict[str, NDArray[Any]] = {
        name: flows[name] for name in ("packets", "bytes", "payload", "length most", "pushed")
    }
    found["length least"] = np.where(packets > 0, flows["length least"], 0)
    found["gap least"] = np.where(gaps > 0, flows["gap least"], 0) / 1e9
    found["gap most"] = flows["gap most"] / 1e9
    found["length mean"], found["length deviation"] = _moments(flows["bytes"], flows["length squares"], packets)
    found["gap mean"], found["gap deviation"] = (
        m / 1e9 for m in _moments(flows["gap sum"], flows["gap squares"], gaps)
    )
    found["bytes per second"] = _share(flows["bytes"], seconds[:, None])
    rates = _share(packets.sum(1), seconds), _share(flows["bytes"][:, 1], flows["bytes"].sum(1))
    both = [found[name][:, way] for name in _EACH for way in (0, 1)]
    return np.stack([seconds, bursts, *rates, *both], 1).astype(np.float32)


def shortcuts(
    flows: NDArray[np.void], src: NDArray[np.uint64], dst: NDArray[np.uint64], ports: NDArray[np.uint16], version: NDArray[np.uint8]
) -> NDArray[np.float32]:  # fmt: skip
    """(N, K) in the order of SHORTCUTS, of the first packets. src, dst (N, 2), ports (N, 2): the client's end first.

    Addresses: the four bytes of IPv4, or the first four of IPv6. ttl and window: of the first packet each way. byte: of the
    first payload, -1 where there is none.
    """
    ends = []
    for address in (src, dst):
        word = np.where(version == 6, address[:, 0] >> np.uint64(32), address[:, 1] & np.uint64(0xFFFFFFFF))
        ends += [word >> np.uint64(shift) & np.uint64(255) for shift in (24, 16, 8, 0)]
    firsts = np.where(np.arange(12) < flows["held"][:, None], flows["head"].astype(np.int16), -1)
    columns = [ports.min(1), ports.max(1), ports[:, 0], ports[:, 1], *flows["ttl"].T]
    columns += [flows["identifier"], flows["seq"], *flows["window"].T, *ends, *firsts.T]
    return np.stack([c.astype(np.float32) for c in columns], 1)


def _moments(total: Ints, squares: NDArray[np.float64], n: Ints) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation (of the whole, not of a sample)."""
    mean = _share(total, n)
    return mean, np.sqrt(np.maximum(_share(squares, n) - mean**2, 0))


def _share(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    out = np.zeros(np.broadcast_shapes(part.shape, whole.shape))
    np.divide(part, whole, out=out, where=whole > 0)
    return out
