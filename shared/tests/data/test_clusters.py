"""Hierarchical k-means and balanced choices."""

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from unlabeled.core.data.clusters import balanced_shares, chosen, hierarchical, scaled, shares


def blobs(sizes, width=16, spread=0.05, seed=0):
    """Values and classes: normal clouds around unit vectors that stand at right angles to each other."""
    draw = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return np.eye(width)[labels] + spread / np.sqrt(width) * draw.standard_normal((len(labels), width)), labels


def entropy(counts):
    p = counts[counts > 0] / counts.sum()
    return -(p * np.log(p)).sum()


def inertia(x, centroids):
    return np.square(x[:, None] - centroids[None]).sum(-1).min(1).sum()


@pytest.mark.parametrize("seed", range(5))
def test_separable_blobs_are_found_whole(seed):
    """Centres are sqrt(2) apart and clouds have a radius of about 0.05: 8 clusters are the 8 blobs, purity 1."""
    values, truth = blobs([40] * 8)
    found = hierarchical(values, (8,), seed)
    pairs = {(a, b) for a, b in zip(found.labels, truth, strict=True)}
    assert len(pairs) == 8
    assert found.sizes().tolist() == [40] * 8


def test_levels_make_a_tree_and_beat_random_centroids():
    """10 blobs, each of 3 smaller ones: 30 clusters, then 10 of their centroids; random rows as centroids are never better."""
    draw = np.random.default_rng(0)
    coarse = np.repeat(np.arange(10), 3)
    centres = np.eye(16)[coarse] + 0.15 * draw.standard_normal((30, 16))
    truth = np.repeat(np.arange(30), 20)
    values = centres[truth] + 0.01 * draw.standard_normal((600, 16))
    found = hierarchical(values, (30, 10), 1)
    assert [c.shape for c in found.centroids] == [(30, 16), (10, 16)]
    assert [p.shape for p in found.parents] == [(600,), (30,)]
    np.testing.assert_array_equal(found.at(1), found.parents[1][found.labels])
    assert found.sizes(1).sum() == 600
    assert len({(a, b) for a, b in zip(found.at(1), coarse[truth], strict=True)}) == 10
    x = scaled(values)
    for level, points in enumerate((x, found.centroids[0])):
        ours = inertia(points, found.centroids[level])
        assert all(
            ours <= inertia(points, points[draw.choice(len(points), len(found.centroids[level]), replace=False)])
            for _ in range(50)
        )


def test_a_centroid_is_the_mean_of_its_rows():
    values, _ = blobs([30, 50, 20])
    found = hierarchical(values, (3,), 0)
    for k in range(3):
        np.testing.assert_allclose(found.centroids[0][k], scaled(values)[found.labels == k].mean(0), atol=1e-12)


