"""Network keeps the contract of every domain: with captures, with flow tables, and with lists of URLs."""

from pathlib import Path
from typing import Any

from unlabeled.core.testing.contract import DomainContract

from .data.captures import START, merged, session, write_pcap
from .data.logs import flows, zeek

WIDTH = {"width": 16, "depth": 1, "heads": 2}


class TestCaptures(DomainContract):
    name = "network"
    suffix = ".pcap"
    recipe: dict[str, Any] = {"method": {"name": "netfound"}, "encoder": {"name": "flow", **WIDTH}}

    def write(self, folder: Path) -> Path:
        """Four captures of two flows, all of different lengths."""
        folder.mkdir(parents=True)
        for i in range(4):
            made = (
                session(sport=4000 + n, data=[(k % 2, 40 + 9 * i + n) for k in range(1 + i)], start=START + n * 10**10)
                for n in range(2)
            )
            write_pcap(folder / f"c{i}.pcap", merged(*made))
        return folder


class TestTables(DomainContract):
    name = "network"
    suffix = ".log"
    formats = ("parquet", "csv")
    recipe: dict[str, Any] = {
        "method": {"name": "ijepa", "predictor": {"width": 16, "depth": 1, "heads": 2}},
        "encoder": {"name": "tokens", "vocabulary": {"kind": [2, 256]}, **WIDTH},
    }

    def write(self, folder: Path) -> Path:
        """Four of Zeek's logs of three rows."""
        folder.mkdir(parents=True)
        for i in range(4):
            zeek(folder / f"c{i}.log", flows(3, seed=i))
        return folder


class TestURLs(DomainContract):
    name = "network"
    suffix = ".urls"
    formats = ("parquet", "csv")
    recipe: dict[str, Any] = {
        "method": {"name": "urlbert"},
        "encoder": {"name": "tokens", "vocabulary": {"x": [257, 12]}, **WIDTH},
    }

    def write(self, folder: Path) -> Path:
        """Two lists of four URLs, under domains of their own."""
        folder.mkdir(parents=True)
        for i in range(2):
            lines = [f"https://www.site{i}{n}.example/{'a/' * n}?q={n}" for n in range(4)]
            (folder / f"c{i}.urls").write_text("\n".join(lines) + "\n")
        return folder
