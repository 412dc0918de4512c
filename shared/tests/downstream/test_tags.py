"""Tasks of several labels for each record: the file, the loss, the target, the baseline."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from unlabeled.core.contracts import Head, RequestError
from unlabeled.core.downstream.kinds.tag import Tag, binary_cross_entropy
from unlabeled.core.downstream.tags import Tags, read_tags
from unlabeled.core.downstream.tasks import split

KEYS = ["a/1", "a/2", "b/1", "b/2"]
HEAD = Head("tag", "multilabel", "macro_map", "")


def written(folder: Path, text: str) -> Path:
    file = folder / "labels.csv"
    file.write_text(text)
    return file


def task(truth: Any) -> Tag:
    truth = np.array(truth, bool)
    return Tag(HEAD, Tags(tuple("abc"[: truth.shape[1]]), truth, np.ones(len(truth), bool)))


def test_labels_are_brought_to_the_records_order(tmp_path: Path) -> None:
    text = "key,labels\nb/1,water; forest\na/1,forest\na/2,\nold/3,snow\nb/1,forest;water\n"
    found = read_tags(written(tmp_path, text), KEYS, ["old/3"])
    assert found.classes == ("forest", "water")  # of the records that are there
    assert found.truth.tolist() == [[True, False], [False, False], [True, True], [False, False]]
    # a/2 has none of the labels, of b/2 nobody says anything
    assert found.labelled.tolist() == [True, True, True, False]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "key,labels\na/1,b;;c\n",
            r"line 2: one of the labels of 'a/1' is empty \('b;;c'\); write names with ; between",
        ),
        ("key,labels\na/1,;\n", r"line 2: one of the labels of 'a/1' is empty"),
        ("key,labels\na/1,b\na/1,c;b\n", r"line 3: 'a/1' is labelled 'b;c' here and 'b' in line 2; keep one"),
        ("key,labels\na/1,b\na/1,\n", r"line 3: 'a/1' is labelled '' here and 'b' in line 2; keep one"),
        ("key,labels\na/1,\nb/2,\n", r"none of the 2 labelled records has a label; add labels"),
        ("key,labels\n", r"none of the 0 labelled records has a label"),
        ("key,labels\na/1,b\nc/9,b\n", r"1 of 2 keys are no record of the data \('c/9'\)"),
        ("key,label\na/1,b\n", r"names the columns key, label; it must name key and labels"),
    ],
)
def test_faults_are_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(RequestError, match=says) as caught:
        read_tags(written(tmp_path, text), KEYS)
    assert "\n" not in str(caught.value)


def test_binary_cross_entropy_counts_classes_alike_and_rows_of_weight_one() -> None:
    # logits ln 3 give 3/4, 0 gives 1/2: -(ln 3/4 + ln 1/2) / 2 where the first is there and the second is not
    out = torch.tensor([[np.log(3.0), 0.0], [50.0, -50.0]])
    target = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    loss = binary_cross_entropy(out, target, torch.tensor([1.0, 0.0]))
    assert float(loss) == pytest.approx(-(np.log(0.75) + np.log(0.5)) / 2, rel=1e-6)
    nothing = binary_cross_entropy(out, target, torch.zeros(2))
    assert float(nothing) == 0.0


def test_the_baseline_is_the_share_of_the_training_records_and_scores_as_such() -> None:
    made = task([[1, 0], [1, 1], [0, 0], [1, 0], [1, 1]])
    constant = made.constant(np.array([0, 1, 2]))
    np.testing.assert_allclose(constant(4), [2 / 3, 1 / 3])
    # two records left out, both with the first label and one with the second: a ranking by nothing finds 1 and 1/2
    tally = made.tally([(3, constant(3)), (4, constant(4))], np.array([-1, -1, -1, 0, 1]), 2)
    assert made.value(tally) == pytest.approx(0.75)
    assert made.tally([], np.zeros(5, np.int64), 2).shape[0] == 2


def test_the_score_is_of_the_records_left_out() -> None:
    rng = np.random.default_rng(0)
    made = task(rng.random((12, 3)) < 0.5)
    p = rng.random((12, 3))
    group = np.array([-1] * 4 + [0, 1] * 4)
    tally = made.tally([(r, made.decide(p[r])) for r in range(4, 12)], group, 2)
    assert made.value(tally) == pytest.approx(average_precision_score(made.tags.truth[4:], p[4:]), abs=1e-12)


def test_every_label_stays_in_the_training_records() -> None:
    # group v has the only record with c, and a record without any label is a record like others
    made = task([[1, 0, 0], [1, 1, 0], [0, 0, 1], [1, 1, 0], [0, 0, 0], [1, 1, 0]])
    for seed in range(10):
        inside, out = split(made, np.arange(6), ["u", "u", "v", "w", "w", "x"], 0.5, seed)
        assert "v" in inside and len(out) == 2


def test_targets_are_the_records(tmp_path: Path) -> None:
    from types import SimpleNamespace

    made = task([[1, 0], [0, 0], [1, 1]])
    items: Any = SimpleNamespace(record=np.array([2, 2, 0, 1]))
    batch: Any = SimpleNamespace(index=torch.tensor([3, 0, 2]))
    found = made.target(items)(batch)
    assert found.dtype == torch.float32 and found.tolist() == [[0.0, 0.0], [1.0, 1.0], [1.0, 0.0]]
