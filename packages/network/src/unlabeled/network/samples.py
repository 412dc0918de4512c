"""Sample data: captures of services that come with the package, and lists of domains."""

from __future__ import annotations

import csv
from importlib.resources import as_file, files
from pathlib import Path

from unlabeled.core.contracts import RequestError
from unlabeled.core.files import folder_atomic
from unlabeled.network.read import Reader
from unlabeled.network.url.domains import domains

__all__ = ["domains", "services"]

SHIPPED = "captures"
FOLDS = 3


def services(out: Path) -> Path:
    """Write the captures of services that come with the package into `out`, once and whole, with README.md.

    One folder per service. labels.csv (key, label) names the service of each flow: the server that was started, see
    README.md. folds.csv (key, fold) leaves out whole captures, of every service as many. Flows are those of the reader's
    own options. Raises RequestError where `out` holds something else.
    """
    if (out / "labels.csv").is_file():
        return out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RequestError(f"{out} holds something else; name a new folder for the sample")
    out.parent.mkdir(parents=True, exist_ok=True)
    with folder_atomic(out) as temp, as_file(files("unlabeled.network") / SHIPPED) as shipped:
        for path in shipped.rglob("*"):
            if path.is_file():
                copy = temp / path.relative_to(shipped)
                copy.parent.mkdir(exist_ok=True)
                copy.write_bytes(path.read_bytes())
        _label(temp)
    return out


def _label(folder: Path) -> None:
    """labels.csv: the folder a capture lies in is the service of its flows. folds.csv: captures in turn, by their number."""
    reader = Reader()
    labels, folds = [("key", "label")], [("key", "fold")]
    for path in reader.files(folder):
        n = int(path.name.partition(".")[0].rpartition("-")[2])
        keys = [reader.key(path, int(number)) for number in reader.flows(path).number]
        labels += [(key, path.parent.name) for key in keys]
        folds += [(key, str(n % FOLDS)) for key in keys]
    for name, rows in (("labels.csv", labels), ("folds.csv", folds)):
        with (folder / name).open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
