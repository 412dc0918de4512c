"""Frames -> columns, in numpy: the reference, which `decode_fast` equals bit by bit.

No exception, and no byte from outside of a frame, whatever its fields say.

Where this differs from dpkt, which is the oracle of the tests:
  tunnels   VXLAN, GTP-U and PPTP's GRE are looked into; dpkt leaves them as bytes.
  cut       a cut TCP, UDP or SCTP header still gives its ports, a cut IPv4 header with options its fields.
  broken    a header length below its least is marked, and the other fields are kept.
  lengths   the payload ends where the IP, or the UDP, length says; dpkt keeps what stands behind it.
  AH        is passed in IPv4 too, so that the ports behind it are found.
  fragments what stands in a fragment that is not the first is never read as a header.
  versions  a packet of another version than its EtherType says is no IP.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unlabeled.network.capture import links
from unlabeled.network.capture.headers import Columns, Layer
from unlabeled.network.capture.packets import KINDS, TRUNCATED, TUNNELLED, Packets
from unlabeled.network.capture.window import Frames

DEPTH = 4  # tunnels
CHUNK = 1 << 14  # frames at a time, so that what is computed stays in the cache


def decode(frames: Frames, first: int, options: bool, tunnels: bool) -> tuple[Packets, NDArray[np.int64]]:
    """The packets of frames, the first of which has this number; and how many frames there are for each of links.REASONS."""
    parts, counts = [Packets.empty(0, options)], np.zeros(len(links.REASONS), np.int64)
    for i in range(0, len(frames), CHUNK):
        columns, reasons = _decode(frames, slice(i, i + CHUNK), options, DEPTH if tunnels else 0)
        columns["frame"] += first + i
        parts.append(Packets(**{name: columns[name] for name in KINDS}))
        counts += np.bincount(reasons, minlength=len(counts))
    return Packets.joined(parts), counts


def _decode(frames: Frames, of: slice, options: bool, depth: int) -> tuple[Columns, NDArray[np.uint8]]:
    data, captured, sent = frames.data, frames.captured[of], frames.sent[of]
    kind, pos = links.starts(frames.link[of]), frames.at[of].copy()
    end, stop = pos + captured, pos + np.maximum(captured, sent)
    reasons, vlan = links.network(data, kind, pos, end)
    rows = np.flatnonzero(reasons == links.FOUND)
    layer = Layer(data, kind[rows], pos[rows], end[rows], stop[rows])
    c = layer.columns(options) | {"frame": rows, "time": frames.time[of][rows], "vlan": vlan[rows]}
    c |= {"captured": captured[rows], "sent": sent[rows], "tunnel": np.zeros(len(rows), np.uint8)}
    inside = np.arange(len(rows))
    for n in range(1, depth + 1):
        at, kind, pos, end, stop = layer.tunnel()
        reason, vlan = links.network(data, kind, pos, end)
        found = reason == links.FOUND
        inside = inside[at[found]]
        if not len(inside):
            break
        layer = Layer(data, kind[found], pos[found], end[found], stop[found])
        for name, values in layer.columns(options).items():
            c[name][inside] = values
        c["tunnel"][inside] = n
        c["vlan"][inside] = np.where(c["vlan"][inside], c["vlan"][inside], vlan[found])
    c["flags"] |= np.where(c["sent"] > c["captured"], np.uint8(TRUNCATED), np.uint8(0))
    c["flags"] |= np.where(c["tunnel"], np.uint8(TUNNELLED), np.uint8(0))
    return c, reasons
