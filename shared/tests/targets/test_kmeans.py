"""k-means while features come in: blobs, its update by hand, real digits beside scikit-learn, dead entries, ranks."""

import numpy as np
import pytest
import torch
from sklearn.cluster import MiniBatchKMeans
from sklearn.datasets import load_digits

from unlabeled.core import ranks
from unlabeled.core.streams import rng
from unlabeled.core.targets.codebooks.kmeans import KMeans
from unlabeled.core.testing.ranks import assert_same
from unlabeled.core.testing.sync import NoWaiting

BLOBS = 8


def blobs(n=400):
    """(n, 3) around the corners of a cube with sides of 20, which is 33 deviations, and whose blob each is of."""
    g = torch.Generator().manual_seed(0)
    middle = torch.cartesian_prod(*[torch.tensor([-10.0, 10.0], dtype=torch.float64)] * 3)
    of = torch.arange(n) % BLOBS
    return middle[of] + 0.6 * torch.randn(n, 3, dtype=torch.float64, generator=g), of


def ones(x):
    return torch.ones(len(x), dtype=x.dtype)


@pytest.mark.parametrize("stream", range(20))
def test_blobs_are_found_whole(stream):
    x, of = blobs()
    q = KMeans(3, BLOBS).double()
    q.start(x, ones(x), stream)
    q.update(x, ones(x), stream + 100)
    # every blob has one code, and no two have the same: purity 1. The entries are the blobs' means
    pairs = torch.stack([of, q.codes(x)], 1).unique(dim=0)
    assert len(pairs) == BLOBS and len(pairs[:, 1].unique()) == BLOBS
    means = torch.stack([x[of == i].mean(0) for i in range(BLOBS)])
    torch.testing.assert_close(q.entries[pairs[:, 1]], means, rtol=0, atol=1e-12)
    # and at the means it stays
    q.update(x, ones(x), stream + 200)
    torch.testing.assert_close(q.entries[pairs[:, 1]], means, rtol=0, atol=1e-12)


def test_an_update_by_hand():
    # decay 0.5. First 2 and 4 come to the entry at 3.5: use 0 -> 1, entry -> 3, their mean. Then 9 comes alone:
    # share 0.5 * 1 / (0.5 * 1 + 0.5 * 1) = 1/2, entry 3 -> 6, use (1 + 1) / 2. The other entry has none, and stays
    q = KMeans(1, 2, decay=0.5, dead=0.0).double()
    q.entries.copy_(torch.tensor([[3.5], [-100.0]]))
    x = torch.tensor([[2.0], [4.0]], dtype=torch.float64)
    q.update(x, ones(x), 0)
    assert q.entries.tolist() == [[3.0], [-100.0]] and q.use.tolist() == [1.0, 0.0]
    q.update(torch.tensor([[[9.0]]], dtype=torch.float64), torch.ones(1, 1), 0)
    assert q.entries.tolist() == [[6.0], [-100.0]] and q.use.tolist() == [1.0, 0.0]


def test_dead_entries_start_anew():
    # three rows at the first entry and one, far away, too; the second entry is nobody's: it begins at the far one, since
    # the mass of the others is 0 (they lie where their entry lay), with the mean use as its past
    q = KMeans(1, 2, decay=0.9).double()
    q.entries.copy_(torch.tensor([[0.0], [-1e6]]))
    x = torch.tensor([[0.0], [0.0], [0.0], [8.0]], dtype=torch.float64)
    q.update(x, ones(x), 5)
    assert q.entries.tolist() == [[2.0], [8.0]]  # the mean of all four, and the far row
    torch.testing.assert_close(q.use, torch.tensor([0.4, 0.2], dtype=torch.float64))


def test_digits_beside_scikit_learn():
    # 1797 real digits of 64 pixels; 300 updates of 256 each. MiniBatchKMeans tries 3 starts and keeps the best
    pixels = load_digits().data / 16
    x = torch.from_numpy(pixels)
    theirs = MiniBatchKMeans(64, batch_size=256, n_init=3, random_state=0).fit(pixels).inertia_
    order, q = rng(0, "order"), KMeans(64, 64).double()
    for step in range(300):
        rows = x[torch.from_numpy(order.choice(len(x), 256, replace=False))]
        if step == 0:
            q.start(rows, ones(rows), 0)
        q.update(rows, ones(rows), step + 1)
    ours = torch.cdist(x, q.entries).min(1).values.square().sum().item()
    assert ours < 1.03 * theirs
    assert np.bincount(q.codes(x).numpy(), minlength=64).min() > 0


def test_more_entries_than_rows():
    # the rest keep their random place, and find one where there are more rows
    q = KMeans(2, 6).double()
    before = q.entries.clone()
    x = torch.tensor([[0.0, 50.0], [50.0, 0.0]], dtype=torch.float64)
    q.start(x, ones(x), 0)
    assert {tuple(e) for e in q.entries[:2].tolist()} == {(0.0, 50.0), (50.0, 0.0)}
    assert torch.equal(q.entries[2:], before[2:])
    # nothing is far from its entry any more, so none moves there twice
    q.update(x, ones(x), 1)
    assert torch.equal(q.entries[2:], before[2:])


def test_what_does_not_count_may_be_nan_and_nothing_changes_nothing():
    x, _ = blobs(64)
    spoiled = torch.cat([x, torch.full((5, 3), torch.nan, dtype=x.dtype)])
    weight = torch.cat([ones(x), torch.zeros(5)])
    plain, other = KMeans(3, BLOBS).double(), KMeans(3, BLOBS).double()
    for q, rows, w in ((plain, x, ones(x)), (other, spoiled, weight)):
        q.start(rows, w, 0)
        q.update(rows, w, 1)
    assert_same([dict(plain.named_buffers())], dict(other.named_buffers()), tolerance=1e-12)
    before = {name: b.clone() for name, b in other.named_buffers()}
    other.start(spoiled, 0 * weight, 2)
    other.update(spoiled, 0 * weight, 2)
    assert all(torch.equal(b, before[name]) for name, b in other.named_buffers())


def test_to_look_is_not_to_learn():
    x, _ = blobs()
    q = KMeans(3, 4).double()
    before = {name: b.clone() for name, b in q.state_dict().items()}
    for mode in (True, False):
        q.train(mode).codes(x)
    assert all(torch.equal(b, before[name]) for name, b in q.state_dict().items())


def test_no_update_waits_for_the_device():
    x, _ = blobs()
    q = KMeans(3, 4).double()
    with NoWaiting():
        q.start(x, ones(x), 0)
        q.update(x, ones(x), 1)


def task(kind, dead):
    from unlabeled.core.targets.codebooks.cosine import CosineCodebook

    q = {"kmeans": KMeans, "cosine": CosineCodebook}[kind](3, 20, dead=dead).double()
    x, _ = blobs(48)
    weight = ones(x)
    weight[30:] = 0.5
    weight[:7] = 0  # a first rank has 17 rows that count, a second 24
    n = len(x) // ranks.world()
    mine = slice(ranks.rank() * n, (ranks.rank() + 1) * n)
    q.start(x[mine], weight[mine], 0)
    for step in range(4):
        q.update(x[mine] + step, weight[mine], step)
    return dict(q.named_buffers())


@pytest.mark.parametrize("kind", ["kmeans", "cosine"])
@pytest.mark.parametrize("dead", [0.01, 0.9])
def test_two_ranks_equal_one(two_ranks, kind, dead):
    # at 0.9 of the mean use many entries start anew at every update
    assert_same(two_ranks.run(f"{__file__}:task", kind, dead), task(kind, dead), tolerance=1e-12)
