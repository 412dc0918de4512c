"""URLs: their parts with places, a canonical form, and the registered domain. Nothing is asked of any network.

RFC 3986, with RFC 3987 for what is not ASCII and IDNA 2003 for hosts, as Python's own codec does it.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

PARTS = (
    "scheme",
    "userinfo",
    "sub-domain",
    "domain",
    "suffix",
    "ip",
    "port",
    "path",
    "query key",
    "query value",
    "fragment",
)
LONGEST = 8192  # bytes; what is behind is in no part
DEFAULT_PORTS = {"http:": 80, "https:": 443, "ftp:": 21, "ws:": 80, "wss:": 443}

_URL = re.compile(
    rb"(?>(?:(|[A-Za-z][A-Za-z0-9+.\-]*:)//)?)"  # scheme; once read, it is never taken for a host and its port
    rb"(?:([^/?#]*)@)?"  # userinfo, up to the last @ of the authority
    rb"(\[[^\]/?#]*\]|[^:/?#@\[\]]*)(?::([^/?#]*))?"  # host and port
    rb"(/[^?#]*)?(?:\?([^#]*))?(?:#(.*))?",  # path, query, fragment
    re.DOTALL,
)
# data:, javascript:, mailto: and their kind; host:8080/ is none
_OPAQUE = re.compile(rb"([A-Za-z][A-Za-z0-9+.\-]*):(?!//)(?![0-9]+(?:[/?#]|\Z))(.*)", re.DOTALL)
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
# what turns the direction of writing, and shows another text than there is (Unicode 15, UAX 9, section 2)
_BIDI = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")  # as which "surrogateescape" decodes invalid bytes
_HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_NUMBER = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})|(.)", re.DOTALL)

UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")  # RFC 3986, section 2.3
_SUB_DELIMS = frozenset(b"!$&'()*+,;=")
_PLAIN = {  # what stands unescaped in a component besides the unreserved (RFC 3986, appendix A)
    "userinfo": UNRESERVED | _SUB_DELIMS | frozenset(b":"),
    "path": UNRESERVED | _SUB_DELIMS | frozenset(b":@/"),
    "query": UNRESERVED | _SUB_DELIMS | frozenset(b":@/?"),
}


class Pieces(NamedTuple):
    """The components of a URL as bytes; None where the component is absent.

    Delimiters are left out, but for the scheme: it ends in a colon, and is empty where the URL begins with two slashes.
    """

    scheme: bytes | None
    userinfo: bytes | None
    host: bytes
    port: bytes | None
    path: bytes
    query: bytes | None
    fragment: bytes | None

    def joined(self) -> bytes:
        s, u, p, q, f = self.scheme, self.userinfo, self.port, self.query, self.fragment
        return b"".join(
            (
                b"" if s is None else s + b"//",
                b"" if u is None else u + b"@",
                self.host,
                b"" if p is None else b":" + p,
                self.path,
                b"" if q is None else b"?" + q,
                b"" if f is None else b"#" + f,
            )
        )


class Span(NamedTuple):
    """Bytes start:end of a URL belong to `part`, one of PARTS."""

    part: str
    start: int
    end: int


@dataclass(frozen=True)
class URL:
    """A URL with its parts.

    raw        its bytes as they came
    spans      of its parts, in order; delimiters are in none
    canonical  one text for all ways to write it; of a URL that is not ok its own, invalid bytes as surrogates
    host       lower-case, in ASCII; "" where there is none that can be used
    domain     the registered domain; "" where the host is an address, a name alone or a public suffix
    fault      why it is no URL to be looked up, "" where it is one
    pieces     components, where it could be cut into them
    """

    raw: bytes
    spans: tuple[Span, ...]
    canonical: str
    host: str = ""
    domain: str = ""
    fault: str = ""
    pieces: Pieces | None = None

    @property
    def parse_ok(self) -> bool:
        return not self.fault

    @property
    def group(self) -> str:
        """What may not cross a split: the registered domain, else the host, else the URL alone."""
        return self.domain or self.host or self.canonical

    def part_of_bytes(self) -> NDArray[np.uint8]:
        """(len(raw),) for every byte 1 + its part's place in PARTS, 0 for delimiters and what is in no part."""
        ids = np.zeros(len(self.raw), np.uint8)
        for part, start, end in self.spans:
            ids[start:end] = 1 + PARTS.index(part)
        return ids


