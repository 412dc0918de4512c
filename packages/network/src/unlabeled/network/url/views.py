"""Other ways to write the same URL, and other URLs that look like it. Both are functions of the URL and a key."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from unlabeled.core import streams
from unlabeled.network.url.urls import DEFAULT_PORTS, UNRESERVED, Pieces, parse

Random = np.random.Generator

# --- the same URL: canonical(view) == canonical(url)


def rewrite(raw: bytes, key: int) -> bytes:
    """One of the ways to write a URL (RFC 3986, section 6.2), each change made or not by lot; unchanged where it is none."""
    url = parse(raw)
    if url.fault or url.pieces is None:
        return raw
    pieces = url.pieces
    rng = streams.rng(key, "rewrite")
    for change in REWRITINGS.values():
        if rng.random() < 0.5:
            pieces = change(pieces, rng)
    return pieces.joined()


def host_case(p: Pieces, rng: Random) -> Pieces:
    """Letters of scheme and host in upper case by lot."""
    return p._replace(scheme=p.scheme and _cased(p.scheme, rng), host=_cased(p.host, rng))


def trailing_dot(p: Pieces, rng: Random) -> Pieces:
    """The root of the name system written out, or not; an address has none."""
    if p.host.startswith(b"[") or len(p.host) > 250:
        return p
    return p._replace(host=p.host[:-1] if p.host.endswith(b".") else p.host + b".")


def default_port(p: Pieces, rng: Random) -> Pieces:
    """The port that the scheme has anyway, written out or not."""
    port = DEFAULT_PORTS.get((p.scheme or b"").decode().lower())
    if port is None:
        return p
    if not p.port:
        return p._replace(port=b"%d" % port)
    return p._replace(port=None) if int(p.port) == port else p


def dot_segments(p: Pieces, rng: Random) -> Pieces:
    """One `/.` or `/name/..` before some slash of the path."""
    path = p.path or b"/"
    slashes = [i for i, c in enumerate(path) if c == ord("/")]
    at = int(rng.choice(slashes))
    return p._replace(path=path[:at] + (b"/.", b"/a/..")[rng.integers(2)] + path[at:])


def parameter_order(p: Pieces, rng: Random) -> Pieces:
    """Parameters of the query in another order; those of one key keep theirs, as it may matter."""
    if not p.query:
        return p
    parameters = p.query.split(b"&")
    keys = [parse(b"a.b/?" + q.partition(b"=")[0]).canonical for q in parameters]
    places = rng.permutation(len(parameters)).tolist()
    first = {k: iter(sorted(places[i] for i, other in enumerate(keys) if other == k)) for k in set(keys)}
    order = sorted(range(len(parameters)), key=[next(first[k]) for k in keys].__getitem__)
    return p._replace(query=b"&".join(parameters[i] for i in order))


def escapes(p: Pieces, rng: Random) -> Pieces:
    """Up to four unreserved characters of path, query and fragment escaped."""
    return _in_components(p, lambda raw: _escaped(raw, rng))


def escape_case(p: Pieces, rng: Random) -> Pieces:
    """The hexadecimal digits of escapes in lower or upper case."""

    def other(m: re.Match[bytes]) -> bytes:
        return m[0].lower() if rng.random() < 0.5 else m[0].upper()

    return _in_components(p, lambda raw: re.sub(rb"%[0-9A-Fa-f]{2}", other, raw))


REWRITINGS: dict[str, Callable[[Pieces, Random], Pieces]] = {
    f.__name__: f for f in (host_case, trailing_dot, default_port, dot_segments, parameter_order, escapes, escape_case)
}


def _cased(raw: bytes, rng: Random) -> bytes:
    upper = rng.random(len(raw)) < 0.5
    return bytes(c - 32 if up and ord("a") <= c <= ord("z") else c for c, up in zip(raw, upper.tolist(), strict=True))


def _in_components(p: Pieces, change: Callable[[bytes], bytes]) -> Pieces:
    return p._replace(
        path=change(p.path), query=p.query and change(p.query), fragment=p.fragment and change(p.fragment)
    )


def _escaped(raw: bytes, rng: Random) -> bytes:
    # not the two digits of an escape, which would stand for something else
    taken = {i for m in re.finditer(rb"%[0-9A-Fa-f]{2}", raw) for i in range(*m.span())}
    free = [i for i, c in enumerate(raw) if c in UNRESERVED and i not in taken]
    if not free:
        return raw
    chosen = set(rng.choice(free, min(len(free), int(rng.integers(1, 5))), replace=False).tolist())
    return b"".join(b"%%%02X" % c if i in chosen else raw[i : i + 1] for i, c in enumerate(raw))


# --- another URL that looks like it: hard negatives

# Letters of other scripts with the look of ours (Unicode TR 39, confusables), and digits that pass for letters.
_ALIKE = {"a": "а", "c": "с", "e": "е", "i": "і", "j": "ј", "o": "о", "p": "р", "s": "ѕ", "x": "х", "y": "у"}
_DIGITS = {"o": "0", "l": "1", "e": "3", "s": "5", "g": "9"}
_SUFFIXES = ("com", "net", "org", "info", "xyz", "top", "online", "site", "co", "io")


def lookalike(raw: bytes, key: int) -> bytes:
    """Another registered domain that looks like this one, by lot in one of LOOKALIKES; unchanged where there is none."""
    url = parse(raw)
    if url.fault or url.pieces is None or not url.domain:
        return raw
    rng = streams.rng(key, "lookalike")
    for i in rng.permutation(len(LOOKALIKES)):
        label, _, suffix = url.domain.partition(".")
        domain = list(LOOKALIKES.values())[i](label, suffix, rng)
        host = url.host.removesuffix(url.domain) + domain
        # `name:/` without a scheme would have one
        other = url.pieces._replace(host=host.encode(), port=url.pieces.port or None).joined()
        if (found := parse(other)).parse_ok and found.domain not in ("", url.domain):
            return other
    return raw


def homoglyph(label: str, suffix: str, rng: Random) -> str:
    """One letter becomes one of another script, or a digit, with its look."""
    places = [i for i, c in enumerate(label) if c in _ALIKE or c in _DIGITS] if not label.startswith("xn--") else []
    if not places:
        return f"{label}.{suffix}"
    i = int(rng.choice(places))
    other = _DIGITS.get(label[i]) if rng.random() < 0.5 else _ALIKE.get(label[i])
    return f"{label[:i]}{other or _ALIKE.get(label[i]) or _DIGITS[label[i]]}{label[i + 1 :]}.{suffix}"


def typo(label: str, suffix: str, rng: Random) -> str:
    """One letter is left out, doubled, or changes places with the next one."""
    i = int(rng.integers(len(label)))
    kinds = [label[: i + 1] + label[i:], label[:i] + label[i + 1 :]]
    if i + 1 < len(label):
        kinds.append(label[:i] + label[i + 1] + label[i] + label[i + 2 :])
    return f"{kinds[rng.integers(len(kinds))]}.{suffix}"


def other_suffix(label: str, suffix: str, rng: Random) -> str:
    """The same name under another public suffix."""
    return f"{label}.{rng.choice([s for s in _SUFFIXES if s != suffix])}"


LOOKALIKES: dict[str, Callable[[str, str, Random], str]] = {f.__name__: f for f in (homoglyph, typo, other_suffix)}
