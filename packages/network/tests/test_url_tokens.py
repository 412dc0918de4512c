"""Tokens of URLs: ids and back, parts, and the verb that learns them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from unlabeled.core.cli.domain import build
from unlabeled.core.contracts import RequestError
from unlabeled.network import domain
from unlabeled.network.url.tokens import BYTES, PART_IDS, URLTokens, tokens, train, url_input
from unlabeled.network.url.urls import PARTS, parse

LINES = [f"https://www.example-{i % 7}.co.uk/login/Account?session={i}&next=%2Fhome{'é' * (i % 2)}" for i in range(200)]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> URLTokens:
    file = tmp_path_factory.mktemp("tokens") / "tokenizer.json"
    train(LINES, 400).save(str(file))
    return tokens(str(file))


def fuzz(n: int) -> list[bytes]:
    """Random bytes, URLs with broken ones, and what a library may take for its own: special tokens, spaces, controls."""
    rng = np.random.default_rng(0)
    pool = [*LINES[:20], "[PAD]", "<unk>", " ", "\u0120", "名", "\ud7ff", "😀", "\x00", "\r\n", "%zz", "А́", "ﬁ", "İ"]
    found = []
    for i in range(n):
        if i % 2:
            raw = rng.integers(0, 256, rng.integers(0, 50), dtype=np.uint8).tobytes()
        else:
            raw = "".join(pool[k] for k in rng.integers(0, len(pool), rng.integers(0, 4))).encode()
            at = int(rng.integers(0, len(raw) + 1))
            raw = raw[:at] + bytes(rng.integers(128, 256, rng.integers(0, 3), dtype=np.uint8)) + raw[at:]
        found.append(raw)
    return found


def test_bytes() -> None:
    assert (
        BYTES.size == 257 and BYTES.encode(b"\x00a\xff") == [1, 98, 256] and BYTES.decode([1, 98, 256]) == b"\x00a\xff"
    )
    assert tokens("bytes") is BYTES and PART_IDS == 12


def test_any_bytes_come_back(pairs: URLTokens) -> None:
    for raw in fuzz(10_000):
        for kind in (BYTES, pairs):
            ids = kind.encode(raw)
            assert kind.decode(ids) == raw
            assert all(0 < i < kind.size for i in ids)


def test_byte_pairs_are_shorter_keep_case_and_stay_within_a_part(pairs: URLTokens) -> None:
    assert 300 < pairs.size <= 400
    assert sum(len(pairs.encode(u.encode())) for u in LINES) < 0.5 * sum(len(u.encode()) for u in LINES)
    assert pairs.encode(b"LOGIN") != pairs.encode(b"login")
    for line in LINES:
        url = parse(line)
        of_bytes, at = url.part_of_bytes(), 0
        for i in pairs.encode(url.raw):
            assert len(set(of_bytes[at : at + len(pairs.pieces[i])].tolist())) == 1
            at += len(pairs.pieces[i])


def test_rows_name_the_part_of_each_token(pairs: URLTokens) -> None:
    url = parse("https://www.example-1.co.uk/login?session=5")
    for kind in (BYTES, pairs):
        rows = kind.rows(url)
        assert kind.decode(rows[:, 0].tolist()) == url.raw
        found = {p: kind.decode(rows[rows[:, 1] == 1 + i, 0].tolist()) for i, p in enumerate(PARTS)}
        assert {p: v for p, v in found.items() if v} == {
            "scheme": b"https",
            "sub-domain": b"www",
            "domain": b"example-1",
            "suffix": b"co.uk",
            "path": b"/login",
            "query key": b"session",
            "query value": b"5",
        }
    assert len(BYTES.rows(url, 10)) == 10


def test_an_input_of_tokens() -> None:
    x = url_input(BYTES.rows(parse("a.b")))
    assert x.layout == "packed" and x.unit == "token" and x.units == ("id", "id") and x.channels == ("id", "part")
    assert (
        x.data.tolist() == [[98, 4], [47, 0], [99, 5]] and x.coords is not None and x.coords.tolist() == [[0], [1], [2]]
    )
    empty = url_input(BYTES.rows(parse("")))
    assert empty.data.tolist() == [[0, 0]] and empty.valid is not None and not empty.valid.any()


def test_learning_is_repeatable_and_has_a_size() -> None:
    one, two = (train(LINES, 300) for _ in range(2))
    assert one.to_str() == two.to_str() and one.get_vocab_size() + 1 == 300
    assert train(LINES, 257).get_vocab_size() == 256


def test_other_tokenizers_are_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "words.json"))
    with pytest.raises(RequestError, match=r"words\.json does not give every byte of a URL back; make one by"):
        tokens(str(tmp_path / "words.json"))
    # a byte-level one that lower-cases is no better
    made = json.loads(train(LINES, 300).to_str())
    made["normalizer"] = {"type": "Lowercase"}
    (tmp_path / "lower.json").write_text(json.dumps(made))
    with pytest.raises(RequestError, match=r"lower\.json does not give every byte of a URL back"):
        tokens(str(tmp_path / "lower.json"))
    with pytest.raises(RequestError, match=r"absent\.json is absent here"):
        tokens(str(tmp_path / "absent.json"))


def run(*args: str) -> tuple[int, str]:
    result = CliRunner().invoke(build(replace(domain, verbs={"tokenizer": domain.verbs["tokenizer"]})), list(args))
    return result.exit_code, " ".join(result.output.split())


def test_the_verb(tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "a.urls").write_bytes("\n".join(LINES).encode() + b"\nhttp://broken.example/\xff\n")
    to = tmp_path / "tokenizer.json"
    code, said = run("tokenizer", str(lists), "-o", str(to), "--size", "300")
    assert code == 0 and said.startswith("300 tokens from 200 URLs of 1 files")
    assert tokens(str(to)).size == 300
    for args, sentence in (
        ((str(lists), "-o", str(to)), "exists; choose another name"),
        ((str(lists), "-o", str(tmp_path / "b"), "--size", "99"), "--size 99 is out of range"),
        ((str(tmp_path / "none"), "-o", str(tmp_path / "b")), "holds no list of URLs"),
    ):
        code, said = run("tokenizer", *args)
        assert code == 2 and sentence in said and "example-" not in said
