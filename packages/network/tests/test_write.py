from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from unlabeled.core.contracts import Head, RequestError
from unlabeled.core.contracts.domain import domain
from unlabeled.core.contracts.recipe import Data
from unlabeled.core.data.corpus import Corpus
from unlabeled.core.downstream.write import Predictions, Record
from unlabeled.network.options import ReaderOptions
from unlabeled.network.privacy.crypto_pan import CryptoPAn
from unlabeled.network.table.rows import read
from unlabeled.network.write import flows, zeek

from .data import captures as make

ENDS = ("10.20.30.40", "10.20.99.1", "2001:db8:77::a", "2001:db8:77::b")
PATTERNS = [text.encode() for text in ENDS] + [ip_address(text).packed for text in ENDS]


@pytest.fixture
def predictions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Predictions:
    """Of a.pcap, a TCP flow and a UDP flow over IPv6 that begins 1 ms later; the second stands first."""
    monkeypatch.setenv("UNLABELED_KEY", str(tmp_path / "key"))
    monkeypatch.delenv("UNLABELED_NETWORK_KEY", raising=False)
    monkeypatch.delenv("UNLABELED_NETWORK_ADDRESSES", raising=False)
    (tmp_path / "in").mkdir()
    one = make.session(ENDS[0], ENDS[1], 40000, 443, data=[(0, 100), (1, 1000)])
    two = make.datagrams(ENDS[2], ENDS[3], 50000, 53, data=[(0, 30), (1, 90)], start=make.START + make.MS)
    make.write_pcap(tmp_path / "in/a.pcap", make.merged(one, two))
    corpus = Corpus.open(domain("network"), Data(path=tmp_path / "in"))
    assert [row.key for row in corpus.rows] == ["a#0", "a#1"]
    records = (
        Record("a#1", "g", (), "names\t1", {"names\t1": 0.75, "web": 0.25}),
        Record("a#0", "g", (), "web", {"names\t1": 0.125, "web": 0.875}),
    )
    return Predictions(Head("classify", "classification", "macro_f1", ""), ("names\t1", "web"), "", "", records, corpus)


