"""Shards of flows: the same flows again, by memory map; whole or not at all; without addresses."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from unlabeled.core.cli.domain import build
from unlabeled.core.cli.shell import run
from unlabeled.core.contracts import BadInput
from unlabeled.network import domain
from unlabeled.network.flow import shards
from unlabeled.network.flow.assemble import flows_of
from unlabeled.network.flow.flows import Flows
from unlabeled.network.flow.statistics import SHORTCUTS
from unlabeled.network.kinds import SHARD, stem
from unlabeled.network.options import ReaderOptions
from unlabeled.network.read import Reader

from .data import captures
from .data.flow_reference import lot
from .test_assemble import assembled, by_number

GONE = ("src", "dst", "sport", "dport", "vlan")


def call(*words: object) -> int:
    alone = replace(domain, verbs={"flows": domain.verbs["flows"]})  # the other verbs have tests of their own
    return run(build(alone), ["flows", *map(str, words)])


def alike(found: Flows, expected: Flows) -> None:
    """All but what a shard leaves out."""
    found = by_number(found)
    for name in Flows.__dataclass_fields__:
        if name in GONE:
            assert not getattr(found, name).any()
        elif name == "shortcuts":
            for i, what in enumerate(SHORTCUTS):
                kept = not what.startswith(("port", "address", "byte"))
                assert np.array_equal(found.shortcuts[:, i], expected.shortcuts[:, i] * kept), what
        else:
            a, b = getattr(found, name), getattr(expected, name)
            assert a.dtype == b.dtype and np.array_equal(a, b), name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two captures, one of them in a folder of its own."""
    (tmp_path / "in" / "a").mkdir(parents=True)
    captures.write_pcap(tmp_path / "in" / "a" / "one.pcap", captures.everything())
    frames = [
        f
        for i in range(40)
        for f in captures.session(client="203.0.113.77", server="198.51.100.201", sport=40000 + i, dport=4433)
    ]
    captures.write_pcapng(tmp_path / "in" / "two.pcapng", captures.merged(frames))
    return tmp_path / "in"


def test_round_trip(tmp_path: Path) -> None:
    flows = assembled([lot(3000, 1)])
    shards.write_shard(tmp_path / "x", [flows.take(np.arange(10)), flows.take(np.arange(10, len(flows)))])
    found = shards.open_shard(tmp_path / "x")
    alike(found, flows)
    assert not found.tokens.flags.owndata and not found.tokens.flags.writeable  # views of the file
    shards.write_shard(tmp_path / "none", [flows.take(np.arange(0))])
    assert len(shards.open_shard(tmp_path / "none")) == 0


