"""Capture files: every kind gives the same frames, whatever the block, and what is cut or corrupt loses nothing before it."""

from __future__ import annotations

import gzip
import importlib.util
import struct
from pathlib import Path

import numpy as np
import pytest

from unlabeled.core.contracts import BadInput, RequestError
from unlabeled.network import capture
from unlabeled.network.capture import containers
from unlabeled.network.capture.packets import Packets

from .data import captures as make
from .data.mutations import differing, real, whole

FAST = [False, True] if importlib.util.find_spec("numba") else [False]
FRAMES = make.merged(make.session(), make.datagrams(start=make.START + 1))


def read(path: Path, block: int = 1 << 20, fast: bool = False) -> tuple[Packets, capture.Capture]:
    found = capture.read(path, options=True, fast=fast, block=block)
    return whole(found), found


def sizes(path: Path) -> list[int]:
    """Bytes captured of each frame."""
    return [int(n) for f in containers.frames(path, 1 << 20, []) for n in f.captured]


def test_times_and_sizes_are_those_written(tmp_path: Path) -> None:
    packets, found = read(make.write_pcap(tmp_path / "a.pcap", FRAMES))
    assert packets.time.tolist() == [time for time, _ in FRAMES]
    assert packets.captured.tolist() == packets.sent.tolist() == [len(frame) for _, frame in FRAMES]
    assert packets.frame.tolist() == list(range(len(FRAMES)))
    assert dict(found.counts) == {"frames": 11, "packets": 11} and found.flags == []