def test_same_bits_whatever_the_threads_and_another_seed_is_another_start():
    values = np.random.default_rng(0).standard_normal((4000, 24)).astype(np.float32)
    with threadpool_limits(2):
        first = hierarchical(values, (40, 7), 3)
    with threadpool_limits(1):
        second = hierarchical(values, (40, 7), 3)
    for a, b in zip((*first.parents, *first.centroids), (*second.parents, *second.centroids), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (hierarchical(values, (40, 7), 4).labels != first.labels).any()


def test_only_directions_count_and_halves_are_widened():
    """Rows times 1e-3 to 1e3 give the same clusters; float16 is computed in float32."""
    values, _ = blobs([25] * 4)
    lengths = 10 ** np.random.default_rng(0).uniform(-3, 3, (100, 1))
    np.testing.assert_array_equal(hierarchical(values * lengths, (4,), 0).labels, hierarchical(values, (4,), 0).labels)
    assert hierarchical(values.astype(np.float16), (4,), 0).centroids[0].dtype == np.float32
    assert scaled(np.zeros((2, 3))).tolist() == [[0, 0, 0], [0, 0, 0]]
    with pytest.raises(ValueError, match="finite"):
        hierarchical(np.array([[1.0, np.nan]]), (1,), 0)


def test_no_cluster_is_empty_where_rows_repeat():
    """Three different rows, ten times each, into 8 clusters: 3 are left."""
    found = hierarchical(np.tile(np.eye(3), (10, 1)), (8, 2), 0)
    assert found.sizes().tolist() == [10, 10, 10]
    assert (found.sizes(1) > 0).all()
    assert len(hierarchical(np.eye(3), (100,), 0).centroids[0]) == 3


def test_water_fills_up():
    """The total is exact, none gives more than it has, and none that could give more gives less than another minus one."""
    draw = np.random.default_rng(0)
    for _ in range(300):
        sizes = draw.integers(0, 60, draw.integers(1, 12))
        target = int(draw.integers(0, 400))
        share = balanced_shares(sizes, target)
        assert share.sum() == min(target, sizes.sum())
        assert (share <= sizes).all()
        assert (share >= np.minimum(sizes, target // len(sizes))).all()
        could = share < sizes
        assert not could.any() or share.max() - share[could].min() <= 1


def test_shares_by_hand():
    """10, 4, 1 and 20: the level 4 gives 13 where 10 + 4 + 1 + 20 = 35; 15 leaves two over, which the larger two give."""
    assert balanced_shares([10, 4, 1, 20], 13).tolist() == [4, 4, 1, 4]
    assert balanced_shares([10, 4, 1, 20], 15).tolist() == [5, 4, 1, 5]
    assert balanced_shares([10, 4, 1, 20], 14).tolist() == [4, 4, 1, 5]
    assert balanced_shares([10, 4], 100).tolist() == [10, 4]
    with pytest.raises(ValueError, match="cannot be taken"):
        balanced_shares([1], -1)


def test_long_tails_are_evened_out():
    """Blobs of 1e4, 1e3, 1e2 and 10 items, 4 % kept (444): level 167 gives 167, 167, 100, 10.

    Entropy rises from 0.360 to 1.157 of at most log 4 = 1.386; none falls under min(size, 444 // 4 = 111).
    """
    sizes = [10_000, 1000, 100, 10]
    values, truth = blobs(sizes, width=8)
    found = hierarchical(values.astype(np.float32), (4,), 0)
    assert sorted(found.sizes().tolist()) == sorted(sizes)
    for nearness in (0.0, 0.5, 1.0):
        stays = chosen(values, found, balanced_shares(found.sizes(), 444), nearness, 0)
        kept = np.bincount(truth[stays], minlength=4)
        assert kept.tolist() == [167, 167, 100, 10]
    assert entropy(np.array(sizes)) == pytest.approx(0.3602, abs=1e-3)
    assert entropy(kept) == pytest.approx(1.1568, abs=1e-3)


def test_shares_go_down_the_tree():
    """Two coarse clusters, one of 3 fine ones and one of 1: of 60 each coarse one gives 30, so a fine one 10 or 30.

    All alike at the finest level would be 15 each.
    """
    draw = np.random.default_rng(0)
    near = np.array([[1, 0, 0, 0], [1, 0.3, 0, 0], [1, 0, 0.3, 0], [0, 0, 0, 1]])
    truth = np.repeat(np.arange(4), 50)
    found = hierarchical(near[truth] + 0.005 * draw.standard_normal((200, 4)), (4, 2), 0)
    counts = shares(found, 60)
    of = {int(truth[found.labels == k][0]): int(counts[k]) for k in range(4)}
    assert of == {0: 10, 1: 10, 2: 10, 3: 30}
    assert balanced_shares(found.sizes(), 60).tolist() == [15] * 4
    assert shares(found, 10_000).tolist() == [50] * 4


def test_all_are_chosen_where_all_are_wanted():
    values, _ = blobs([30, 20, 5])
    found = hierarchical(values, (3,), 0)
    for nearness in (0.0, 1.0):
        assert chosen(values, found, balanced_shares(found.sizes(), 55), nearness, 0).tolist() == list(range(55))
        assert chosen(values, found, [0, 0, 0], nearness, 0).tolist() == []


def test_nearness_chooses_the_middle_and_its_absence_the_width():
    """Points on an arc from 0 to 60 degrees, in one cluster whose centroid is at 30: of 5, nearness 1 takes 28 ... 32.

    k-centre leaves no point farther from a pick than 60 / 4 = 15 degrees, twice the best of 5 picks (6 degrees) and a half.
    """
    angle = np.radians(np.arange(61))
    values = np.stack([np.cos(angle), np.sin(angle)], -1)
    found = hierarchical(values, (1,), 0)
    assert chosen(values, found, [5], 1.0, 0).tolist() == [28, 29, 30, 31, 32]
    for seed in range(10):
        diverse = chosen(values, found, [5], 0.0, seed)
        assert len(set(diverse)) == 5
        assert np.abs(np.arange(61)[:, None] - diverse).min(1).max() <= 15
        assert diverse.tolist() == chosen(values, found, [5], 0.0, seed).tolist()
    assert len({tuple(chosen(values, found, [5], 0.0, seed)) for seed in range(10)}) > 1
    # 3 for their nearness, then both ends
    assert chosen(values, found, [5], 0.6, 0).tolist() == [0, 29, 30, 31, 60]


def test_copies_are_taken_last_but_taken():
    values = np.array([[1.0, 0]] * 6 + [[0.9, 0.1], [0.8, 0.3]])
    found = hierarchical(values, (1,), 0)
    four = chosen(values, found, [4], 0.0, 0)
    assert {6, 7} < set(four.tolist())
    assert len(set(four.tolist())) == 4


def test_the_order_of_the_rows_does_not_matter_where_clusters_are_clear():
    """Nearness 1 on separable blobs: the same items whatever their order. Elsewhere the start of k-means follows the order."""
    values, _ = blobs([40, 30, 20])
    turn = np.random.default_rng(5).permutation(90)
    first, second = hierarchical(values, (3,), 0), hierarchical(values[turn], (3,), 0)
    a = chosen(values, first, balanced_shares(first.sizes(), 30), 1.0, 0)
    b = turn[chosen(values[turn], second, balanced_shares(second.sizes(), 30), 1.0, 0)]
    assert a.tolist() == sorted(b.tolist())