def test_the_verb_writes_what_the_captures_hold(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "out"
    assert call(folder, "payload=true", "-o", to, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    options, total = ReaderOptions(payload=True), 0
    for name in ("a/one.pcap", "two.pcapng"):
        expected = flows_of(folder / name, options)[0]
        alike(shards.open_shard(to / (stem(name) + SHARD)), expected)
        total += len(expected)
    assert said["counts"]["flows"] == total and said["captures"] == said["written"] == 2
    # and the reader finds the same samples under the same keys
    direct, stored = (
        {s.key: s for f in r.files(at) for s in r.read(f)}
        for r, at in ((Reader(options), folder), (Reader(options), to))
    )
    assert direct.keys() == stored.keys() and len(direct) == total
    assert all(np.array_equal(direct[k].inputs["x"].data, stored[k].inputs["x"].data) for k in direct)
    assert {k: s.group for k, s in direct.items()} == {k: s.group for k, s in stored.items()}


def test_what_is_there_is_not_made_again(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = tmp_path / "out"
    assert call(folder, "-o", to) == 0
    times = {p: p.stat().st_mtime_ns for p in to.rglob("*.arrow")}
    (to / ("two" + SHARD)).unlink()
    captures.write_pcap(folder / "three.pcap", captures.pings())
    assert call(folder, "-o", to) == 0
    assert "1 of the captures were there before" in capsys.readouterr().out
    kept = [p for p, t in times.items() if p.stat().st_mtime_ns == t]
    assert kept == [to / "a" / ("one" + SHARD)] and len(list(to.rglob("*.arrow"))) == 3
    captures.write_pcap(folder / "three.pcap", captures.pings(n=9))  # another content
    assert call(folder, "-o", to) == 0
    assert shards.open_shard(to / ("three" + SHARD)).packets.sum() == 18
    assert call(folder, "gap=0.5", "-o", to) == 2  # other options do not mix


def test_a_cut_leaves_whole_captures_and_is_taken_up(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to, whole = tmp_path / "out", tmp_path / "whole"
    assert call(folder, "-o", whole) == 0
    with monkeypatch.context() as patch:
        write = shards.write_shard

        def dies(path: Path, parts: list[Flows]) -> None:
            write(path, parts)
            if (to / "a" / ("one" + SHARD)).exists():  # in the second capture
                raise KeyboardInterrupt

        patch.setattr(shards, "write_shard", dies)
        assert call(folder, "-o", to) == 130
    assert [p.name for p in to.rglob("*.arrow")] == ["one" + SHARD]
    assert call(folder, "-o", to) == 0
    files = [{p.relative_to(at): p.read_bytes() for p in at.rglob("*") if p.is_file()} for at in (to, whole)]
    assert files[0] == files[1]


def test_large_captures_become_several_shards(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    to, limit = tmp_path / "out", 20_000
    monkeypatch.setattr(shards, "LIMIT", limit)
    assert call(folder / "two.pcapng", "-o", to) == 0
    names = json.loads((to / shards.MANIFEST).read_text())["captures"]["two"]["shards"]
    assert names[:2] == ["two" + SHARD, "two.part2" + SHARD] and len(names) > 2
    assert all((to / name).stat().st_size < limit + 10_000 for name in names)  # Arrow's own head is some kB
    assert {stem(name) for name in names} == {"two"}  # so that keys and groups are those of the capture
    alike(
        Flows.joined([shards.open_shard(to / name) for name in names]),
        flows_of(folder / "two.pcapng", ReaderOptions())[0],
    )


def test_no_address_in_any_byte(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = tmp_path / "out"
    assert call(folder / "two.pcapng", "payload=true", "-o", to) == 0
    told = capsys.readouterr()
    raw = b"".join(p.read_bytes() for p in to.rglob("*") if p.is_file()) + (told.out + told.err).encode()
    for address in ((203, 0, 113, 77), (198, 51, 100, 201)):
        numbers = np.array(address)
        wide = [numbers.astype(kind).tobytes() for kind in ("u1", "<u2", "<i4", "<i8", "<f4", "<f8")]
        texts = [".".join(map(str, address)).encode(), bytes(address[::-1])]
        assert (folder / "two.pcapng").read_bytes().count(wide[0]) > 100
        assert not any(form in raw for form in (*wide, *texts))
    assert not any(
        np.array([p, 4433], kind).tobytes() in raw for p in range(40000, 40040) for kind in ("<u2", ">u2", "<f4")
    )


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "no whole Arrow file"), (b"ARROW1\0\0 and no end", "no whole Arrow file")]
)
def test_what_is_no_shard(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / ("x" + SHARD)
    path.write_bytes(content)
    with pytest.raises(BadInput, match=said):
        shards.open_shard(path)


def test_another_arrow_file_and_half_a_shard(tmp_path: Path) -> None:
    path = tmp_path / ("x" + SHARD)
    batch = pa.RecordBatch.from_pydict({"number": [1]})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)
    with pytest.raises(BadInput, match="no shard of flows of this version"):
        shards.open_shard(path)
    shards.write_shard(path, [assembled([lot(500, 1)])])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadInput, match="no whole Arrow file"):
        shards.open_shard(path)


def test_wrong_requests(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("mine")
    captures.write_pcap(folder / "two.pcap", captures.pings())
    (tmp_path / "bad.pcap").write_bytes(b"no capture at all, but long enough")
    for words, said in (
        ((tmp_path / "absent", "-o", tmp_path / "o"), "no such file"),
        ((tmp_path / "empty", "-o", tmp_path / "o"), "there is no capture"),
        ((folder, "-o", tmp_path / "o"), "would both become two"),
        ((folder / "a", "-o", tmp_path / "used"), "choose another folder"),
        ((folder / "a", "-o", folder / "a" / "out"), "lies inside the data"),
        ((folder / "a", "gaps=1", "-o", tmp_path / "o"), "is no option of flows"),
        ((folder / "a", "gap=-1", "-o", tmp_path / "o"), "gap"),
        ((tmp_path / "bad.pcap", "-o", tmp_path / "p"), "no readable capture"),
    ):
        assert call(*words) == 2
        assert said in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "used").iterdir()] == ["mine.txt"]


MEASURE = """
import sys, numpy as np
from pathlib import Path
from unlabeled.network.flow import assemble
from unlabeled.network.flow import shards
from unlabeled.network.flow import tokenise
from unlabeled.network.options import ReaderOptions
sys.path.insert(0, sys.argv[2])
from flow_reference import lot
def held(name):
    return int(next(s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith(name)).split()[1]) / 1024
tokenise.FAST_FROM = 1 << 60  # numba itself takes 130 MB
block = lot(20_000, 0, hosts=60, ports=40, gap=1e5)
assembler = assemble.Assembler(ReaderOptions(max_flows=5000), 20_000)
def step(i):
    import dataclasses
    return len(assembler.add(dataclasses.replace(block, time=block.time + i * 20_000 * 100_000)))
for i in range(3):
    step(i)
before = held("VmHWM")
for i in range(3, int(sys.argv[1])):
    step(i)
print(held("VmHWM") - before, assembler.counts["packets"])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_memory_is_bounded() -> None:
    """3e5 packets take no more than the first 6e4 did, but for 16 MB: their columns alone would be 45 MB."""
    words = [sys.executable, "-c", MEASURE, "15", str(Path(__file__).parent / "data")]
    more, packets = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    assert float(more) < 16 and int(packets) == 300_000
