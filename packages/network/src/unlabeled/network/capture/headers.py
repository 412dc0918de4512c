"""IP and transport headers of many packets at once, in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlabeled.network.capture import links
from unlabeled.network.capture.links import u16
from unlabeled.network.capture.packets import (
    BAD_HEADER,
    BAD_LENGTH,
    EXTENDED,
    FRAGMENT,
    ICMP,
    ICMP6,
    KINDS,
    OPTIONS,
    PAYLOAD,
    TCP,
    TRUNCATED,
    UDP,
)
from unlabeled.network.capture.window import Bytes, Places, words

IP_IN_IP, IP6_IN_IP, GRE, AH, NONE, SCTP = 4, 41, 47, 51, 59, 132
HOPS, ROUTING, FRAGMENTED, DESTINATION = 0, 43, 44, 60
VXLAN_PORT, GTP_PORT = 4789, 2152
V4 = np.uint64(0xFFFF00000000)  # ::ffff:0:0
EXTENSIONS = np.isin(np.arange(256), (HOPS, ROUTING, FRAGMENTED, DESTINATION, AH))
FRAME = ("frame", "time", "captured", "sent", "vlan", "tunnel")  # columns that no header gives
ECHO = {ICMP: (0, 8), ICMP6: (128, 129)}  # the types that have an identifier

Columns = dict[str, NDArray[Any]]


class Layer:
    """n IP headers, of the version that `kind` says, at `pos`, each whole but for options; and what follows them.

    Nothing is read from `end` on, where the capture of the frame ends; on the wire it, or the tunnel, ended at `stop`. Both
    shrink to the IP packet, and `pos` moves behind its headers. Where `live`, a transport header may stand there.
    """

    def __init__(self, data: Bytes, kind: Places, pos: Places, end: Places, stop: Places) -> None:
        self.data, self.pos, self.end, self.stop = data, pos, end, stop
        self.c = {
            n: np.zeros((len(pos), 2) if n in ("src", "dst") else len(pos), k)
            for n, k in KINDS.items()
            if n not in FRAME
        }
        self.flags = self.c["flags"]
        self.live = np.ones(len(pos), np.bool_)
        self.part = np.zeros(len(pos), np.bool_)  # the first of several fragments
        self.lost = np.zeros(len(pos), np.bool_)  # where the payload begins is not known
        six = kind == links.IP6
        self._ip4(np.flatnonzero(~six))
        self._ip6(np.flatnonzero(six))
        self._extensions(six)
        self.body, self.last = self.pos.copy(), self.stop.copy()  # of the payload
        self.rows = {p: np.flatnonzero(self.live & (self.c["protocol"] == p)) for p in (TCP, UDP, SCTP, ICMP, ICMP6)}
        for p in (TCP, UDP, SCTP):
            self._ports(self.rows[p])
        self._tcp(self._whole(self.rows[TCP], 20))
        self.rows[UDP] = self._whole(self.rows[UDP], 8)
        self._udp(self.rows[UDP])
        sctp = self._whole(self.rows[SCTP], 12)
        self.body[sctp] += 12
        self._icmp(ICMP)
        self._icmp(ICMP6)
        self.last[self.lost] = self.body[self.lost]

    def _mark(self, rows: Places, flag: int) -> None:
        self.flags[rows] |= np.uint8(flag)

    def _ends(self, rows: Places, behind: Places) -> NDArray[np.bool_]:
        """Marks headers that end, at `behind`, beyond the packet or beyond what was captured, and says which."""
        cut = behind > self.end[rows]
        beyond = cut & (behind > self.stop[rows])
        self._mark(rows[beyond], BAD_HEADER)
        self._mark(rows[cut & ~beyond], TRUNCATED)
        return cut

    def _bound(self, rows: Places, total: Places, wrong: NDArray[np.bool_]) -> None:
        """The packets end `total` bytes behind `pos`; where that is wrong, or beyond the frame, with what was captured."""
        stop = self.pos[rows] + total
        wrong = wrong | (stop > self.stop[rows])
        self._mark(rows[wrong], BAD_LENGTH)
        self.stop[rows] = np.where(wrong, self.end[rows], stop)
        self.end[rows] = np.minimum(self.end[rows], self.stop[rows])

    def _ip4(self, rows: Places) -> None:
        """RFC 791."""
        d, c, p = self.data, self.c, self.pos[rows]
        header = (d[p] & 15) * 4
        total, fragment = u16(d, p + 2), u16(d, p + 6)
        c["version"][rows], c["header"][rows], c["tos"][rows], c["length"][rows] = 4, header, d[p + 1], total
        c["identifier"][rows], c["bits"][rows] = u16(d, p + 4), fragment >> 13
        c["fragment"][rows] = offset = (fragment & 0x1FFF) * 8
        c["ttl"][rows], c["protocol"][rows] = d[p + 8], d[p + 9]
        c["src"][rows, 1], c["dst"][rows, 1] = words(d, p + 12, ">") | V4, words(d, p + 16, ">") | V4
        self._bound(rows, total, total < header)
        short = header < 20
        self._mark(rows[short], BAD_HEADER)
        cut = self._ends(rows, p + header) | short
        self.pos[rows] = np.where(cut, p, p + header)
        self._mark(rows[offset > 0], FRAGMENT)
        self.part[rows] = (fragment & 0x2000 > 0) & (offset == 0)
        self.live[rows] = ~cut & (offset == 0)
        self.lost[rows] = cut

    def _ip6(self, rows: Places) -> None:
        """RFC 8200. A payload length of 0 is that of a jumbogram or an offload."""
        d, c, p = self.data, self.c, self.pos[rows]
        length = u16(d, p + 4)
        c["version"][rows], c["header"][rows], c["tos"][rows] = 6, 40, u16(d, p) >> 4
        c["length"][rows] = np.minimum(length + 40, 65535)
        c["protocol"][rows], c["ttl"][rows] = d[p + 6], d[p + 7]
        for name, at in (("src", 8), ("dst", 24)):
            for half in (0, 1):
                high, low = (words(d, p + at + 8 * half + i, ">").astype(np.uint64) for i in (0, 4))
                c[name][rows, half] = high << np.uint64(32) | low
        self._bound(rows, length + 40, (length == 0) & (d[p + 6] != NONE))
        self.pos[rows] = p + 40

    def _extensions(self, six: NDArray[np.bool_]) -> None:
        """Passes the headers of IPv6 that stand before the transport, and AH (RFC 4302) in IPv4 too."""
        d, c = self.data, self.c
        todo = np.flatnonzero(self.live & EXTENSIONS[c["protocol"]] & (six | (c["protocol"] == AH)))
        self._mark(todo[six[todo]], EXTENDED)
        for _ in range(links.LAYERS):
            whole = ~self._ends(todo, self.pos[todo] + 8)
            self.live[todo[~whole]] = False
            todo = todo[whole]
            if not len(todo):
                return
            p, what = self.pos[todo], c["protocol"][todo]
            more = d[p + 1].astype(np.int64)
            behind = p + np.where(what == AH, more * 4 + 8, np.where(what == FRAGMENTED, 8, more * 8 + 8))
            cut = self._ends(todo, behind)
            self.live[todo[cut]] = False
            todo, p, what, behind = todo[~cut], p[~cut], what[~cut], behind[~cut]
            c["protocol"][todo], self.pos[todo] = d[p], behind
            of, p = todo[what == FRAGMENTED], p[what == FRAGMENTED]
            field = u16(d, p + 2)
            c["fragment"][of], c["identifier"][of], c["bits"][of] = field & 0xFFF8, words(d, p + 4, ">"), field & 1
            self.part[of] = (field & 1 > 0) & (field < 8)
            self._mark(of[field >= 8], FRAGMENT)
            self.live[of[field >= 8]] = False
            todo = todo[self.live[todo] & EXTENSIONS[c["protocol"][todo]] & (six[todo] | (c["protocol"][todo] == AH))]
        self._mark(todo, BAD_HEADER)
        self.live[todo] = False

    def _whole(self, rows: Places, size: int) -> Places:
        """The rows that hold a header of this size; the others have no payload."""
        cut = self._ends(rows, self.pos[rows] + size)
        self.lost[rows[cut]] = True
        return rows[~cut]

    def _ports(self, rows: Places) -> None:
        """They stand first, so that a header that is cut may still have them."""
        rows = rows[self.pos[rows] + 4 <= self.end[rows]]
        self.c["sport"][rows], self.c["dport"][rows] = (u16(self.data, self.pos[rows] + i) for i in (0, 2))

    def _tcp(self, rows: Places) -> None:
        """RFC 9293."""
        d, c, p = self.data, self.c, self.pos[rows]
        c["seq"][rows], c["ack"][rows] = words(d, p + 4, ">"), words(d, p + 8, ">")
        c["tcp_flags"][rows], c["window"][rows], c["urgent"][rows] = (
            u16(d, p + 12) & 0x1FF,
            u16(d, p + 14),
            u16(d, p + 18),
        )
        c["offset"][rows] = offset = (d[p + 12] >> 4).astype(np.int64) * 4
        self._ends(rows, p + offset)
        bad = (offset < 20) | (p + offset > self.stop[rows])
        self._mark(rows[bad], BAD_HEADER)
        self.lost[rows[bad]] = True
        rows, p, offset = rows[~bad], p[~bad], offset[~bad]
        self.body[rows] = p + offset
        c["options_length"][rows] = np.minimum(p + offset, self.end[rows]) - p - 20

    def _udp(self, rows: Places) -> None:
        """RFC 768."""
        p = self.pos[rows]
        self.c["udp_length"][rows] = length = u16(self.data, p + 4)
        stop = self.stop[rows]
        # the length of the whole datagram, of which a first fragment holds a part
        wrong = (length < 8) | (p + length != stop) & ~(self.part[rows] & (p + length > stop))
        self._mark(rows[wrong], BAD_LENGTH)
        self.body[rows] = p + 8
        self.last[rows] = np.where(length < 8, stop, np.minimum(p + length, stop))

    def _icmp(self, protocol: int) -> None:
        """RFC 792, RFC 4443."""
        rows, c = self.rows[protocol], self.c
        some = rows[self.pos[rows] + 2 <= self.end[rows]]
        c["icmp_type"][some], c["icmp_code"][some] = (self.data[self.pos[some] + i] for i in (0, 1))
        rows = self._whole(rows, 8)
        self.body[rows] += 8
        echo = rows[np.isin(c["icmp_type"][rows], ECHO[protocol])]
        c["sport"][echo] = c["dport"][echo] = u16(self.data, self.pos[echo] + 4)

    def columns(self, options: bool) -> Columns:
        """All columns but those of the frame."""
        c = self.c
        c["payload_length"] = self.last - self.body
        c["held"] = np.clip(np.minimum(self.end, self.last) - self.body, 0, PAYLOAD)
        c["payload"] = _bytes(self.data, self.body, c["held"], PAYLOAD)
        c["options"] = _bytes(self.data, self.pos + 20, c["options_length"], OPTIONS if options else 0)
        return {name: values.astype(KINDS[name], copy=False) for name, values in c.items()}

    def tunnel(self) -> tuple[Places, Places, Places, Places, Places]:
        """The rows that may hold another packet; what stands first in it; where; and the end and stop of it."""
        protocol, udp = self.c["protocol"], self.rows[UDP]
        found, then = [], []
        for number, what in ((IP_IN_IP, links.IP4), (IP6_IN_IP, links.IP6), (GRE, links.GRE)):
            found.append(np.flatnonzero(self.live & (protocol == number)))
            then.append(what)
        for port, what in ((VXLAN_PORT, links.VXLAN), (GTP_PORT, links.GTP)):
            found.append(udp[self.c["dport"][udp] == port])
            then.append(what)
        rows = np.concatenate(found)
        kind = np.repeat(np.array(then, np.int64), [len(f) for f in found])
        order = np.argsort(rows, kind="stable")
        rows, kind = rows[order], kind[order]
        stop = self.last[rows]
        return rows, kind, self.body[rows], np.minimum(self.end[rows], stop), stop


def _bytes(data: Bytes, at: Places, held: Places, width: int) -> Bytes:
    """(n, width): the first bytes of each place, of which `held` are there, then zeros."""
    if not width or not len(data):
        return np.zeros((len(at), width), np.uint8)
    steps = np.arange(width)
    found = data[np.minimum(at[:, None] + steps, len(data) - 1)]
    return np.where(steps < held[:, None], found, np.uint8(0))
