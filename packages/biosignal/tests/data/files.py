"""Generators of tiny real files: good ones in every format, and one for every row of the bad-input table."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

RATE = 50.0
CHANNELS = ("acc_x", "acc_y", "acc_z", "gyro_x", "gyro_y", "gyro_z")
UNITS = ("g", "g", "g", "rad/s", "rad/s", "rad/s")


def signal(samples: int = 100) -> NDArray[np.float64]:
    """(6, T): a wrist held still, gravity along z, that turns slowly. Values of 3 decimals, so text loses nothing."""
    t = np.arange(samples) / RATE
    rows = [0.1 * np.sin(t), 0.1 * np.cos(t), 1 + 0.05 * np.sin(2 * t), np.sin(3 * t), np.cos(3 * t), 0.2 * t]
    return np.round(np.stack(rows), 3)


def times(samples: int = 100) -> NDArray[np.float64]:
    return np.arange(samples) / RATE


Columns = dict[str, Any]


def columns(
    values: NDArray[np.float64] | None = None, time: NDArray[np.float64] | None = None, **more: object
) -> Columns:
    """Columns with their units in the name, a time column and the subject."""
    values = signal() if values is None else values
    named: Columns = {f"{c} [{u}]": row for c, u, row in zip(CHANNELS, UNITS, values, strict=True)}
    n = values.shape[1]
    return {"time": times(n) if time is None else time, **named, "subject": ["s1"] * n, **more}


def write_csv(path: Path, table: Columns, delimiter: str = ",") -> Path:
    rows = zip(*table.values(), strict=True)
    lines = [delimiter.join(table), *(delimiter.join(str(cell) for cell in row) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_parquet(path: Path, values: NDArray[np.float64], **facts: str) -> Path:
    fields = [pa.field(c, pa.float64(), metadata={"unit": u}) for c, u in zip(CHANNELS, UNITS, strict=True)]
    pq.write_table(pa.table(list(values), schema=pa.schema(fields, metadata=dict(facts))), path)
    return path


def write_npz(path: Path, values: NDArray[np.float64], **more: Any) -> Path:
    facts = {"data": values.T, "channels": np.array(CHANNELS), "units": np.array(UNITS), "rate": RATE, "subject": "s1"}
    np.savez(path, **{**facts, **more})
    return path


@dataclass(frozen=True)
class Bad:
    """One row of the table: a file, the options it is read with, and what the sentence must say."""

    write: Callable[[Path], object]
    says: str
    name: str = "bad.csv"
    options: dict[str, Any] = field(default_factory=dict)


def _with(channel: int, value: float, rows: slice = slice(None)) -> NDArray[np.float64]:
    values = signal()
    values[channel, rows] = value
    return values


def _without(name: str) -> Columns:
    return {k: v for k, v in columns().items() if k != name}


def _cell(text: str) -> Columns:
    return {**columns(), "gyro_y [rad/s]": ["0.5", "0.5", text, *["0.5"] * 97]}


def _scaled(factor: float) -> Columns:
    return columns(signal() * np.array([[factor]] * 3 + [[1.0]] * 3))


def _ragged(path: Path) -> None:
    lines = write_csv(path, columns()).read_text().splitlines()
    lines[5] = lines[5].rpartition(",")[0]
    path.write_text("\n".join(lines))


def _duplicate_header(path: Path) -> None:
    path.write_text(write_csv(path, columns()).read_text().replace("acc_y [g]", "acc_x [m/s^2]", 1))


def _headless(path: Path) -> None:
    path.write_text("".join(f"{i},{i / 7:.3f},1\n" for i in range(50)))


def _latin1(path: Path) -> None:
    path.write_bytes(write_csv(path, columns()).read_text().replace("s1", "Zoë").encode("latin-1"))


def _objects(path: Path) -> None:
    np.savez(path, data=np.array([{"a": 1}], dtype=object), allow_pickle=True)


def _cut_zip(path: Path) -> None:
    path.write_bytes(write_npz(path, signal()).read_bytes()[:-200])


def _spoiled_zip(path: Path) -> None:
    content = bytearray(write_npz(path, signal()).read_bytes())
    content[200:260] = bytes(60)  # inside the values of the first array: the checksum no longer fits
    path.write_bytes(content)


def _array_only(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, signal())


def _other_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "hello")


def _two_sides(path: Path) -> None:
    write_csv(path, columns(side=["left"] * 50 + ["right"] * 50))


def _jittered() -> NDArray[np.float64]:
    # steps of 1, 2, 4, 8, ... ms in turn: no rate is near the median
    return np.cumsum(np.tile([0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512], 10))


BAD: dict[str, Bad] = {
    "empty file": Bad(lambda p: p.write_bytes(b""), "bad.csv: the file is empty"),
    "only a header": Bad(lambda p: p.write_text("time,acc_x [g]\n"), "there is a header and no row"),
    "no header": Bad(_headless, "the first row holds numbers; add a row with the column names"),
    "binary renamed": Bad(lambda p: p.write_bytes(os.urandom(64) + b"\0"), "binary or UTF-16, not a CSV"),
    "UTF-16": Bad(lambda p: p.write_bytes("time,acc_x\n0,1\n".encode("utf-16")), "binary or UTF-16, not a CSV"),
    "not UTF-8": Bad(_latin1, "line 2 is not UTF-8; save the file in UTF-8"),
    "semicolons": Bad(lambda p: write_csv(p, columns(), ";"), "separated by ';'; set options.delimiter"),
    "ragged row": Bad(_ragged, "row 5 has 7 cells, the header 8"),
    "duplicate column": Bad(_duplicate_header, "the column 'acc_x' stands there twice"),
    "unnamed column": Bad(lambda p: write_csv(p, {**columns(), "": [0] * 100}), "column 9 has no name"),
    "text in a channel": Bad(
        lambda p: write_csv(p, _cell("off")), "column 'gyro_y' holds a text in row 3, which is no number"
    ),
    "decimal comma": Bad(lambda p: write_csv(p, _cell('"0,5"')), "column 'gyro_y' holds a text in row 3"),
    "text column": Bad(lambda p: write_csv(p, columns(mood=["ok"] * 100)), "column 'mood' holds a text in row 1"),
    "no channel": Bad(lambda p: write_csv(p, {"time": times()}), "there is no channel column (found time)"),
    "missing channel": Bad(
        lambda p: write_csv(p, columns()),
        "channel ppg is missing (found acc_x,",
        options={"channels": ["acc_x", "ppg"]},
    ),
    "no subject": Bad(
        lambda p: write_csv(p, _without("subject")),
        "no subject is known, and a split needs one; name it in recordings.csv",
    ),
    "pattern without match": Bad(
        lambda p: write_csv(p, _without("subject")),
        "options.subject_pattern finds no subject in this path",
        options={"subject_pattern": "(s[0-9]+)/"},
    ),
    "side changes": Bad(_two_sides, "the column 'side' changes within a recording"),
    "unknown side": Bad(lambda p: write_csv(p, columns(side=["up"] * 100)), "the side is neither left nor right"),
    "no rate": Bad(lambda p: write_csv(p, _without("time")), "there is no time column and no rate"),
    "empty time cell": Bad(
        lambda p: write_csv(p, columns(time=np.where(np.arange(100) == 6, np.nan, times()))), "row 7 has no time"
    ),
    "words for times": Bad(
        lambda p: write_csv(p, {**columns(), "time": ["noon"] * 100}), "column 'time' holds times of another form"
    ),
    "coarse clock": Bad(
        lambda p: write_csv(p, columns(time=np.floor(times()))),
        "98 of 100 rows repeat a time stamp, so the clock is too coarse",
    ),
    "irregular": Bad(lambda p: write_csv(p, columns(time=_jittered())), "the time steps are irregular"),
    "rate disagrees": Bad(
        lambda p: write_csv(p, columns()),
        "runs at 50 Hz, the stated rate is 51 Hz; correct the rate",
        options={"rate": 51},
    ),
    "milliseconds taken for seconds": Bad(
        lambda p: write_csv(p, columns(time=times() * 1000)),
        "runs at 0.05 Hz, the stated rate is 50 Hz",
        options={"rate": 50},
    ),
    "seconds taken for nanoseconds": Bad(
        lambda p: write_csv(p, columns()),
        "runs at 5e+10 Hz, above 100000 Hz; set options.time_unit",
        options={"time_unit": "ns"},
    ),
    "one row": Bad(lambda p: write_csv(p, columns(signal(1))), "too few rows to tell a sampling rate"),
    "dead channel": Bad(lambda p: write_csv(p, columns(_with(4, np.nan))), "channel gyro_y holds no finite value"),
    "infinite channel": Bad(lambda p: write_csv(p, columns(_with(4, np.inf))), "channel gyro_y holds no finite value"),
    "dead recording": Bad(lambda p: write_csv(p, columns(signal() * 0 + 1)), "never change; the sensor was off"),
    "m/s^2 said to be g": Bad(
        lambda p: write_csv(p, _scaled(9.80665)), "is said to be in g, but its median norm of 10.1 looks like m/s^2"
    ),
    "g said to be m/s^2": Bad(
        lambda p: write_csv(p, {k.replace("[g]", "[m/s^2]"): v for k, v in columns().items()}),
        "is said to be in m/s^2, but its median norm of 1.03 looks like g",
    ),
    "counts said to be g": Bad(lambda p: write_csv(p, _scaled(64)), "looks like counts of 1/64 g"),
    "no gravity": Bad(lambda p: write_csv(p, _scaled(0.01)), "fits no known unit (a worn sensor measures about 1 g)"),
    "mixed units": Bad(
        lambda p: write_csv(p, {k.replace("acc_y [g]", "acc_y [mg]"): v for k, v in columns().items()}),
        "acc mixes the units g, mg",
    ),
    "no unit": Bad(
        lambda p: write_csv(p, {k.partition(" [")[0]: v for k, v in columns().items()}),
        "acc has no unit; write it into the header",
    ),
    "units disagree": Bad(
        lambda p: write_csv(p, columns()),
        "acc_x is in g by the file and in mg by options.units",
        options={"units": {"acc_*": "mg"}},
    ),
    "not Parquet": Bad(
        lambda p: p.write_bytes(b"PAR1 and no more"), "bad.parquet: not a readable Parquet file", "bad.parquet"
    ),
    "Parquet without rows": Bad(
        lambda p: write_parquet(p, signal()[:, :0], rate="50", subject="s1"),
        "there are columns and no row",
        "bad.parquet",
    ),
    "Parquet with a list column": Bad(
        lambda p: pq.write_table(pa.table({"ecg": [[1.0, 2.0]], "subject": ["s1"]}), p),
        "'ecg' is of type list",
        "bad.parquet",
    ),
    "rate of a word": Bad(
        lambda p: write_parquet(p, signal(), rate="fast", subject="s1"),
        "the rate in its metadata is no number",
        "bad.parquet",
    ),
    "rate of zero": Bad(
        lambda p: write_parquet(p, signal(), rate="0", subject="s1"),
        "its rate is 0 Hz, outside 0 to 100000 Hz",
        "bad.parquet",
    ),
    "rate of a million": Bad(
        lambda p: write_parquet(p, signal(), rate="1e6", subject="s1"), "its rate is 1e+06 Hz, outside", "bad.parquet"
    ),
    "two rates": Bad(
        lambda p: write_parquet(p, signal(), rate="50", subject="s1"),
        "its rate is 50 Hz, options.rate says 100 Hz",
        "bad.parquet",
        {"rate": 100},
    ),
    "not NPZ": Bad(lambda p: p.write_bytes(b"hello, world"), "not a readable NPZ archive", "bad.npz"),
    "truncated NPZ": Bad(_cut_zip, "not a readable NPZ archive", "bad.npz"),
    "spoiled NPZ": Bad(_spoiled_zip, "not a readable NPZ archive", "bad.npz"),
    "another zip": Bad(_other_zip, "not a readable NPZ archive", "bad.npz"),
    "a bare array": Bad(_array_only, "not a readable NPZ archive", "bad.npz"),
    "pickled objects": Bad(_objects, "pickled objects, which are never loaded", "bad.npz"),
    "NPZ of another shape": Bad(
        lambda p: write_npz(p, signal()[:5]), "`data` has the shape (100, 5) for 6 names in `channels`", "bad.npz"
    ),
    "NPZ of unequal lengths": Bad(
        lambda p: np.savez(p, ecg=np.zeros(9), ppg=np.zeros(8), rate=50.0), "different lengths (8, 9)", "bad.npz"
    ),
    "NPZ without samples": Bad(
        lambda p: np.savez(p, ecg=np.zeros(0), rate=50.0), "there are channels and no sample", "bad.npz"
    ),
    "NPZ with a matrix": Bad(
        lambda p: np.savez(p, ecg=np.zeros((9, 2)), rate=50.0), "'ecg' is an array of shape (9, 2)", "bad.npz"
    ),
    "NPZ with too few units": Bad(
        lambda p: write_npz(p, signal(), units=np.array(["g"])), "it has 1 units for 6 channels", "bad.npz"
    ),
    "NPZ with a short time": Bad(
        lambda p: write_npz(p, signal(), time=times(99)), "time has 99 rows, the channels 100", "bad.npz"
    ),
    "NPZ with an empty time": Bad(
        lambda p: write_npz(p, signal(), time=np.zeros(0)), "time has 0 rows, the channels 100", "bad.npz"
    ),
    "NPZ with a matrix of times": Bad(
        lambda p: write_npz(p, signal(), time=np.zeros((100, 2))), "'time' is an array of shape (100, 2)", "bad.npz"
    ),
    "NPZ with complex times": Bad(
        lambda p: write_npz(p, signal(), time=times().astype(complex)), "'time' is of type complex128", "bad.npz"
    ),
    "NPZ with a matrix of subjects": Bad(
        lambda p: write_npz(p, signal(), subject=np.full((50, 2), "s1")),
        "'subject' is an array of shape (50, 2)",
        "bad.npz",
    ),
    "NPZ with a subject in Latin-1": Bad(
        lambda p: write_npz(p, signal(), subject="Zoë".encode("latin-1")),
        "'subject' holds bytes that are not ASCII",
        "bad.npz",
    ),
    "NPZ with two rates": Bad(
        lambda p: write_npz(p, signal(), rate=[50.0, 60.0]), "'rate' holds 2 values; save one", "bad.npz"
    ),
    "one endless cell": Bad(lambda p: p.write_text("a" * 200_000 + ",b\n0,1\n"), "not a readable CSV"),
}
