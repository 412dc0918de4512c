"""Tables of flows: values by hand in every format, what is missing, what is wrong, and that no address or port is read."""

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest

from unlabeled.core.contracts import BadInput
from unlabeled.network.flow.statistics import SHORTCUTS
from unlabeled.network.options import ReaderOptions
from unlabeled.network.table.kinds import PROTOCOLS, STATES, VOCABULARY
from unlabeled.network.table.rows import FIELDS, read

from .data import logs
from .data.logs import CLIENT, SERVER, Flow

OPTIONS = ReaderOptions()
# by hand, of the default flow: 0.5 s, 7 and 5 packets, 1000 and 4000 bytes with headers, 636 and 3740 without
WHOLE = (500_000, 7, 5, 1000, 4000, 636, 3740, 1000 / 7, 4000 / 5)
NOTHING = np.nan


def values(sample):
    x = sample.inputs["x"]
    valid = np.ones(len(x.data), bool) if x.valid is None else x.valid
    return np.where(valid, 2.0 ** x.data[:, 0].astype(np.float64) - 1, np.nan)


def kind(sample):
    x = sample.inputs["kind"]
    valid = [True, True] if x.valid is None else x.valid.tolist()
    assert (
        all(n == i for i, (n, ok) in enumerate(zip(x.data[:, 0], valid, strict=True)) if ok)
        and (x.data < VOCABULARY).all()
    )
    return tuple(int(v) if ok else None for v, ok in zip(x.data[:, 1], valid, strict=True))


@pytest.mark.parametrize(
    ("write", "expected", "state", "start"),
    [
        (logs.zeek, WHOLE, "SF", 1_700_000_000_250_000_000),
        (logs.zeek_json, WHOLE, "SF", 1_700_000_000_250_000_000),
        (lambda p, r: logs.zeek_json(p, r, iso=True), WHOLE, "SF", 1_700_000_000_250_000_000),
        # nfdump knows bytes with headers only, and times to the second
        (logs.nfdump, (*WHOLE[:5], NOTHING, NOTHING, *WHOLE[7:]), "fin", 1_700_000_000_000_000_000),
        (
            logs.nfdump_17,
            (500_000, 7, NOTHING, 1000, NOTHING, NOTHING, NOTHING, 1000 / 7, NOTHING),
            "",
            1_700_000_000_250_000_000,
        ),
        # CICFlowMeter knows payload only, and mean sizes are of it
        (
            logs.cicflowmeter,
            (500_000, 7, 5, NOTHING, NOTHING, 636, 3740, 636 / 7, 3740 / 5),
            "fin",
            1_700_000_000_000_000_000,
        ),
    ],
)
def test_every_format_gives_the_same_flow(tmp_path, write, expected, state, start):
    path = write(tmp_path / ("conn.log" if "zeek" in str(write) else "flows.csv"), [Flow(), Flow(duration=2.0)])
    first, second = read(path, "a/flows.csv", OPTIONS)
    np.testing.assert_allclose(values(first), expected, rtol=1e-5)
    assert values(second)[0] == pytest.approx(2e6, rel=1e-5)
    assert kind(first) == (6, STATES.index(state) if state else None)
    assert (first.key, second.key, first.group) == ("a/flows#0", "a/flows#1", "a/flows")
    assert first.meta["start"] == start and first.meta["flags"] == []
    x = first.inputs["x"]
    assert (x.layout, x.channels, x.units, x.unit) == ("packed", ("value",), ("log2",), "token")
    assert x.data.dtype == np.float32 and x.coords[:, 0].tolist() == list(range(len(FIELDS)))
    port = first.meta["shortcuts"][SHORTCUTS.index("port of the server")]
    assert port == 443
    assert (
        len(first.meta["statistics"]) == len(second.meta["statistics"]) and np.isfinite(first.meta["statistics"]).all()
    )


