import csv
from pathlib import Path

import pytest

from unlabeled.core.cli.domain import build
from unlabeled.core.cli.shell import run
from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.domain import domain
from unlabeled.network.label_table import read, write

from .data import captures as make

NDPI = Path(__file__).parents[3].parent / "shared/data/ndpi"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """web/a.pcap of a TCP and a UDP flow, b.pcap of a ping and an IPv6 flow."""
    (tmp_path / "in/web").mkdir(parents=True)
    a = make.merged(
        make.session("10.0.0.1", "10.0.0.2", 40000, 80),
        make.datagrams("10.0.0.3", "10.0.0.4", 50000, 53, start=make.START + 1),
    )
    b = make.merged(
        make.pings("10.0.0.5", "10.0.0.6"), make.session("2001:db8::a", "2001:db8::b", 40001, 443, start=make.START + 1)
    )
    make.write_pcap(tmp_path / "in/web/a.pcap", a)
    make.write_pcap(tmp_path / "in/b.pcap", b)
    return tmp_path / "in"


def labels(path: Path) -> dict[str, str]:
    with path.open(newline="") as file:
        return {row["key"]: row["label"] for row in csv.DictReader(file)}


def table(folder: Path, *lines: str) -> Path:
    path = folder.parent / "table.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("names", [("web/a.pcap", "b.pcap"), ("web/a", "b"), ("a.pcap", "b.pcap"), ("a", "b")])
def test_a_label_for_all_flows_of_a_capture(folder: Path, names: tuple[str, str]) -> None:
    given = table(folder, "capture,label", f"{names[0]},mail", f"{names[1]},video")
    found = write(folder, given, folder.parent / "labels.csv", {}, {})
    assert labels(folder.parent / "labels.csv") == {
        "web/a#0": "mail",
        "web/a#1": "mail",
        "b#0": "video",
        "b#1": "video",
    }
    assert found == {"flows": 4, "classes": {"mail": 2, "video": 2}, "left_out": []}


def test_ends_match_either_way_and_what_is_not_said_matches_all(folder: Path) -> None:
    given = table(
        folder,
        "file,class,proto,src,sport,dst,dport",
        "a,web,tcp,10.0.0.2,80,10.0.0.1,40000",  # from the server's side
        "a,names,17,,,,53",
        "b,echo,icmp,10.0.0.5,8,10.0.0.6,0",  # what stands for ports there is none
        "b,web,TCP,2001:db8::a,40001,2001:DB8:0::b,443",
    )
    write(folder, given, folder.parent / "labels.csv", {}, {})
    assert labels(folder.parent / "labels.csv") == {"web/a#0": "web", "web/a#1": "names", "b#0": "echo", "b#1": "web"}


def test_the_columns_of_ndpi_and_columns_by_name(folder: Path) -> None:
    given = folder.parent / "labels.tsv"
    rows = [
        ("capture", "flow", "l4", "a", "b", "protocol", "category"),
        ("a.pcap", "1", "TCP", "10.0.0.1:40000", "10.0.0.2:80", "HTTP", "Web"),
        ("a.pcap", "2", "UDP", "10.0.0.4:53", "10.0.0.3:50000", "DNS", "Network"),
        ("b.pcap", "1", "ICMP", "10.0.0.5:0", "10.0.0.6:0", "ICMP", "Network"),
        ("b.pcap", "2", "TCP", "[2001:db8::a]:40001", "[2001:db8::b]:443", "TLS", "Web"),
    ]
    given.write_text("\n".join("\t".join(row) for row in rows) + "\n")
    write(folder, given, folder.parent / "one.csv", {}, {})
    assert labels(folder.parent / "one.csv") == {"web/a#0": "HTTP", "web/a#1": "DNS", "b#0": "ICMP", "b#1": "TLS"}
    write(folder, given, folder.parent / "two.csv", {"label": "category"}, {})
    assert labels(folder.parent / "two.csv") == {"web/a#0": "Web", "web/a#1": "Network", "b#0": "Network", "b#1": "Web"}


HEAD = "capture,label,protocol,src,sport,dst,dport"
FIT = ("a,web,tcp,,,,80", "a,names,udp,,,,53", "b,echo,icmp,,,,", "b,web,tcp,,,,443")


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([HEAD, *FIT, *["c,web,,,,,"] * 7], r"7 lines name no capture of the folder \(6, 7, 8, 9, 10, \.\.\.\)"),
        ([HEAD, *FIT[:2]], r"2 flows have no line \(b#0, b#1\)"),
        ([HEAD, *FIT, "b,tls,tcp,,,,443"], r"1 flows have two labels \(b#1\)"),
        (["capture,label", "a,web", "b,web"], r"4 labelled flows have 1 class\(es\), and two are needed"),
        (
            [HEAD, "a,web,tcp,10.0.0.300,,,80", "a,,udp,,,,53", "a,x,nonsense,,,,", "a,x,,,70000,,"],
            r"4 lines have no label, .* \(2, 3, 4, 5\);",
        ),
        (["capture,name", "a,web"], "hold no label; name it by --column"),
        (["src,label", "10.0.0.1,web"], r"1 lines name no capture of the folder \(2\)"),
    ],
)
def test_what_does_not_fit_is_one_sentence_without_an_address(folder: Path, lines: list[str], why: str) -> None:
    with pytest.raises(RequestError, match=why) as error:
        write(folder, table(folder, *lines), folder.parent / "labels.csv", {}, {})
    assert "10.0.0" not in str(error.value)
    assert not (folder.parent / "labels.csv").exists()


