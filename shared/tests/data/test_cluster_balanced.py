"""Cluster-balanced batches: clusters of any size give alike, and no item meets itself."""

import numpy as np
import pytest

from unlabeled.core.data.plans.cluster_balanced import ClusterBalanced
from unlabeled.core.streams import rng


def clusters(*sizes):
    return rng(0, "shuffle").permutation(np.repeat(np.arange(len(sizes)), sizes)).astype(np.int64)


def test_every_cluster_gives_alike():
    # 128 items make 16 batches of 8: of 4 clusters each gives 32 an epoch and 2 a batch, of 100 items as of 4
    of = clusters(100, 16, 8, 4)
    plan = ClusterBalanced(of, 8)
    seen = np.zeros(128, int)
    for epoch in range(40):
        batches = plan(0, epoch)
        assert len(batches) == plan.steps(epoch) == 16
        for batch in batches:
            assert np.bincount(of[batch]).tolist() == [2, 2, 2, 2] and len(set(batch.tolist())) == 8
        times = np.bincount(np.concatenate(batches), minlength=128)
        # 32 of 100, each once; of 16, twice; of 8, four times; of 4, eight times
        assert [set(times[of == c].tolist()) for c in range(4)] == [{0, 1}, {2}, {4}, {8}]
        seen += times
    assert (seen > 0).all()  # a large cluster gives other items every epoch
    again = ClusterBalanced(of, 8)(0, 39)
    assert all((a == b).all() for a, b in zip(batches, again, strict=True))
    assert any((a != b).any() for a, b in zip(plan(0, 0), plan(0, 1), strict=True))


def test_shares_that_do_not_divide_differ_by_one():
    # 30 items make 7 batches of 4: 28 places for 3 clusters
    of = clusters(20, 7, 3)
    counts = np.bincount(of[np.concatenate(ClusterBalanced(of, 4)(0, 0))])
    assert counts.tolist() == [10, 9, 9]
    assert all(set(np.bincount(of[b], minlength=3).tolist()) <= {1, 2} for b in ClusterBalanced(of, 4)(0, 0))


def test_a_cluster_too_small_for_its_share_gives_each_item_to_every_batch():
    # 42 items make 5 batches of 8; 2 clusters would give 4 each, but one has 2 items
    of = clusters(40, 2)
    for batch in ClusterBalanced(of, 8)(0, 3):
        assert np.bincount(of[batch]).tolist() == [6, 2] and len(set(batch.tolist())) == 8


@pytest.mark.parametrize("size", [1, 3, 8])
def test_items_that_failed_or_lie_nowhere_are_left_out(size):
    of = clusters(12, 6, 5)
    of[3] = -1
    without = {0, 1, 11}
    plan = ClusterBalanced(of, size)
    batches = plan(1, 2, without)
    assert len(batches) == plan.steps(2, without) == 19 // size
    assert not {3, *without} & set(np.concatenate(batches).tolist())
    assert all(len(set(b.tolist())) == size for b in batches)


def test_clusters_of_one_size_are_all_used_once():
    of = clusters(6, 6, 6)
    ids = np.concatenate(ClusterBalanced(of, 6)(0, 0))
    assert sorted(ids.tolist()) == list(range(18))
