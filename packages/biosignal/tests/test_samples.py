"""The watch recordings: what they are, and that their pickle can run nothing."""

from __future__ import annotations

import csv
import os
import pickle
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unlabeled.biosignal.read import Reader
from unlabeled.biosignal.restricted import load_arrays
from unlabeled.biosignal.samples import WATCH_CHANNELS, WATCH_UNITS, watch
from unlabeled.core.contracts import BadInput, RequestError, Sample


def write_npy(path: Path, thing: Any, protocol: int = 2) -> Path:
    """An .npy of dtype object around a pickle, as numpy.save writes it."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})  # type: ignore[no-untyped-call]
        pickle.dump(thing, file, protocol=protocol)
    return path


class Hostile:
    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_arrays_come_back(protocol: int, tmp_path: Path) -> None:
    thing: dict[str, Any] = {
        "X": [np.arange(6.0).reshape(3, 2), np.ones((1, 2))],
        "y": np.array([0, 6]),
        "names": ["a", "b"],
    }
    boxed = np.empty((), dtype=object)
    boxed[()] = thing
    if protocol == 5:  # protocol 5 names another function of NumPy's, which is not admitted
        with pytest.raises(BadInput):
            load_arrays(write_npy(tmp_path / "a.npy", boxed, protocol))
        return
    found = load_arrays(write_npy(tmp_path / "a.npy", boxed, protocol))
    np.testing.assert_array_equal(found["X"][0], thing["X"][0])
    np.testing.assert_array_equal(found["y"], thing["y"])
    assert found["names"] == ["a", "b"]


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_hostile_pickle_does_nothing(protocol: int, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    calls = [
        Hostile(os.system, f"touch {canary}"),
        Hostile(eval, f"open({str(canary)!r}, 'w')"),
        Hostile(Path.touch, canary),
    ]
    calls += [Hostile(np.save, str(canary), 1), Hostile(getattr, np.ndarray, "tofile")]
    for call in calls:
        boxed = np.empty((), dtype=object)
        boxed[()] = {"X": call}
        with pytest.raises(BadInput, match=r"a\.npy: not a pickle of arrays alone"):
            load_arrays(write_npy(tmp_path / "a.npy", boxed, protocol))
    assert not list(tmp_path.glob("canary*"))
    # the canary sings where the guard is away
    pickle.loads(pickle.dumps(Hostile(Path.touch, canary)))
    assert canary.exists()


def test_another_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RequestError, match="holds something else; name a new folder"):
        watch(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return watch(tmp_path_factory.mktemp("samples") / "deep" / "watch")


@pytest.fixture(scope="module")
def samples(folder: Path) -> list[Sample]:
    reader = Reader()
    return [s for path in reader.files(folder) for s in reader.read(path)]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.data
def test_watch_has_every_exercise_of_every_subject_and_side(folder: Path, samples: list[Sample]) -> None:
    labels = {row["key"]: row["label"] for row in table(folder / "labels.csv")}
    assert len(samples) == 140 and {s.key for s in samples} == set(labels)
    assert Counter(labels.values()) == dict.fromkeys(("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW"), 20)
    # 10 subjects x 2 sides x 7 exercises, each once
    assert len({(s.group, s.meta["side"], labels[s.key]) for s in samples}) == 140
    assert len({s.group for s in samples}) == 10
    # the recordings do not hold their label: neither a column, nor the name, nor the order of the files
    assert list(table(folder / "recordings.csv")[0]) == ["file", "subject", "side"]
    order = [labels[s.key] for s in samples]
    assert sum(a == b for a, b in pairwise(order)) < 35  # sorted by label: 133; at random: 20
    assert "140 recordings" in (folder / "README.md").read_text()


@pytest.mark.data
def test_watch_values(samples: list[Sample]) -> None:
    inputs = [s.inputs["x"] for s in samples]
    assert {(x.channels, x.units, x.spacing, x.source) for x in inputs} == {
        (WATCH_CHANNELS, WATCH_UNITS, (0.02,), "wrist")
    }
    lengths = [x.shape[0] for x in inputs]
    assert (min(lengths), max(lengths)) == (947, 2618)
    assert sum(lengths) / 50 / 60 == pytest.approx(81.37, abs=0.01)
    assert all(x.valid is None and s.meta["flags"] == [] for x, s in zip(inputs, samples, strict=True))
    medians = [float(np.median(np.linalg.norm(x.data[:3], axis=0))) for x in inputs]
    # in g: about 1 in the median recording; hard swings reach 2.5
    assert np.median(medians) == pytest.approx(1.089, abs=0.001)
    np.testing.assert_allclose([min(medians), max(medians)], [0.990, 2.468], atol=0.001)
    data = np.concatenate([x.data for x in inputs], axis=1)
    ends = [data[:3].min(), data[:3].max(), data[3:].min(), data[3:].max()]
    np.testing.assert_allclose(ends, [-5.822, 5.396, -28.960, 12.738], atol=0.001)


@pytest.mark.data
def test_gyroscope_is_in_radians(folder: Path, samples: list[Sample]) -> None:
    """The swing of a shoulder in abduction, found by integrating the angular velocity, is an angle of about a radian."""
    labels = {row["key"]: row["label"] for row in table(folder / "labels.csv")}
    swings = []
    for s in samples:
        if labels[s.key] == "ABD":
            rate = s.inputs["x"].data[4].astype(np.float64)
            angle = np.cumsum(rate - rate.mean()) / 50
            # without drift: a moving mean of 5 s taken off, half a window left out at both ends
            angle = (angle - np.convolve(angle, np.ones(250) / 250, "same"))[125:-125]
            swings.append(np.subtract(*np.percentile(angle, [95, 5])))
    # radians: a half to a whole arm's lift; were it deg/s, these would be degrees and the arm would not move
    assert 0.7 < np.median(swings) < 3.0


@pytest.mark.data
def test_watch_is_written_once(folder: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert watch(folder) == folder
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before
    assert not list(folder.parent.glob(".*"))
