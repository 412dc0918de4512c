from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, jaccard_score, mean_absolute_error, r2_score

from unlabeled.core.contracts import Input, InputSpec, RequestError, Sample
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.data.items import Items
from unlabeled.core.data.loading import Collate
from unlabeled.core.downstream.kinds.base import METRICS, Task
from unlabeled.core.downstream.kinds.classify import Classify, cross_entropy
from unlabeled.core.downstream.kinds.regress import Regress
from unlabeled.core.downstream.kinds.segment import Segment
from unlabeled.core.downstream.labels import Cells, Values
from unlabeled.core.downstream.tasks import HEADS, split
from unlabeled.core.evaluation.labels import Labels

CLASSIFY, TAG, SEGMENT, REGRESS = HEADS
SPECS = {"x": InputSpec(channels=("a",), units=("",), spacing=(1.0,))}


class Gappy:
    """Records of 6 cells, of which the last has no data."""

    specs = SPECS

    def __init__(self, records: int) -> None:
        self.records = records

    def __len__(self) -> int:
        return self.records

    def record(self, i: int) -> Sample:
        valid = np.array([[True] * 5 + [False]])
        x = Input(np.ones((1, 6), np.float32), ("a",), ("",), unit="s", spacing=(1.0,), valid=valid)
        return Sample({"x": x}, key=str(i), group="g", index=i, record=i)

    stored = record

    def shape(self, i: int) -> tuple[int, ...]:
        return self.record(i).inputs["x"].shape

    def window(self, i: int, region: tuple[slice, ...]) -> Sample:
        sample, at = self.record(i), (slice(None), *region)
        x = sample.inputs["x"]
        return sample.with_(inputs={"x": x.with_(data=x.data[at], valid=None if x.valid is None else x.valid[at])})


def segment(masks: Any, classes: int = 3) -> Segment:
    cells = Cells(tuple("abc"[:classes]), np.arange(classes), tuple(None if m is None else np.array(m) for m in masks))
    return Segment(SEGMENT, cells, Gappy(len(masks)))  # type: ignore[arg-type]


def test_confusions_add_up_over_the_split_and_equal_sklearn() -> None:
    """Scores of all cells of all records of the split together, those without label or data left out."""
    rng = np.random.default_rng(0)
    truth = rng.integers(-1, 3, (8, 6))
    predicted = rng.integers(0, 3, (8, 6))
    group = np.array([0, 0, 1, 1, 1, 2, 2, -1])
    task = segment(truth)
    tally = task.tally([(r, predicted[r]) for r in range(7)], group, 3)
    there = truth[:7] >= 0
    there[:, 5] = False
    t, p = truth[:7][there], predicted[:7][there]
    found = {name: float(of(tally.sum(0))) for name, of in METRICS["segmentation"].items()}
    assert found["macro_f1"] == pytest.approx(f1_score(t, p, average="macro"), abs=1e-12)
    assert found["miou"] == pytest.approx(jaccard_score(t, p, average="macro"), abs=1e-12)
    assert task.value(tally) == found["macro_f1"]
    # and the tally of a group is of its own records only
    own = there[:2]
    assert tally[0, 1].sum() == own.sum()


def test_regression_and_classification_scores_equal_sklearn() -> None:
    rng = np.random.default_rng(1)
    group = np.array([0, 0, 1, 1, 2, 2])
    values, said = rng.normal(size=6), rng.normal(size=6)
    task = Regress(REGRESS, Values(values))
    tally = task.tally(list(enumerate(said)), group, 3)
    assert float(METRICS["regression"]["r2"](tally.sum(0))) == pytest.approx(r2_score(values, said), rel=1e-10)
    assert task.value(tally) == pytest.approx(-mean_absolute_error(values, said), rel=1e-10)  # less error is better
    codes, chosen = rng.integers(0, 3, 6), rng.integers(0, 3, 6)
    classify = Classify(CLASSIFY, Labels(("a", "b", "c"), codes))
    expected = f1_score(codes, chosen, labels=np.unique(codes), average="macro", zero_division=0)
    assert classify.value(classify.tally(list(enumerate(chosen)), group, 3)) == pytest.approx(expected, abs=1e-12)


def test_baselines_know_the_training_records_only() -> None:
    train = np.array([0, 1, 2])
    assert Classify(CLASSIFY, Labels(("a", "b"), np.array([1, 0, 1, 0, 0, 0]))).constant(train)(5) == 1
    assert Regress(REGRESS, Values(np.array([1.0, 2.0, 6.0, 99.0]))).constant(train)(3) == 3.0
    # cells of class 0: 4, of class 2: 5
    task = segment([[0, 0, 2, 2, 2, -1], None, [2, 2, 0, 0, -1, -1], [1] * 6])
    assert task.constant(np.array([0, 2]))(3).tolist() == [2] * 6


def test_a_regression_is_trained_in_deviations_of_the_training_records() -> None:
    # mean 2, deviation 1 of the values 1 and 3; errors of 2 and 4 units are squares of 4 and 16, the second weighs nothing
    task = Regress(REGRESS, Values(np.array([10.0, 30.0, 500.0]))).fitted(np.array([0, 1]))
    assert (task.offset, task.scale) == (20.0, 10.0)
    loss = task.loss(torch.tensor([[30.0], [0.0]]), torch.tensor([10.0, 40.0]), torch.tensor([1.0, 0.0]))
    assert float(loss) == pytest.approx(4.0)
    # equal values have no deviation, and the unit stays
    assert Regress(REGRESS, Values(np.array([5.0, 5.0]))).fitted(np.array([0, 1])).scale == 1.0


