"""Bad input, through the command line in process: exit code and sentence of every row of the table for reading.

| row of the table                                     | where it is tested |
|------------------------------------------------------|--------------------|
| 0 bytes, no capture, unknown magic                   | here (inspect, pretrain, embed) |
| header only                                          | here               |
| last record cut                                      | here               |
| captured length beyond all limits                    | here               |
| cut by the snap length                               | here               |
| clock backwards, 1970, 2106                          | here               |
| IP length 0 or too large, IHL, data offset, UDP      | here, test_decode.py field by field  |
| fragments without their first                        | here               |
| ARP, LLDP, 802.11, unknown ethertype                 | here               |
| unknown next header, ESP                             | here               |
| pcapng: unknown block, bad length, clocks            | here               |
| the same capture twice, in train and test            | here (evaluate, anomalies) |
| labels that miss flows, name unknown ones, one class | here (labels, evaluate, finetune) |
| corrupt or cut gzip                                  | here               |
| URLs: empty, NUL, 1 MB, not UTF-8, broken, bidi      | here               |
| tables: broken rows and values, an unknown header    | here, test_tables.py |
| empty folder, no folder, a folder of several kinds   | here               |
| Ctrl-C, kill                                         | the core's tests   |
"""

from __future__ import annotations

import gzip
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from unlabeled.core.cli.domain import build
from unlabeled.core.cli.shell import run
from unlabeled.core.contracts.domain import domain
from unlabeled.network.flow.fields import VOCABULARY

from .data import captures, logs
from .data.captures import MS, START, block, enhanced, interface, odd, section, session, write_pcap

QUICK = {"loop": "plain", "threads": 1, "save_every": 2, "tensorboard": False, "accelerator": "cpu"}
SOME = session()[0][1]
TOO_LONG = struct.pack("<IIII", 1, 1, 0x7FFFFFFF, 0x7FFFFFFF)


@pytest.fixture(autouse=True)
def key(tmp_path, monkeypatch):
    (tmp_path / "key").write_text("0123456789abcdef" * 4)
    monkeypatch.setenv("UNLABELED_KEY", str(tmp_path / "key"))


def network(*args: Any) -> int:
    return run(build(domain("network")), [str(a) for a in args])


def capture(path: Path, of: int = 0, flows: int = 4) -> Path:
    """Sessions ten seconds apart; captures of another number have other sizes and ends."""
    made = [
        session(
            f"10.0.{of}.1", "10.9.0.9", 40_000 + n, 80, [(0, 50 + 7 * of + n), (1, 300 + n)], start=START + n * 10**10
        )
        for n in range(flows)
    ]
    return write_pcap(path, captures.merged(*made))


def good(folder: Path, n: int = 3) -> Path:
    folder.mkdir(exist_ok=True)
    for i in range(n):
        capture(folder / f"good{i}.pcap", i)
    return folder


