"""The captures that come with the package: whole, of private addresses, and with ports that tell nothing."""

from __future__ import annotations

import csv
import gzip
import ipaddress
import re
from collections import Counter, defaultdict
from functools import cache
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from unlabeled.core.contracts import RequestError
from unlabeled.network import capture
from unlabeled.network.capture.packets import Packets
from unlabeled.network.flow.assemble import flows_of
from unlabeled.network.flow.flows import Flows
from unlabeled.network.options import ReaderOptions
from unlabeled.network.read import Reader
from unlabeled.network.samples import services

SHIPPED = Path(str(files("unlabeled.network"))) / "captures"
CAPTURES = sorted(SHIPPED.rglob("*.pcap.gz"))
SERVICES = (
    "dns",
    "ftp",
    "http",
    "https",
    "imap",
    "mqtt",
    "ntp",
    "postgresql",
    "redis",
    "smtp",
    "snmp",
    "ssh",
    "syslog",
)
# tools/captures draws them: private ranges (RFC 1918) and local IPv6 (RFC 4193)
PRIVATE = [ipaddress.ip_network(n) for n in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fd00::/8")]


@cache
def packets(path: Path) -> Packets:
    return Packets.joined(list(capture.read(path)))


@cache
def flows(path: Path) -> Flows:
    return flows_of(path, ReaderOptions())[0]


def listed() -> dict[str, tuple[int, int]]:
    """Of each capture that README.md lists the IP version and the server's port."""
    rows = re.findall(r"^\| (\w+/\w+-\d\d) \| ([46]) \| (\d+) \|", (SHIPPED / "README.md").read_text(), re.M)
    return {name: (int(version), int(port)) for name, version, port in rows}


def test_ten_captures_of_each_service_as_the_readme_says() -> None:
    assert Counter(p.parent.name for p in CAPTURES) == dict.fromkeys(SERVICES, 10)
    assert "130 captures of 13 services" in (SHIPPED / "README.md").read_text()
    names = {f"{p.parent.name}/{p.name.removesuffix('.pcap.gz')}": p for p in CAPTURES}
    assert {n: v for n, (v, _) in listed().items()} == {n: int(packets(p).version[0]) for n, p in names.items()}
    assert sum(p.stat().st_size for p in SHIPPED.rglob("*") if p.is_file()) <= 1_500_000


@pytest.mark.parametrize("service", SERVICES)
def test_captures_are_whole_and_small(service: str) -> None:
    for path in (SHIPPED / service).iterdir():
        p, f = packets(path), flows(path)
        assert 3 <= len(f) <= 25 and len(p) <= 600 and p.captured.max() <= 160
        # nothing but IP between the server and its clients, all of one version
        assert len(p) == f.packets.sum() == capture_frames(path)
        assert len(set(p.version.tolist())) == 1 and set(p.protocol.tolist()) <= {6, 17}
        ends = [{tuple(a), tuple(b)} for a, b in zip(p.src.tolist(), p.dst.tolist(), strict=True)]
        assert len(set.intersection(*ends)) >= 1  # the server has a part in every packet
        assert len(set.union(*ends)) <= 4  # it and at most three clients


def capture_frames(path: Path) -> int:
    """Records of a little-endian pcap, counted by walking it: 24 bytes, then 16 and the captured bytes of each."""
    data, at, n = gzip.decompress(path.read_bytes()), 24, 0
    while at < len(data):
        at += 16 + int.from_bytes(data[at + 8 : at + 12], "little")
        n += 1
    assert at == len(data)
    return n


def test_every_address_is_private() -> None:
    for path in CAPTURES:
        p = packets(path)
        for high, low in np.unique(np.concatenate([p.src, p.dst]), axis=0).tolist():
            whole = ipaddress.IPv6Address(high << 64 | low)
            address = whole.ipv4_mapped or whole
            assert any(address in n for n in PRIVATE if n.version == address.version)


def test_no_name_of_the_machine_in_the_bytes() -> None:
    for path in CAPTURES:
        data = gzip.decompress(path.read_bytes())
        assert not re.search(rb"/home/|/root|/tmp/|/srv/|localhost|root@|\.internal|\.local\b", data)
        # network cards: drawn ones, of locally administered addresses (second bit of the first byte)
        assert data[40] & 2 and data[46] & 2


def test_ports_and_ttl_do_not_tell_the_service() -> None:
    ports, ttl = defaultdict(set), defaultdict(set)
    for path in CAPTURES:
        _, port = listed()[f"{path.parent.name}/{path.name.removesuffix('.pcap.gz')}"]
        answered = set(flows(path).dport.tolist())
        assert answered == {port} or (path.parent.name == "ftp" and port in answered)  # and the ports of FTP's data
        ports[path.parent.name].add(port)
        ttl[path.parent.name].add(int(packets(path).ttl[0]))
    for service in SERVICES:
        # drawn from 58,976, so two of ten are rarely the same
        assert len(ports[service]) >= 9 and not ports[service] & set(range(1024))
        assert len(ttl[service]) >= 5
    # the next higher port belongs to the same service about as often as by chance, 9 times of 129: 0.07 +- 0.02
    server = sorted((port, service) for service in SERVICES for port in ports[service])
    assert np.mean([a[1] == b[1] for a, b in pairwise(server)]) < 0.15


def test_services_writes_captures_and_labels(tmp_path: Path) -> None:
    folder = services(tmp_path / "deep" / "services")
    with (folder / "labels.csv").open(newline="") as file:
        labels = {row["key"]: row["label"] for row in csv.DictReader(file)}
    reader = Reader()
    paths = reader.files(folder)
    samples = [s for path in paths for s in reader.read(path)]
    assert len(paths) == 130 and {s.key for s in samples} == set(labels) and len(samples) == len(labels)
    assert all(s.key.startswith(f"{labels[s.key]}/{labels[s.key]}-") for s in samples)
    assert len({s.group for s in samples}) == 130
    assert set(labels.values()) == set(SERVICES) and min(Counter(labels.values()).values()) >= 40
    with (folder / "folds.csv").open(newline="") as file:
        folds = {row["key"]: row["fold"] for row in csv.DictReader(file)}
    # of every service two captures in each fold, and no capture in two
    assert set(folds) == set(labels)
    assert Counter((k.partition("/")[0], f) for k, f in {k.partition("#")[0]: f for k, f in folds.items()}.items()) == {
        (s, str(f)): n for s in SERVICES for f, n in enumerate((4, 3, 3))
    }
    assert len({(k.partition("#")[0], f) for k, f in folds.items()}) == 130
    assert (folder / "README.md").read_text() == (SHIPPED / "README.md").read_text()

    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert services(folder) == folder
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before
    assert not list(folder.parent.glob(".*"))


def test_another_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RequestError, match="holds something else; name a new folder"):
        services(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
