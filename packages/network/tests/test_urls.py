"""URLs: parts, canonical form, registered domain, and that nothing whatever is an error."""

from __future__ import annotations

import numpy as np
import pytest

from unlabeled.network.url.urls import LONGEST, PARTS, canonical, parse


def parts(url: str | bytes) -> list[tuple[str, str]]:
    found = parse(url)
    return [(s.part, found.raw[s.start : s.end].decode()) for s in found.spans]


def test_every_part() -> None:
    assert parts("HTTPS://me:pw@a.B.Example.co.uk:8443/p/Q;x?k=v&w#top") == [
        ("scheme", "HTTPS"),
        ("userinfo", "me:pw"),
        ("sub-domain", "a.B"),
        ("domain", "Example"),
        ("suffix", "co.uk"),
        ("port", "8443"),
        ("path", "/p/Q;x"),
        ("query key", "k"),
        ("query value", "v"),
        ("query key", "w"),
        ("fragment", "top"),
    ]
    ids = parse("http://a.com/x").part_of_bytes()
    # h t t p : / / a . c o m / x: delimiters are in no part, but for the slashes of the path
    one = {p: 1 + i for i, p in enumerate(PARTS)}
    expected = [one["scheme"]] * 4 + [0] * 3 + [one["domain"], 0] + [one["suffix"]] * 3 + [one["path"]] * 2
    assert ids.tolist() == expected


@pytest.mark.parametrize(
    ("written", "as_"),
    [
        # RFC 3986, section 6.2.2: its own example
        ("eXAMPLE://a/./b/../b/%63/%7bfoo%7d", "example://a/b/c/%7Bfoo%7D"),
        ("HTTP://www.EXAMPLE.com/", "http://www.example.com/"),
        # section 6.2.3: all four are one
        ("http://example.com", "http://example.com/"),
        ("http://example.com:/", "http://example.com/"),
        ("http://example.com:80/", "http://example.com/"),
        ("https://example.com:80/", "https://example.com:80/"),
        ("https://example.com:0443/", "https://example.com/"),
        # section 5.4: dot segments, normal and abnormal
        ("http://a/b/c/./d", "http://a/b/c/d"),
        ("http://a/b/c/..", "http://a/b/"),
        ("http://a/b/c/../../../../g", "http://a/g"),
        ("http://a/b/c/g..", "http://a/b/c/g.."),
        ("http://a/b//../c", "http://a/b/c"),
        ("http://a/%2e%2E/c", "http://a/c"),
        # the case of path and query is never changed, nor is a reserved character taken for its escape
        ("http://A.com/PaTh?Q=V", "http://a.com/PaTh?Q=V"),
        ("http://a.com/x%2fy", "http://a.com/x%2Fy"),
        ("http://a.com/100%", "http://a.com/100%25"),
        ('http://a.com/a b"', "http://a.com/a%20b%22"),
        ("http://a.com/é?ü#ö", "http://a.com/%C3%A9?%C3%BC#%C3%B6"),
        # parameters by key; those of one key keep their order
        ("http://a.com/?b=2&a=1&b=1", "http://a.com/?a=1&b=2&b=1"),
        ("http://a.com/?", "http://a.com/?"),
        ("http://@a.com./", "http://a.com/"),
        ("http://us%65r@a.com", "http://user@a.com/"),
        # no scheme: a reference with a host (section 4.2)
        ("Example.com/A", "//example.com/A"),
        ("//example.com/A", "//example.com/A"),
        ("localhost:8080/a", "//localhost:8080/a"),
        # IDNA: RFC 3492's encoding of a label
        ("http://bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://XN--BCHER-KVA.example/", "http://xn--bcher-kva.example/"),
        ("http://b%C3%BCcher.example/", "http://xn--bcher-kva.example/"),
        ("http://a。example/", "http://a.example/"),
        # addresses: RFC 5952 for IPv6; 127 * 2^24 + 1 = 2130706433
        ("http://[2001:DB8:0:0::1]:80/", "http://[2001:db8::1]/"),
        ("http://127.0.0.1/", "http://127.0.0.1/"),
        ("http://0x7f.1/", "http://127.0.0.1/"),
        ("http://2130706433/", "http://127.0.0.1/"),
    ],
)
def test_the_canonical_form(written: str, as_: str) -> None:
    found = parse(written)
    assert found.parse_ok and found.canonical == as_ and found.canonical.isascii()
    assert canonical(as_) == as_


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("www.example.com", "example.com"),
        ("a.b.example.co.uk", "example.co.uk"),
        ("www.city.kobe.jp", "city.kobe.jp"),  # the list's own examples: a rule, its exception
        ("c.kobe.jp", ""),
        ("b.c.kobe.jp", "b.c.kobe.jp"),
        # a platform's customers are one domain
        ("one.github.io", "github.io"),
        ("two.github.io", "github.io"),
        ("www.食狮.中国", "xn--85x722f.xn--fiqs8s"),
        ("co.uk", ""),
        ("localhost", ""),
        ("1.2.3.4", ""),
        ("[::1]", ""),
    ],
)
def test_the_registered_domain(host: str, domain: str) -> None:
    found = parse(f"http://{host}/x")
    assert found.parse_ok and found.domain == domain
    assert found.group == (domain or found.host) != ""