def inspected(folder: Path, capsys: Any, *options: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = network("inspect", folder, "--json", *options)
    return code, json.loads(capsys.readouterr().out)


def pretrained(folder: Path, to: Path, **data: Any) -> int:
    """Two steps of naming hidden fields."""
    values = {
        "domain": "network",
        "data": {"path": str(folder), **data},
        "method": {"name": "masked_tokens"},
        "encoder": {"name": "tokens", "width": 16, "depth": 1, "heads": 2, "vocabulary": list(VOCABULARY)},
        "batch_size": 4,
        "max_steps": 2,
        "trainer": QUICK,
    }
    recipe = to.with_name(f"{to.name}.yaml")
    recipe.write_text(yaml.safe_dump(values))
    return network("pretrain", recipe, "-o", to)


# files that nothing can be read of

Write = Callable[[Path], Any]


def raw(content: bytes) -> Write:
    return lambda path: path.write_bytes(content)


def pcapng(*blocks: bytes) -> Write:
    return raw(section() + b"".join(blocks))


def pcap(frames: list[captures.Frame], **about: Any) -> Write:
    return lambda path: write_pcap(path, frames, **about)


UNREADABLE: list[tuple[str, str, Write, str]] = [
    ("0 bytes", "bad.pcap", raw(b""), "it is empty; capture it again"),
    ("rubbish", "bad.pcap", raw(b"rubbish" * 9), "no capture, it begins with 72756262; pcap and pcapng files are read"),
    ("3 bytes", "bad.pcap", raw(b"\xd4\xc3\xb2"), "no capture, it begins with d4c3b2"),
    ("half a header", "bad.pcap", raw(b"\xd4\xc3\xb2\xa1\2\0\4\0"), "it is cut within its header, at byte 8"),
    (
        "gzip of rubbish",
        "bad.pcap.gz",
        raw(gzip.compress(b"rubbish" * 9)),
        "no capture, its gzip holds what begins with",
    ),
    ("gzip cut", "bad.pcap.gz", raw(gzip.compress(b"x" * 99)[:9]), "its gzip data"),
    ("802.11", "bad.pcap", pcap(session(), linktype=105), "its link type 105 is not supported; those with the numbers"),
    (
        "first record",
        "bad.pcap",
        lambda path: path.write_bytes(write_pcap(path, []).read_bytes() + TOO_LONG),
        "its first record, at byte 24, is corrupt",
    ),
    ("clock by 0", "bad.pcapng", pcapng(interface(tsresol=0xFF), enhanced(5, SOME)), "its first record, at byte 28,"),
    ("table", "bad.csv", raw(b"a,b\n1,2\n"), "columns"),
    (
        "log of names",
        "bad.log",
        raw(b"#separator \\x09\n#fields\tts\tproto\tquery\n"),
        "the columns conn_state are missing",
    ),
    ("log of nothing", "bad.log", raw(b""), "the file is empty"),
    ("URLs of nothing", "bad.urls", raw(b"\n\n"), "holds no URL; put one on each line"),
    ("URLs in bytes", "bad.urls", raw(bytes(range(256)) * 9), "is no text in UTF-8; save it as one"),
]


def beside(folder: Path, name: str) -> Path:
    """Three good files of the kind of `name`."""
    folder.mkdir()
    for i in range(3):
        if "pcap" in name:
            capture(folder / f"good{i}.pcap", i)
        elif name.endswith(".urls"):
            (folder / f"good{i}.urls").write_text(f"http://site{i}.example/a\nhttp://site{i}.example/b\n")
        else:
            logs.zeek(folder / f"good{i}.log", logs.flows(4, i))
    return folder


@pytest.mark.parametrize(("what", "name", "write", "sentence"), UNREADABLE, ids=[r[0] for r in UNREADABLE])
def test_an_unreadable_file_is_named_with_its_reason(tmp_path, capsys, what, name, write, sentence):
    """inspect: exit 3, the file alone is unreadable, the others are read. Alone it is no data: exit 2."""
    folder = beside(tmp_path / "files", name)
    write(folder / name)
    code, found = inspected(folder, capsys)
    assert code == 3 and found["records"] > 3
    (bad,) = found["unreadable"]
    assert bad["file"] == name
    assert bad["reason"].startswith(name) and sentence in bad["reason"]
    assert "\n" not in bad["reason"] and str(tmp_path) not in bad["reason"]
    for path in folder.glob("good*"):
        path.unlink()
    assert network("inspect", folder) == 2
    said = capsys.readouterr().err
    assert "there is no readable record" in said and sentence in said


def test_pretrain_and_embed_stop_above_the_stated_share_and_write_nothing(tmp_path, capsys):
    """One of 13 records is bad: 7.7 %."""
    folder = good(tmp_path / "files")
    assert pretrained(folder, tmp_path / "run") == 0
    (folder / "bad.pcap").write_bytes(b"rubbish" * 9)
    assert pretrained(folder, tmp_path / "other") == 3
    assert "1 of 13 records cannot be used" in capsys.readouterr().err
    assert not (tmp_path / "other" / "bundle").exists()
    bundle = tmp_path / "run" / "bundle"
    assert network("embed", bundle, folder, "-o", tmp_path / "e.parquet") == 3
    assert not (tmp_path / "e.parquet").exists()
    assert pretrained(folder, tmp_path / "third", max_bad_fraction=0.1) == 0


def test_a_link_type_of_few_frames_is_left_out(tmp_path, capsys):
    """An interface of 802.11 beside one of Ethernet: its frames are counted, the others read."""
    folder = good(tmp_path / "files", 1)
    content = section() + interface() + interface(linktype=105)
    content += b"".join(enhanced(t, f) for t, f in session()) + enhanced(START, SOME, at=1)
    (folder / "two.pcapng").write_bytes(content)
    code, found = inspected(folder, capsys)
    assert code == 0 and found["records"] == 5
    assert "frames of link type 105, which is not supported, were left out" in found["flags"]


# files of which something can be read

GOOD = START + 10**12


def cut(path: Path) -> None:
    path.write_bytes(capture(path).read_bytes()[:-5])


def corrupt_after(path: Path) -> None:
    whole = capture(path).read_bytes()
    path.write_bytes(whole[: 24 + 16 + 54] + TOO_LONG + whole[94:])


def zipped_without_end(path: Path) -> None:
    path.write_bytes(gzip.compress(capture(path).read_bytes())[:-6])


def zipped_wrong_sum(path: Path) -> None:
    packed = bytearray(gzip.compress(capture(path).read_bytes()))
    packed[-8] ^= 255
    path.write_bytes(bytes(packed))


def several(*names: str) -> Write:
    return pcap([*session(), *((GOOD + i * MS, odd()[name]) for i, name in enumerate(names))])


# what, file, who writes it, flags that begin so, records
MENDED: list[tuple[str, str, Write, list[str], int]] = [
    ("last record cut", "odd.pcap", cut, ["the last record is cut at byte "], 4),
    ("captured length", "odd.pcap", corrupt_after, ["the record at byte 94 is corrupt; what stands before it"], 1),
    ("gzip without end", "odd.pcap.gz", zipped_without_end, ["its gzip data"], 4),
    ("gzip of wrong sum", "odd.pcap.gz", zipped_wrong_sum, ["its gzip data"], 4),
    ("clock backwards", "odd.pcap", pcap(session()[::-1]), ["the clock runs backwards 8 times", "packets earlier"], 2),
    ("IP length 0", "odd.pcap", several("length 0", "length 0 6", "length too large"), ["packets whose lengths"], 3),
    ("bad headers", "odd.pcap", several("doff 3", "udp length 3"), ["packets with a bad header", "packets whose l"], 3),
    ("IHL", "odd.pcap", several("ihl 3", "13 bytes"), ["packets with a bad header", "truncated before IP: 1"], 2),
    ("fragments", "odd.pcap", several("second fragment", "second fragment 6"), ["fragments"], 3),
    ("no IP", "odd.pcap", several("arp", "lldp", "unknown ethertype", "stp"), ["arp: 1", "lldp: 1", "non-IP: 1"], 1),
    ("no ports", "odd.pcap", several("unknown protocol", "esp", "esp6"), [], 4),
    ("1970 and 2106", "odd.pcap", pcap([*session(start=5), *session(sport=9, start=(2**32 - 9) * 10**9)]), [], 2),
    (
        "unknown block",
        "odd.pcapng",
        pcapng(interface(), block(0x0BAD, b"unknown"), *(enhanced(t, f) for t, f in session())),
        [],
        1,
    ),
    (
        "length of a block",
        "odd.pcapng",
        pcapng(interface(), enhanced(START, SOME), struct.pack("<III", 6, 7, 7) + b"x" * 40),
        ["the record at byte "],
        1,
    ),
]


@pytest.mark.parametrize(("what", "name", "write", "flags", "records"), MENDED, ids=[r[0] for r in MENDED])
def test_what_can_be_read_is_read_and_what_was_odd_is_counted(tmp_path, capsys, what, name, write, flags, records):
    """inspect and pretrain: exit 0, the flows that are there, a flag that says what was wrong."""
    folder = good(tmp_path / "files")
    write(folder / name)
    code, found = inspected(folder, capsys)
    assert code == 0 and found["unreadable"] == []
    assert found["records"] == 12 + records
    for flag in flags:
        assert any(f"{f}: {n}".startswith(flag) for f, n in found["flags"].items()), found["flags"]
    if not flags:
        assert not any("corrupt" in f or "cut" in f for f in found["flags"])


def test_pretrain_reads_odd_captures(tmp_path):
    """All of them in one folder, and every odd frame in one capture."""
    folder = good(tmp_path / "files")
    for i, (_, name, write, _, _) in enumerate(MENDED):
        write(folder / name)
        (folder / name).rename(folder / f"{i}-{name}")
    write_pcap(folder / "all.pcap", [(START + i * MS, f) for i, f in enumerate(odd().values())])
    assert pretrained(folder, tmp_path / "run") == 0


def test_a_capture_of_nothing_is_read_and_said(tmp_path, capsys):
    """A header and no record; frames, but none of IP: no flow, exit 0 beside others, and exit 2 alone."""
    folder = good(tmp_path / "files")
    write_pcap(folder / "header.pcap", [])
    write_pcap(folder / "arp.pcap", [(START, odd()["arp"])])
    code, found = inspected(folder, capsys)
    assert code == 0 and found["records"] == 12 and found["unreadable"] == []
    for path in folder.glob("good*"):
        path.unlink()
    assert network("inspect", folder) == 2
    assert "there is no readable record" in capsys.readouterr().err


def test_a_snap_length_makes_payload_that_is_not_there_invalid(tmp_path):
    """A zero of the payload and a byte that was not captured are told apart."""
    from unlabeled.network.options import ReaderOptions
    from unlabeled.network.read import Reader

    path = write_pcap(tmp_path / "a.pcap", session(data=[(0, bytes(12))]), snap=58, snaplen=58)
    (sample,) = Reader(ReaderOptions(payload=True), tmp_path).read(path)
    assert sample.inputs["x"].valid is not None and 0 < (~sample.inputs["x"].valid).sum() < len(
        sample.inputs["x"].valid
    )
    whole = write_pcap(tmp_path / "b.pcap", session(data=[(0, bytes(12))]))
    (sample,) = Reader(ReaderOptions(payload=True), tmp_path).read(whole)
    assert sample.inputs["x"].valid is None or sample.inputs["x"].valid.sum() > 0


# folders


def test_folders(tmp_path, capsys):
    """No folder, an empty one, files of no kind that is read, a file in a folder's place: exit 2."""
    assert network("inspect", tmp_path / "none") == 2
    assert "no such folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    for _ in (0, 1):
        assert network("inspect", tmp_path / "empty") == 2
        assert "no file that network can read" in capsys.readouterr().err
        (tmp_path / "empty" / "notes.txt").write_text("no capture")


def test_a_folder_of_several_kinds_wants_one_named(tmp_path, capsys):
    folder = good(tmp_path / "files")
    logs.zeek(folder / "conn.log", logs.flows(5))
    (folder / "list.urls").write_text("http://a.example/\n")
    assert network("inspect", folder) == 2
    assert "holds captures and tables and urls; name one of them by options.kind" in capsys.readouterr().err
    for kind, records in (("captures", 12), ("tables", 5), ("urls", 1)):
        code, found = inspected(folder, capsys, "-O", f"kind={kind}")
        assert code == 0 and found["records"] == records


# URLs


def test_urls_that_cannot_be_parsed_are_kept_with_a_flag(tmp_path, capsys):
    """NUL, 1 MB, no UTF-8, an open bracket, bidi controls: a record each; blank lines are counted."""
    folder = tmp_path / "files"
    folder.mkdir()
    odd_urls = [b"http://a.example/\0", b"http://b.example/" + b"x" * 1_000_000, b"http://c.example/\xff\xfe"]
    odd_urls += [b"http://[::1", "http://d.example/\u202egpj.exe".encode(), b"", b"http://e.example/"]
    (folder / "list.urls").write_bytes(b"\n".join(odd_urls) + b"\n")
    code, found = inspected(folder, capsys)
    assert code == 0 and found["records"] == 6 and found["unreadable"] == []
    assert any(f.startswith("not parsed") for f in found["flags"])
    assert found["flags"]["blank lines left out"] == 1 and "cut to 200 tokens" in found["flags"]


# tables


def test_a_table_with_broken_rows_and_values(tmp_path, capsys):
    folder = tmp_path / "files"
    folder.mkdir()
    logs.zeek(folder / "conn.log", [logs.Flow(), logs.Flow(duration=-1.0)], more=["1700000000.0\tbroken"])
    code, found = inspected(folder, capsys)
    assert code == 0 and found["records"] == 2
    assert found["flags"] == {"rows that are broken, left out": 1, "duration: below 0 or beyond any count": 1}


# labels and leaks


@pytest.fixture
def bundle(tmp_path):
    assert pretrained(good(tmp_path / "pretraining"), tmp_path / "run") == 0
    return tmp_path / "run" / "bundle"


def labelled(folder: Path, n: int = 4, first: int = 10) -> Path:
    """Captures that the bundle has not seen, of two flows each way; labels beside the folder."""
    folder.mkdir()
    lines = ["key,label"]
    for i in range(n):
        capture(folder / f"c{i}.pcap", first + i)
        lines += [f"c{i}#{k},{'ab'[k % 2]}" for k in range(4)]
    (folder.parent / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_labels_of_unknown_flows_and_of_one_class(tmp_path, capsys, bundle):
    """evaluate and finetune: exit 2 and nothing is written; flows without a line are unlabelled, and counted."""
    folder = labelled(tmp_path / "files")
    text = (tmp_path / "labels.csv").read_text()
    cases = {
        text + "c9#0,a\n": "1 of 17 keys are no record of the data",
        text.replace(",b", ",a"): "have 1 class(es), and two are needed",
        "key,label\n": "have 0 class(es)",
        "name,what\n": "it must name key and label",
    }
    for content, sentence in cases.items():
        (tmp_path / "labels.csv").write_text(content)
        for verb in (["evaluate"], ["finetune", "--task", "classify", "-o", tmp_path / "model", "steps=2"]):
            assert network(verb[0], bundle, folder, "--labels", tmp_path / "labels.csv", *verb[1:]) == 2
            assert sentence in capsys.readouterr().err
            assert not (tmp_path / "model").exists()
    (tmp_path / "labels.csv").write_text("\n".join(line for line in text.splitlines() if not line.startswith("c0#0")))
    assert network("evaluate", bundle, folder, "--labels", tmp_path / "labels.csv", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["records"], found["unlabelled"]) == (15, 1)


def test_a_table_of_labels_that_misses_flows(tmp_path, capsys):
    """The verb `labels`: one capture of two has no line. Exit 2, no file; --partial leaves it out and says so."""
    folder = good(tmp_path / "files", 2)
    table, to = tmp_path / "table.csv", tmp_path / "labels.csv"
    rows = [f"good0.pcap,10.0.0.1,{40_000 + n},10.9.0.9,80,{'ab'[n % 2]}" for n in range(4)]
    table.write_text("\n".join(["capture,src,sport,dst,dport,label", *rows]) + "\n")
    assert network("labels", folder, table, "-o", to) == 2
    said = capsys.readouterr()
    assert "--partial" in said.err and not to.exists()
    assert network("labels", folder, table, "-o", to, "--partial") == 0
    said = capsys.readouterr()
    assert len(to.read_text().splitlines()) == 5 and "left out" in said.out
    assert "10.0.0.1" not in said.out + said.err + to.read_text()
    table.write_text("\n".join(["capture,src,sport,dst,dport,label", *(r.replace(",b", ",a") for r in rows)]) + "\n")
    assert network("labels", folder, table, "-o", tmp_path / "one.csv", "--partial") == 2
    assert "two are needed" in capsys.readouterr().err and not (tmp_path / "one.csv").exists()


def test_the_same_capture_twice(tmp_path, capsys, bundle):
    """Under two names in one folder, and on both sides of a comparison: exit 4 and nothing is written."""
    folder = labelled(tmp_path / "files")
    shutil.copy(folder / "c0.pcap", folder / "copy.pcap")
    code, found = inspected(folder, capsys)
    assert code == 0 and {tuple(x["files"]) for x in found["leaks"]} == {("c0.pcap", "copy.pcap")}
    assert network("evaluate", bundle, folder, "--labels", tmp_path / "labels.csv") == 4
    assert "hold the same values under different groups" in capsys.readouterr().err
    to = tmp_path / "scores.parquet"
    assert network("anomalies", bundle, folder, "--normal", tmp_path / "pretraining", "-o", to) == 0
    shutil.copy(folder / "c1.pcap", tmp_path / "pretraining" / "other.pcap")
    assert network("anomalies", bundle, folder, "--normal", tmp_path / "pretraining", "-o", tmp_path / "s.parquet") == 4
    assert "4 records of" in capsys.readouterr().err and not (tmp_path / "s.parquet").exists()


def test_captures_that_pretraining_saw(tmp_path, capsys, bundle):
    """evaluate and anomalies: exit 4, unless it is said."""
    seen = tmp_path / "pretraining"
    lines = [f"good{i}#{k},{'ab'[k % 2]}" for i in range(3) for k in range(4)]
    (tmp_path / "labels.csv").write_text("\n".join(["key,label", *lines]) + "\n")
    assert network("evaluate", bundle, seen, "--labels", tmp_path / "labels.csv") == 4
    assert "were seen in pretraining" in capsys.readouterr().err
    normal, to = labelled(tmp_path / "files"), tmp_path / "s.parquet"
    assert network("anomalies", bundle, seen, "--normal", normal, "-o", to) == 4
    assert "were seen in pretraining" in capsys.readouterr().err and not to.exists()
    assert network("anomalies", bundle, seen, "--normal", normal, "-o", to, "--allow-seen") == 0


def test_a_bundle_of_captures_refuses_tables_and_urls(tmp_path, capsys, bundle):
    for name in ("bad.log", "bad.urls"):
        folder = beside(tmp_path / name[4:], name)
        assert network("embed", bundle, folder, "-o", tmp_path / "e.parquet") == 5
        said = capsys.readouterr().err
        assert "error:" in said and not (tmp_path / "e.parquet").exists()
