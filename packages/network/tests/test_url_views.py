"""Rewritings are the same URL, and lookalikes are another."""

from __future__ import annotations

import numpy as np
import pytest

from unlabeled.core import streams
from unlabeled.network.url.urls import Pieces, canonical, parse
from unlabeled.network.url.views import LOOKALIKES, REWRITINGS, lookalike, rewrite

FULL = "https://www.Example.co.uk/a/b%2fc/~me?b=1&a=%c3%a9&b=2#top"


def urls(n: int) -> list[bytes]:
    """URLs of all shapes, some of them with faults; letters that have a meaning are frequent."""
    rng = np.random.default_rng(0)
    letters = np.array(list("abcxyzABC019-_.~%/&=?+:@[]é,;!$ ("))
    hosts = [
        "example.com",
        "WWW.Ex-ample.co.uk",
        "a.b.github.io",
        "1.2.3.4",
        "[::1]",
        "bücher.de",
        "ex%61mple.org.",
        "b。c.de",
    ]

    def word(most: int) -> str:
        return "".join(rng.choice(letters, rng.integers(0, most)))

    def one() -> str:
        scheme = rng.choice(["http://", "HTTPS://", "", "//", "ftp://", "foo://"])
        path = rng.choice(["", "/" + word(20), "/a/../b/./%7e"])
        query = rng.choice(["", "?" + word(30), "?b=1&a=2&b=0&&=c"])
        port = rng.choice(["", ":80", ":443", ":", ":8080"])
        return (
            f"{scheme}{rng.choice(['', 'u:p@'])}{rng.choice(hosts)}{port}{path}{query}{rng.choice(['', '#' + word(5)])}"
        )

    return [one().encode() for _ in range(n)]


def test_rewritings_keep_the_canonical_form() -> None:
    found = [(u, rewrite(u, i)) for i, u in enumerate(urls(4000))]
    ok = [(u, v) for u, v in found if parse(u).parse_ok]
    assert len(ok) > 3000
    for u, v in ok:
        assert canonical(v) == canonical(u), (u, v)
    assert sum(u != v for u, v in ok) > 0.9 * len(ok)
    # what is no URL stays as it is
    assert all(u == v for u, v in found if not parse(u).parse_ok)


@pytest.mark.parametrize("name", sorted(REWRITINGS))
def test_each_rewriting_changes_something_and_means_the_same(name: str) -> None:
    pieces = parse(FULL).pieces
    assert isinstance(pieces, Pieces) and pieces.joined() == FULL.encode()
    written = {REWRITINGS[name](pieces, streams.rng(i, "t")).joined() for i in range(20)}
    assert written - {FULL.encode()} and {canonical(w) for w in written} == {canonical(FULL)}


def test_a_rewriting_is_a_function_of_its_key() -> None:
    assert rewrite(FULL.encode(), 7) == rewrite(FULL.encode(), 7)
    assert len({rewrite(FULL.encode(), i) for i in range(50)}) > 40


def test_parameters_of_one_key_keep_their_order() -> None:
    pieces = parse("http://a.com/?x=1&y=0&%78=2&x=3").pieces
    assert pieces is not None
    orders = {REWRITINGS["parameter_order"](pieces, streams.rng(i, "t")).query for i in range(100)}
    # 4! / 3! = 4 places for y, and %78 is x
    assert orders == {b"y=0&x=1&%78=2&x=3", b"x=1&y=0&%78=2&x=3", b"x=1&%78=2&y=0&x=3", b"x=1&%78=2&x=3&y=0"}


def test_lookalikes_have_another_registered_domain() -> None:
    given = [u for u in urls(2000) if parse(u).parse_ok]
    for i, u in enumerate(given):
        other, url = parse(lookalike(u, i)), parse(u)
        if not url.domain:
            assert other.raw == u  # an address, or a name alone
            continue
        assert other.parse_ok and other.domain and other.domain != url.domain, u
        assert other.pieces is not None and url.pieces is not None
        assert other.pieces[4:] == url.pieces[4:]  # path, query and fragment stay


@pytest.mark.parametrize("name", sorted(LOOKALIKES))
def test_each_kind_of_lookalike(name: str) -> None:
    made = {LOOKALIKES[name]("example", "co.uk", streams.rng(i, "t")) for i in range(200)} - {"example.co.uk"}
    if name == "other_suffix":
        assert len(made) == 10 and {m.partition(".")[0] for m in made} == {"example"}
        return
    labels = {m.partition(".")[0] for m in made}
    assert {m.partition(".")[2] for m in made} == {"co.uk"}
    if name == "homoglyph":
        # e, x, a, p have one of another script, l and e a digit: e 2 + x + a + p + l + e 2
        assert all(len(m) == 7 for m in labels) and {"3xample", "examp1e", "ехample"[:1] + "xample"} <= labels
        assert len(labels) == 8
    else:
        # 7 doubled, 7 left out, 6 swaps
        assert {"eexample", "xample", "xeample"} <= labels and len(labels) == 20
