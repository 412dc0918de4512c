import numpy as np
import pytest
from sklearn.metrics import f1_score

from unlabeled.core.measures.confusion import confusion, counts, f1_of
from unlabeled.core.measures.intervals import over_groups
from unlabeled.core.measures.subgroups import by_subgroup

RNG = np.random.default_rng(0)
N, GROUPS = 240, 12
TRUTH = RNG.integers(0, 3, N)
GROUP = RNG.integers(0, GROUPS, N)
SITE = np.array(["a", "b", "c"])[GROUP % 3]
# right in 90 %, 60 % and 30 % by site
PREDICTED = np.where(RNG.random(N) < np.select([SITE == "a", SITE == "b"], [0.9, 0.6], 0.3), TRUTH, (TRUTH + 1) % 3)


def tally(at: np.ndarray) -> np.ndarray:
    out = np.zeros((GROUPS, 3, 3), np.int64)
    for g in range(GROUPS):
        inside = at & np.equal(GROUP, g)
        out[g] = confusion(TRUTH[inside], PREDICTED[inside], 3)
    return counts(out)


def test_each_part_has_the_plain_metric_of_its_own_records() -> None:
    parts = {name: np.equal(SITE, name) for name in "cab"}
    found = by_subgroup(f1_of, {n: tally(at) for n, at in parts.items()}, {n: int(at.sum()) for n, at in parts.items()})
    assert list(found.scores) == ["a", "b", "c"] and found.suppressed == ()
    for name, at in parts.items():
        score = found.scores[name]
        assert score.n == at.sum()
        assert score.score.mean == pytest.approx(f1_score(TRUTH[at], PREDICTED[at], average="macro"))
        # a site has four groups of its own; the others are not in its interval
        own = tally(at)[np.unique(GROUP[at])]
        assert len(own) == 4 and score.score == over_groups(f1_of, own, 0)
    assert found.gap is not None
    assert found.gap.mean == pytest.approx(found.scores["a"].score.mean - found.scores["c"].score.mean)
    assert 0 < found.gap.low < found.gap.mean < found.gap.high < 1


def test_fewer_than_ten_records_are_named_and_not_scored() -> None:
    whole = tally(np.ones(N, bool))
    found = by_subgroup(f1_of, {"nine": whole, "ten": whole}, {"nine": 9, "ten": 10})
    assert list(found.scores) == ["ten"] and found.suppressed == ("nine",) and found.gap is None
    found = by_subgroup(f1_of, {"nine": whole}, {"nine": 9})
    assert not found.scores and found.gap is None


def test_equal_parts_have_no_gap() -> None:
    # the same records twice: in every resample the paired difference is 0
    whole = tally(np.ones(N, bool))
    found = by_subgroup(f1_of, {"left": whole, "right": whole.copy()}, {"left": N, "right": N})
    assert found.gap is not None and (found.gap.mean, found.gap.low, found.gap.high) == (0, 0, 0)


def test_one_group_has_a_score_and_no_interval() -> None:
    one = tally(GROUP == 0)
    score = by_subgroup(f1_of, {"one": one}, {"one": 20}).scores["one"].score
    assert score.mean == pytest.approx(f1_score(TRUTH[GROUP == 0], PREDICTED[GROUP == 0], average="macro"))
    assert np.isnan(score.low) and np.isnan(score.high)