def test_hosts_that_are_no_names_have_their_parts() -> None:
    assert parts("http://10.0.0.1:80/")[1] == ("ip", "10.0.0.1") and parts("[::1]/") == [("ip", "[::1]"), ("path", "/")]
    assert parts("localhost") == [("domain", "localhost")] and parts("co.uk") == [("suffix", "co.uk")]
    assert parts("a.example.com.")[-1] == ("suffix", "com")


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("", "empty"),
        ("http://[::1", "a broken host"),
        ("http://[::g]/", "a broken host"),
        ("http://a..b/", "a broken host"),
        ("http://300.1.1.1.1/", "a broken host"),
        (f"http://{'a' * 64}.com/", "a broken host"),
        ("two words", "a broken host"),
        ("http:///path", "no host"),
        ("http://a.com:x/", "a broken port"),
        ("http://a.com:65536/", "a broken port"),
        ("data:text/html,<b>", "no host"),
        ("javascript:alert(1)", "no host"),
        ("mailto:me@example.com", "no host"),
        ("http://a.com/\0", "a control character"),
        ("http://a.com/a\nb", "a control character"),
        (b"http://a.com/\xff", "not UTF-8"),
        ("http://a.com/\udcff", "not UTF-8"),
        ("http://a.com/\ud800", "not UTF-8"),
        ("http://a.com/\u202egpj.exe", "a character that turns the direction of writing"),
        ("http://a.com/" + "x" * LONGEST, "longer than 8192 bytes"),
    ],
)
def test_what_is_no_url_is_kept_with_its_fault(url: str | bytes, fault: str) -> None:
    found = parse(url)
    assert not found.parse_ok and found.fault == fault
    # nothing of it is lost or changed
    raw = (
        url
        if isinstance(url, bytes)
        else url.encode("utf-8", "surrogatepass" if "\ud800" in url else "surrogateescape")
    )
    assert found.raw == raw == found.canonical.encode("utf-8", "surrogateescape")


def test_what_has_a_fault_has_parts_too() -> None:
    assert parts("javascript:alert(1)") == [("scheme", "javascript"), ("path", "alert(1)")]
    long = parse("http://a.com/" + "x" * 2_000_000)
    assert long.spans[-1].end == LONGEST and len(long.part_of_bytes()) == len(long.raw) == 2_000_013
    assert parse(b"http://a.com/\xff").domain == "a.com"


def test_no_bytes_are_an_error() -> None:
    rng = np.random.default_rng(0)
    pool = [
        b"http://",
        b"//",
        b"://",
        b"@",
        b":",
        b"[",
        b"]",
        b"%",
        b"%2e",
        b"..",
        b".",
        b"/",
        b"?",
        b"#",
        b"&",
        b"=",
        b"\0",
    ]
    pool += [b"xn--", b"a", b"com", "é。".encode(), b"\xff\xfe", "\u202e".encode(), b"80", b"data:", b" ", b"\xc3"]
    ok = 0
    for n in range(10_000):
        if n % 2:
            raw = b"".join(pool[i] for i in rng.integers(0, len(pool), rng.integers(0, 14)))
        else:
            raw = rng.integers(0, 256, rng.integers(0, 60), dtype=np.uint8).tobytes()
        found = parse(raw)
        assert found.raw == raw
        ends = [0, *(e for s in found.spans for e in s[1:]), len(raw)]
        assert ends == sorted(ends) and all(s.part in PARTS for s in found.spans)
        assert parse(raw.decode("utf-8", "surrogateescape")) == found
        if found.parse_ok:
            ok += 1
            assert canonical(found.canonical) == found.canonical and found.host
        else:
            assert found.canonical.encode("utf-8", "surrogateescape") == raw
    assert ok > 200  # and the pool does make URLs
