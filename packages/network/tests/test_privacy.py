"""No address, MAC, host name or URL in anything that is written or said, looked for as bytes, packed and as text."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from unlabeled.core.cli.domain import build
from unlabeled.core.cli.shell import run
from unlabeled.core.contracts.domain import domain
from unlabeled.network.flow import fields
from unlabeled.network.table import kinds as table_kinds
from unlabeled.network.url.tokens import PART_IDS, SMALLEST

from .data import captures, logs
from .data.captures import START, datagrams, merged, session, write_pcap

HOSTS = [f"hidden-host-{x}" for x in ("7f3q", "b19k", "c42w", "d80z", "e55v", "f61y")]
CLIENTS = [f"198.51.{100 + i}.23" for i in range(6)]
SERVERS = ["203.0.113.77", "2001:db8:5a77:1e::c0de"]
MACS = ("02:1a:7f:c3:9e:51", "06:b2:44:d7:8c:3f")
PATH = "private-path-91x"


def secrets() -> dict[str, bytes]:
    """What must be nowhere: text, bytes in network order, and as a little-endian number, which is how columns hold it."""
    found = {}
    for address in (*CLIENTS, *SERVERS, logs.CLIENT, logs.SERVER):
        packed = ipaddress.ip_address(address).packed
        found |= {address: address.encode(), f"{address} packed": packed, f"{address} reversed": packed[::-1]}
    for mac in MACS:
        found |= {mac: mac.encode(), f"{mac} packed": bytes.fromhex(mac.replace(":", ""))}
    return found | {text: text.encode() for text in (*HOSTS, PATH)}


def contents(path: Path) -> Iterator[bytes]:
    """A file's bytes, and what is compressed in it."""
    yield path.read_bytes()
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        yield json.dumps([repr(c.to_pylist()) for c in table.columns] + table.schema.names).encode()
    elif path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            yield from (file[name].tobytes() for name in file.files)


def nothing_leaks(folder: Path, said: str) -> int:
    """Looks at every file below `folder` and at what was said; returns how many files there were."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    wanted = secrets()
    for name, text in (("what was said", [said.encode()]), *((str(p), contents(p)) for p in files)):
        for part in text:
            assert [w for w, pattern in wanted.items() if pattern in part] == [], name
    return len(files)


STUDY = pytest.mark.parametrize("study", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["run", "study"])


@pytest.fixture(autouse=True)
def key(tmp_path, monkeypatch):
    (tmp_path / "key").write_text("0123456789abcdef" * 4)
    monkeypatch.setenv("UNLABELED_KEY", str(tmp_path / "key"))


def network(*args: Any) -> None:
    assert run(build(domain("network")), [str(a) for a in args]) == 0


def recipe(path: Path, data: Path, labels: Path, vocabulary: Any) -> Path:
    values = {
        "domain": "network",
        "data": {"path": str(data), "normaliser": "none", "hold_out": 0.5},
        "method": {"name": "masked_tokens"},
        "encoder": {"name": "tokens", "width": 16, "depth": 1, "heads": 2, "vocabulary": vocabulary},
        "batch_size": 4,
        "max_steps": 3,
        "trainer": {"loop": "plain", "threads": 1, "save_every": 3, "tensorboard": False, "accelerator": "cpu"},
        "study": {
            "labels": str(labels), "budgets": [1, 1.0], "groups_per_fold": 2, "seeds": 1, "draws": 1, "lr_grid": [1e-3],
            "finetune_steps": 2, "finetune_batch": 4, "jobs": 1,
        },
    }  # fmt: skip
    path.write_text(yaml.safe_dump(values))
    return path


def the_whole_way(tmp_path: Path, data: Path, vocabulary: Any, formats: list[str], study: bool) -> Path:
    """inspect, pretrain, embed, finetune, predict; evaluate and study, which take longer; all is written below `out`."""
    labels, out = tmp_path / "labels.csv", tmp_path / "out"
    out.mkdir()
    made = recipe(tmp_path / "recipe.yaml", data, labels, vocabulary)
    bundle = out / "run" / "bundle"
    quick = ["steps=2", "batch_size=4", "accelerator=cpu"]
    network("inspect", data, "--json")
    network("inspect", data)
    network("pretrain", made, "-o", out / "run")
    network("embed", bundle, data, "-o", out / "e.parquet")
    network("finetune", bundle, data, *quick, "--labels", labels, "--task", "classify", "-o", out / "model")
    network("predict", out / "model", data, "-o", out / "p", *(f"--format={f}" for f in formats))
    if study:
        network("evaluate", bundle, data, "--labels", labels)
        network("study", made, "-o", out / "study")
    return out


def label(path: Path, keys: list[str]) -> None:
    path.write_text("\n".join(["key,label", *(f"{k},{'ab'[i % 2]}" for i, k in enumerate(keys))]) + "\n")


def query(host: str) -> bytes:
    """A DNS query of a name (RFC 1035, section 4)."""
    names = b"".join(bytes([len(p)]) + p.encode() for p in f"{host}.example".split("."))
    return b"\x12\x34\1\0\0\1\0\0\0\0\0\0" + names + b"\0\0\1\0\1"


def hello(host: str) -> bytes:
    """A TLS ClientHello whose only extension is the server's name (RFC 8446, section 4.1.2; RFC 6066, section 3)."""
    name = f"{host}.example".encode()
    entry = b"\0" + len(name).to_bytes(2, "big") + name
    extension = b"\0\0" + (len(entry) + 2).to_bytes(2, "big") + len(entry).to_bytes(2, "big") + entry
    body = (
        b"\3\3" + bytes(range(32)) + b"\0" + b"\0\2\x13\x01" + b"\1\0" + len(extension).to_bytes(2, "big") + extension
    )
    handshake = b"\1" + len(body).to_bytes(3, "big") + body
    return b"\x16\3\1" + len(handshake).to_bytes(2, "big") + handshake


