"""Mixtures of two items."""

import torch

from unlabeled.core import ranks
from unlabeled.core.contracts.batch import Dense
from unlabeled.core.testing.ranks import assert_same
from unlabeled.core.testing.sync import NoWaiting
from unlabeled.core.views.mixup import mixed


def items(*shape, seed=0, channels=1):
    g = torch.Generator().manual_seed(seed)
    values = torch.randn(*shape, generator=g, dtype=torch.float64)
    valid = torch.ones(shape[0], channels, *shape[2:], dtype=torch.bool)
    return Dense(values, valid, torch.full((shape[0], len(shape) - 2), float(seed + 1)), whole=True)


def test_whole_items():
    first, second, other = items(3, 2, 4, 5), items(3, 2, 4, 5, seed=1), torch.tensor([2, 0, 1])
    with NoWaiting():
        found = mixed(first, second, other, 0.3)
    torch.testing.assert_close(found.values, 0.3 * first.values + 0.7 * second.values[other], rtol=0, atol=1e-15)
    assert found.whole and found.valid.all() and torch.equal(found.spacing, first.spacing)


def test_where_one_is_invalid_the_other_stands_alone():
    first, second = items(2, 1, 4), items(2, 1, 4, seed=1)
    first.valid[:, :, 1], second.valid[:, :, 2] = False, False
    first.valid[:, :, 3], second.valid[:, :, 3] = False, False
    first.values[:, :, [1, 3]], second.values[:, :, [2, 3]] = torch.nan, torch.nan
    first, second = (Dense(x.values, x.valid, x.spacing) for x in (first, second))
    other = torch.tensor([1, 0])
    found = mixed(first, second, other, 0.25)
    a, b = first.values, second.values[other]
    expected = torch.stack([0.25 * a[..., 0] + 0.75 * b[..., 0], b[..., 1], a[..., 2], torch.zeros(2, 1)], -1)
    torch.testing.assert_close(found.values, expected, rtol=0, atol=1e-15)
    assert found.valid[0, 0].tolist() == [True, True, True, False] and not found.whole


def test_items_of_unlike_size_lie_in_one_corner():
    first, second = items(2, 1, 3, 2), items(2, 1, 2, 4, seed=1)
    other = torch.tensor([1, 0])
    found = mixed(first, second, other, 0.5)
    assert found.values.shape == (2, 1, 3, 4) and not found.whole
    torch.testing.assert_close(found.values[..., 2, :2], first.values[..., 2, :], rtol=0, atol=0)
    torch.testing.assert_close(found.values[..., :2, 2:], second.values[other][..., 2:], rtol=0, atol=0)
    both = (first.values[..., :2, :] + second.values[other][..., :2]) / 2
    torch.testing.assert_close(found.values[..., :2, :2], both, rtol=0, atol=1e-15)
    # nobody is in the far corner
    assert (found.valid.sum((1, 2, 3)) == 10).all() and (found.values[..., 2, 2:] == 0).all()


def test_shares_of_zero_and_one():
    first, second, other = items(2, 1, 4), items(2, 1, 4, seed=1), torch.tensor([1, 0])
    part = Dense(first.values, first.valid.clone(), first.spacing)
    part.valid[:, :, 0] = False
    assert torch.equal(mixed(first, second, other, 1.0).values, first.values)
    assert torch.equal(mixed(first, second, other, 0.0).values, second.values[other])
    found = mixed(part, second, other, 1.0)
    assert found.values.isfinite().all() and torch.equal(found.values[..., 1:], first.values[..., 1:])


def on_rank():
    """The last rank's items are smaller, and a whole rank's validity has fewer channels."""
    first, second = items(4, 2, 3, 5), items(4, 2, 3, 5, seed=1, channels=2)
    valid = [x.valid.clone() for x in (first, second)]
    for v in valid:
        v[2:, :, :, 4:] = False
    other = torch.tensor([3, 2, 0, 1])
    if ranks.world() == 1:
        parts = [Dense(x.values, v, x.spacing) for x, v in zip((first, second), valid, strict=True)]
    else:
        mine, width = slice(2 * ranks.rank(), 2 * ranks.rank() + 2), 5 - ranks.rank()
        channels = 1 + ranks.rank()
        parts = [
            Dense(x.values[mine, ..., :width], v[mine, :channels, :, :width], x.spacing[mine], whole=True)
            for x, v in zip((first, second), valid, strict=True)
        ]
        other = other[mine]
    found = mixed(*parts, other, 0.4)
    assert not found.whole
    values = found.values.masked_fill(~found.valid, 0)
    return {"values": ranks.gather(values), "valid": ranks.gather(found.valid.expand(-1, 2, -1, -1).byte())}


def test_two_ranks_equal_one(two_ranks):
    assert_same(two_ranks.run(f"{__file__}:on_rank"), on_rank(), tolerance=1e-12)
