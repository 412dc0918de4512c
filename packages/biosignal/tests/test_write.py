"""Predictions as annotations: to the letter, since other programs read them."""

from pathlib import Path
from typing import Any

from unlabeled.biosignal.write import annotated, mne, table
from unlabeled.core.contracts import Head
from unlabeled.core.downstream.write import Predictions, Record, Segment

SEGMENTS = (Segment(0.0, 1.5, "walk, slowly", 0.9), Segment(2.0, 3.25, "run", 0.6))


def predictions(kind: Any, *records: Record, unit: str = "") -> Predictions:
    return Predictions(Head("t", kind, "", ""), ("run", "walk, slowly"), unit, "s", records)


def test_segments_keep_onset_and_duration(tmp_path: Path) -> None:
    found = predictions("segmentation", Record("day 1/a", "g", (4.0,), segments=SEGMENTS), Record("b", "g", (4.0,)))
    table(None, found, tmp_path)  # type: ignore[arg-type]
    assert (tmp_path / "annotations.csv").read_text().splitlines() == [
        "key,onset,duration,description",
        'day 1/a,0.000000,1.500000,"walk, slowly"',
        "day 1/a,2.000000,1.250000,run",
    ]
    mne(None, found, tmp_path)  # type: ignore[arg-type]
    # a key is one file name, whatever stands in it
    assert sorted(p.name for p in (tmp_path / "annotations").iterdir()) == ["b.txt", "day 1%2Fa.txt"]
    text = (tmp_path / "annotations" / "day 1%2Fa.txt").read_text()
    assert (
        text
        == "# MNE-Annotations\n# onset, duration, description\n0.000000,1.500000,walk; slowly\n2.000000,1.250000,run\n"
    )


def test_a_class_or_a_value_spans_the_recording() -> None:
    assert annotated(Record("a", "g", (12.5,), "run", {"run": 1.0}), "") == [(0.0, 12.5, "run")]
    assert annotated(Record("a", "g", (12.5,), 61.25), "bpm") == [(0.0, 12.5, "61.25 bpm")]
    assert annotated(Record("a", "g", (12.5,), 0.0), "") == [(0.0, 12.5, "0")]
