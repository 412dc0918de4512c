"""Blocks of I-JEPA and data2vec 2.0: rectangles, exact counts, no favoured place."""

import pytest
import torch

from unlabeled.core.streams import Draw
from unlabeled.core.tokens.blocks import cells, multi_block
from unlabeled.core.tokens.masks import inverse_block_mask, kept
from unlabeled.core.tokens.patches import grid_coords

GRIDS = [(24,), (6, 8), (3, 4, 5)]


def positions(grid, rows, spacing=1.0):
    return grid_coords(grid, (1,) * len(grid), torch.full((rows, len(grid)), spacing, dtype=torch.float64))


def everything(grid, rows):
    return torch.ones(rows, torch.tensor(grid).prod(), dtype=torch.bool)


def draws(rows, length, d, targets=4, epoch=0):
    draw = Draw(0, epoch, torch.arange(rows))
    return draw.uniform("boxes", targets + 1, 2 * d), draw.uniform("tokens", length)


def blocks(grid, rows, valid=None, targets=4, spacing=1.0, epoch=0, **options):
    valid = everything(grid, rows) if valid is None else valid
    given = draws(rows, valid.shape[1], len(grid), targets, epoch)
    return multi_block(valid, positions(grid, rows, spacing), *given, **options)


def covered(index, taken, length):
    """(B, L) how often a token is named."""
    count = torch.zeros(len(index), length, dtype=torch.int64)
    return count.scatter_add(1, index.flatten(1), taken.flatten(1).long())


def test_cells_are_rows_and_columns_whatever_the_spacing():
    place, extent = cells(positions((2, 3), 1, 0.37), everything((2, 3), 1))
    assert place[0].tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert extent.tolist() == [[2, 3]]
    # what is invalid is no place: times 5, 1, 1, 3 without the 3 are the places 1, 0, 0
    times = torch.tensor([[[5.0], [1.0], [1.0], [3.0]]])
    place, extent = cells(times, torch.tensor([[True, True, True, False]]))
    assert place[0, :3, 0].tolist() == [1, 0, 0] and extent.tolist() == [[2]]
    assert cells(times, torch.zeros(1, 4, dtype=torch.bool))[1].tolist() == [[0]]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("spacing", [1.0, 0.37])
def test_targets_are_full_boxes_of_the_asked_share(grid, spacing):
    rows, length = 50, torch.tensor(grid).prod().item()
    found = blocks(grid, rows, spacing=spacing)
    assert found.targets.shape == (rows, 4, int(0.2 * length))
    place = cells(positions(grid, 1), everything(grid, 1))[0][0]
    for b in range(rows):
        for t in range(4):
            box = place[found.targets[b, t][found.targets_valid[b, t]]]
            size = box.amax(0) - box.amin(0) + 1
            # all tokens between the corners, each once
            assert size.prod() == len(box) == len(box.unique(dim=0))
            # at most the largest share; rounding costs at most half a token along the last axis
            assert 0.15 * length - 0.5 * size[:-1].prod() <= len(box) <= 0.2 * length


def test_exact_size_of_a_fixed_share():
    # 64 tokens, share 1/4, squares: 16 = 4 x 4
    found = blocks((8, 8), 20, scale=(0.25, 0.25), aspect=(1.0, 1.0))
    assert found.targets_valid.all() and found.targets.shape == (20, 4, 16)
    place = cells(positions((8, 8), 1), everything((8, 8), 1))[0][0]
    box = place[found.targets]
    assert (box.amax(2) - box.amin(2) + 1 == 4).all()


def test_a_box_that_is_cut_by_an_edge_gets_longer():
    # 2 x 32, share 1/4, squares: 16 = 4 x 4 does not fit, 2 x 8 does; the other way round as well
    for grid, size in (((2, 32), [2, 8]), ((32, 2), [8, 2])):
        found = blocks(grid, 5, scale=(0.25, 0.25), aspect=(1.0, 1.0))
        box = cells(positions(grid, 1), everything(grid, 1))[0][0][found.targets]
        assert (box.amax(2) - box.amin(2) + 1 == torch.tensor(size)).all()


@pytest.mark.parametrize("grid", GRIDS)
def test_context_and_targets_are_disjoint(grid):
    length = torch.tensor(grid).prod().item()
    found = blocks(grid, 100)
    context = covered(found.context, found.context_valid, length)
    targets = covered(found.targets, found.targets_valid, length)
    assert context.amax() == 1 and targets.amax() > 1  # targets may overlap
    assert (context * targets == 0).all()
    assert found.context.shape == (100, int(0.5 * length))
    # 4 targets take 0.8 L at most, the context block has 0.85 L, less rounding
    assert found.context_valid.any(1).all()


def test_a_whole_context_is_all_that_is_no_target():
    found = blocks((6, 8), 100, context_scale=(1.0, 1.0), context_share=1.0)
    context = covered(found.context, found.context_valid, 48)
    targets = covered(found.targets, found.targets_valid, 48)
    assert torch.equal(context == 0, targets > 0)


def test_the_last_row_and_column_are_covered_as_often_as_the_first():
    # 4000 items of 8 x 8, 4 targets: by symmetry the edges get equally many. A token at the edge is in a box of about
    # 3.3 x 3.3 with p = 1/5.7, a row of 8 tokens in 16000 boxes 8 * 3.3/8 / 5.7 * 16000 = 9300 times; boxes come in
    # rows of 3.3, so the deviation is below sqrt(9300 * 4) = 190, that of a difference 270; 5 of these
    found = blocks((8, 8), 4000)
    targets = covered(found.targets, found.targets_valid, 64).sum(0).view(8, 8)
    context = covered(found.context, found.context_valid, 64).sum(0).view(8, 8)
    for counts in (targets, context):
        for first, last in ((counts[0].sum(), counts[-1].sum()), (counts[:, 0].sum(), counts[:, -1].sum())):
            assert last > 5000 and abs(first - last) < 1350
    # and the thinned context favours no end of the raster
    assert abs(context[:4].sum() - context[4:].sum()) / context.sum() < 0.02