def request(host: str) -> bytes:
    return f"GET /{PATH} HTTP/1.1\r\nHost: {host}.example\r\n\r\n".encode()


@STUDY
def test_captures(tmp_path, capsys, monkeypatch, study):
    """Names in DNS, TLS and HTTP, addresses of both versions and MACs; also the shards of `flows`, and scores of anomalies."""
    monkeypatch.setattr(captures, "MACS", MACS)
    data = tmp_path / "data"
    data.mkdir()
    for i, (client, host) in enumerate(zip(CLIENTS, HOSTS, strict=True)):
        (far, far6), start = SERVERS, START + i * 10**6
        frames = merged(
            datagrams(client, far, 5353 + i, 53, [(0, query(host)), (1, query(host) + bytes(16))], start=start),
            session(client, far, 41_000 + i, 443, [(0, hello(host)), (1, 900)], start=start + 10**9),
            session(client, far, 42_000 + i, 80, [(0, request(host)), (1, 700)], start=start + 2 * 10**9),
            session(f"2001:db8:5a77:1e::{i + 1:x}", far6, 43_000, 80, [(0, request(host))], start=start + 3 * 10**9),
        )
        write_pcap(data / f"c{i}.pcap", frames)
    raw = b"".join(p.read_bytes() for p in data.iterdir())
    assert all(s.encode() in raw for s in (*HOSTS, PATH)) and bytes.fromhex(MACS[0].replace(":", "")) in raw
    assert all(ipaddress.ip_address(a).packed in raw for a in (*CLIENTS, *SERVERS))  # the patterns are what files hold

    label(tmp_path / "labels.csv", [f"c{i}#{n}" for i in range(6) for n in range(4)])
    formats = ["parquet", "csv", *domain("network").writers]
    out = the_whole_way(tmp_path, data, list(fields.VOCABULARY), formats, study)
    network("flows", data, "-o", out / "shards")
    other = tmp_path / "normal"
    other.mkdir()
    for i in range(3):
        write_pcap(other / f"n{i}.pcap", merged(*(session("10.1.1.1", sport=n, data=[(0, n)]) for n in range(9, 15))))
    network("anomalies", out / "run" / "bundle", data, "--normal", other, "-o", out / "s.parquet", "--allow-seen")
    captured = capsys.readouterr()
    assert nothing_leaks(out, captured.out + captured.err) > 20
    assert (out / "study" / "report.html").is_file() == study


@STUDY
def test_urls(tmp_path, capsys, study):
    """Hosts, paths and queries of a list, of which two lines cannot be parsed."""
    data = tmp_path / "data"
    data.mkdir()
    lines = [
        f"https://{word}.{host}.example/{PATH}/{n}?q={host}"
        for host in HOSTS
        for n, word in enumerate(("www", "a", "b", "c"))
    ]
    (data / "list.urls").write_text("\n".join([*lines, f"http://[::1/{HOSTS[0]}", f"http://{HOSTS[1]}\0/"]) + "\n")
    label(tmp_path / "labels.csv", [f"list#{n}" for n in range(1, len(lines) + 1)])
    out = the_whole_way(tmp_path, data, [SMALLEST, PART_IDS], ["parquet", "csv"], study)
    captured = capsys.readouterr()
    assert nothing_leaks(out, captured.out + captured.err) > 20


@STUDY
def test_tables(tmp_path, capsys, study):
    """Addresses in a log, whole and in a line that is broken."""
    data = tmp_path / "data"
    data.mkdir()
    for i in range(6):
        logs.zeek(data / f"c{i}.log", logs.flows(4, i), more=[f"1700000000.0\t{logs.CLIENT}\t{HOSTS[i]}"])
    label(tmp_path / "labels.csv", [f"c{i}#{n}" for i in range(6) for n in range(4)])
    out = the_whole_way(tmp_path, data, {"kind": list(table_kinds.VOCABULARY)}, ["parquet", "csv"], study)
    captured = capsys.readouterr()
    assert nothing_leaks(out, captured.out + captured.err) > 20


def test_errors_name_no_address(tmp_path, capsys):
    """A capture that breaks behind addresses, a table whose header holds them, a list in bytes."""
    data = tmp_path / "data"
    data.mkdir()
    whole = write_pcap(data / "a.pcap", session(CLIENTS[0], SERVERS[0])).read_bytes()
    (data / "a.pcap").write_bytes(whole[24:])
    assert run(build(domain("network")), ["inspect", str(data)]) == 2
    (data / "a.pcap").unlink()
    for name, content in (
        ("a.csv", f"{CLIENTS[0]},{SERVERS[0]},{HOSTS[0]}\n1,2,3\n"),
        ("a.log", f"{CLIENTS[0]}\t{HOSTS[0]}\n"),
        ("a.urls", bytes(range(9)).decode() * 9 + f"http://{HOSTS[0]}/"),
    ):
        (data / name).write_text(content)
        assert run(build(domain("network")), ["inspect", str(data)]) == 2
        (data / name).unlink()
    captured = capsys.readouterr()
    assert captured.err.count("there is no readable record") == 4
    assert nothing_leaks(data, captured.out + captured.err) == 0