def test_every_kind_of_file_holds_the_same(tmp_path: Path) -> None:
    made = make.files(tmp_path)
    ns, us = read(made["ns"])[0], read(made["us"])[0]
    # us is ns of whole us, and nothing else differs
    assert (us.time == ns.time // 1000 * 1000).all() and set(differing(us, ns)) <= {"time"}
    for name, same in (
        *(("swapped", ns), ("us swapped", us), ("modified", us), ("pcapng", ns), ("pcapng swapped", ns)),
        *((name, read(made[name])[0]) for name in made),
    ):
        for path in (made[name], make.zipped(made[name])):
            assert not differing(read(path)[0], same), (name, path.suffix)


def test_interfaces_have_clocks_of_their_own(tmp_path: Path) -> None:
    frames = [(make.START + i * 1_234_567, FRAMES[0][1]) for i in range(12)]
    packets, found = read(make.write_many(tmp_path / "a.pcapng", frames))
    time = [t for t, _ in frames]
    # of each six: us, ns, 2^-20 s, ns after an offset, none (that of the packet before), ns in an obsolete block
    want = list(time)
    for i in range(12):
        if i % 6 == 0:
            want[i] = time[i] // 1000 * 1000
        if i % 6 == 2:
            want[i] = ((time[i] << 20) // 10**9 * 10**9) >> 20
        if i % 6 == 4:
            want[i] = time[i - 1]
    assert packets.time.tolist() == want
    assert found.flags == ["2 packets have no time of their own and got that of the packet before them"]


@pytest.mark.parametrize(
    ("tsresol", "ticks", "ns"),
    [
        (0, 1_700_000_000, 1_700_000_000 * 10**9),
        (3, 1_700_000_000_123, 1_700_000_000_123 * 10**6),
        (12, 1_700_000_000_123_456, 1_700_000_000_123),  # of ps
        (18, 10**18 + 5 * 10**9, 10**9 + 5),
        (0x80, 7, 7 * 10**9),
        (0x80 | 32, 3 << 31, 1_500_000_000),
        (0x80 | 60, (1 << 60) + (1 << 59), 1_500_000_000),
        (0, 2**64 - 1, 9_223_372_035 * 10**9),  # moved to the last second that is counted
    ],
)
def test_resolutions(tmp_path: Path, tsresol: int, ticks: int, ns: int) -> None:
    path = tmp_path / "a.pcapng"
    frame = FRAMES[0][1]
    path.write_bytes(make.section() + make.interface(tsresol=tsresol) + make.enhanced(ticks, frame))
    assert read(path)[0].time.tolist() == [ns]


@pytest.mark.parametrize("tsresol", [19, 127, 0x80 | 64, 255])
def test_a_resolution_that_no_clock_has(tmp_path: Path, tsresol: int) -> None:
    path = tmp_path / "a.pcapng"
    path.write_bytes(make.section() + make.interface(tsresol=tsresol) + make.enhanced(1, FRAMES[0][1]))
    with pytest.raises(BadInput, match=r"a.pcapng: its first record, at byte 28, is corrupt"):
        read(path)


def test_simple_packets_keep_what_the_interface_keeps(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    frame = FRAMES[5][1]
    kept = frame[:70]
    path.write_bytes(make.section() + make.interface(snaplen=70) + make.simple(kept, sent=len(frame)))
    packets, _ = read(path)
    # the block is padded to 72, the interface keeps 70
    assert (packets.captured.tolist(), packets.sent.tolist()) == ([70], [len(frame)])


def test_links_of_several_interfaces(tmp_path: Path) -> None:
    frame, path = FRAMES[0][1], tmp_path / "a.pcapng"
    parts = [make.section(), make.interface(1), make.interface(101), make.interface(147)]
    parts += [make.enhanced(1, frame), make.enhanced(2, frame[14:], at=1), make.enhanced(3, frame, at=2)]
    parts += [make.enhanced(4, frame, at=3), make.section(), make.enhanced(5, frame)]
    path.write_bytes(b"".join(parts))
    packets, found = read(path)
    assert packets.frame.tolist() == [0, 1] and packets.sport.tolist() == [40000, 40000]
    assert dict(found.counts) == {"frames": 5, "packets": 2, "other link type": 1, "no interface": 2}
    assert "frames of link type 147, which is not supported, were left out" in found.flags


@pytest.mark.parametrize("fast", FAST)
def test_any_block_is_the_whole(tmp_path: Path, fast: bool) -> None:
    made = make.files(tmp_path)
    for name in ("ns", "modified", "pcapng many"):
        want, said = read(made[name])
        blocks = [*range(1, 40, 3), 100, 199, 1000, 4096, 65_536, 200_000]
        for path in (made[name], make.zipped(made[name])):
            for block in blocks if path.suffix != ".gz" else (7, 1000):
                got, found = read(path, block, fast)
                assert not differing(got, want), (name, block)
                assert (found.counts, found.flags) == (said.counts, said.flags)


def test_sizes_add_up_to_the_file(tmp_path: Path) -> None:
    made = make.files(tmp_path)
    for path in (made["ns"], made["snapped"], made["null"]):
        n = sizes(path)
        assert sum(n) + 16 * len(n) + 24 == path.stat().st_size
    for path in real():
        flags: list[str] = []
        n = [int(c) for f in containers.frames(path, 1 << 20, flags) for c in f.captured]
        if path.read_bytes()[:4] != b"\n\r\r\n" and not flags:
            assert sum(n) + 16 * len(n) + 24 == path.stat().st_size


def test_a_cut_file_keeps_its_whole_records(tmp_path: Path) -> None:
    whole_file = make.write_pcap(tmp_path / "a.pcap", FRAMES).read_bytes()
    at = 24
    ends = [at := at + 16 + len(frame) for _, frame in FRAMES]
    for cut in range(24, len(whole_file), 7):
        (path := tmp_path / "cut.pcap").write_bytes(whole_file[:cut])
        packets, found = read(path)
        assert len(packets) == sum(end <= cut for end in ends)
        flags = [f"the last record is cut at byte {cut}"] if cut not in (24, *ends) else []
        assert found.flags == flags + ["the capture has no frames"] * (len(packets) == 0)


def test_a_cut_pcapng_keeps_its_whole_blocks(tmp_path: Path) -> None:
    whole_file = make.write_pcapng(tmp_path / "a.pcapng", FRAMES).read_bytes()
    at, ends, counts = 28, [28], []
    while at < len(whole_file):
        at += int.from_bytes(whole_file[at + 4 : at + 8], "little")
        ends.append(at)
    for cut in range(28, len(whole_file), 5):
        (path := tmp_path / "cut.pcapng").write_bytes(whole_file[:cut])
        packets, found = read(path)
        counts.append(len(packets))
        assert (f"the last block is cut at byte {cut}" in found.flags) == (cut not in ends)
        assert len(packets) == max(sum(end <= cut for end in ends) - 2, 0)  # after the section and the interface
    assert counts[-1] == len(FRAMES) - 1


def test_a_corrupt_record_ends_the_reading(tmp_path: Path) -> None:
    head = make.write_pcap(tmp_path / "a.pcap", FRAMES[:3]).read_bytes()
    for captured, sent in ((262_145, 262_145), (0xFFFFFFF0, 60), (0x80000000, 1), (0, 0)):
        (path := tmp_path / "bad.pcap").write_bytes(head + struct.pack("<IIII", 1, 2, captured, sent) + bytes(100))
        packets, found = read(path)
        assert len(packets) == 3
        assert found.flags == [f"the record at byte {len(head)} is corrupt; what stands before it was read"]
        path.write_bytes(head[:24] + struct.pack("<IIII", 1, 2, captured, sent) + bytes(100))
        with pytest.raises(BadInput, match=r"bad.pcap: its first record, at byte 24, is corrupt"):
            read(path)


@pytest.mark.parametrize("size", [0, 8, 11, 30, 33, 1 << 25, 0xFFFFFFFC])
def test_a_corrupt_block_ends_the_reading(tmp_path: Path, size: int) -> None:
    head = make.write_pcapng(tmp_path / "a.pcapng", FRAMES[:3]).read_bytes()
    path = tmp_path / "bad.pcapng"
    path.write_bytes(head + struct.pack("<II", 6, size) + bytes(200))
    packets, found = read(path)
    assert len(packets) == 3
    assert found.flags == [f"the record at byte {len(head)} is corrupt; what stands before it was read"]


def test_blocks_without_packets_are_skipped_whatever_their_size(tmp_path: Path) -> None:
    start = make.section() + make.interface()
    path = tmp_path / "a.pcapng"
    path.write_bytes(start + make.block(0x40000BAD, bytes(100_000)) + make.enhanced(9, FRAMES[0][1]))
    assert read(path, block=512)[0].time.tolist() == [9]
    path.write_bytes(start + struct.pack("<II", 0x0BAD, 1 << 30) + bytes(50))
    packets, found = read(path)
    assert len(packets) == 0 and "the last block is cut at byte " in found.flags[0]


def test_a_faulty_gzip_gives_what_stands_before_the_fault(tmp_path: Path) -> None:
    plain = make.write_pcap(tmp_path / "a.pcap", FRAMES * 40)
    packed = make.zipped(plain).read_bytes()
    path = tmp_path / "b.pcap.gz"
    path.write_bytes(packed[: len(packed) // 2])
    packets, found = read(path)
    assert 100 < len(packets) < 440 and f"its gzip data are cut at byte {len(packed) // 2}" in found.flags
    # the check sum at the end: nothing is lost
    path.write_bytes(packed[:-8] + bytes(8))
    packets, found = read(path)
    assert len(packets) == 440 and "its gzip data are corrupt near byte " in found.flags[0]
    path.write_bytes(packed + b"more")
    packets, found = read(path)
    assert len(packets) == 440
    assert found.flags[:1] == ["what stands behind the end of its gzip data is no gzip, and was left out"]
    # members one after the other, and zeros behind the last, are a gzip file
    first, second = plain.read_bytes()[:5000], plain.read_bytes()[5000:]
    path.write_bytes(gzip.compress(first) + gzip.compress(second) + bytes(512))
    packets, found = read(path, block=333)
    assert len(packets) == 440 and not [f for f in found.flags if "gzip" in f]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", r"x.pcap: it is empty; capture it again"),
        (b"PK", r"x.pcap: no capture, it begins with 504b; pcap and pcapng files are read"),
        (b"\x89PNG\r\n", r"x.pcap: no capture, it begins with 89504e47;"),
        (b"\xd4\xc3\xb2\xa1\x02\x00", r"x.pcap: it is cut within its header, at byte 6; capture it again"),
        (make.section()[:8] + bytes(20), r"x.pcap: its first record, at byte 0, is corrupt"),
    ],
)
def test_no_capture(tmp_path: Path, content: bytes, said: str) -> None:
    (path := tmp_path / "x.pcap").write_bytes(content)
    with pytest.raises(BadInput, match=said):
        read(path)
    if content:
        with pytest.raises(BadInput, match=said.replace("no capture, it", "no capture, its gzip holds what")[8:]):
            read(make.zipped(path))


@pytest.mark.parametrize("link", [105, 127, 999])
def test_link_types_that_are_not_read(tmp_path: Path, link: int) -> None:
    path = make.write_pcap(tmp_path / "a.pcap", FRAMES, linktype=link)
    with pytest.raises(
        BadInput, match=rf"a.pcap: its link type {link} is not supported; those with the numbers 0, 1, 9,"
    ):
        read(path)


def test_no_frames_and_a_clock_that_runs_backwards(tmp_path: Path) -> None:
    packets, found = read(make.write_pcap(tmp_path / "a.pcap", []))
    assert len(packets) == 0 and found.flags == ["the capture has no frames"]
    assert dict(found.counts) == {"frames": 0, "packets": 0}
    (path := tmp_path / "b.pcapng").write_bytes(make.section())
    assert read(path)[1].flags == ["the capture has no frames"]
    early = [FRAMES[1], FRAMES[0], FRAMES[3], FRAMES[2]]
    packets, found = read(make.write_pcap(tmp_path / "c.pcap", early), block=100)
    assert packets.time.tolist() == [t for t, _ in early] and found.flags == ["the clock runs backwards 2 times"]


def test_fast_without_numba_is_a_wrong_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    path = make.write_pcap(tmp_path / "a.pcap", FRAMES)
    with pytest.raises(RequestError, match="numba is not installed; install unlabeled-network"):
        capture.read(path, fast=True)
    monkeypatch.setattr(capture, "FAST_FROM", 0)
    assert len(whole(capture.read(path))) == len(FRAMES)


def test_memory_is_bounded_by_the_block(tmp_path: Path) -> None:
    path = make.write_pcap(tmp_path / "a.pcap", FRAMES * 300)
    biggest = max(len(f.data) for f in containers.frames(path, 10_000, []))
    assert biggest == 10_000 < path.stat().st_size // 50
    assert np.sum([len(f) for f in containers.frames(path, 10_000, [])]) == 300 * len(FRAMES)
