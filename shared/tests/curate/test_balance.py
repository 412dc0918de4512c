"""Balance."""

import numpy as np
import pytest

from unlabeled.core.contracts import RequestError
from unlabeled.core.curate.balance import Balance
from unlabeled.core.testing.collections import embedded


def blobs(sizes, seed=0):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return np.eye(8)[labels] + 0.02 * np.random.default_rng(seed).standard_normal((len(labels), 8)), labels


def balance(**options):
    return Balance(Balance.Options(**options))


def test_large_clusters_give_and_small_ones_stay_whole():
    """300, 60 and 12 items, share 0.25: 93 of 372 are kept. The level 40 gives 40 + 40 + 12 = 92, and one more."""
    values, truth = blobs([300, 60, 12])
    dropped = balance(share=0.25, levels=(3,)).run(embedded(values), np.ones(372, bool))
    stays = np.setdiff1d(np.arange(372), [d.item for d in dropped])
    assert np.bincount(truth[stays]).tolist() == [41, 40, 12]
    of = {int(truth[d.item]): (d.reason.split(" ", 2)[2], d.score) for d in dropped}
    assert of == {
        0: ("has 300 items, of which 41 are kept", pytest.approx(41 / 300)),
        1: ("has 60 items, of which 40 are kept", pytest.approx(40 / 60)),
    }


def test_the_whole_share_drops_nothing_and_runs_repeat():
    values, _ = blobs([50, 30, 20])
    c, all_ = embedded(values), np.ones(100, bool)
    assert balance(share=1.0).run(c, all_) == []
    assert balance().run(c, all_) == balance().run(c, all_)
    assert len(balance().run(c, all_)) == 50


def test_what_is_gone_counts_nowhere():
    """Rows that are not kept may hold anything; the others are balanced as if they were alone."""
    values, truth = blobs([100, 20])
    kept = np.ones(120, bool)
    kept[:40] = False
    alone = balance(share=0.5, levels=(2,)).run(embedded(values[40:]), np.ones(80, bool))
    values[:40] = np.random.default_rng(1).normal(0, 100, (40, 8))
    among = balance(share=0.5, levels=(2,)).run(embedded(values), kept)
    assert [d.item for d in among] == [d.item + 40 for d in alone]
    assert np.bincount(truth[np.setdiff1d(np.flatnonzero(kept), [d.item for d in among])]).tolist() == [20, 20]
    assert balance().run(embedded(values), np.zeros(120, bool)) == []


def test_two_levels_share_out_from_above():
    """Three near clusters of 40 and a far one of 40, half of 160 kept: 40 of the far one, and of each near one 13 or 14."""
    near = np.array([[1, 0, 0, 0], [1, 0.3, 0, 0], [1, 0, 0.3, 0], [0, 0, 0, 1]])
    truth = np.repeat(np.arange(4), 40)
    values = near[truth] + 0.005 * np.random.default_rng(0).standard_normal((160, 4))
    dropped = balance(share=0.5, levels=(4, 2)).run(embedded(values), np.ones(160, bool))
    stays = np.bincount(np.delete(truth, [d.item for d in dropped]))
    assert stays[3] == 40
    assert sorted(stays[:3]) == [13, 13, 14]


def test_wrong_requests_say_what_to_do():
    values, _ = blobs([10, 10])
    bare = embedded(values)
    for levels in ((2, 5), (0,)):
        with pytest.raises(RequestError, match="must fall from the finest to the coarsest"):
            balance(levels=levels).run(bare, np.ones(20, bool))
    with pytest.raises(RequestError, match="balance needs embeddings"):
        balance().run(bare.with_(None), np.ones(20, bool))
