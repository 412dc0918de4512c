"""Masks that hide a share of an item's own."""

import pytest
import torch

from unlabeled.core.streams import Draw
from unlabeled.core.tokens.masks import block_mask, random_mask
from unlabeled.core.tokens.patches import grid_coords
from unlabeled.core.tokens.positions import in_patches
from unlabeled.core.tokens.schemes import Asked, Boxes
from unlabeled.core.tokens.shares import part_of
from unlabeled.core.tokens.tokens import Tokens

ROWS, GRID, LENGTH = 25, (4, 6), 24


def masks(valid):
    draw = Draw(0, 0, torch.arange(ROWS))
    coords = grid_coords(GRID, (1, 1), torch.ones(ROWS, 2))
    position, u = in_patches(coords, (1.0, 1.0)), draw.uniform("mask", LENGTH)
    patches = torch.zeros(ROWS, LENGTH, 1)
    tokens = Tokens.of(patches, valid[..., None], coords, GRID)
    return {
        "random": random_mask(valid, 0.5, u, "mask"),
        "block": block_mask(valid, 0.5, u, position, 1, "mask"),
        "boxes": Boxes(least=4).draw(Asked("x", tokens, position, draw, 0.5, "mask")),
    }, position


@pytest.mark.parametrize("kind", ["random", "block", "boxes"])
def test_exact_counts(kind):
    # row n has n valid tokens, n = 0 ... 24: int(n * ratio) of them, one at least, none where the ratio is 0, and no more
    # than the mask hides: of two or three tokens one, of one token or none nothing
    valid = torch.stack([torch.randperm(LENGTH, generator=torch.Generator().manual_seed(n)) < n for n in range(ROWS)])
    mask = masks(valid)[0][kind]
    for ratio in (0.0, 0.1, 0.3, 0.5):
        there = part_of(mask, valid, torch.full((ROWS,), ratio))
        most = [n // 2 if n > 1 else 0 for n in range(ROWS)]
        expected = [0 if ratio == 0 else min(max(int(n * ratio), 1), most[n]) for n in range(ROWS)]
        assert there.sum(1).tolist() == expected
        assert not (there & ~mask.hide_valid).any()
        assert valid.gather(1, mask.hide)[there].all()


def test_a_whole_share_is_the_mask():
    valid = torch.ones(ROWS, LENGTH, dtype=torch.bool)
    for mask in masks(valid)[0].values():
        assert torch.equal(part_of(mask, valid, torch.full((ROWS,), 0.5)), mask.hide_valid)


def test_a_smaller_share_is_the_middle_of_the_block():
    # of the 12 tokens of a block the 4 that stay hidden are those nearest its middle
    valid = torch.ones(ROWS, LENGTH, dtype=torch.bool)
    found, position = masks(valid)
    mask = found["block"]
    there = part_of(mask, valid, torch.full((ROWS,), 4.5 / 24))
    middle = position.gather(1, mask.hide[:, -1:, None].expand(-1, -1, 2))
    away = (position.take_along_dim(mask.hide[..., None], 1) - middle).abs().amax(-1)
    assert (away[there].reshape(ROWS, 4).amax(1) <= away[~there].reshape(ROWS, 8).amin(1)).all()
    assert (away[there] <= 1).all()


def test_each_row_has_its_own():
    valid = torch.ones(ROWS, LENGTH, dtype=torch.bool)
    ratio = (torch.arange(ROWS) + 0.5) / 48
    there = part_of(masks(valid)[0]["random"], valid, ratio)
    assert there.sum(1).tolist() == [max(1, int(n / 2 + 0.25)) for n in range(ROWS)]
