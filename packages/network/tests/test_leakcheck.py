import csv
import json
from pathlib import Path

import numpy as np
import pytest

from unlabeled.core.cli.domain import build
from unlabeled.core.cli.shell import run
from unlabeled.core.contracts import Input, Leakage, RequestError, Sample
from unlabeled.core.contracts.domain import domain
from unlabeled.network.leaks.probes import BUNDLE, LOT, MAJORITY, PROBES, RANDOM, STATISTICS, check
from unlabeled.network.leaks.twins import elsewhere, simhashes

from .data import captures as make

CAPTURES, FLOWS = 6, 12  # of both classes, half and half
PORTS, TTL = "ports only", "TTL only"


@pytest.fixture(autouse=True)
def _key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNLABELED_KEY", str(tmp_path / "key"))


def planted(folder: Path, what: str) -> tuple[Path, Path]:
    """Captures of flows of two classes, of which `what` alone tells the class, and the labels."""
    rng = np.random.default_rng(7)
    (folder / "in").mkdir()
    lines = [("key", "label")]
    for n in range(CAPTURES):
        flows, start = [], make.START + n * 10**13
        for i in range(FLOWS):
            kind = i % 2
            start += 10**9
            sport, dport = rng.integers(1024, 65000, 2)
            ttl = int(rng.integers(30, 60))
            flows.append(
                make.session(
                    ".".join(map(str, rng.integers(1, 250, 4))),
                    ".".join(map(str, rng.integers(1, 250, 4))),
                    int(sport),
                    (80, 8443)[kind] if what == "port" else int(dport),
                    [
                        (int(way), rng.bytes(int(size)))
                        for way, size in zip((0, 1, 1), rng.integers(20, 900, 3), strict=True)
                    ],
                    start=start,
                    gap=int(rng.integers(1, 40)) * make.MS,
                    seq=(int(rng.integers(2**31)), int(rng.integers(2**31))),
                    ttl=((64, 128)[kind], 57) if what == "ttl" else (ttl, ttl),
                )
            )
            lines.append((f"c{n}#{i}", ("chat", "mail")[kind]))
        make.write_pcap(folder / f"in/c{n}.pcap", make.merged(*flows))
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    return folder / "in", folder / "labels.csv"


@pytest.mark.parametrize(
    ("what", "telling"),
    [("port", {PORTS, "addresses and ports"}), pytest.param("ttl", {TTL}, marks=pytest.mark.slow)],
)
def test_a_planted_shortcut_is_found_and_named(tmp_path: Path, what: str, telling: set[str]) -> None:
    found = check(*planted(tmp_path, what), seeds=2)
    scores = {name: s["score"] for name, s in found["scores"].items()}
    assert set(scores) == {MAJORITY, LOT, STATISTICS, RANDOM, *PROBES}
    for name in PROBES:
        if name in telling:
            assert scores[name] > 0.95
        elif what == "port" or name != TTL:
            assert scores[name] < 0.75  # chance is 0.5 of two classes of equal size
    assert {w.partition(":")[0] for w in found["warnings"]} == telling
    # all are of the first class, of two of equal size: F1 of 2/3 and 0
    assert scores[MAJORITY] == pytest.approx(1 / 3)
    assert (found["flows"], found["groups"], found["seeds"]) == (CAPTURES * FLOWS, CAPTURES, 2)


def test_where_nothing_tells_every_probe_is_near_chance(tmp_path: Path) -> None:
    found = check(*planted(tmp_path, "nothing"), seeds=2)
    for name, s in found["scores"].items():
        if name != MAJORITY:
            assert 0.3 < s["score"] < 0.7, name
            assert s["low"] <= s["score"] <= s["high"]
    assert found["warnings"] == []
    assert found["twins"]["share"] == 0


def test_the_same_packets_under_two_groups_are_leakage(tmp_path: Path) -> None:
    path, labels = planted(tmp_path, "nothing")
    (path / "again").mkdir()
    (path / "again/c0.pcap").write_bytes((path / "c0.pcap").read_bytes())
    with pytest.raises(Leakage, match="hold the same values under different groups"):
        check(path, labels, seeds=1)
    assert run(build(domain("network")), ["leakcheck", str(path), "--labels", str(labels)]) == 4


