import stat
import struct
from ipaddress import ip_address
from pathlib import Path

import numpy as np
import pytest

from unlabeled.core.cli.domain import build
from unlabeled.core.cli.shell import run
from unlabeled.core.contracts.domain import domain
from unlabeled.network.capture.containers import frames as read_frames
from unlabeled.network.flow.assemble import flows_of
from unlabeled.network.options import ReaderOptions
from unlabeled.network.privacy.anonymiser import Anonymiser, checksum
from unlabeled.network.privacy.crypto_pan import CryptoPAn
from unlabeled.network.privacy.scrub import DEPTH, Dropped, scrub

from .data import captures as make

KEY = bytes(range(32))
ADDRESSES = [
    *(
        "10.0.0.1",
        "10.0.0.2",
        "10.0.0.3",
        "10.0.0.4",
        "10.0.0.5",
        "10.0.0.6",
        "1.1.1.1",
        "2.2.2.2",
        "9.9.9.1",
        "9.9.9.2",
    ),
    *("2001:db8::1", "2001:db8::2", "2001:db8::9", "2001:db8::a", "2001:db8::b", "2001:db8:9::1", "2001:db8:9::2"),
]
PATTERNS = {bytes(ip_address(a).packed) for a in ADDRESSES} | {bytes.fromhex(m.replace(":", "")) for m in make.MACS}


def everything() -> list[make.Frame]:
    """All that the generator has but the frame of no byte, at which files end."""
    return [frame for frame in make.everything() if frame[1]]


def anonymise(*words: object) -> int:
    return run(build(domain("network")), ["anonymise", *map(str, words)])


def frames(path: Path) -> list[tuple[int, int, bytes]]:
    """(ns, sent, bytes) of each frame, by the file's own layout."""
    raw = path.read_bytes()
    assert raw[:4] == struct.pack("<I", 0xA1B23C4D)
    at, found = 24, []
    while at < len(raw):
        second, fraction, captured, sent = struct.unpack_from("<IIII", raw, at)
        found.append((second * 10**9 + fraction, sent, raw[at + 16 : at + 16 + captured]))
        at += 16 + captured
    return found


def mapped(*addresses: str, key: bytes = KEY) -> list[str]:
    made = [CryptoPAn(key)(np.array([list(ip_address(a).packed)], np.uint8))[0] for a in addresses]
    return [str(ip_address(row.tobytes())) for row in made]


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text(KEY.hex())
    return path


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return make.write_pcap(tmp_path / "whole.pcap", everything())


def test_no_address_of_the_input_is_in_the_output_at_any_depth(whole: Path, key: Path, tmp_path: Path) -> None:
    raw = whole.read_bytes()
    assert all(pattern in raw for pattern in PATTERNS)
    assert anonymise(whole, "-o", tmp_path / "out.pcap", "--key", key) == 0
    made = (tmp_path / "out.pcap").read_bytes()
    assert len(made) > 5000
    assert not [pattern for pattern in PATTERNS if pattern in made]
    # every address that is left is an image: of IPv4 over Ethernet and VLAN tags, read here by hand
    images = set(mapped(*ADDRESSES, "224.0.0.1"))
    for _, _, frame in frames(tmp_path / "out.pcap"):
        at = 14
        while frame[at - 2 : at] in (b"\x81\0", b"\x88\xa8"):
            at += 4
        width, begin = (4, at + 12) if frame[at] >> 4 == 4 else (16, at + 8)
        for i in (begin, begin + width):
            assert str(ip_address(frame[i : i + width])) in images