def as_bytes(url: str | bytes) -> bytes:
    """UTF-8; a surrogate that stands for an invalid byte becomes that byte again."""
    if isinstance(url, bytes):
        return url
    try:
        return url.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a character of UTF-16
        return url.encode("utf-8", "surrogatepass")


def parse(url: str | bytes) -> URL:
    """The parts of a URL; never an error: what cannot be a URL has a `fault`, and the parts that are told all the same.

    The scheme may be missing, and then the canonical form begins with two slashes (section 4.2). The canonical form lowers
    scheme and host, and never the path; drops a default or empty port, an empty userinfo and the host's final dot; resolves
    dot segments; escapes what must be and nothing else, in upper case (RFC 3986, section 6.2.2 and 6.2.3). Beyond the RFC
    it sorts the parameters of a query by their keys, those of one key in their order. The fragment stays, as pages are told
    by it.
    """
    raw = as_bytes(url)
    seen = raw[:LONGEST]
    text = raw.decode("utf-8", "surrogateescape")
    fault = _unreadable(raw, text)
    if opaque := _OPAQUE.match(seen):
        spans = _spans((("scheme", *opaque.span(1)), ("path", *opaque.span(2))))
        return URL(raw, spans, text, fault=fault or "no host")
    found = _URL.fullmatch(seen)
    if found is None:
        return URL(raw, (), text, fault=fault or "a broken host")
    scheme, userinfo, host, port, path, query, fragment = found.groups()
    pieces = Pieces(scheme, userinfo, host, port, path or b"", query, fragment)
    name, is_ip = _host(host)
    fault = fault or _wrong(pieces, name)
    domain, suffix = ("", "") if is_ip or not name else _registered(name)
    spans = _spans(
        [
            ("scheme", found.start(1), found.end(1) - 1),
            ("userinfo", *found.span(2)),
            *_host_spans(found, is_ip, name, domain, suffix),
            ("port", *found.span(4)),
            ("path", *found.span(5)),
            *_query_spans(query or b"", found.start(6)),
            ("fragment", *found.span(7)),
        ]
    )
    if fault:
        return URL(raw, spans, text, name, domain, fault, pieces)
    return URL(raw, spans, _canonical(pieces, name), name, domain, "", pieces)


def canonical(url: str | bytes) -> str:
    """One text for all ways to write a URL, see `parse`."""
    return parse(url).canonical


def _unreadable(raw: bytes, text: str) -> str:
    if not raw:
        return "empty"
    if len(raw) > LONGEST:
        return f"longer than {LONGEST} bytes"
    if _CONTROL.search(raw):
        return "a control character"
    if _ESCAPED_BYTE.search(text):
        return "not UTF-8"
    return "a character that turns the direction of writing" if _BIDI.search(text) else ""


def _wrong(pieces: Pieces, name: str) -> str:
    if not pieces.host:
        return "no host"
    if not name:
        return "a broken host"
    if pieces.port and not (pieces.port.isdigit() and len(pieces.port) < 10 and int(pieces.port) < 1 << 16):
        return "a broken port"
    return ""


def _spans(found: Sequence[tuple[str, int, int]]) -> tuple[Span, ...]:
    return tuple(Span(*s) for s in found if s[1] < s[2])


# --- hosts


def _host(raw: bytes) -> tuple[str, bool]:
    """A host in lower-case ASCII, "" where it is none, and whether it is an address."""
    if raw.startswith(b"["):
        try:
            return f"[{ipaddress.IPv6Address(raw[1:-1].decode('ascii')).compressed}]", True
        except ValueError:
            return "", False
    try:
        name = _unescaped(raw).decode("utf-8")
        name = name.lower() if name.isascii() else name.encode("idna").decode("ascii").lower()
    except ValueError:  # no UTF-8, or no name that IDNA allows
        return "", False
    name = name.removesuffix(".")
    if not _HOST.fullmatch(name):
        return "", False
    if _NUMBER.match(name.rpartition(".")[2]):  # also 0x7f.1 and 2130706433, as browsers read them
        try:
            return socket.inet_ntoa(socket.inet_aton(name)), True
        except OSError:
            return "", False
    return name, False


