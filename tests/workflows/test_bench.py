"""The harness of benchmarks/README.md: what a row says of itself, that both sides run, and that the table follows from the JSON."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ROWS = (
    "codebook",
    "cog-predict",
    "data2vec2-masks",
    "dedup",
    "dedup-scale",
    "flows-scale",
    "geo-windows",
    "hog",
    "index-scale",
    "mae-step",
    "mae-step-default",
    "multicrop-step",
    "ntxent",
    "packet-tokens",
    "packet-tokens-numpy",
    "pcap-columns",
    "pcap-columns-numpy",
    "pcap-flows",
    "pcap-flows-numpy",
    "simclr-step",
    "sinkhorn",
    "spark-step",
    "videomae-dual",
)
SAID = {"name", "ours", "peer", "peer_name", "ratio", "unit", "device", "n", "like_for_like", "commit", "date"}


@pytest.fixture(autouse=True)
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`import bench` as `tools/bench` makes it possible, here and in the processes that it starts."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setenv("PYTHONPATH", str(BENCHMARKS))
    yield


def call(*words: str) -> int:
    from bench.__main__ import main

    return main(list(words))


def test_list_names_every_row_and_its_target(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--list", "--json") == 0
    found = {r["name"]: r for r in json.loads(capsys.readouterr().out)}
    assert tuple(sorted(found)) == ROWS
    assert {n: r["target"] for n, r in found.items() if r["target"]} == {
        "codebook": 0.75,
        "cog-predict": 0.80,
        "data2vec2-masks": 0.40,
        "dedup": 0.05,
        "geo-windows": 0.33,
        "hog": 1.0,
        "mae-step": 0.90,
        "multicrop-step": 0.75,
        "ntxent": 0.85,
        **({"packet-tokens": 0.02} if importlib.util.find_spec("numba") else {}),
        "pcap-columns": 0.05 if importlib.util.find_spec("numba") else 0.33,
        "pcap-columns-numpy": 0.33,
        "pcap-flows": 0.12 if importlib.util.find_spec("numba") else 0.5,
        "pcap-flows-numpy": 0.5,
        "simclr-step": 0.85,
        "sinkhorn": 0.85,
        "spark-step": 1.15,
        "videomae-dual": 0.75,
    }
    assert found["index-scale"]["limits"] == {"s": 2.0, "MB": 500.0}
    assert found["dedup-scale"]["limits"] == {"s": 60.0, "MB": 2048.0}
    assert found["flows-scale"]["limits"] == {"s": 120.0, "MB": 2048.0}
    # what differs is said where a ratio may be taken for a speed-up
    assert all(r["difference"] for r in found.values() if r["peer_name"])
    assert not found["mae-step-default"]["like_for_like"] and not found["spark-step"]["like_for_like"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mae-stepp"], "tools/bench: 'mae-stepp' is unknown, did you mean 'mae-step'?"),
        (["--all"], "--all writes a file: name its folder with -o, benchmarks/results for the committed one"),
    ],
)
def test_wrong_words(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*words) == 2
    assert said in capsys.readouterr().err


def test_turns_change_who_begins_and_leave_out_the_first() -> None:
    from bench.timing import WARM, in_turns

    calls: list[str] = []
    ours, peer = in_turns(lambda: calls.append("o"), lambda: calls.append("p"), 3)
    assert "".join(calls) == "op" * WARM + "oppoop"
    assert len(ours) == len(peer) == 3


def test_new_rows_join_those_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import bench.__main__ as command

    newest = max((BENCHMARKS / "results").glob("*-bench.json"))
    rows = [r for r in json.loads(newest.read_text())["rows"] if r["name"] != "hog"]
    (tmp_path / "2026-01-01-bench.json").write_text(json.dumps({"rows": rows}))
    hog = {**rows[0], "name": "hog", "date": "2026-01-02", "commit": "later"}
    monkeypatch.setattr(command, "_apart", lambda name, asked: {"hog": hog}[name])
    monkeypatch.setattr(command, "names", lambda: sorted(["hog", *(r["name"] for r in rows)]))
    assert call("--new", "-o", str(tmp_path)) == 0
    (new,) = (p for p in tmp_path.iterdir() if not p.name.startswith("2026-01-01"))
    found = {r["name"]: r for r in json.loads(new.read_text())["rows"]}
    assert found.pop("hog") == hog and found == {r["name"]: r for r in rows}


def test_the_committed_table_follows_from_the_committed_numbers() -> None:
    from bench import report

    newest = max((BENCHMARKS / "results").glob("*-bench.json"))
    rows = json.loads(newest.read_text())["rows"]
    readme = (BENCHMARKS / "README.md").read_text()
    assert report.renewed(readme, rows) == readme
    assert tuple(sorted(r["name"] for r in rows)) == ROWS
    for r in rows:
        assert r.keys() >= SAID and not r["tiny"]
        if r["peer"] is not None:
            assert math.isclose(r["ratio"], r["ours"] / r["peer"]) and len(r["turns"]["ours"]) == r["n"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_every_row_runs_both_sides(name: str) -> None:
    words = [sys.executable, "-m", "bench", name, "--json", "--tiny", "--cpu", "--threads", "1"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found.keys() >= SAID and found["tiny"] and found["n"] == 2 and found["ours"] > 0
    assert (found["peer"] is None) == (found["ratio"] is None) == name.endswith("-scale")