def test_a_table_to_the_letter(predictions: Predictions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNLABELED_NETWORK_ADDRESSES", "plain")
    flows(None, predictions, tmp_path)  # type: ignore[arg-type]
    table = pq.read_table(tmp_path / "flows.parquet")
    rows = [dict(zip(table.column_names, (c[i].as_py() for c in table.columns), strict=True)) for i in range(2)]
    assert [r["key"] for r in rows] == ["a#1", "a#0"]
    assert table["start"].cast("int64").to_pylist() == [make.START + make.MS, make.START]
    web = rows[1]
    # 8 segments 1 ms apart: 3 to open, 2 of data, 3 to close; the client sends SYN, ACK, 100 bytes, FIN and ACK
    assert web["duration"] == pytest.approx(0.007)
    assert (web["protocol"], web["client"], web["client port"], web["server"], web["server port"]) == (
        6,
        ENDS[0],
        40000,
        ENDS[1],
        443,
    )
    assert (web["client packets"], web["server packets"]) == (5, 3)
    assert (web["client bytes"], web["server bytes"]) == (5 * 40 + 100, 3 * 40 + 1000)
    assert (web["client payload"], web["server payload"]) == (100, 1000)
    assert (web["label"], web["probability"]) == ("web", 0.875)
    assert (rows[0]["client"], rows[0]["server"], rows[0]["label"]) == (ENDS[2], ENDS[3], "names\t1")
    # IPv6 and UDP are 48 bytes
    assert (rows[0]["client bytes"], rows[0]["server bytes"]) == (78, 138)


def test_a_log_as_zeek_writes_it(predictions: Predictions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNLABELED_NETWORK_ADDRESSES", "plain")
    zeek(None, predictions, tmp_path)  # type: ignore[arg-type]
    lines = (tmp_path / "conn.log").read_text().splitlines()
    assert lines[0] == "#separator \\x09"
    fields = lines[5].split("\t")[1:]
    assert len(fields) == len(lines[6].split("\t")[1:]) == 18
    web = dict(zip(fields, lines[8].split("\t"), strict=True))
    assert web == {
        **{"ts": "1700000000.000000", "uid": "a#0", "id.orig_h": ENDS[0], "id.orig_p": "40000", "id.resp_h": ENDS[1]},
        **{"id.resp_p": "443", "proto": "tcp", "service": "-", "duration": "0.007000", "orig_bytes": "100"},
        **{"resp_bytes": "1000", "conn_state": "-", "orig_pkts": "5", "orig_ip_bytes": "300", "resp_pkts": "3"},
        **{"resp_ip_bytes": "1120", "label": "web", "probability": "0.875000"},
    }
    assert lines[7].split("\t")[16] == "names\\x091"  # a tab would end the field
    # our own reader of such logs finds the same numbers
    found = list(read(tmp_path / "conn.log", "conn.log", ReaderOptions()))
    assert [int(sample.inputs["kind"].data[0, 1]) for sample in found] == [17, 6]
    assert [sample.meta["start"] for sample in found] == [make.START + make.MS, make.START]


@pytest.mark.parametrize(("writer", "name"), [(flows, "flows.parquet"), (zeek, "conn.log")])
def test_addresses_are_anonymised_unless_asked(
    predictions: Predictions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: Callable[..., None], name: str
) -> None:
    def written(folder: str) -> bytes:
        (tmp_path / folder).mkdir()
        writer(None, predictions, tmp_path / folder)
        return (tmp_path / folder / name).read_bytes()

    first, second = written("one"), written("two")
    assert first != second  # each has a key of its own
    key = bytes(range(32))
    monkeypatch.setenv("UNLABELED_NETWORK_KEY", key.hex())
    third, fourth = written("three"), written("four")
    assert third == fourth
    image = CryptoPAn(key)(np.array([list(ip_address(ENDS[0]).packed)], np.uint8))[0].tobytes()
    assert str(ip_address(image)).encode() in third
    for raw in (first, second, third):
        assert not [p for p in PATTERNS if p in raw]
    monkeypatch.setenv("UNLABELED_NETWORK_ADDRESSES", "plain")
    assert ENDS[0].encode() in written("five")


def test_what_cannot_be_written_is_said(
    predictions: Predictions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = Predictions(predictions.head, predictions.classes, "", "", predictions.records)
    with pytest.raises(RequestError, match="need the captures that were read"):
        zeek(None, alone, tmp_path)  # type: ignore[arg-type]
    monkeypatch.setenv("UNLABELED_NETWORK_ADDRESSES", "yes")
    with pytest.raises(RequestError, match="UNLABELED_NETWORK_ADDRESSES=yes is unknown; set it to plain"):
        flows(None, predictions, tmp_path)  # type: ignore[arg-type]


def test_flow_tables_have_no_addresses_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNLABELED_KEY", str(tmp_path / "key"))
    (tmp_path / "in").mkdir()
    log = [
        "#separator \\x09",
        "#fields\tts\tproto\tduration\torig_pkts\tresp_pkts\tconn_state",
        "1.5\ttcp\t1.0\t3\t4\tSF",
    ]
    (tmp_path / "in/conn.log").write_text("\n".join(log) + "\n")
    corpus = Corpus.open(domain("network"), Data(path=tmp_path / "in"))
    records = tuple(Record(row.key, "g", (), "x", {"x": 1.0}) for row in corpus.rows)
    found = Predictions(Head("classify", "classification", "macro_f1", ""), ("x",), "", "", records, corpus)
    with pytest.raises(RequestError, match="are of captures; choose parquet or csv for tables and URLs"):
        flows(None, found, tmp_path)  # type: ignore[arg-type]
