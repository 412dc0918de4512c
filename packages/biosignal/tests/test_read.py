"""The reader: equal arrays from every format, and one sentence for every bad file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from unlabeled.biosignal.options import ReaderOptions
from unlabeled.biosignal.read import Reader
from unlabeled.core.contracts import BadInput, Input, RequestError

from .data.files import (
    BAD,
    CHANNELS,
    RATE,
    UNITS,
    Bad,
    columns,
    signal,
    times,
    write_csv,
    write_npz,
    write_parquet,
)


def read(path: Path, **options: Any) -> list[Any]:
    return Reader(ReaderOptions(**options)).read(path)


def one(path: Path, **options: Any) -> Input:
    (sample,) = read(path, **options)
    x = sample.inputs["x"]
    assert isinstance(x, Input)
    return x


@pytest.mark.parametrize("row", BAD.values(), ids=BAD.keys())
def test_bad_file_gives_one_sentence(row: Bad, tmp_path: Path) -> None:
    path = tmp_path / row.name
    row.write(path)
    with pytest.raises(BadInput) as caught:
        read(path, **row.options)
    sentence = str(caught.value)
    assert row.says in sentence
    assert sentence.startswith(row.name) and "\n" not in sentence and str(tmp_path) not in sentence
    # what is wrong, and after it how to mend it
    assert ";" in sentence.removeprefix(row.name)


def test_every_format_gives_the_same(tmp_path: Path) -> None:
    values = signal()
    arrays = {f"{c} [{u}]": row for c, u, row in zip(CHANNELS, UNITS, values, strict=True)}
    np.savez(tmp_path / "named.npz", rate=RATE, subject="s1", **arrays)
    paths = [
        write_csv(tmp_path / "a.csv", columns()),
        write_parquet(tmp_path / "b.parquet", values, rate="50", subject="s1"),
        write_npz(tmp_path / "c.npz", values),
        tmp_path / "named.npz",
    ]
    for path in paths:
        (sample,) = read(path)
        x = sample.inputs["x"]
        np.testing.assert_array_equal(x.data, values.astype(np.float32))
        assert x.data.dtype == np.float32
        assert (x.channels, x.units, x.unit, x.spacing, x.valid) == (CHANNELS, UNITS, "s", (1 / RATE,), None)
        assert (sample.group, sample.key, x.source) == ("s1", path.stem, "wrist")
        assert sample.meta == {"flags": [], "side": None}


@pytest.mark.parametrize(
    "time",
    [
        [f"2026-03-01T12:00:{t:09.6f}" for t in times()],
        [f"2026-03-01T12:00:{t:09.6f}+01:00" for t in times()],
        [f"2026-03-01 12:00:{t:06.3f}" for t in times()],
    ],
)
def test_datetimes_count_by_their_differences(time: list[str], tmp_path: Path) -> None:
    x = one(write_csv(tmp_path / "a.csv", {**columns(), "time": time}))
    np.testing.assert_array_equal(x.data, signal().astype(np.float32))
    assert x.spacing == (0.02,)


def test_time_unit_and_rounded_stamps(tmp_path: Path) -> None:
    # 32 Hz stamped in whole ms: steps of 31 and 32 ms, whose median is 1 % off and whose mean is not
    stamps = np.floor(np.arange(100) * 1000 / 32)
    x = one(write_csv(tmp_path / "a.csv", columns(time=stamps)), time_unit="ms")
    assert x.spacing == (1 / 32,)
    # stamps up to 1 ms late on a slope move a value by at most 1 ms of it; the sine of 3 rad/s moves by less than 0.01
    assert np.abs(x.data - signal()[:, : x.shape[0]]).max() < 0.01


def test_channels_in_the_wanted_order(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", columns(activity=["walk"] * 100))
    x = one(path, channels=["gyro_z", "acc_x"])
    assert (x.channels, x.units) == (("gyro_z", "acc_x"), ("rad/s", "g"))
    np.testing.assert_array_equal(x.data, signal()[[5, 0]].astype(np.float32))


def test_units_from_options(tmp_path: Path) -> None:
    plain = {k.partition(" [")[0]: v for k, v in columns().items()}
    x = one(write_csv(tmp_path / "a.csv", plain), units={"acc_*": "g", "gyro_*": "dps"})
    assert x.units == ("g",) * 3 + ("deg/s",) * 3


def test_gate_knows_other_units(tmp_path: Path) -> None:
    scaled = columns(signal() * np.array([[9.80665]] * 3 + [[1.0]] * 3))
    as_metres = {k.replace("[g]", "[m/s²]"): v for k, v in scaled.items()}
    assert one(write_csv(tmp_path / "a.csv", as_metres)).units[:3] == ("m/s^2",) * 3
    assert one(write_csv(tmp_path / "b.csv", scaled), unit_gate=False).units[:3] == ("g",) * 3


def test_missing_values_are_never_filled(tmp_path: Path) -> None:
    values = signal()
    values[1, 10:25] = np.nan
    values[3, 40] = np.inf
    (sample,) = read(write_csv(tmp_path / "a.csv", columns(values)))
    x = sample.inputs["x"]
    expected = np.ones((6, 100), bool)
    expected[1, 10:25] = expected[3, 40] = False
    np.testing.assert_array_equal(x.valid, expected)
    assert (x.data[~expected] == 0).all()
    np.testing.assert_array_equal(x.data[expected], signal()[expected].astype(np.float32))
    assert sample.meta["flags"] == ["acc_y: 15% missing"]


def test_flat_channel_is_flagged(tmp_path: Path) -> None:
    values = signal()
    values[5] = 0.25
    (sample,) = read(write_csv(tmp_path / "a.csv", columns(values)))
    assert sample.meta["flags"] == ["gyro_z: flat"]


def test_several_recordings_in_a_file(tmp_path: Path) -> None:
    table = columns(
        time=np.concatenate([times(60), times(40)]),
        recording=["late"] * 60 + ["early"] * 40,
        side=["L"] * 60 + ["R"] * 40,
    )
    table["subject"] = ["s1"] * 60 + ["s2"] * 40
    first, second = read(write_csv(tmp_path / "a.csv", table))
    assert (first.key, first.group, first.meta["side"]) == ("a#1", "s1", "left")
    assert (second.key, second.group, second.meta["side"]) == ("a#2", "s2", "right")
    np.testing.assert_array_equal(second.inputs["x"].data, signal()[:, 60:].astype(np.float32))


def test_clock_that_falls_back_splits_one_of_two_recordings(tmp_path: Path) -> None:
    stamps = np.concatenate([times(40) + 3600, times(30), times(30)])
    table = columns(time=stamps, recording=["a"] * 70 + ["b"] * 30)
    samples = read(write_csv(tmp_path / "a.csv", table))
    assert [s.key for s in samples] == ["a#1.1", "a#1.2", "a#2"]
    assert [s.inputs["x"].shape for s in samples] == [(40,), (30,), (30,)]
    assert samples[0].meta["flags"] == ["split where the clock falls back (1 time)"]
    assert {s.group for s in samples} == {"s1"}


def test_sidecar_pattern_and_flag_name_the_subject(tmp_path: Path) -> None:
    table = {k: v for k, v in columns().items() if k != "subject"}
    (tmp_path / "p07").mkdir()
    path = write_csv(tmp_path / "p07" / "walk.csv", table)
    (sample,) = read(path, subject_pattern="(p[0-9]+)/")
    assert sample.group == "p07" and sample.key == "p07/walk"
    (sample,) = read(path, one_file_one_subject=True)
    assert sample.group == "walk.csv"
    (tmp_path / "recordings.csv").write_text("file,subject,side,source\np07/walk.csv,anna,Left,ankle\n")
    reader = Reader()
    assert reader.files(tmp_path) == [path]
    # with the root from `files`, and without: the nearest folder with a recordings.csv
    for chosen in (reader, Reader()):
        (sample,) = chosen.read(path)
        assert (sample.key, sample.group, sample.meta["side"]) == ("p07/walk", "anna", "left")
        assert sample.inputs["x"].source == "ankle"


def test_file_and_sidecar_contradict(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", columns())
    (tmp_path / "recordings.csv").write_text("file,subject\na.csv,s2\n")
    with pytest.raises(BadInput, match="name different subjects") as caught:
        read(path)
    assert "s2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name,subject\na.csv,s1\n", "has no column file; its header needs file and subject"),
        (
            "file,subject,age\na.csv,s1,40\n",
            "has 1 unknown column.s.; its header needs file and subject, and may have side",
        ),
        ("file,subject\na.csv,s1\na.csv,s2\n", "line 3: its file stands there twice"),
        ("file,subject\n,s1\n", "line 2: no file is named"),
        ("", "has no column file and no column subject"),
    ],
)
def test_broken_sidecar_is_a_wrong_request(text: str, says: str, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", columns())
    (tmp_path / "recordings.csv").write_text(text)
    with pytest.raises(RequestError, match=says):
        read(path)


NAME = "Jane Doe 1951-03-02"
# one file for every place that a private word may stand in
TOLD: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a cell": ("a.csv", lambda p: write_csv(p, columns(patient_name=[NAME] * 100))),
    "a time": ("a.csv", lambda p: write_csv(p, {**columns(), "time": [NAME] * 100})),
    "a side": ("a.csv", lambda p: write_csv(p, columns(side=[NAME] * 100))),
    "a longer row": ("a.csv", lambda p: p.write_text(f"time,ecg\n0,1,{NAME}\n")),
    "a broken quote": ("a.csv", lambda p: p.write_text(f'time,"ecg\n{NAME}",x\n0,1,2\n')),
    "a rate": ("a.parquet", lambda p: write_parquet(p, signal(), rate=NAME, subject="s1")),
    "an NPZ rate": ("a.npz", lambda p: write_npz(p, signal(), rate=NAME)),
    "an NPZ side": ("a.npz", lambda p: write_npz(p, signal(), side=NAME)),
    "an NPZ time": ("a.npz", lambda p: write_npz(p, signal(), time=np.full(100, NAME))),
    "an NPZ channel": ("a.npz", lambda p: np.savez(p, ecg=np.full(100, NAME), rate=50.0)),
}


@pytest.mark.parametrize("case", TOLD)
def test_a_reason_repeats_no_cell(case: str, tmp_path: Path) -> None:
    """Reasons are written into manifests and logs, where no private word may stand."""
    name, write = TOLD[case]
    write(tmp_path / name)
    with pytest.raises(BadInput) as caught:
        read(tmp_path / name)
    assert not any(word in str(caught.value) for word in NAME.split())


def test_a_sidecar_without_header_is_not_repeated(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", columns())
    (tmp_path / "recordings.csv").write_text(f"a.csv,{NAME}\nb.csv,{NAME}\n")
    with pytest.raises(RequestError, match="has no column file and no column subject") as caught:
        read(path)
    assert "Jane" not in str(caught.value)


@pytest.mark.parametrize("shape", [(-1,), (-1, 1), (1, -1)])
def test_vectors_as_matlab_writes_them(shape: tuple[int, ...], tmp_path: Path) -> None:
    """A vector is told from a matrix by having one axis longer than 1; (1, 1) is its one word."""

    def turned(values: Any) -> Any:
        return np.asarray(values).reshape(shape)

    table = {c: turned(row) for c, row in zip(CHANNELS, signal(), strict=True)}
    facts = {"rate": turned(RATE), "source": turned("ankle"), "side": turned("L"), "time": turned(times())}
    labels = {"channels": turned(CHANNELS), "units": turned(UNITS)}
    for subject in ("s1", ["s1"] * 100):
        np.savez(tmp_path / "a.npz", **table, **facts, **labels, subject=turned(subject))
        (sample,) = read(tmp_path / "a.npz")
        x = sample.inputs["x"]
        np.testing.assert_array_equal(x.data, signal().astype(np.float32))
        assert (sample.group, sample.meta["side"], x.source, x.spacing) == ("s1", "left", "ankle", (1 / RATE,))
        assert (x.channels, x.units) == (CHANNELS, UNITS)


def test_a_single_file_of_another_ending_is_no_data(tmp_path: Path) -> None:
    for name in ("README.md", "LICENSE", "archive.csv.gz"):
        (tmp_path / name).touch()
        assert Reader().files(tmp_path / name) == []


def test_files_are_sorted_without_sidecars_and_hidden(tmp_path: Path) -> None:
    names = [
        "b.csv",
        "a/c.NPZ",
        "a/b.parquet",
        "recordings.csv",
        "labels.csv",
        ".hidden.csv",
        ".cache/x.csv",
        "note.txt",
    ]
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert [p.relative_to(tmp_path).as_posix() for p in Reader().files(tmp_path)] == ["a/b.parquet", "a/c.NPZ", "b.csv"]
    assert Reader().files(tmp_path / "b.csv") == [tmp_path / "b.csv"]


@pytest.mark.parametrize(
    "options",
    [
        {"rate": 0},
        {"rate": -50},
        {"rate": 2e5},
        {"rates": 50},
        {"subject_pattern": "("},
        {"subject_pattern": "no group"},
        {"channels": ["a", "a"]},
        {"channels": []},
        {"delimiter": ""},
        {"max_gap": 0},
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ReaderOptions(**options)


def test_every_option_is_described() -> None:
    assert all(f.description for f in ReaderOptions.model_fields.values())


def test_reading_imports_neither_torch_nor_lightning() -> None:
    code = (
        "import sys, unlabeled.biosignal.read, unlabeled.biosignal.samples, unlabeled.biosignal.conversions\n"
        "print(sorted({'torch', 'lightning', 'sklearn'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