def test_older_spelling_without_time_and_protocol(tmp_path):
    """As the CSVs of CIC-IDS2017; the flags alone say that it was TCP."""
    path = logs.cicflowmeter(tmp_path / "a.csv", [Flow(), Flow()], year=2017)
    one, two = read(path, "a.csv", OPTIONS)
    np.testing.assert_allclose(values(one)[:3], (500_000, 7, 5), rtol=1e-5)
    assert kind(one) == (None, STATES.index("fin")) and one.meta["start"] == -1
    assert one.meta["identity"] != two.meta["identity"]  # nothing else tells these apart
    with pytest.raises(BadInput, match=r"a\.csv: no row has a value and a group"):
        read(path, "a.csv", ReaderOptions(group="slot"))


def test_what_the_log_does_not_say_is_not_valid(tmp_path):
    """A SYN without an answer: no duration, no payload; no packet back, so no mean size of one."""
    alone = Flow(duration=None, payload=None, packets=(1, 0), bytes=(60, 0), state="S0")
    for write in (logs.zeek, logs.zeek_json):
        (sample,) = read(write(tmp_path / "conn.log", [alone]), "conn.log", OPTIONS)
        expected = (NOTHING, 1, 0, 60, 0, NOTHING, NOTHING, 60, NOTHING)
        np.testing.assert_allclose(values(sample), expected, rtol=1e-5)
        assert sample.inputs["x"].data[0, 0] == 0  # nothing stands under what is not valid
        assert kind(sample) == (6, STATES.index("S0"))


def test_protocols_and_states(tmp_path):
    rows = [Flow(protocol=p, state=s) for p, s in (("udp", "S0"), ("icmp", "OTH"), ("unknown_transport", "XX"))]
    found = [kind(s) for s in read(logs.zeek(tmp_path / "conn.log", rows), "conn.log", OPTIONS)]
    assert found == [(17, 1), (1, STATES.index("OTH")), (255, None)]
    assert max(PROTOCOLS.values()) < 255 and len(STATES) <= VOCABULARY[1]
    for flags, state in (("...A.R..", "reset"), ("......S.", "syn"), ("...AP...", "midstream")):
        (row,) = read(logs.nfdump(tmp_path / "n.csv", [Flow()], flags), "n.csv", OPTIONS)
        assert kind(row)[1] == STATES.index(state)
    (row,) = read(logs.nfdump(tmp_path / "n.csv", [Flow(protocol="udp")], "........"), "n.csv", OPTIONS)
    assert kind(row) == (17, None)


def test_no_address_and_no_port_is_among_the_inputs(tmp_path):
    """Every other port and address gives the same inputs and statistics, byte by byte."""
    plain = logs.zeek(tmp_path / "a.log", logs.flows(20))
    moved = tmp_path / "b.log"
    moved.write_text(
        plain.read_text().replace(CLIENT, "192.0.2.9").replace(SERVER, "2001:db8::5").replace("\t443\t", "\t22\t")
    )
    for a, b in zip(read(plain, "a.log", OPTIONS), read(moved, "a.log", OPTIONS), strict=True):
        for name in ("x", "kind"):
            assert a.inputs[name].data.tobytes() == b.inputs[name].data.tobytes()
        assert a.meta["statistics"].tobytes() == b.meta["statistics"].tobytes() and a.key == b.key
        assert a.meta["shortcuts"].tobytes() != b.meta["shortcuts"].tobytes()
        assert not {CLIENT, SERVER} & {str(v) for v in (*a.meta["flags"], a.key, a.group)}