def test_scale_and_aspect_are_drawn_apart():
    # 40 x 40: sizes are fine enough to see both; two independent draws correlate by 0 with deviation 1 / sqrt(2000)
    found = blocks((40, 40), 500)
    box = cells(positions((40, 40), 1), everything((40, 40), 1))[0][0][found.targets]
    there = found.targets_valid[..., None]
    size = box.masked_fill(~there, -1).amax(2) - box.masked_fill(~there, 99).amin(2) + 1
    area, ratio = size.prod(-1).flatten().double(), (size[..., 0] / size[..., 1]).flatten().double()
    # sides are whole numbers from 13 on: half a token of one, made up for by the other, is 2 * 0.5 / 13 = 8 % of a ratio
    assert 0.145 < area.min() / 1600 < 0.155 and 0.195 < area.max() / 1600 <= 0.2
    assert 0.75 * 0.92 < ratio.min() < 0.8 and 1.4 < ratio.max() < 1.5 * 1.08
    assert torch.corrcoef(torch.stack([area, ratio]))[0, 1].abs() < 5 / 2000**0.5


def test_invalid_tokens_are_in_no_block():
    valid = everything((6, 8), 4)
    valid[1].view(6, 8)[:, 4:] = False
    valid[2] = False
    valid[3] = False
    valid[3, 7] = True
    found = blocks((6, 8), 4, valid)
    for index, taken in ((found.context, found.context_valid), (found.targets, found.targets_valid)):
        assert (covered(index, taken, 48)[~valid] == 0).all()
    assert found.context_valid[1].sum() <= 12  # half of its valid tokens
    # row 1 is a grid of 6 x 4 = 24 tokens: 4 blocks of at most 4
    sizes = found.targets_valid[1].sum(-1)
    assert sizes.min() >= 1 and sizes.max() <= 4
    # the only token of row 3 is a target, so there is no context to predict it from
    assert not found.context_valid[2:].any() and not found.targets_valid[2:].any()


def test_rows_do_not_see_each_other_and_follow_their_draws():
    some, all_ = blocks((6, 8), 2), blocks((6, 8), 5)
    assert torch.equal(some.targets, all_.targets[:2]) and torch.equal(some.context, all_.context[:2])
    assert not torch.equal(all_.targets, blocks((6, 8), 5, epoch=1).targets)


def test_points_anywhere_have_blocks_too():
    # 40 points in the plane: boxes over ranks of their coordinates, never more tokens than places
    position = torch.rand(8, 40, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = multi_block(torch.ones(8, 40, dtype=torch.bool), position, *draws(8, 40, 2))
    targets = covered(found.targets, found.targets_valid, 40)
    assert (targets.sum(1) > 0).all() and found.targets.shape == (8, 4, 8)
    assert (targets * covered(found.context, found.context_valid, 40) == 0).all()


def noise(rows, length):
    return Draw(0, 0, torch.arange(rows)).uniform("mask", 2, length)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("ratio", [0.3, 0.8])
def test_inverse_blocks_keep_exact_counts(grid, ratio):
    length = torch.tensor(grid).prod().item()
    valid = torch.stack([torch.randperm(length) < n for n in range(length + 1)])
    mask = inverse_block_mask(valid, ratio, noise(*valid.shape), grid)
    assert mask.keep.shape[1] == kept(length, ratio)
    for n in range(length + 1):
        keep, hide = mask.keep[n][mask.keep_valid[n]], mask.hide[n][mask.hide_valid[n]]
        assert len(keep) == kept(n, ratio)
        assert sorted([*keep.tolist(), *hide.tolist()]) == valid[n].nonzero().flatten().tolist()


def test_inverse_blocks_are_blocks():
    # 9 x 9 and share 1/9: one middle (adjust 0), so a block inside the grid is kept whole, 3 x 3, and nothing else
    mask = inverse_block_mask(everything((9, 9), 200), 1 - 9 / 81 - 1e-9, noise(200, 81), (9, 9), adjust=0.0)
    assert mask.keep.shape[1] == 9
    place = torch.stack([mask.keep // 9, mask.keep % 9], -1)
    size = place.amax(1) - place.amin(1) + 1
    # the middle lies inside with p = 49 / 81, so 121 of 200 with deviation 7
    whole = (size == 3).all(-1)
    assert abs(whole.sum() - 121) < 35
    assert all(len(rows.unique(dim=0)) == 9 for rows in place[whole])


def test_inverse_blocks_favour_no_side():
    # 2000 items of 8 x 8 keep 12: a row of the edge 1500 times or fewer; 5 deviations of a difference, in blocks of 3
    mask = inverse_block_mask(everything((8, 8), 2000), 0.8, noise(2000, 64), (8, 8))
    counts = torch.bincount(mask.keep.flatten(), minlength=64).view(8, 8)
    assert counts.sum() == 2000 * 12
    for first, last in ((counts[0].sum(), counts[-1].sum()), (counts[:, 0].sum(), counts[:, -1].sum())):
        assert last > 1000 and abs(first - last) < 5 * (2 * 3 * 3000) ** 0.5
