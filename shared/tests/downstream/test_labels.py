from pathlib import Path

import numpy as np
import pytest

from unlabeled.core.contracts import RequestError
from unlabeled.core.downstream.labels import read_cells, read_values

KEYS = ["a/1", "a/2", "b/1"]
SHAPES = [(10,), (10,), (4,)]


def written(folder: Path, text: str) -> Path:
    file = folder / "labels.csv"
    file.write_text(text)
    return file


def test_values_are_brought_to_the_records_order_with_their_unit(tmp_path: Path) -> None:
    found = read_values(written(tmp_path, "key,value [bpm]\nb/1,61.5\na/1,-2e1\nold/3,4\n"), KEYS, ["old/3"])
    np.testing.assert_array_equal(found.values, [-20.0, np.nan, 61.5])
    assert found.unit == "bpm"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("key,value\na/1,1\nb/1,nan\n", r"line 3: the value of 'b/1' is 'nan'; write a finite number"),
        ("key,value\na/1,1\nb/1,\n", r"line 3: the value of 'b/1' is ''"),
        ("key,value\na/1,1\nb/1,fast\n", r"line 3: the value of 'b/1' is 'fast'"),
        ("key,value\na/1,1\na/1,2\n", r"line 3: 'a/1' has the value 2 here and 1 in line 2; keep one"),
        ("key,value\na/1,1\nc/1,2\n", r"1 of 2 keys are no record of the data \('c/1'\); .* is '[ab]/1'"),
        ("key,value\na/1,1\nb/1,1\n", r"the 2 records with a value have fewer than two different ones"),
        ("key,label\na/1,1\n", r"names the columns key, label; it must name key and value"),
    ],
)
def test_faults_of_values_are_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(RequestError, match=says) as caught:
        read_values(written(tmp_path, text), KEYS)
    assert "\n" not in str(caught.value)


def test_a_cell_belongs_to_the_segment_that_holds_its_middle(tmp_path: Path) -> None:
    # cells of 0.5 s have their middles at 0.25, 0.75, 1.25, ...: [0.25, 1.2) holds cells 0 and 1, [1.5, 99) cells 3 to 9
    # (middle 1.75), [0.6, 0.7) none; a segment may begin before the record and end after it
    text = "key,start,stop,label\na/1,0.25,1.2,run\na/1,1.5,99,walk\nb/1,-3,0.5,walk\nb/1,0.6,0.7,run\n"
    found = read_cells(written(tmp_path, text), KEYS, SHAPES, (0.5,))
    assert found.classes == ("run", "walk")
    assert found.of(0).tolist() == [0, 0, -1, 1, 1, 1, 1, 1, 1, 1]
    assert found.of(0, (slice(1, 4),)).tolist() == [0, -1, 1]
    assert found.of(2).tolist() == [1, -1, -1, -1]
    assert found.masks[1] is None
    assert [found.present(r) for r in range(3)] == [{0, 1}, set(), {1}]


@pytest.mark.parametrize("step", [0.02, 0.1, 1 / 3, 0.004])
def test_whole_steps_give_whole_segments(tmp_path: Path, step: float) -> None:
    # k cells long and k cells further on, whatever the rounding of k * step
    lines = [f"a/1,{k * step!r},{(k + 1) * step!r},{'even' if k % 2 == 0 else 'odd'}" for k in range(200)]
    found = read_cells(written(tmp_path, "\n".join(["key,start,stop,label", *lines])), ["a/1"], [(200,)], (step,))
    assert found.of(0).tolist() == [0, 1] * 100


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a/1,0,1,run\na/1,0.7,2,walk\n", r"line 3: 'walk' overlaps a segment of 'a/1' that is labelled 'run'"),
        ("a/1,2,1,run\n", r"line 2: the segment from 2 to 1 is empty or outside of 'a/1', which goes from 0 to 5"),
        ("b/1,2,3,run\n", r"line 2: the segment from 2 to 3 is empty or outside of 'b/1', which goes from 0 to 2"),
        ("a/1,nan,1,run\n", r"line 2: the start of 'a/1' is 'nan'"),
        ("a/1,0,1,\n", r"line 2: the label is empty"),
        ("c/9,0,1,run\n", r"1 of 1 keys are no record of the data \('c/9'\)"),
        ("a/1,0,1,run\n", r"the labelled cells have 1 class\(es\)"),
    ],
)
def test_faults_of_segments_are_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(RequestError, match=says) as caught:
        read_cells(written(tmp_path, "key,start,stop,label\n" + text), KEYS, SHAPES, (0.5,))
    assert "\n" not in str(caught.value)


def test_masks_of_any_rank_keep_their_numbers(tmp_path: Path) -> None:
    mask = np.array([[7, 7, -1], [2, 2, 7]])
    np.save(tmp_path / "m.npy", mask)
    found = read_cells(written(tmp_path, "key,file\na/1,m.npy\n"), ["a/1", "a/2"], [(2, 3), (2, 3)], (1.0, 1.0))
    assert found.classes == ("2", "7") and found.codes.tolist() == [2, 7]
    assert found.of(0).tolist() == [[1, 1, -1], [0, 0, 1]]
    assert found.of(0, (slice(1, 2), slice(0, 9))).tolist() == [[0, 0, 1]]


def test_faults_of_masks_are_one_sentence(tmp_path: Path) -> None:
    np.save(tmp_path / "good.npy", np.array([0, 1]))
    np.save(tmp_path / "float.npy", np.array([0.0, 1.0]))
    np.save(tmp_path / "object.npy", np.array([{}, 1], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "several.npz", a=np.array([0, 1]))
    (tmp_path / "rubbish.npy").write_bytes(b"\x93NUM")
    (tmp_path / "zip.npy").write_bytes(b"PK\x03\x04rubbish")
    for lines, says in (
        ("a/1,good.npy\n", r"good.npy has the shape \(2,\) and 'a/1' \(3,\); bring the mask"),
        ("a/2,good.npy\na/2,good.npy\n", r"line 3: 'a/2' has a mask already"),
        ("a/2,\n", r"line 2: no file is named"),
        ("a/2,none.npy\n", r"none.npy is not there"),
        ("a/2,float.npy\n", r"float.npy holds float64; a mask holds integers"),
        ("a/2,several.npz\n", r"several.npz cannot be read as .npy"),
        ("a/2,object.npy\n", r"object.npy cannot be read as .npy without pickle"),
        ("a/2,rubbish.npy\n", r"rubbish.npy cannot be read as .npy"),
        ("a/2,zip.npy\n", r"zip.npy cannot be read as .npy"),
        ("c,good.npy\n", r"1 of 1 keys are no record"),
    ):
        with pytest.raises(RequestError, match=says) as caught:
            read_cells(written(tmp_path, "key,file\n" + lines), ["a/1", "a/2"], [(3,), (2,)], (1.0,))
        assert "\n" not in str(caught.value)
    with pytest.raises(RequestError, match="it must name key, start, stop and label or key and file"):
        read_cells(written(tmp_path, "key,label\n"), ["a/1"], [(3,)], (1.0,))
    with pytest.raises(RequestError, match="it must name key and file"):  # segments are of one axis
        read_cells(written(tmp_path, "key,start,stop,label\n"), ["a/1"], [(3, 3)], (1.0, 1.0))
