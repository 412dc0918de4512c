"""Masks: exact counts, seeded, valid tokens only."""

import pytest
import torch

from unlabeled.core.streams import Draw
from unlabeled.core.tokens.masks import block_mask, kept, random_mask
from unlabeled.core.tokens.patches import grid_coords
from unlabeled.core.tokens.positions import in_patches


def grid_positions(grid, rows):
    d = len(grid)
    return in_patches(grid_coords(grid, (1,) * d, torch.ones(rows, d)), (1.0,) * d)


def noise(rows, length, epoch=0):
    return Draw(0, epoch, torch.arange(rows)).uniform("mask", length)


def masks(valid, ratio, grid):
    u = noise(*valid.shape)
    return {
        "random": random_mask(valid, ratio, u),
        "block": block_mask(valid, ratio, u, grid_positions(grid, len(valid)), blocks=2),
    }


def test_kept_by_hand():
    # int(n * (1 - ratio)), at least 1 kept and, from two tokens on, at least 1 hidden
    assert [kept(n, 0.75) for n in (0, 1, 2, 3, 4, 7, 8, 196)] == [0, 1, 1, 1, 1, 1, 2, 49]
    assert [kept(n, 0.1) for n in (2, 3, 10)] == [1, 2, 9]


@pytest.mark.parametrize("kind", ["random", "block"])
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.6, 0.75, 0.9])
def test_exact_counts_of_valid_tokens(kind, ratio):
    # row n has n valid tokens scattered over the grid, n = 0 ... 24
    rows = torch.stack([torch.randperm(24, generator=torch.Generator().manual_seed(n)) < n for n in range(25)])
    mask = masks(rows, ratio, (4, 6))[kind]
    assert mask.keep.shape == (25, kept(24, ratio))
    assert mask.keep.shape[1] + mask.hide.shape[1] == 24
    for n in range(25):
        keep = mask.keep[n][mask.keep_valid[n]]
        hide = mask.hide[n][mask.hide_valid[n]]
        assert len(keep) == kept(n, ratio)
        # kept and hidden together are the valid tokens, each once
        assert sorted([*keep.tolist(), *hide.tolist()]) == rows[n].nonzero().flatten().tolist()


@pytest.mark.parametrize("kind", ["random", "block"])
def test_shuffle_then_unshuffle_is_the_identity(kind):
    mask = masks(torch.ones(3, 24, dtype=torch.bool), 0.75, (4, 6))[kind]
    x = torch.randn(3, 24, 2)
    order = torch.cat([mask.keep, mask.hide], 1)
    shuffled = x.take_along_dim(order[..., None], 1)
    assert torch.equal(shuffled.take_along_dim(order.argsort(1)[..., None], 1), x)


@pytest.mark.parametrize("kind", ["random", "block"])
def test_same_draws_same_mask_and_rows_do_not_see_each_other(kind):
    valid = torch.ones(4, 24, dtype=torch.bool)
    once, again = masks(valid, 0.75, (4, 6))[kind], masks(valid[:2], 0.75, (4, 6))[kind]
    assert torch.equal(once.hide[:2], again.hide)
    other = random_mask(valid, 0.75, noise(4, 24, epoch=1))
    assert not torch.equal(once.hide, other.hide)


def test_random_mask_hides_every_token_equally_often():
    # 4000 rows, 8 of 16 hidden: each token is hidden 2000 times, deviation sqrt(4000 / 4) = 32; 5 deviations
    mask = random_mask(torch.ones(4000, 16, dtype=torch.bool), 0.5, noise(4000, 16))
    counts = torch.bincount(mask.hide.flatten(), minlength=16)
    assert counts.sum() == 32000
    assert (counts - 2000).abs().max() < 160


@pytest.mark.parametrize("grid", [(24,), (5, 7), (3, 4, 5)])
@pytest.mark.parametrize("ratio", [0.3, 0.6, 0.75])
def test_one_block_is_connected(grid, ratio):
    n = torch.tensor(grid).prod().item()
    rows = 20
    mask = block_mask(torch.ones(rows, n, dtype=torch.bool), ratio, noise(rows, n), grid_positions(grid, rows))
    cells = grid_positions(grid, 1)[0]
    for b in range(rows):
        hidden = cells[mask.hide[b]]
        # neighbours share a face: their cells differ by 1 along one axis
        touch = (hidden[:, None] - hidden[None]).abs().sum(-1) <= 1
        reached = touch[0]
        for _ in range(n):
            reached = (touch & reached[:, None]).any(0)
        assert reached.all()


def test_one_block_in_one_dimension_is_an_interval():
    # 10 tokens at ratio .6: 10 - int(10 * .4) = 6 hidden, in a row
    mask = block_mask(torch.ones(8, 10, dtype=torch.bool), 0.6, noise(8, 10), grid_positions((10,), 8))
    starts = []
    for b in range(8):
        hidden = mask.hide[b].sort().values
        assert torch.equal(hidden, hidden[0] + torch.arange(6))
        starts.append(hidden[0].item())
    assert len(set(starts)) > 1