def test_flows_and_their_tokens_stay_the_same(key: Path, tmp_path: Path) -> None:
    # but for frames whose lengths contradict each other: what stands behind their headers was all that told the true one
    odd = {
        frame
        for name, frame in make.odd().items()
        if name.startswith(("length ", "udp length 0")) or ", first " in name
    }
    whole = make.write_pcap(tmp_path / "sound.pcap", [frame for frame in everything() if frame[1] not in odd])
    assert anonymise(whole, "-o", tmp_path / "out.pcap", "--key", key, "--ports", "--shift") == 0
    before, after = (flows_of(path, ReaderOptions())[0] for path in (whole, tmp_path / "out.pcap"))
    assert len(before) == len(after) > 20
    for name in (
        "number",
        "protocol",
        "vlan",
        "version",
        "packets",
        "bytes",
        "ended",
        "tokens",
        "valid",
        "offsets",
        "statistics",
    ):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name), err_msg=name)
    assert (before.start - after.start == before.start[0] - after.start[0]).all()
    assert 86_400e9 <= before.start[0] - after.start[0] <= 10 * 365 * 86_400e9
    ported = np.isin(before.protocol, (6, 17)) & (before.sport > 0)
    tunnels = np.isin(before.dport[ported], (4789, 2152))  # nothing that could be read was in them
    assert tunnels.sum() == 2
    assert ((before.sport[ported] == after.sport[ported]) == tunnels).all()
    pairs = {*zip(before.sport[ported].tolist(), after.sport[ported].tolist(), strict=True)}
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})  # one to one


def test_what_stands_in_a_frame_by_hand() -> None:
    bare = scrub(make.odd()["vlan"], 1)
    # 12 zeros for the MACs, the tag, IPv4, 20 bytes of IP and 20 of TCP; 40 bytes of payload are gone
    assert bytes(bare.data[:18]) == bytes(12) + b"\x81\0\0\x64\x08\0"
    assert len(bare.data) == 18 + 20 + 20
    assert bare.addresses == [(30, 4), (34, 4)]
    assert bare.ports == [38, 40]
    assert bare.data[54:56] == b"\0\0"  # the checksum of TCP
    assert len(scrub(make.odd()["vlan"], 1, payload=7).data) == 58 + 7
    assert len(scrub(make.odd()["vlan"], 1, payload=99).data) == 58 + 40
    # of GRE with its checksum, key and number: 14 + 20 + 16, then 40 + 20 of IPv6 and TCP
    assert len(scrub(make.odd()["gre options"], 1).data) == 14 + 20 + 16 + 40 + 20
    # VXLAN: 14 + 20 + 8 + 8, then Ethernet without addresses and IPv4 and UDP
    inner = scrub(make.odd()["vxlan"], 1)
    assert len(inner.data) == 14 + 20 + 8 + 8 + 14 + 20 + 8
    assert inner.data[50:62] == bytes(12)
    assert inner.ports == [84, 86]


def test_what_may_hold_addresses_is_blanked_or_cut() -> None:
    odd = make.odd()
    # type, code, and 6 zeros: neither the header inside of an error nor a neighbour's address stays
    assert bytes(scrub(odd["icmp unreachable"], 1).data[34:]) == b"\x03\x03" + bytes(6)
    assert len(scrub(odd["icmp6 neighbour"], 1, payload=100).data) == 14 + 40 + 8
    # an echo keeps identifier and number
    assert bytes(scrub(odd["icmp echo"], 1).data[34:]) == b"\x08\0\0\0" + struct.pack(">HH", 4242, 1)
    # the routing header keeps its size of 24 bytes: next header, length and zeros
    assert bytes(scrub(odd["routing"], 1).data[54:78]) == bytes([6, 2]) + bytes(22)
    assert bytes(scrub(odd["ip options"], 1).data[34:46]) == bytes(12)
    # multipath TCP's ADD_ADDR (RFC 8684): kind 30 of 8 bytes with 10.0.0.9 in it; the segment size before it stays
    packet = bytearray(odd["tcp"])
    options = b"\x02\x04\x05\xb4" + b"\x1e\x08\x30\x01\x0a\0\0\x09"
    packet[46] = 8 << 4
    packet[54:54] = options
    packet[16:18] = struct.pack(">H", len(packet) - 14)
    assert bytes(scrub(bytes(packet), 1).data[54:]) == options[:4] + b"\x01" * 8
    # what follows an option that is longer than all of them is nobody's
    packet[59] = 40
    assert bytes(scrub(bytes(packet), 1).data[54:]) == options[:4] + bytes(8)


