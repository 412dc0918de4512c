"""Local windows: different ones for every item, exact counts, and nothing that padding moves."""

import pytest
import torch
import torch.nn.functional as F

from unlabeled.core.streams import Draw
from unlabeled.core.tokens.windows import local_windows


def windows(valid, grid, size=7, count=4, ratio=0.8, epoch=0):
    draw = Draw(0, epoch, torch.arange(len(valid)))
    places = draw.uniform("places", *(g - size + 1 for g in grid))
    return local_windows(valid, grid, size, count, ratio, places, draw.uniform("noise", count, size ** len(grid)))


@pytest.mark.parametrize("items", [4, 64, 75])
def test_every_item_sees_its_own_different_windows(items):
    # the authors' code pairs windows with items wrongly: of 4, an item of a batch of 64 sees 1, of 75 sees 4 by luck
    found = windows(torch.ones(items, 196, dtype=torch.bool), (14, 14))
    assert found.tokens.shape == (items, 4, 49) and found.valid.all()
    firsts = found.tokens[..., 0]
    assert all(len(set(row.tolist())) == 4 for row in firsts)
    # 8 x 8 places; two items share all four with probability 24 / (64 * 63 * 62 * 61) = 1.6e-6
    assert len({tuple(row.sort().values.tolist()) for row in firsts}) == items
    # int(49 * 0.8) = 39 hidden, and the numbers are those of a 7 x 7 square of the 14 x 14 grid
    assert (found.hidden.sum(-1) == 39).all()
    y, x = found.tokens // 14, found.tokens % 14
    square = torch.arange(7)
    assert torch.equal(y - y[..., :1], square.repeat_interleave(7).expand_as(y))
    assert torch.equal(x - x[..., :1], square.repeat(7).expand_as(x))


def test_every_place_and_every_token_is_taken_equally_often():
    # 4000 items, 2 of 9 places, 2 of 4 tokens: 888.9 and 4000 times; 5 deviations of a binomial
    found = windows(torch.ones(4000, 16, dtype=torch.bool), (4, 4), size=2, count=2, ratio=0.5)
    counts = torch.bincount(found.tokens[..., 0].flatten(), minlength=16).view(4, 4)
    assert (counts[3] == 0).all() and (counts[:, 3] == 0).all()
    assert (counts[:3, :3] - 8000 / 9).abs().max() < 5 * (4000 * 2 / 9 * 7 / 9) ** 0.5
    assert (found.hidden.sum((0, 1)) - 4000).abs().max() < 5 * (8000 / 4) ** 0.5


def test_padding_moves_no_window():
    plain = windows(torch.ones(6, 64, dtype=torch.bool), (8, 8), size=3)
    wider = windows(F.pad(torch.ones(6, 8, 8, dtype=torch.bool), (0, 5, 0, 2)).flatten(1), (10, 13), size=3)
    assert torch.equal(wider.tokens // 13, plain.tokens // 8) and torch.equal(wider.tokens % 13, plain.tokens % 8)
    assert torch.equal(wider.hidden, plain.hidden) and wider.valid.all()


def test_small_items_have_fewer_windows_and_smaller_ones():
    valid = torch.zeros(4, 6, 6, dtype=torch.bool)
    valid[0, :4, :3] = True  # places for 3 x 3: two, one below the other
    valid[1, 4:, 4:] = True  # 2 x 2 tokens in the corner: one window, which sticks out
    valid[2, 2, 2] = True  # a single token is never hidden
    found = windows(valid.flatten(1), (6, 6), size=3)
    assert found.valid.any(-1).sum(-1).tolist() == [2, 1, 1, 0]
    assert sorted(found.tokens[0, :2, 0].tolist()) == [0, 6]
    assert found.tokens[1, 0, 0] == 3 * 6 + 3 and found.valid[1, 0].sum() == 4
    # int(9 * 0.8), int(4 * 0.8), min(int(0.8), 0), nothing of nothing
    assert found.hidden.sum((1, 2)).tolist() == [2 * 7, 3, 0, 0]
    assert not (found.hidden & ~found.valid).any()


def test_one_and_three_axes():
    line = windows(torch.ones(2, 10, dtype=torch.bool), (10,), size=4, count=3)
    assert torch.equal(line.tokens - line.tokens[..., :1], torch.arange(4).expand(2, 3, 4))
    cube = windows(torch.ones(2, 60, dtype=torch.bool), (3, 4, 5), size=2, count=5, ratio=0.5)
    assert torch.equal(cube.tokens[0, 0] - cube.tokens[0, 0, 0], torch.tensor([0, 1, 5, 6, 20, 21, 25, 26]))
    assert (cube.hidden.sum(-1) == 4).all()


def test_other_epochs_other_windows():
    valid = torch.ones(3, 196, dtype=torch.bool)
    once, other = windows(valid, (14, 14)), windows(valid, (14, 14), epoch=1)
    assert not torch.equal(once.tokens, other.tokens) and not torch.equal(once.hidden, other.hidden)