def test_broken_rows_are_left_out_counted_and_keep_their_numbers(tmp_path):
    """Rows 2 (too few cells), 3 (a NUL) and 4 (a header once more) of a log that ends in the middle of row 5."""
    path = logs.zeek(tmp_path / "conn.log", [Flow(), Flow()])
    text = path.read_text().replace("#close\t2023-11-14-23-00-00\n", "")
    row = next(line for line in text.splitlines() if not line.startswith("#"))
    header = "#fields\t" + "\t".join(logs.ZEEK_FIELDS)
    path.write_text(f"{text}1700000000.0\tC1\t-\n{row}\0\n{header}\n{row}\n{row[:60]}")
    samples = read(path, "conn.log", OPTIONS)
    assert [s.key for s in samples] == ["conn#0", "conn#1", "conn#4"]
    assert samples[0].meta["flags"] == ["rows that are broken, left out: 3"] and samples[1].meta["flags"] == []

    path = logs.cicflowmeter(tmp_path / "c.csv", [Flow()], more=[logs.CIC_2018_FIELDS])  # as in the files of 2018
    assert read(path, "c.csv", OPTIONS)[0].meta["flags"] == ["rows that repeat the header, left out: 1"]
    path = logs.zeek_json(
        tmp_path / "j.log", [Flow()], more=['{"ts": 1700000000.0, "uid"', "[1]", '{"a": 1}', "[" * 99_999]
    )
    samples = read(path, "j.log", OPTIONS)
    assert len(samples) == 1 and samples[0].meta["flags"] == ["rows that are broken, left out: 4"]


def test_bad_values_are_not_valid_and_counted(tmp_path):
    """Negative duration, NaN and infinite counts, a negative count, and the years 1970 and 2106."""
    bad = [
        Flow(duration=-1.0),
        Flow(start=2.0**32),
        Flow(start=5.0),
        replace(Flow(), bytes=(-4, 4000)),
        Flow(),
    ]
    path = logs.zeek(tmp_path / "conn.log", bad)
    path.write_text(
        path.read_text().replace("\t4000\t(empty)", "\tinf\t(empty)", 1).replace("\t5\t4000", "\tNaN\t4000", 1)
    )
    samples = read(path, "conn.log", OPTIONS)
    assert len(samples) == 5
    assert samples[0].meta["flags"] == [
        "bytes back: no number: 1",
        "bytes out: below 0 or beyond any count: 1",
        "duration: below 0 or beyond any count: 1",
        "packets back: no number: 1",
        "start: in 1970, or in 2106 or later: 2",
    ]
    assert np.isnan(values(samples[0])[[0, 4]]).all() and np.isnan(values(samples[1])[2])
    assert np.isnan(values(samples[3])[3])
    assert samples[1].meta["start"] == 2**32 * 10**9  # kept as it is
    for sample in samples:
        assert np.isfinite(sample.inputs["x"].data).all() and np.isfinite(sample.meta["statistics"]).all()


def test_files_that_cannot_be_read_say_why(tmp_path):
    cases = {
        "": r"the file is empty",
        "\n\n": r"the file is empty",
        "#separator \\x09\n#fields\tts\tuid\tproto\ttrans_id\n": r"of Zeek's conn.log the columns conn_state are missing",
        "#separator \\x09\n#path\tconn\n": r"no line #fields",
        "ts,te,sa,da,pr,ibyt\n1,2,3,4,5,6\n": r"of nfdump's CSV the columns td, ipkt are missing",
        "a,b\n1,2\n": r"the columns .* are missing",
        logs.NFDUMP_FIELDS + "\n": r"there is a header and no row",
        logs.NFDUMP_FIELDS + "\n1,2\n3\n": r"none of its 2 rows can be read",
        logs.NFDUMP_FIELDS + "\nSummary\nflows,bytes\n0,0\n": r"there is a header and no row",
        "{broken\n": r"none of its 1 rows can be read",
    }
    for text, why in cases.items():
        (tmp_path / "f.csv").write_text(text)
        with pytest.raises(BadInput, match=f"^f.csv: .*{why}"):
            read(tmp_path / "f.csv", "f.csv", OPTIONS)


def test_gzip_and_broken_gzip(tmp_path):
    plain = logs.zeek(tmp_path / "conn.log", [Flow(), Flow(packets=(1, 1))])
    packed = tmp_path / "conn.log.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    for a, b in zip(read(plain, "conn.log", OPTIONS), read(packed, "conn.log.gz", OPTIONS), strict=True):
        assert a.key == b.key and a.inputs["x"].data.tobytes() == b.inputs["x"].data.tobytes()
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(BadInput, match=r"^conn\.log\.gz: its gzip stream is broken"):
        read(packed, "conn.log.gz", OPTIONS)