@pytest.mark.parametrize(
    ("name", "why"), [("arp", "ARP"), ("lldp", "no IP"), ("13 bytes", "cut short before an IP header")]
)
def test_what_is_no_ip_is_dropped_with_a_reason(name: str, why: str) -> None:
    with pytest.raises(Dropped, match=why):
        scrub(make.odd()[name], 1)


def test_depth_is_bounded_and_what_lies_deeper_is_cut() -> None:
    packet = make.odd()["tcp"]
    for _ in range(DEPTH + 3):
        inner = packet[14:]
        outer = bytearray(packet[:34])
        outer[16:18], outer[23] = struct.pack(">H", 20 + len(inner)), 4
        packet = bytes(outer) + inner
    bare = scrub(packet, 1)
    assert len(bare.headers) == DEPTH
    assert len(bare.data) == 14 + 20 * DEPTH


@pytest.mark.parametrize("link", [0, 9, 12, 101, 108, 113, 276])
def test_other_links_become_ethernet(link: int) -> None:
    given = dict(make.others().values())[link]
    made = [scrub(f, link) for f in given if not _dropped(f, link)]
    assert len(made) >= 2
    for bare in made:
        assert bytes(bare.data[:12]) == bytes(12)
        assert bare.data[12:14] in (b"\x08\0", b"\x86\xdd", b"\x81\0")


def _dropped(frame: bytes, link: int) -> bool:
    try:
        scrub(frame, link)
    except Dropped:
        return True
    return False


def test_any_bytes_are_scrubbed_or_dropped_and_never_grow() -> None:
    rng = np.random.default_rng(0)
    seeds = [frame for frame in make.odd().values() if len(frame) > 20]
    kept = 0
    for i in range(3000):
        frame = bytearray(seeds[i % len(seeds)])
        for at in rng.integers(12, len(frame), 3):
            frame[at] = rng.integers(256)
        frame = frame[: rng.integers(1, len(frame) + 1)]
        try:
            bare = scrub(bytes(frame), 1, payload=int(rng.integers(4)))
        except Dropped:
            continue
        kept += 1
        assert len(bare.data) <= len(frame)
        assert all(at + width <= len(bare.data) for at, width in (*bare.addresses, *bare.headers))
        assert all(at + 2 <= len(bare.data) for at in bare.ports)
    assert kept > 1000


def test_checksums_of_ipv4_are_right_in_every_header(whole: Path, tmp_path: Path) -> None:
    # the example of RFC 1071, section 3: 0001 f203 f4f5 f6f7 add up to ddf2
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == (~0xDDF2 & 0xFFFF).to_bytes(2, "big")
    one = Anonymiser(KEY)
    (stretch,) = read_frames(whole, 1 << 20, [])
    headers = 0
    for record in one.records(stretch):
        bare = scrub(record[16:], 1)
        for at, size in bare.headers:
            header = bytes(record[16 + at : 16 + at + size])
            if size >= 20 and not any(header[20:]):
                headers += 1
                assert checksum(header) == b"\0\0"  # a sum over a right one is ffff
    assert headers > 80


def test_the_same_key_gives_the_same_map_in_two_files_and_another_key_another(tmp_path: Path) -> None:
    for name, sport in (("a", 1000), ("b", 2000)):
        make.write_pcap(tmp_path / f"{name}.pcap", make.session("10.1.2.3", "10.1.9.9", sport))
    made = {}
    for seed in (0, 1):
        for name in "ab":
            out = tmp_path / f"{name}{seed}.pcap"
            (tmp_path / "key").write_text(bytes([seed] * 32).hex())
            assert anonymise(tmp_path / f"{name}.pcap", "-o", out, "--key", tmp_path / "key") == 0
            first = frames(out)[0][2]
            made[name, seed] = [str(ip_address(first[i : i + 4])) for i in (26, 30)]
    assert made["a", 0] == made["b", 0] == mapped("10.1.2.3", "10.1.9.9", key=bytes(32))
    assert made["a", 1] == made["b", 1] != made["a", 0]


