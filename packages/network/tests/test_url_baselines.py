"""Baselines of URLs: features whose values are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from unlabeled.core.contracts import Sample
from unlabeled.core.contracts.recipe import Data
from unlabeled.network.url.baselines import Lengths, NGrams
from unlabeled.network.url.tokens import BYTES, url_input
from unlabeled.network.url.urls import PARTS, parse


def samples(*urls: str) -> list[Sample]:
    made = [parse(u) for u in urls]
    return [
        Sample({"x": url_input(BYTES.rows(u))}, f"a#{i}", u.group, meta={"url": u.canonical})
        for i, u in enumerate(made)
    ]


def test_sequences_are_counted() -> None:
    # with a column for nearly every sequence: "\n//ab.cd/\n" has 10 bytes, so 8 of 3, 7 of 4 and 6 of 5
    (row,) = np.expm1(NGrams(1 << 20).features(samples("ab.cd")))
    assert row.sum() == pytest.approx(21) and (row > 0).sum() == 21
    # aaaaaa: "\n//", "//a", "/aa", "aaa" 4 times, "aa/", "a/\n"
    (row,) = np.expm1(NGrams(1 << 20).features(samples("aaaaaa")))
    assert sorted(np.round(row[row > 0]).astype(int).tolist()) == [1] * 15 + [2, 3, 4]


def test_the_hash_is_the_same_everywhere_and_spreads() -> None:
    ngrams = NGrams()
    # by its definition, in Python's whole numbers
    x, m = 3, 2**64
    for byte in b"abc":
        x = (x * 0x9E3779B97F4A7C15 + byte + 1) % m
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % m
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % m
    assert ngrams._columns(np.frombuffer(b"abc", np.uint8).astype(np.uint64), 3).tolist() == [(x ^ (x >> 31)) % 4096]
    # 20000 random sequences in 4096 columns: chi square of 4095 +- 4 sqrt(2 * 4095)
    text = np.random.default_rng(0).integers(97, 123, 20_004).astype(np.uint64)
    counts = np.bincount(ngrams._columns(text, 5), minlength=4096)
    chi = ((counts - 20_000 / 4096) ** 2 / (20_000 / 4096)).sum()
    assert abs(chi - 4095) < 4 * np.sqrt(2 * 4095)


def test_lengths_by_hand() -> None:
    (row,) = Lengths().features(samples("https://www.example.co.uk:8443/ab/c?k=12&long=3#x"))
    size, count = dict(zip(PARTS, row, strict=False)), dict(zip(PARTS, row[len(PARTS) :], strict=False))
    assert size == {
        "scheme": 5, "userinfo": 0, "sub-domain": 3, "domain": 7, "suffix": 5, "ip": 0, "port": 4, "path": 5,
        "query key": 5, "query value": 3, "fragment": 1,
    }  # fmt: skip
    assert count["query key"] == count["query value"] == 2 and count["userinfo"] == 0 and count["path"] == 1
    # 49 bytes; www.example.co.uk has 3 dots; /ab/c has 2 slashes
    assert row[-3:].tolist() == [49, 3, 2]


def test_lengths_know_no_letter_and_ngrams_do() -> None:
    a, b = samples("http://abc.com/xy", "http://def.com/zw")
    assert (np.diff(Lengths().features([a, b]), axis=0) == 0).all()
    assert (np.diff(NGrams().features([a, b]), axis=0) != 0).any()


def test_what_cannot_be_parsed_has_features_too() -> None:
    given = samples("http://[::1", "", "\udcff", "javascript:1", "x" * 9000)
    for kind in (NGrams(), Lengths()):
        found = kind.fit(given).features(given)
        assert len(found) == 5 and np.isfinite(found).all()


def test_they_suit_urls_alone(tmp_path: Path) -> None:
    for name, content in (("u", "http://a.com\n"), ("c", "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"a.{'urls' if name == 'u' else 'pcap'}").write_text(content)
    for kind in (NGrams, Lengths):
        assert kind.suits(Data(path=tmp_path / "u")) and not kind.suits(Data(path=tmp_path / "c"))
        assert kind.suits(Data(path=tmp_path / "c", options={"kind": "urls"}))
