"""Parts in another order: a bijection of the cells within the item's own extent."""

import math

import pytest
import torch

from unlabeled.core.contracts.batch import Dense
from unlabeled.core.tokens.jigsaw import far_orders, reordered


def items(b, *shape, valid=None):
    x = torch.arange(b * math.prod(shape), dtype=torch.float64).view(b, 1, *shape)
    valid = torch.ones(b, 1, *shape, dtype=torch.bool) if valid is None else valid
    return Dense(x, valid, torch.ones(b, len(shape)), whole=True)


def test_segments_of_a_series():
    x = items(2, 9)  # 4 parts of 2 cells, one cell left over
    found, able = reordered(x, torch.tensor([[3, 0, 2, 1], [0, 1, 2, 3]]), 4)
    assert able.all()
    assert found.values[0, 0].tolist() == [6, 7, 0, 1, 4, 5, 2, 3, 8]
    assert torch.equal(found.values[1], x.values[1])


def test_boxes_of_an_image():
    x = items(1, 4, 6)
    found, _ = reordered(x, torch.tensor([[3, 2, 1, 0]]), 2)
    image = x.values[0, 0]
    lower, upper = (torch.cat([rows[:, 3:], rows[:, :3]], 1) for rows in (image[2:], image[:2]))
    assert torch.equal(found.values[0, 0], torch.cat([lower, upper]))


@pytest.mark.parametrize(("shape", "n"), [((11,), 3), ((7, 8), 3), ((5, 4, 6), 2)])
def test_an_order_and_its_inverse_are_nothing(shape, n):
    parts = n ** len(shape)
    order = torch.stack([torch.randperm(parts, generator=torch.Generator().manual_seed(i)) for i in range(4)])
    x = items(4, *shape)
    there, _ = reordered(x, order, n)
    assert torch.equal(there.values.flatten(1).sort().values, x.values.flatten(1))
    assert not torch.equal(there.values, x.values)
    assert torch.equal(reordered(there, order.argsort(1), n)[0].values, x.values)


def test_within_its_own_extent_and_holes_go_along():
    valid = torch.zeros(1, 1, 10, dtype=torch.bool)
    valid[..., 3:9] = True
    valid[..., 4] = False
    found, able = reordered(items(1, 10, valid=valid), torch.tensor([[1, 0]]), 2)
    assert able.all() and found.values[0, 0].tolist() == [0, 1, 2, 6, 7, 8, 3, 4, 5, 9]
    assert found.valid[0, 0].tolist() == [False] * 3 + [True, True, True, True, False, True] + [False]


def test_what_is_too_short_or_empty_stays():
    valid = torch.zeros(2, 1, 8, dtype=torch.bool)
    valid[0, :, :2] = True
    x = items(2, 8, valid=valid)
    found, able = reordered(x, torch.tensor([[2, 0, 1], [2, 0, 1]]), 3)
    assert able.tolist() == [False, False] and torch.equal(found.values, x.values)


def test_orders_are_far_from_each_other():
    # 4 orders of 4 parts, of which no two have a part in common: a Latin square, the largest such set
    four = far_orders(4, 4)
    assert four[0].tolist() == [0, 1, 2, 3]
    assert all((a != b).all() for i, a in enumerate(four) for b in four[:i])
    # all 24, each once
    assert len({tuple(o) for o in far_orders(4, 24).tolist()}) == 24
    # 35 orders of 9 parts, some of 2000 by lot: a random pair differs in 8 places on average; these in 7 at least
    many = far_orders(9, 35)
    distances = [(a != b).sum() for i, a in enumerate(many) for b in many[:i]]
    assert min(distances) >= 7 and (far_orders(9, 35) == many).all()
    with pytest.raises(ValueError, match=r"2 parts have 2 orders, and not 3"):
        far_orders(2, 3)