def test_groups(tmp_path):
    """A slot of 100 s: flows at 0, 50 and 150 s after a full one are in slots 0, 0, 1."""
    zero = 1_700_000_000.0  # a multiple of 100
    rows = [Flow(start=zero + s) for s in (0.0, 50.0, 150.0)]
    path = logs.zeek(tmp_path / "conn.log", rows)
    found = [s.group for s in read(path, "site3/conn.log", ReaderOptions(group="slot", slot=100.0))]
    assert found == ["site3/conn@17000000", "site3/conn@17000000", "site3/conn@17000001"]
    assert read(path, "site3/conn.log", ReaderOptions(group="folder"))[0].group == "site3"
    assert read(path, "site3/conn.log", ReaderOptions(group_pattern="(site[0-9])"))[0].group == "site3"
    with pytest.raises(BadInput, match="finds no group"):
        read(path, "site3/conn.log", ReaderOptions(group_pattern="(host[0-9])"))


def test_the_same_line_in_two_files_is_the_same_flow(tmp_path):
    a, b = (
        read(logs.zeek(tmp_path / n, [Flow(), Flow(start=1_700_000_001.0)]), n, OPTIONS) for n in ("a.log", "b.log")
    )
    assert [s.meta["identity"] for s in a] == [s.meta["identity"] for s in b]
    assert a[0].meta["identity"] != a[1].meta["identity"]  # equal in all but the time


def test_rows_by_number_and_in_order(tmp_path):
    """Rows are made when they are asked for; more than one block of text gives the same."""
    path = logs.zeek(tmp_path / "conn.log", logs.flows(50))
    rows = read(path, "conn.log", OPTIONS)
    assert [s.key for s in rows] == [rows[i].key for i in range(50)] and rows[-1].key == "conn#49"
    assert [s.key for s in rows[3:5]] == ["conn#3", "conn#4"]
    with pytest.raises(IndexError):
        rows[50]


@pytest.mark.parametrize("block", [1, 7, 49, 50, 51])
def test_blocks_of_text_change_nothing(tmp_path, monkeypatch, block):
    path = logs.nfdump(tmp_path / "a.csv", logs.flows(50), more=["broken"])
    whole = read(path, "a.csv", OPTIONS)
    monkeypatch.setattr("unlabeled.network.table.columns.ROWS", block)
    parts = read(path, "a.csv", OPTIONS)
    assert [s.key for s in parts] == [s.key for s in whole] and parts[0].meta["flags"] == whole[0].meta["flags"]
    assert [s.inputs["x"].data.tobytes() for s in parts] == [s.inputs["x"].data.tobytes() for s in whole]


def test_random_bytes_give_a_sentence_or_rows_never_a_crash(tmp_path):
    """400 mutations of logs of every format: bytes replaced, cut, doubled."""
    rng = np.random.default_rng(0)
    writers = (logs.zeek, logs.zeek_json, logs.nfdump, logs.nfdump_17, logs.cicflowmeter)
    known = [bytearray(w(tmp_path / "f", logs.flows(5)).read_bytes()) for w in writers]
    outcomes = {"rows": 0, "refused": 0}
    for _ in range(400):
        text = bytearray(known[rng.integers(len(known))])
        for _ in range(rng.integers(1, 20)):
            text[rng.integers(len(text))] = rng.integers(256)
        text = text[: rng.integers(1, len(text))] if rng.random() < 0.5 else text
        (tmp_path / "f").write_bytes(bytes(text))
        try:
            for sample in read(tmp_path / "f", "f", OPTIONS):
                assert np.isfinite(sample.inputs["x"].data).all()
                json.dumps(sample.meta["flags"])
            outcomes["rows"] += 1
        except BadInput as error:
            assert str(error).startswith("f: ")
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 20
