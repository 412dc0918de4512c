"""The domain lists: what they are, and that nothing beside the names tells their labels."""

from __future__ import annotations

import csv
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from unlabeled.core.contracts import RequestError
from unlabeled.network.options import ReaderOptions
from unlabeled.network.url import domains as module
from unlabeled.network.url.domains import domains, family
from unlabeled.network.url.lists import read


def table(path: Path) -> dict[str, str]:
    with path.open(newline="") as file:
        return {row["key"]: row[next(c for c in row if c != "key")] for row in csv.DictReader(file)}


def listed(folder: Path) -> dict[str, str]:
    """key -> registered domain."""
    return {s.key: s.group for s in read(folder / "domains.urls", "domains.urls", ReaderOptions())}


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The sample from lists of our own, in the sources' forms."""
    lists = {
        "blacklist": [
            "meta-mask1.example",
            "METAMASK-x.example",
            "sub.a.example",
            "one.github.io",
            "both.example",
            "a.b.c",
        ],
        "whitelist": ["metric.example", "both.example", "localhost", "co.uk", "1.2.3.4"],
    }
    patterns = {
        "x": {"category": "advertising", "organization": "org"},
        "y": {"category": "site_analytics", "organization": None},
    }
    trackers = {
        "patterns": patterns,
        "domains": {"t1.example": "x", "t2.example": "x", "u.example": "y", "v.u.example": "y"},
    }
    for name, content in (("config.json", lists), ("trackerdb.json", trackers)):
        (tmp_path / name).write_text(json.dumps(content))
    monkeypatch.setattr(module, "fetch_npm", lambda *of: tmp_path / Path(of[-1]).name)
    return domains(tmp_path / "deep" / "domains")


def test_only_bare_registered_domains_of_one_list(small: Path) -> None:
    names, labels = listed(small / "phishing"), table(small / "phishing" / "labels.csv")
    assert {names[k]: v for k, v in labels.items()} == {
        "meta-mask1.example": "phishing",
        "metamask-x.example": "phishing",
        "metric.example": "legitimate",
    }
    names, labels = listed(small / "category"), table(small / "category" / "labels.csv")
    assert {names[k]: v for k, v in labels.items()} == {
        "t1.example": "advertising",
        "t2.example": "advertising",
        "u.example": "site_analytics",
    }
    folds = {names[k]: v for k, v in table(small / "category" / "folds.csv").items()}
    assert folds["t1.example"] == folds["t2.example"]
    said = (small / "README.md").read_text()
    assert (
        "2 phishing, 1 legitimate" in said and "On both lists, and left out: 1." in said and "1 organisations" in said
    )
    assert "DBAD" in said and "CC-BY-NC-SA-4.0" in said


def test_families() -> None:
    assert [family(n) for n in ("metamask-login.com", "my-metamask1.io", "opensea.co", "123.com")] == [
        "metam", "metam", "opens", "123.c",
    ]  # fmt: skip


def test_it_is_written_once_and_another_folder_is_left_alone(small: Path, tmp_path: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in small.rglob("*")}
    assert domains(small) == small and {p: p.stat().st_mtime_ns for p in small.rglob("*")} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x").write_text("mine")
    with pytest.raises(RequestError, match="holds something else; name a new folder"):
        domains(tmp_path / "mine")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return domains(tmp_path_factory.mktemp("samples") / "domains")


@pytest.mark.data
def test_the_phishing_list(folder: Path) -> None:
    names, labels = listed(folder / "phishing"), table(folder / "phishing" / "labels.csv")
    # 11,819 and 1,101 bare registered domains, of 13,752 and 1,138 listed; 3 on both lists
    assert Counter(labels.values()) == {"phishing": 11_816, "legitimate": 1_098}
    assert set(names) == set(labels) and len(set(names.values())) == len(names)
    # the order tells nothing: sorted by label 12,913 neighbours would be alike but one; at random p^2 + q^2 = 84.4 %
    order = [labels[k] for k in names]
    alike = sum(a == b for a, b in pairwise(order)) / (len(order) - 1)
    assert alike == pytest.approx(0.844, abs=0.012)
    folds = table(folder / "phishing" / "folds.csv")
    of: dict[str, set[str]] = {}
    for key, name in names.items():
        of.setdefault(family(name), set()).add(folds[key])
    assert all(len(f) == 1 for f in of.values()) and set(folds.values()) == set("01234")
    # every fold has both labels
    assert all(n > 100 for n in Counter((folds[k], labels[k]) for k in names).values())


@pytest.mark.data
def test_the_categories(folder: Path) -> None:
    names, labels = listed(folder / "category"), table(folder / "category" / "labels.csv")
    counts = Counter(labels.values())
    assert len(names) == len(labels) == 4_049 and len(counts) == 11
    assert counts["advertising"] == 1_986 and min(counts.values()) == 33
    folds = table(folder / "category" / "folds.csv")
    assert set(Counter((folds[k], labels[k]) for k in names)) == {(f, c) for f in "01234" for c in counts}
    assert "13,752" in (folder / "README.md").read_text()
