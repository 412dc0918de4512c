import numpy as np
import pyarrow.parquet as pq
import pytest

from unlabeled.core.contracts import Head
from unlabeled.core.downstream.predict import codes
from unlabeled.core.downstream.tags import read_tags
from unlabeled.core.downstream.write import Predictions, Record, parquet, segments, table


def test_runs_of_equal_labels_become_segments() -> None:
    # cells of 0.5 s: a a | no data | b | a; probabilities averaged within a run
    found = segments(np.array([0, 0, -1, 1, 0]), np.array([0.6, 0.8, 0.9, 0.5, 1.0]), ("a", "b"), 0.5)
    assert [(s.start, s.stop, s.label) for s in found] == [(0.0, 1.0, "a"), (1.5, 2.0, "b"), (2.0, 2.5, "a")]
    assert [s.probability for s in found] == pytest.approx([0.7, 0.5, 1.0])
    assert segments(np.array([-1, -1]), np.ones(2), ("a",), 1.0) == ()


def test_tables_of_no_segment_keep_their_columns(tmp_path) -> None:
    found = Predictions(Head("t", "segmentation", "", ""), ("a", "b"), "", "s", (Record("k", "g", (1.0,)),))
    parquet(None, found, tmp_path)  # type: ignore[arg-type]
    table(None, found, tmp_path)  # type: ignore[arg-type]
    read = pq.read_table(tmp_path / "segments.parquet")
    assert read.column_names == ["key", "group", "start", "stop", "label", "probability"] and len(read) == 0
    assert (tmp_path / "segments.csv").read_text() == "key,group,start,stop,label,probability\n"


def test_values_and_classes_have_their_types(tmp_path) -> None:
    records = (Record("k", "g", (), 1.5), Record("l", "g", (), -2.0))
    parquet(None, Predictions(Head("t", "regression", "", ""), (), "bpm", "s", records), tmp_path)  # type: ignore[arg-type]
    assert pq.read_table(tmp_path / "predictions.parquet").to_pylist() == [
        {"key": "k", "group": "g", "value": 1.5},
        {"key": "l", "group": "g", "value": -2.0},
    ]
    one = Record("k", "g", (), "b", {"a": 0.25, "b": 0.75})
    found = Predictions(Head("t", "classification", "", ""), ("a", "b"), "", "s", (one,))
    assert found.rows()[2] == [["k", "g", "b", 0.25, 0.75]]
    table(None, found, tmp_path)  # type: ignore[arg-type]
    assert (tmp_path / "predictions.csv").read_text().splitlines()[1] == "k,g,b,0.25,0.75"


def test_several_labels_are_written_as_they_are_read(tmp_path) -> None:
    one = Record("k", "g", (), "a;c", {"a": 0.75, "b": 0.25, "c": 0.5625})
    none = Record("l", "g", (), "", {"a": 0.0, "b": 0.25, "c": 0.5})
    found = Predictions(Head("t", "multilabel", "", ""), ("a", "b", "c"), "", "s", (one, none))
    parquet(None, found, tmp_path)  # type: ignore[arg-type]
    table(None, found, tmp_path)  # type: ignore[arg-type]
    rows = pq.read_table(tmp_path / "predictions.parquet").to_pylist()
    assert rows[0] == {
        "key": "k",
        "group": "g",
        "labels": "a;c",
        "probability a": 0.75,
        "probability b": 0.25,
        "probability c": 0.5625,
    }
    assert rows[1]["labels"] == ""
    # the table is a table of labels again
    read = read_tags(tmp_path / "predictions.csv", ["k", "l", "m"])
    assert read.classes == ("a", "c") and read.truth.tolist() == [[True, True], [False, False], [False, False]]
    assert read.labelled.tolist() == [True, True, False]


def test_masks_keep_the_numbers_of_the_labels() -> None:
    assert codes(("1", "7")) == [1, 7]
    assert codes(("cell", "7")) == [0, 1]