def test_partial_counts_what_it_leaves_out_and_lines_without_a_flow_are_always_counted(folder: Path) -> None:
    lines = [
        HEAD,
        "a,web,tcp,,,,80",
        "a,names,udp,,,,53",
        "a,old,tcp,,,,81",
        "b,x,tcp,,,,443",
        "b,y,tcp,,,,443",
        "c,z,,,,,",
    ]
    found = write(folder, table(folder, *lines), folder.parent / "labels.csv", {}, {}, partial=True)
    assert labels(folder.parent / "labels.csv") == {"web/a#0": "web", "web/a#1": "names"}
    assert found["left_out"] == [
        "1 lines name no capture of the folder (7)",
        "1 flows have no line (b#0)",
        "1 flows have two labels (b#1)",
        "1 lines fit no flow of their capture (4)",
    ]


def test_names_that_two_captures_share_must_be_paths(folder: Path) -> None:
    (folder / "mail").mkdir()
    (folder / "mail/a.pcap").write_bytes((folder / "b.pcap").read_bytes())
    with pytest.raises(RequestError, match="lines 2 name captures of which there are several; write their paths"):
        write(folder, table(folder, "capture,label", "a,x", "b,y"), folder.parent / "labels.csv", {}, {})
    given = table(folder, "capture,label", "mail/a,x", "web/a,x", "b,y")
    assert write(folder, given, folder.parent / "labels.csv", {}, {})["flows"] == 6


def test_one_capture_needs_no_column_and_a_broken_one_is_left_out(folder: Path) -> None:
    lines = ["label,dport", "web,80", "names,53"]
    write(folder / "web/a.pcap", table(folder, *lines), folder.parent / "labels.csv", {}, {})
    assert labels(folder.parent / "labels.csv") == {"a#0": "web", "a#1": "names"}
    (folder / "web/a.pcap").write_bytes(b"nothing that begins like a capture")
    lines = [HEAD, "b,echo,icmp,,,,", "b,web,tcp,,,,443"]
    found = write(folder, table(folder, *lines), folder.parent / "other.csv", {}, {})
    assert found["flows"] == 2
    assert len(found["left_out"]) == 1 and found["left_out"][0].startswith("a.pcap: no capture")


def test_the_verb(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = table(folder, "capture,kind", "a,mail", "b,video")
    words = ["labels", str(folder), str(given), "-o", str(tmp_path / "labels.csv")]
    assert run(build(domain("network")), words) == 2
    assert run(build(domain("network")), [*words, "--column", "label=kind"]) == 0
    assert "4 flows of 2 classes" in capfd.readouterr().out
    assert run(build(domain("network")), [*words, "--column", "label=kind"]) == 2
    assert "exists" in capfd.readouterr().err
    assert (
        run(build(domain("network")), [*words[:-1], str(tmp_path / "x.csv"), "--column", "label=kind", "-O", "idle=0"])
        == 2
    )


@pytest.mark.skipif(not (NDPI / "labels.tsv").is_file(), reason="the captures of nDPI are not here")
def test_most_flows_of_ndpi_captures_find_their_label(tmp_path: Path) -> None:
    lines, unreadable = read(NDPI / "labels.tsv")
    assert len(lines) > 1000
    assert len(unreadable) == 1  # an address with :: twice
    names = sorted({line.capture for line in lines})[:40]
    (tmp_path / "in").mkdir()
    for name in names:
        (tmp_path / "in" / name).symlink_to(NDPI / name)
    found = write(tmp_path / "in", NDPI / "labels.tsv", tmp_path / "labels.csv", {}, {}, partial=True)
    mine = sum(line.capture in names for line in lines)
    lost = [int(text.split()[0]) for text in found["left_out"] if "fit no flow" in text]
    assert found["flows"] >= 0.9 * mine  # a flow of theirs may be several of ours
    assert sum(lost) <= 0.05 * mine  # theirs are of the outer header of some tunnels
    raw = (tmp_path / "labels.csv").read_bytes()
    assert b"192.168." not in raw and b"10.0." not in raw