@cache
def _suffixes() -> Any:
    from publicsuffixlist import PublicSuffixList

    return PublicSuffixList(only_icann=True)


def _registered(host: str) -> tuple[str, str]:
    """(registered domain, public suffix) of a name, "" for what it has not.

    Only suffixes under which a registry sells names count, and none of a platform's: all its customers are one domain,
    as what is learned of the platform holds for all of them. A name without a dot has no suffix.
    """
    if "." not in host:
        return "", ""
    return _suffixes().privatesuffix(host) or "", _suffixes().publicsuffix(host) or ""


def _host_spans(found: re.Match[bytes], is_ip: bool, name: str, domain: str, suffix: str) -> list[tuple[str, int, int]]:
    start, end = found.span(3)
    if is_ip:
        return [("ip", start, end)]
    ends = [i for i, c in enumerate(found.string[start:end]) if c == ord(".")]
    if found[3].endswith(b"."):
        end -= 1
        ends.pop()
    # as many labels in the bytes as in the name; not so where a dot is written in another way
    if not name or len(ends) != name.count("."):
        return [("domain", start, end)]
    of_suffix = suffix.count(".") + 1 if suffix else 0
    firsts = [0, *(e + 1 for e in ends)]  # where the labels begin
    labels = len(firsts)
    tail = start + firsts[labels - of_suffix] if of_suffix else end + 1
    if not domain:
        return [("suffix", tail, end)] if of_suffix else [("domain", start, end)]
    middle = start + firsts[labels - of_suffix - 1]
    return [("sub-domain", start, middle - 1), ("domain", middle, tail - 1), ("suffix", tail, end)]


# --- queries, and what is escaped


def _query_spans(query: bytes, start: int) -> list[tuple[str, int, int]]:
    spans = []
    for parameter in query.split(b"&") if query else ():
        key, equals, value = parameter.partition(b"=")
        at = start + len(key)
        spans += [("query key", start, at), ("query value", at + len(equals), at + len(equals) + len(value))]
        start += len(parameter) + 1
    return spans


def _unescaped(raw: bytes) -> bytes:
    return _ESCAPE.sub(lambda m: bytes([int(m[1], 16)]) if m[1] else m[2], raw) if b"%" in raw else raw


def _normal(raw: bytes, plain: frozenset[int]) -> str:
    """Escapes of unreserved characters undone, all others in upper case, and what may not stand there escaped."""

    def one(m: re.Match[bytes]) -> bytes:
        if m[1] is None:
            return m[2] if m[2][0] in plain else b"%%%02X" % m[2][0]
        byte = int(m[1], 16)
        return bytes([byte]) if byte in UNRESERVED else b"%" + m[1].upper()

    return _ESCAPE.sub(one, raw).decode("ascii")


def _without_dots(path: str) -> str:
    """RFC 3986, section 5.2.4; of an absolute path."""
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


def _canonical(pieces: Pieces, host: str) -> str:
    scheme = (pieces.scheme or b"").decode("ascii").lower()
    userinfo = _normal(pieces.userinfo or b"", _PLAIN["userinfo"])
    port = int(pieces.port) if pieces.port else None
    path = _without_dots(_normal(pieces.path or b"/", _PLAIN["path"]))
    made = f"{scheme}//{userinfo}@{host}" if userinfo else f"{scheme}//{host}"
    made += "" if port is None or port == DEFAULT_PORTS.get(scheme) else f":{port}"
    made += path
    if pieces.query is not None:
        parameters = _normal(pieces.query, _PLAIN["query"]).split("&")
        made += "?" + "&".join(sorted(parameters, key=lambda p: p.partition("=")[0]))
    return made if pieces.fragment is None else f"{made}#{_normal(pieces.fragment, _PLAIN['query'])}"
