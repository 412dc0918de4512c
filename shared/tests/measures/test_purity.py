import numpy as np
import pytest

from unlabeled.core.measures import purity as module
from unlabeled.core.measures.purity import purity


def test_two_blobs_by_group_are_pure() -> None:
    rng = np.random.default_rng(0)
    group = np.repeat([0, 1], 20)
    values = np.array([[1.0, 0.0], [0.0, 1.0]])[group] + 0.05 * rng.standard_normal((40, 2))
    found = purity(values, group, 10)
    # of 40 items 20 are of either group: 2 * 20 * 19 / (40 * 39) = 19/39
    assert (found.value, found.chance, found.n) == (1.0, pytest.approx(19 / 39), 40)
    assert found.ratio == pytest.approx(39 / 19)


def test_groups_by_lot_give_chance() -> None:
    # 30 shuffles of one geometry: the mean of the purity is chance exactly; a shuffle's purity is a mean over 3000 neighbours
    # of which a few hundred pairs are apart, deviation about 0.02, of 30 shuffles 0.004: 0.015 is over three of them
    rng = np.random.default_rng(1)
    values, group = rng.standard_normal((300, 5)), np.repeat([0, 1, 2], [150, 100, 50])
    found = [purity(values, rng.permutation(group), 10) for _ in range(30)]
    chance = (150 * 149 + 100 * 99 + 50 * 49) / (300 * 299)
    assert found[0].chance == pytest.approx(chance)
    assert np.mean([f.value for f in found]) == pytest.approx(chance, abs=0.015)


@pytest.mark.parametrize("k", [2, 5])
def test_a_collapsed_embedding_has_the_purity_of_chance(k: int) -> None:
    # all items are equally near, so each of the 9 others counts k/9, and the mean over items is sum n_g (n_g - 1) / (10 * 9)
    group = np.array([0] * 6 + [1] * 3 + [2])
    found = purity(np.random.default_rng(0).uniform(1, 2, (10, 1)) * np.ones(3), group, k)
    assert found.value == pytest.approx(found.chance) == pytest.approx((30 + 6) / 90)


@pytest.mark.parametrize("k", [9, 10, 1000])
def test_k_of_all_others_or_more_is_chance_too(k: int) -> None:
    group = np.array([0] * 6 + [1] * 4)
    found = purity(np.random.default_rng(0).standard_normal((10, 3)), group, k)
    assert found.value == pytest.approx((30 + 12) / 90) == pytest.approx(found.chance)


def test_items_of_the_same_record_are_no_neighbours() -> None:
    # four records of three windows, which lie on each other. By items every one of the 2 nearest is its own record's.
    # Without these the nearest record is one of the other group (angles 0, 10, 80, 90 degrees; groups a, b, a, b).
    angle = np.deg2rad(np.repeat([0, 10, 80, 90], 3))
    values, record = np.stack([np.cos(angle), np.sin(angle)], 1), np.repeat(np.arange(4), 3)
    group = np.repeat([0, 1, 0, 1], 3)
    assert purity(values, group, 2).value == 1.0
    found = purity(values, group, 2, record)
    # chance over records: 2 * 2 * 1 / (4 * 3)
    assert (found.value, found.chance) == (0.0, pytest.approx(1 / 3))
    # six windows are the two nearest records. 0 degrees (a): 10 b and 80 a, 1/2. 10 (b): 0 a and 80 a, none. 80 (a): 90 b and
    # 10 b, none. 90 (b): 80 a and 10 b, 1/2
    assert purity(values, group, 6, record).value == pytest.approx(0.25)
    # all nine others: each sees one record of its own of three
    assert purity(values, group, 50, record).value == pytest.approx(1 / 3)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    values, group, record = rng.standard_normal((50, 4)), rng.integers(0, 3, 25).repeat(2), np.arange(25).repeat(2)
    whole = purity(values, group, 7, record)
    monkeypatch.setattr(module, "ROWS", 7)
    assert purity(values, group, 7, record) == whole
    # by hand, for one k and no ties
    z = values / np.linalg.norm(values, axis=1, keepdims=True)
    near = z @ z.T
    near[record[:, None] == record] = -2
    top = np.argsort(-near, axis=1)[:, :7]
    assert whole.value == pytest.approx((group[top] == group[:, None]).mean())


def test_one_record_has_no_neighbours() -> None:
    found = purity(np.ones((3, 2)), np.zeros(3, np.int64), 2, np.zeros(3, np.int64))
    assert np.isnan(found.value) and np.isnan(found.chance) and found.n == 0
    # each group one record: nothing to find, and no ratio
    found = purity(np.eye(3), np.arange(3), 2)
    assert found.value == 0 and found.chance == 0 and np.isnan(found.ratio)
