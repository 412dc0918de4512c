"""Boxes inside an item, and what is in them."""

import pytest
import torch
import torch.nn.functional as F

from unlabeled.core.contracts.batch import Dense
from unlabeled.core.streams import uniform
from unlabeled.core.testing.sync import NoWaiting
from unlabeled.core.tokens.crops import crop, draw_box, inside

AXES = [1, 2, 3]


def dense(values, valid=None):
    b, d = len(values), values.ndim - 2
    valid = torch.ones(b, 1, *values.shape[2:], dtype=torch.bool) if valid is None else valid
    return Dense(values, valid, torch.ones(b, d, dtype=torch.float64))


def boxes(items, d, name=1):
    return uniform(name, torch.arange(items), (2 * d,))


@pytest.mark.parametrize("d", AXES)
def test_boxes_hold_their_share_and_lie_in_the_item(d):
    low, size = draw_box(boxes(4000, d), (0.1, 1.0), (0.75, 4 / 3))
    assert low.min() >= 0 and (low + size).max() <= 1 + 1e-12 and size.max() <= 1
    # the share is uniform in [0.1, 1): mean 0.55, deviation 0.26, so that of 4000 the mean is off by 0.0041
    share = size.prod(1)
    assert share.min() >= 0.1 and abs(share.mean() - 0.55) < 0.015
    if d > 1:
        small = draw_box(boxes(4000, d), (0.1, 0.2), (0.75, 4 / 3))[1]
        ratio = small[:, :-1] / small[:, -1:]
        # log-uniform around 1: half are longer than along the last axis, and the ends are reached
        assert (ratio >= 0.75 - 1e-9).all() and (ratio <= 4 / 3 + 1e-9).all()
        assert ratio.min() < 0.76 and ratio.max() > 1.32 and abs((ratio > 1).double().mean() - 0.5) < 0.03


@pytest.mark.parametrize("d", AXES)
def test_a_local_box_lies_in_its_global_one(d):
    outer = draw_box(boxes(1000, d), (0.1, 1.0), (0.75, 4 / 3))
    inner = draw_box(boxes(1000, d, name=2), (0.3, 0.6), (0.75, 4 / 3))
    low, size = inside(outer, inner)
    assert (low >= outer[0]).all() and (low + size <= outer[0] + outer[1] + 1e-12).all()
    share = (size / outer[1]).prod(1)
    assert share.min() >= 0.3 - 1e-12 and share.max() <= 0.6 + 1e-12


@pytest.mark.parametrize("d", AXES)
def test_the_whole_box_is_the_item(d):
    values = torch.randn(2, 3, *(5, 4, 6)[:d], dtype=torch.float64)
    zero = torch.zeros(2, d, dtype=torch.float64)
    out = crop(dense(values), (zero, zero + 1))
    torch.testing.assert_close(out.values, values, rtol=0, atol=1e-12)
    assert out.valid.all()


def test_a_crop_is_what_grid_sample_gives():
    # where a box does not touch the border, torch's own bilinear sampling of the same box
    values = torch.randn(4, 2, 9, 7, dtype=torch.float64)
    low, size = draw_box(boxes(4, 2), (0.1, 0.5), (0.75, 4 / 3))
    found = crop(dense(values), (low, size)).values
    theta = torch.zeros(4, 2, 3, dtype=torch.float64)
    for row, axis in enumerate((1, 0)):  # grid_sample names x first, and its item goes from -1 to 1
        theta[:, row, row] = size[:, axis]
        theta[:, row, 2] = 2 * low[:, axis] + size[:, axis] - 1
    grid = F.affine_grid(theta, [4, 2, 9, 7], align_corners=False)
    wanted = F.grid_sample(values, grid, padding_mode="border", align_corners=False)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("d", AXES)
def test_a_ramp_stays_a_ramp(d):
    # f = position along the last axis: linear interpolation is exact on it, but at the border where it is clamped
    n = 12
    values = (torch.arange(n, dtype=torch.float64) + 0.5).expand(1, 1, *(4,) * (d - 1), n)
    low = torch.full((1, d), 0.25, dtype=torch.float64)
    found = crop(dense(values), (low, low * 2)).values.flatten(0, -2)[0]
    torch.testing.assert_close(found, 3 + 0.5 * (torch.arange(n).double() + 0.5), rtol=0, atol=1e-12)


def test_an_element_is_valid_where_all_it_reads_is():
    # 8 cells, cell 5 invalid, the half from cell 2 to 6: results at 1.75, 2.25, ..., 5.25; those beyond 4 read cell 5
    values = torch.arange(8, dtype=torch.float64).view(1, 1, 8).clone()
    values[0, 0, 5] = torch.nan
    valid = torch.ones(1, 1, 8, dtype=torch.bool)
    valid[0, 0, 5] = False
    box = torch.tensor([[0.25]], dtype=torch.float64), torch.tensor([[0.5]], dtype=torch.float64)
    out = crop(dense(values, valid), box)
    assert out.valid[0, 0].tolist() == [True] * 5 + [False] * 3
    assert out.values[0, 0].tolist() == [1.75, 2.25, 2.75, 3.25, 3.75, 0, 0, 0]
    # one that falls on a cell reads that cell alone
    box = torch.tensor([[0.0]], dtype=torch.float64), torch.tensor([[1.0]], dtype=torch.float64)
    assert torch.equal(crop(dense(values, valid), box).valid, valid)


@pytest.mark.parametrize("d", AXES)
def test_padding_moves_no_crop(d):
    shape = (5, 4, 6)[:d]
    values, box = torch.randn(3, 2, *shape, dtype=torch.float64), draw_box(boxes(3, d), (0.2, 0.6), (0.75, 4 / 3))
    plain = crop(dense(values), box)
    far = [n for _ in shape for n in (2, 3)]
    everything = torch.ones(3, 1, *shape, dtype=torch.bool)
    wide = crop(dense(F.pad(values, far, value=9.0), F.pad(everything, far)), box)
    torch.testing.assert_close(wide.values, F.pad(plain.values, far), rtol=0, atol=1e-12)
    assert torch.equal(wide.valid, F.pad(plain.valid, far))


def test_an_item_without_anything_valid_stays_so_and_nothing_waits():
    values = torch.full((2, 1, 4, 4), torch.nan)
    with NoWaiting():
        out = crop(dense(values, torch.zeros(2, 1, 4, 4, dtype=torch.bool)), draw_box(boxes(2, 2), (0.2, 1), (1, 1)))
    assert not out.valid.any() and (out.values == 0).all() and out.values.dtype == torch.float32
