"""Real sample data."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unlabeled.biosignal.restricted import load_arrays
from unlabeled.core.contracts import RequestError
from unlabeled.core.data.registry import fetch
from unlabeled.core.files import folder_atomic

WATCH_SHA256 = "90c45b5ced6bac355016c768cb405835815c51ef794c24b4f727d0c7855266c8"
WATCH_CHANNELS = ("acc_x", "acc_y", "acc_z", "gyro_x", "gyro_y", "gyro_z")
WATCH_UNITS = ("g", "g", "g", "rad/s", "rad/s", "rad/s")
WATCH_RATE = 50

WATCH_README = """# Watch recordings

140 recordings of a smartwatch on the wrist during seven shoulder exercises: 10 subjects, both sides, each exercise once
a side; 81 minutes at 50 Hz. Six channels: accelerometer (g, gravity included) and gyroscope (rad/s).

Source: `seglearn/data/watch_dataset.npy` of the Python package seglearn 1.2.5 (source archive), unchanged but for the
file format (float32 Parquet). Study: Burns, Leung, Hardisty, Whyne, Henry, McLachlin, "Shoulder Physiotherapy Exercise
Recognition: Machine Learning the Inertial Signals from a Smartwatch", arXiv:1802.01489 (2018).
Licence: the package is BSD (3-clause); a licence of the data itself is not stated.

The source names no units. They were found by looking:
- Acceleration is in g: the median norm over a recording is 1.09 in the median recording (0.99 to 2.47).
- Angular velocity is in rad/s: in abduction, the arm's swing integrated from it is a radian or so, as a shoulder's is;
  read as deg/s it would be a degree.
- That both sensors share their axes is taken from the source's names (ax, wx, ...); the data alone do not settle it.

`recordings.csv` names subject and side of each file, `labels.csv` the exercise of each key: PEN pendulum, ABD abduction,
FEL forward elevation, IR internal rotation, ER external rotation, TRAP trapezius extension, ROW upright row.
"""


def watch(out: Path) -> Path:
    """Write the watch recordings of seglearn 1.2.5 into `out`, once and whole: 140 Parquet files and labels.csv.

    The labels stand in labels.csv (key, label) alone. Raises RequestError where `out` holds something else, or where
    the package index does not give the source archive.
    """
    if (out / "labels.csv").is_file():
        return out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RequestError(f"{out} holds something else; name a new folder for the sample")
    source = fetch(
        "seglearn",
        "1.2.5",
        "seglearn-1.2.5.tar.gz",
        WATCH_SHA256,
        member="seglearn-1.2.5/seglearn/data/watch_dataset.npy",
    )
    data = load_arrays(source)
    out.parent.mkdir(parents=True, exist_ok=True)
    with folder_atomic(out) as temp:
        _write_watch(temp, data)
    return out


def _write_watch(folder: Path, data: dict[str, Any]) -> None:
    schema = pa.schema(
        [pa.field(c, pa.float32(), metadata={"unit": u}) for c, u in zip(WATCH_CHANNELS, WATCH_UNITS, strict=True)],
        metadata={"rate": str(WATCH_RATE)},
    )
    recordings, labels = [], []
    for i, (x, y, subject, side) in enumerate(zip(data["X"], data["y"], data["subject"], data["side"], strict=True)):
        key = f"s{int(subject):02d}/{i:03d}"
        file = folder / f"{key}.parquet"
        file.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table(list(np.asarray(x, np.float32).T), schema=schema), file)
        recordings.append((f"{key}.parquet", f"s{int(subject):02d}", "right" if side else "left"))
        labels.append((key, data["y_labels"][int(y)]))
    _write_csv(folder / "recordings.csv", ("file", "subject", "side"), recordings)
    _write_csv(folder / "labels.csv", ("key", "label"), labels)
    (folder / "README.md").write_text(WATCH_README)


def _write_csv(path: Path, header: tuple[str, ...], rows: list[Any]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *sorted(rows)])
