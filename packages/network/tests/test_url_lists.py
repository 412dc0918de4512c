"""Lists of URLs: what is read, and what is said of bad ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from unlabeled.core.contracts import BadInput, Sample
from unlabeled.network.options import ReaderOptions
from unlabeled.network.url.lists import read
from unlabeled.network.url.tokens import BYTES


def made(folder: Path, content: bytes, name: str = "a.urls", **options: object) -> list[Sample]:
    (folder / name).write_bytes(content)
    return read(folder / name, f"sub/{name}", ReaderOptions(**options))


def test_a_list(tmp_path: Path) -> None:
    found = made(tmp_path, b"# mine\r\nhttp://www.Example.com/A\r\n\r\n  b.example.com:80 \nhttp://EXAMPLE.org\n")
    assert [s.key for s in found] == ["sub/a#2", "sub/a#4", "sub/a#5"]
    assert [s.group for s in found] == ["example.com", "example.com", "example.org"]
    assert [s.meta["url"] for s in found] == ["http://www.example.com/A", "//b.example.com:80/", "http://example.org/"]
    # what is read is what was written: its case and port may tell something
    assert [BYTES.decode(s.inputs["x"].data[:, 0].tolist()) for s in found] == [
        b"http://www.Example.com/A",
        b"b.example.com:80",
        b"http://EXAMPLE.org",
    ]
    assert [s.index for s in found] == [0, 1, 2]
    assert [s.meta["flags"] for s in found] == [["blank lines left out: 1"], [], []]


def test_a_table(tmp_path: Path) -> None:
    content = (
        '\ufeffid,"URL",label\n1,http://a.com/,x\n2,"http://b.com/?q=1,2",y\n\n3,,z\n4\n5,http://c.com/,x\n'.encode()
    )
    found = made(tmp_path, content, "t.csv")
    assert [s.key for s in found] == ["sub/t#2", "sub/t#3", "sub/t#7"]
    assert found[1].meta["url"] == "http://b.com/?q=1,2"
    assert found[0].meta["flags"] == ["blank lines left out: 3"]


def test_repeated_urls_are_kept_once(tmp_path: Path) -> None:
    found = made(tmp_path, b"http://a.com/x\nHTTP://A.com:80/./x\nhttp://a.com/X\nhttp://[::1\nhttp://[::1\n")
    assert [s.key for s in found] == ["sub/a#1", "sub/a#3", "sub/a#4"]
    assert found[0].meta["flags"] == ["repeated URLs left out: 2"]


def test_urls_of_one_registered_domain_are_on_one_side_of_a_split(tmp_path: Path) -> None:
    found = made(
        tmp_path, b"http://a.x.co.uk/\nhttps://b.x.co.uk/z\nhttp://y.co.uk\nhttp://1.2.3.4/\nhttp://1.2.3.4/b\n"
    )
    assert [s.group for s in found] == ["x.co.uk", "x.co.uk", "y.co.uk", "1.2.3.4", "1.2.3.4"]


def test_no_line_is_lost(tmp_path: Path) -> None:
    lines = [b"http://[::1", b"a\0b", "http://a.com/\u202ex".encode(), b"http://a.com/\xff", b"javascript:1+1"]
    lines += [b"http://a.com/" + b"y" * 1_000_000, "http://a.com/\u2028z".encode(), b"x\x0by"]
    for name, head in (("a.urls", b""), ("a.csv", b"url\n")):
        # enough text beside, or it would be taken for a binary file
        found = made(tmp_path, head + b"\n".join([b"http://b.com/" + b"p" * 500, *lines]), name)
        assert len(found) == 9 and len({s.group for s in found}) >= 5
        assert [s.meta["flags"] for s in found[1:]] == [
            ["not parsed: a broken host"],
            ["not parsed: a control character"],
            ["not parsed: a character that turns the direction of writing"],
            ["not parsed: not UTF-8"],
            ["not parsed: no host"],
            ["not parsed: longer than 8192 bytes", "cut to 200 tokens"],
            [],
            ["not parsed: a control character"],
        ]
        assert found[6].inputs["x"].shape == (200,)
        assert BYTES.decode(found[4].inputs["x"].data[:, 0].tolist()) == b"http://a.com/\xff"
    assert made(tmp_path, b"http://a.com/", length=8)[0].inputs["x"].shape == (8,)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.urls", b"", "sub/a.urls holds no URL; put one on each line, or take the file away"),
        ("a.urls", b"# only\n\n", "sub/a.urls holds no URL; put one on each line, or take the file away"),
        ("a.csv", b"url\n\n", "sub/a.csv holds no URL; put one on each line, or take the file away"),
        ("a.csv", b"", "sub/a.csv has no column url; name the column with the URLs so in the first line"),
        ("a.csv", b"http://s.com,1\n", "sub/a.csv has no column url; name the column with the URLs so in the first line"),
        ("a.urls", bytes(range(256)), "sub/a.urls is no text in UTF-8; save it as one, with one URL on each line"),
        ("a.urls", "http://s.com\n".encode("utf-16"), "sub/a.urls is no text in UTF-8; save it as one, with one URL on each line"),
    ],
)  # fmt: skip
def test_bad_files(name: str, content: bytes, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        made(tmp_path, content, name)
    assert str(caught.value) == sentence