def test_times_sizes_and_payload(tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make.session(data=[(0, b"secret words"), (1, b"more of them")])
    source = make.write_pcap(tmp_path / "a.pcap", made)
    monkeypatch.setenv("UNLABELED_NETWORK_KEY", KEY.hex())
    assert anonymise(source, "-o", tmp_path / "b.pcap") == 0
    found = frames(tmp_path / "b.pcap")
    assert [t for t, _, _ in found] == [t for t, _ in made]
    assert [sent for _, sent, _ in found] == [len(data) for _, data in made]
    assert {len(data) for _, _, data in found} == {54}
    assert anonymise(source, "-o", tmp_path / "c.pcap", "--payload", 6) == 0
    kept = (tmp_path / "c.pcap").read_bytes()
    assert b"secret" in kept and b"secret " not in kept
    assert b"secret" not in (tmp_path / "b.pcap").read_bytes()


def test_a_folder_with_a_broken_capture(tmp_path: Path, key: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    make.write_pcapng(folder / "deep/a.pcapng", make.session())
    packed = make.zipped(make.write_pcap(tmp_path / "b.pcap", make.datagrams()))
    packed.rename(folder / "b.pcap.gz")
    (folder / "broken.pcap").write_bytes(b"no capture at all, and of more than 24 bytes")
    assert anonymise(folder, "-o", tmp_path / "out", "--key", key) == 3
    said = capfd.readouterr()
    assert "1 of 3 captures cannot be read" in " ".join(said.err.split())
    assert "broken.pcap: no capture, it begins with 6e6f2063" in " ".join(said.err.split())
    assert {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()} == {
        "deep/a.pcap",
        "b.pcap",
    }
    assert len(frames(tmp_path / "out/deep/a.pcap")) == len(make.session())
    assert anonymise(folder, "-o", tmp_path / "again", "--key", key, "--max-bad", 0.5) == 0
    assert "10.0.0" not in said.err + said.out


def test_wrong_requests(
    tmp_path: Path, key: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UNLABELED_NETWORK_KEY", raising=False)
    source = make.write_pcap(tmp_path / "a.pcap", make.session())
    (tmp_path / "short").write_text("abcd")
    (tmp_path / "empty").mkdir()
    double = tmp_path / "double"
    double.mkdir()
    for name in ("a.pcap", "a.cap"):
        (double / name).write_bytes(source.read_bytes())
    (tmp_path / "bad.pcap").write_bytes(b"")
    out = tmp_path / "out.pcap"
    for words, why in {
        (source, "-o", out): "there is no key: name its file by --key, or set UNLABELED_NETWORK_KEY",
        (source, "-o", out, "--key", tmp_path / "short"): "holds no key: it must be 64 hexadecimal digits",
        (source, "-o", out, "--key", tmp_path / "none"): "cannot be read",
        (source, "-o", source, "--key", key): "exists",
        (source, "-o", out, "--key", key, "--new-key", tmp_path / "n"): "leave one of them out",
        (source, "-o", out, "--new-key", key): "exists",
        (tmp_path / "nothing", "-o", out, "--key", key): "no such file",
        (tmp_path / "empty", "-o", out, "--key", key): "there is no capture",
        (double, "-o", out, "--key", key): "would both become a.pcap",
        (
            tmp_path / "bad.pcap",
            "-o",
            out,
            "--key",
            key,
        ): "there is no readable capture; the first of 1: bad.pcap: it is empty",
    }.items():
        assert anonymise(*words) == 2, why
        assert why in " ".join(capfd.readouterr().err.split())
        assert not out.exists()


def test_a_new_key_is_its_owners_alone_and_is_used(tmp_path: Path) -> None:
    source = make.write_pcap(tmp_path / "a.pcap", make.session())
    assert anonymise(source, "-o", tmp_path / "b.pcap", "--new-key", tmp_path / "made") == 0
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o600
    assert anonymise(source, "-o", tmp_path / "c.pcap", "--key", tmp_path / "made") == 0
    assert (tmp_path / "b.pcap").read_bytes() == (tmp_path / "c.pcap").read_bytes()
    first = frames(tmp_path / "b.pcap")[0][2]
    key = bytes.fromhex((tmp_path / "made").read_text().strip())
    assert str(ip_address(first[26:30])) == mapped("10.0.0.1", key=key)[0]
