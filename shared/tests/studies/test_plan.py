from dataclasses import replace

import numpy as np
import pytest

from unlabeled.core.contracts import Leakage, RequestError
from unlabeled.core.evaluation.heads import Logistic
from unlabeled.core.studies.plan import Fold, Plan, draw, title
from unlabeled.core.studies.scoring import Scorer
from unlabeled.core.studies.tuning import inner_split

CLASSES, GROUPS, EACH = 3, 5, 6  # every group has 2 records of every class


def made(**changes: object) -> Plan:
    groups = tuple(f"g{i // EACH}" for i in range(GROUPS * EACH))
    names = tuple(sorted(set(groups)))
    plan = Plan(
        recipe={},
        data="",
        classes=("a", "b", "c"),
        keys=tuple(str(i) for i in range(len(groups))),
        groups=groups,
        labels=tuple(i % CLASSES for i in range(len(groups))),
        folds=tuple(Fold(tuple(n for n in names if n != name), (name,)) for name in names),
        budgets=(1, 0.25, 1.0),
        seeds=(0, 1),
        draws=4,
        seed=0,
    )
    return replace(plan, **changes)  # type: ignore[arg-type]


def test_titles() -> None:
    # 1 is one record per class, 1.0 is everything
    assert [title(b) for b in (1, 5, 0.1, 0.025, 1.0)] == ["1 per class", "5 per class", "10 %", "2.5 %", "all"]


def test_draws_are_stratified() -> None:
    # 24 training records, 8 of each class: 1 per class = 3; 25 % = 6 = 2 of each; all = 24
    plan = made()
    for fold in range(GROUPS):
        for budget, each in ((1, 1), (0.25, 2), (1.0, 8)):
            for records in plan.label_draws(fold, budget):
                assert np.bincount(np.array(plan.labels)[records]).tolist() == [each] * CLASSES
                assert not {plan.groups[r] for r in records} & set(plan.folds[fold].test)
    assert [len(plan.label_draws(0, b)) for b in plan.budgets] == [4, 4, 1]


def test_draws_repeat_differ_and_are_nested() -> None:
    plan = made()
    for one, some, again in zip(plan.label_draws(0, 1), plan.label_draws(0, 0.25), plan.label_draws(0, 1), strict=True):
        assert set(one) < set(some)
        assert one.tolist() == again.tolist()
    assert len({tuple(d) for d in plan.label_draws(0, 0.25)}) == 4


def test_a_small_fraction_keeps_one_of_each_class_and_ties_go_by_lot() -> None:
    # classes of 10, 10 and 2 records: 5 % of 22 is 1, but each class needs one; 25 %: 2.5 + 2.5 + 0.5 -> floors 2, 2 and
    # the least 1 make 5 of round(5.5) = 6, and the last goes to class 0 or 1 (tied at .5), by lot
    labels = np.array([0] * 10 + [1] * 10 + [2] * 2)
    assert np.bincount(labels[draw(labels, np.arange(22), 0.05, 0, "k")]).tolist() == [1, 1, 1]
    counts = {tuple(np.bincount(labels[draw(labels, np.arange(22), 0.25, 0, i)])) for i in range(20)}
    assert counts == {(3, 2, 1), (2, 3, 1)}
    assert np.bincount(labels[draw(labels, np.arange(22), 5, 0, "k")]).tolist() == [5, 5, 2]


def test_unlabelled_records_are_never_drawn() -> None:
    labels = [-1 if i % 5 == 0 else i % CLASSES for i in range(GROUPS * EACH)]
    plan = made(labels=tuple(labels))
    for budget in plan.budgets:
        for records in plan.label_draws(1, budget):
            assert all(labels[r] >= 0 for r in records)


def test_budgets_are_ordered_by_what_they_hold() -> None:
    # 10 per class is all 24 (8 of each), 0.25 is 6, 1 is 3
    assert made(budgets=(10, 0.25, 1)).by_size() == [1, 0.25, 10]


def test_a_shared_group_is_leakage() -> None:
    plan = made()
    plan.check()
    fold = plan.folds[1]
    with pytest.raises(Leakage, match=r"fold 1: 1 of 1 groups were also in training \(g1\)"):
        replace(plan, folds=(plan.folds[0], replace(fold, train=(*fold.train, "g1")))).check()


def test_the_inner_split_stays_inside_the_training_groups() -> None:
    plan = made()
    for fold in range(GROUPS):
        labelled, outside = inner_split(plan, fold, 2)
        inner, outer = ({plan.groups[r] for r in of} for of in (labelled, outside))
        assert len(outer) == 2
        assert not inner & outer
        assert not (inner | outer) & set(plan.folds[fold].test)
        # the middle budget, a quarter of the 2 x 6 records inside: 3, one of each class
        assert len(labelled) == 3


def test_the_inner_split_leaves_every_class_something_to_train_on() -> None:
    # class 2 is labelled in g0 and g1 only; with g0 left out by the fold, g1 must stay
    labels = [i % CLASSES if i % CLASSES < 2 or i < 2 * EACH else -1 for i in range(GROUPS * EACH)]
    plan = made(labels=tuple(labels))
    labelled, outside = inner_split(plan, 0, 2)
    assert "g1" not in {plan.groups[r] for r in outside}
    assert set(np.array(labels)[labelled]) == {0, 1, 2}
    with pytest.raises(RequestError, match="no training group can be held out"):
        inner_split(made(folds=(Fold(("g1",), ("g0",)),)), 0, 1)


def test_labels_outside_the_budget_are_never_looked_at() -> None:
    # poison: every label of the test groups, of the unlabelled and of the undrawn records is turned; predictions stay
    plan = made(budgets=(2,))
    rng = np.random.default_rng(0)
    record = np.repeat(np.arange(GROUPS * EACH), 4)
    features = rng.normal(size=(len(record), 5)) + np.array(plan.labels)[record][:, None]
    scorer = Scorer(plan, 0, record)
    predicted, chosen = scorer.frozen(features, Logistic())
    for number, drawn in enumerate(plan.label_draws(0, 2)):
        turned = np.array([c if r in drawn else (c + 1) % CLASSES for r, c in enumerate(plan.labels)])
        scorer.labels = turned
        assert scorer._probed(features, drawn, Logistic()) == (
            predicted["2 per class"][number],
            chosen["2 per class"][number],
        )