def test_the_verb_says_n_seeds_and_intervals_and_no_address(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, labels = planted(tmp_path, "port")
    words = ["leakcheck", str(path), "--labels", str(labels), "--seeds", "1", "-o", str(tmp_path / "found.json")]
    monkeypatch.setenv("COLUMNS", "200")
    assert run(build(domain("network")), words) == 0
    said = capfd.readouterr().out
    assert "n = 72 labelled flows of 2 classes; 6 groups are left out in turn, 1 seeds" in said
    assert "warning: ports only: tells the classes" in said
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["scores"][PORTS]["gain_low"] > 0
    assert run(build(domain("network")), words) == 2  # the file exists


def test_wrong_requests(tmp_path: Path) -> None:
    path, labels = planted(tmp_path, "nothing")
    one = tmp_path / "one.csv"
    one.write_text("key,label\nc0#0,a\nc0#1,b\n")
    with pytest.raises(RequestError, match="all labelled flows are of one group"):
        check(path, one)
    one.write_text("key,label\nc0#0,a\nc1#1,b\nc1#2,a\n")
    with pytest.raises(RequestError, match="the class 'b' has no labelled flow left to train on"):
        check(path, one)
    (tmp_path / "urls").mkdir()
    (tmp_path / "urls/a.urls").write_text("example.org\n")
    with pytest.raises(RequestError, match="leakcheck is of captures"):
        check(tmp_path / "urls", labels)
    with pytest.raises(RequestError, match="no such folder"):
        check(tmp_path / "nowhere", labels)


@pytest.mark.slow
def test_beside_a_bundle_that_has_seen_the_groups_or_not(tmp_path: Path) -> None:
    from unlabeled.core.contracts.recipe import Recipe, validated
    from unlabeled.core.pretraining import pretrain

    path, labels = planted(tmp_path, "port")
    values = {
        "domain": "network",
        "data": {"path": path, "normaliser": "none"},
        "method": {"name": "masked_tokens"},
        "encoder": {"name": "flow", "width": 16, "depth": 1, "heads": 2},
        "batch_size": 8,
        "max_steps": 2,
        "trainer": {"loop": "plain", "threads": 1, "save_every": 2, "tensorboard": False, "accelerator": "cpu"},
    }
    bundle = pretrain(validated(Recipe, values, "recipe"), tmp_path / "run")
    with pytest.raises(Leakage, match=r"all 6 labelled groups of .* were seen in pretraining"):
        check(path, labels, bundle=bundle, seeds=1)
    found = check(path, labels, bundle=bundle, seeds=1, allow_seen=True)
    assert found["beside"] == BUNDLE
    # two steps teach nothing, and tokens never tell a port: the bundle is near chance, and ports alone are right
    assert found["scores"][BUNDLE]["score"] < 0.75 < 0.95 < found["scores"][PORTS]["score"]
    assert found["scores"][PORTS]["gain_low"] > 0.2
    assert any(
        w.startswith("ports only: alone reaches the bundle's score, 1.000 against 0.") for w in found["warnings"]
    )


def flow(data: np.ndarray, valid: np.ndarray | None = None) -> Sample:
    x = Input(data.astype(np.uint8), ("field", "high", "low"), ("id",) * 3, "packed", "place", valid=valid)
    return Sample({"x": x}, "k", "g")


def test_likeness_of_hashes_is_likeness_of_flows() -> None:
    rng = np.random.default_rng(0)
    one = rng.integers(0, 256, (400, 3))
    other = one.copy()
    other[200, 2] ^= 1  # 3 of 400 shingles differ
    invalid = np.concatenate([one, rng.integers(0, 256, (9, 3))])
    a, b, c, d, e = simhashes(
        [
            flow(one),
            flow(other),
            flow(rng.integers(0, 256, (400, 3))),
            flow(one[:1]),
            flow(invalid, np.arange(409) < 400),
        ]
    ).tolist()
    assert a == e  # what is not valid is not there
    assert (a ^ b).bit_count() <= 6
    # of two that share nothing every bit agrees by chance: 32 of 64 differ, with a deviation of 4
    assert 16 <= (a ^ c).bit_count() <= 48
    assert d != 0


def test_a_twin_counts_where_it_is_of_another_group() -> None:
    far, all_ = 0xFFFFFFFF << 32, (1 << 64) - 1
    h = np.array([0, 0b111, 0b1111, far, far + 1, all_, all_], np.uint64)
    # 0 and 0b111 differ in 3 bits and are of groups 0 and 1; 0b1111 is 4 from 0 but 1 from 0b111, of its own group
    assert elsewhere(h, [0, 1, 1, 2, 2, 3, 4]).tolist() == [True, True, False, False, False, True, True]
    assert elsewhere(h, [0, 1, 1, 2, 2, 3, 4], distance=4).tolist() == [True, True, True, False, False, True, True]
