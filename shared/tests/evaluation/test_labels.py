from pathlib import Path

import numpy as np
import pytest

from unlabeled.core.contracts import RequestError
from unlabeled.core.evaluation.labels import read_labels

KEYS = ["a/1", "a/2", "b/1", "b/2"]


def test_labels_are_brought_to_the_records_order(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("\ufefflabel,key,note\nwalk,b/1,\nrun,a/1,x\n\nrun,a/1,again\nrun,old/9,\n", encoding="utf-8")
    found = read_labels(file, KEYS, elsewhere=["old/9"])
    assert found.classes == ("run", "walk")
    assert found.codes.tolist() == [0, -1, 1, -1]
    assert found.unlabelled == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("key,label\na/1,run\na/3,walk\n", r"1 of 2 keys are no record of the data \('a/3'\); .* 'a/1'|'a/2'"),
        ("key,label\nx,1\ny,1\nz,1\nw,2\n", r"4 of 4 keys are no record of the data \('x', 'y', 'z', \.\.\.\)"),
        ("key,label\na/1,run\nb/1,walk\na/1,walk\n", r"line 4: 'a/1' is labelled 'walk' here and 'run' in line 2"),
        ("key,label\na/1,run\nb/1,\n", r"line 3: the label of 'b/1' is empty"),
        ("key,label\na/1,run\nb/1\n", r"line 3: the label of 'b/1' is empty"),
        ("key,label\na/1,run\nb/1,run\n", r"the 2 labelled records have 1 class"),
        ("record,class\na/1,run\n", r"columns record, class; it must name key and label"),
        ("", r"columns nothing; it must name key and label"),
    ],
)
def test_faults_are_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "labels.csv"
    file.write_text(text)
    with pytest.raises(RequestError, match=says) as caught:
        read_labels(file, KEYS)
    assert "\n" not in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such file of labels"):
        read_labels(tmp_path / "none.csv", KEYS)
    file = tmp_path / "labels.csv"
    file.write_bytes(b"key,label\na/1,\xff\xfe\n")
    with pytest.raises(RequestError, match="cannot be read as CSV in UTF-8"):
        read_labels(file, KEYS)


def test_a_class_that_lives_in_the_left_out_groups_alone(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("key,label\na/1,run\na/2,walk\nb/1,run\n")
    found = read_labels(file, KEYS)
    groups = ["a", "a", "b", "b"]
    found.require(["a"], groups, "fold 1")
    with pytest.raises(RequestError, match=r"fold 0: the class 'walk' has no labelled record .* all of its 1 are"):
        found.require(["b"], groups, "fold 0")
    assert np.array_equal(found.codes, [0, 1, 0, -1])
