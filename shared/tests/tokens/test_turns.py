"""Quarter turns: they are torch's, within the item's own box."""

import torch

from unlabeled.core.contracts.batch import Dense
from unlabeled.core.tokens.turns import turned


def images(b, h, w, valid=None):
    x = torch.randn(b, 2, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(b, 1, h, w, dtype=torch.bool) if valid is None else valid
    return Dense(x, valid, torch.ones(b, 2, dtype=torch.float64))


def test_whole_squares_turn_as_torch_turns_them():
    x = images(4, 5, 5)
    out, able = turned(x, torch.arange(4))
    assert able.all() and out.valid.all()
    for k in range(4):
        assert torch.equal(out.values[k], torch.rot90(x.values[k], k, (1, 2)))


def test_four_turns_are_none():
    x = images(3, 6, 6)
    out = x
    for _ in range(4):
        out, _ = turned(out, torch.tensor([1, 1, 1]))
    assert torch.equal(out.values, x.values)


def test_an_item_turns_within_its_own_box():
    # 3 x 3 valid cells from (1, 2) on, of a grid of 5 x 7; holes go along
    valid = torch.zeros(1, 1, 5, 7, dtype=torch.bool)
    valid[..., 1:4, 2:5] = True
    valid[..., 1, 3] = False
    x = images(1, 5, 7, valid)
    out, able = turned(x, torch.tensor([1]))
    assert able.tolist() == [True]
    assert torch.equal(out.values[..., 1:4, 2:5], torch.rot90(x.values[..., 1:4, 2:5], 1, (2, 3)))
    assert torch.equal(out.valid[..., 1:4, 2:5], torch.rot90(valid[..., 1:4, 2:5], 1, (2, 3)))
    outside = torch.ones(5, 7, dtype=torch.bool)
    outside[1:4, 2:5] = False
    assert torch.equal(out.values[0, :, outside], x.values[0, :, outside])


def test_oblong_and_empty_items_stay_as_they_are():
    valid = torch.ones(2, 1, 4, 4, dtype=torch.bool)
    valid[0, ..., 2:] = False
    valid[1] = False
    x = images(2, 4, 4, valid)
    out, able = turned(x, torch.tensor([1, 3]))
    assert able.tolist() == [False, False]
    assert torch.equal(out.values, x.values) and torch.equal(out.valid, x.valid)