def test_cross_entropy_counts_rows_of_weight_one() -> None:
    # logits (ln 3, 0) give the first class 3/4
    out = torch.tensor([[np.log(3.0), 0.0], [7.0, -7.0]])
    loss = cross_entropy(out, torch.tensor([0, 1]), torch.tensor([1.0, 0.0]))
    assert float(loss) == pytest.approx(-np.log(0.75), rel=1e-6)


def test_targets_of_windows_padding_and_gaps() -> None:
    """Window [4, 8) of 6 cells is 2 cells long: label and no data; the other is whole."""
    task = segment([[0, 1, 2, 0, 1, 2], [2, 2, -1, 0, 0, 0]])
    corpus: Any = task.corpus
    items = Items(corpus, np.array([0, 1]), np.array([[4], [0]]), (4,))
    batch = Collate(SPECS)([items.sample(0), items.sample(1)])
    target = task.target(items)(batch)
    assert target.tolist() == [[1, -1, -1, -1], [2, 2, -1, 0]]
    # the mean is over the 4 labelled cells: uniform logits cost ln 3 each
    loss = task.loss(torch.zeros(2, 3, 4), target, batch.weight)
    assert float(loss) == pytest.approx(np.log(3), rel=1e-6)
    # a window without a labelled cell is not drawn
    bare = segment([[0, 1, -1, -1, -1, -1], None])
    at = Items(corpus, np.array([0, 0, 1]), np.array([[0], [2], [0]]), (4,))
    assert bare.usable(at).tolist() == [True, False, False]
    assert bare.labelled.tolist() == [True, False]


def test_a_batch_without_a_labelled_cell_costs_nothing() -> None:
    task = segment([[0, 1, 2, 0, 1, 2]])
    out = torch.zeros(1, 3, 4, requires_grad=True)
    loss = task.loss(out, torch.full((1, 4), -1), torch.zeros(1))
    loss.backward()
    assert float(loss.detach()) == 0.0 and out.grad is not None and not out.grad.any()


def labelled(
    codes: list[int], groups: list[str], share: float, seed: int = 0, seen: str = ""
) -> tuple[list[str], list[str]]:
    task: Task = Classify(CLASSIFY, Labels(("a", "b"), np.array(codes)))
    return split(task, np.flatnonzero(task.labelled), groups, share, seed, seen)


def test_a_split_is_of_groups_and_leaves_every_class() -> None:
    groups = [g for g in "uvwxyz" for _ in range(2)]
    # class 1 is in group u only, so u is never left out
    codes = [0, 1] + [0, 0] * 5
    seen = set()
    for seed in range(20):
        inside, out = labelled(codes, groups, 1 / 3, seed)
        assert len(out) == 2 and sorted(inside + out) == list("uvwxyz") and "u" in inside
        seen |= set(out)
    assert seen == set("vwxyz")
    assert labelled(codes, groups, 1 / 3, 5) == labelled(codes, groups, 1 / 3, 5)
    assert labelled(codes, groups, 0.0) == (list("uvwxyz"), [])
    # groups that pretraining saw are left out last, and only as far as the others do not suffice
    for seed in range(5):
        assert sorted(labelled(codes, groups, 1 / 3, seed, seen="uwxy")[1]) == ["v", "z"]
        assert set(labelled(codes, groups, 1 / 2, seed, seen="uwxy")[1]) > {"v", "z"}
    # groups without a label are on neither side
    inside, out = labelled([0, 1, 0, 1, -1, -1], ["a", "a", "b", "b", "c", "c"], 0.5)
    assert sorted([*inside, *out]) == ["a", "b"]
    with pytest.raises(RequestError, match=r"none of the 2 labelled groups can be left out .* say validation=0"):
        labelled([0, 0, 1, 1], ["a", "a", "b", "b"], 0.5)


def test_a_failed_item_has_no_target() -> None:
    from unlabeled.core.data.loading import Missing

    task = segment([[0, 1, 2, 0, 1, 2], [0] * 6])
    corpus: Any = task.corpus
    items = Items(corpus, np.array([0, 1]), np.array([[0], [0]]), (6,))
    batch: Batch = Collate(SPECS)([items.sample(0), Missing(1, "broken")])
    assert task.target(items)(batch).tolist() == [[0, 1, 2, 0, 1, -1], [-1] * 6]


def test_the_heads_of_a_domain_take_the_place_of_the_cores() -> None:
    from unlabeled.core.contracts import Head
    from unlabeled.core.downstream.tasks import heads, make_task

    own = Head("segment", "segmentation", "miou", "organs")
    domain: Any = SimpleNamespace(heads=(own,))
    assert heads(domain) == {"classify": CLASSIFY, "tag": TAG, "segment": own, "regress": REGRESS}
    with pytest.raises(RequestError, match=r"--task: 'segmnt' is unknown, did you mean 'segment'"):
        make_task(domain, "segmnt", Path("labels.csv"), Gappy(1))  # type: ignore[arg-type]
