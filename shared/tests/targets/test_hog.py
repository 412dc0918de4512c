"""Histograms of gradients: ramps, invariances, the half bin between two conventions, scikit-image, and bad input."""

import math

import pytest
import torch
import torch.nn.functional as F
from skimage.feature import hog as skimages

from unlabeled.core.targets.hog import hog

Y, X = torch.meshgrid(torch.arange(32.0, dtype=torch.float64), torch.arange(32.0, dtype=torch.float64), indexing="ij")


def images(b=2, c=3, h=32, w=40, seed=0):
    return torch.randn(b, c, h, w, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def of(x, **options):
    return hog(x, torch.ones_like(x[:, :1], dtype=torch.bool), **options)[0]


@pytest.mark.parametrize(
    ("ramp", "maskfeat", "skimage"),
    # atan2(dx, dy) is 90, 0, 45 and 135 degrees, atan2(dy, dx) is 0, 90, 45 and 135; a bin is 20 degrees wide
    [(X, 4, 0), (Y, 0, 4), (X + Y, 2, 2), (X - Y, 6, 6)],
)
def test_ramps_by_hand(ramp, maskfeat, skimage):
    for convention, number in (("maskfeat", maskfeat), ("skimage", skimage)):
        found = of(ramp[None, None], convention=convention)[0, 0]
        inside = found[:, 1:3, 1:3]
        torch.testing.assert_close(inside[number], torch.ones(2, 2, dtype=torch.float64))
        assert (inside.sum(0) == inside[number]).all()


@pytest.mark.parametrize("degrees", [n for n in range(3, 180, 7) if n % 10])  # tens are edges of bins
def test_a_ramp_of_every_angle_and_its_mirror_image(degrees):
    # the gradient's angle from x towards y; from y towards x it is 90 - degrees, in bins of 20 degrees that begin at 0
    turn = math.radians(degrees)
    ramp = math.cos(turn) * X + math.sin(turn) * Y
    inside = of(ramp[None, None])[0, 0, :, 1, 1]
    number = int((90 - degrees) % 180 // 20)
    assert inside.argmax() == number and inside[number] == pytest.approx(1)
    assert of(ramp[None, None], convention="skimage")[0, 0, :, 1, 1].argmax() == degrees // 20
    # a mirror turns theta into 180 - theta: bin b into 8 - b
    assert of(ramp.flip(1)[None, None])[0, 0, :, 1, 1].argmax() == (90 - (180 - degrees)) % 180 // 20 == 8 - number


@pytest.mark.parametrize("convention", ["maskfeat", "skimage"])
def test_scale_offset_and_sign_change_nothing(convention):
    # as colour normalisation does, but for one channel against another, by which scikit-image's convention chooses
    x = images()
    plain = of(x, convention=convention)
    torch.testing.assert_close(of(-x, convention=convention), plain, rtol=0, atol=0)
    torch.testing.assert_close(of(4 * x, convention=convention), plain, rtol=0, atol=1e-9)
    torch.testing.assert_close(of(3.7 * x + 5, convention=convention), plain, rtol=0, atol=2e-7)
    if convention == "maskfeat":
        each = torch.tensor([0.5, 2, 9], dtype=torch.float64)[:, None, None]
        torch.testing.assert_close(of(each * x), plain, rtol=0, atol=2e-7)


def test_a_constant_is_exactly_0_and_every_other_cell_has_norm_1():
    for value in (0.0, 0.1, 1e6):
        assert (of(torch.full((1, 3, 16, 16), value)) == 0).all()
        assert (of(torch.full((1, 3, 16, 16), value), convention="skimage") == 0).all()
    found = of(images())
    assert found.shape == (
        2,
        3,
        9,
        4,
        5,
    )  # per cell and channel: 2 x 2 cells of 8 in a patch of 16 make 9 * 4 * 3 = 108
    torch.testing.assert_close(found.square().sum(2), torch.ones(2, 3, 4, 5, dtype=torch.float64))


def test_a_mirror_permutes_bins_and_so_does_a_quarter_turn_where_bins_are_even():
    # at an edge dx or dy is 0 to the bit, which is the edge of a bin and mirrored into itself: cells inside
    x = images()
    plain = of(x)[..., 1:-1, 1:-1]
    torch.testing.assert_close(of(x.flip(3))[..., 1:-1, 1:-1], plain.flip(2).flip(4), rtol=0, atol=1e-9)
    torch.testing.assert_close(of(x.flip(2))[..., 1:-1, 1:-1], plain.flip(2).flip(3), rtol=0, atol=1e-9)
    # 90 degrees are 8 / 2 bins, and 0 goes to 90: at edges too
    turned = of(x.rot90(1, (2, 3)), bins=8)
    torch.testing.assert_close(turned, of(x, bins=8).roll(4, 2).rot90(1, (3, 4)), rtol=0, atol=1e-9)


def test_a_quarter_turn_of_nine_bins_is_half_a_bin_off():
    # dx and dy lie on 4.5 and 0: a turn brings 4 to 0 and 0 to 4, but 2 (45 degrees) to 6, which no roll does
    for ramp, bins in ((X, (4, 0)), (Y, (0, 4)), (X + Y, (2, 6)), (X - Y, (6, 2))):
        for image, number in zip((ramp, ramp.rot90(1, (0, 1))), bins, strict=True):
            assert of(image[None, None])[0, 0, :, 1, 1].argmax() == number
    x = images(1, 1)
    turned, plain = of(x.rot90(1, (2, 3))), of(x).rot90(1, (3, 4))
    assert all((turned - plain.roll(k, 2)).abs().max() > 0.1 for k in range(9))
    # and so the two conventions never agree
    ours = of(x, convention="maskfeat")
    assert all((of(x, convention="skimage") - ours.roll(k, 2)).abs().max() > 0.1 for k in range(9))


@pytest.mark.parametrize(("channels", "cell"), [(1, 8), (3, 8), (3, 4), (2, 5)])
def test_equals_scikit_image(channels, cell):
    # also at the edges: a difference across a reflected edge is 0, as theirs is. They add in single precision
    x = images(3, channels, 40, 80)
    found = of(x, cell=(cell, cell), convention="skimage")
    assert found.shape == (3, 1, 9, 40 // cell, 80 // cell)
    for image, ours in zip(x, found[:, 0], strict=True):
        theirs = skimages(image.numpy(), 9, (cell, cell), (1, 1), block_norm="L2", feature_vector=False, channel_axis=0)
        torch.testing.assert_close(ours.permute(1, 2, 0), torch.from_numpy(theirs[:, :, 0, 0]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("convention", ["maskfeat", "skimage"])
def test_padding_and_what_is_invalid_change_nothing(convention):
    x = images(1)
    plain = of(x, convention=convention)
    # 7 rows and 16 columns of nothing behind it: cells of theirs hold no pixel that counts
    wide = F.pad(x, [0, 16, 0, 7], value=torch.nan)
    valid = F.pad(torch.ones(1, 1, 32, 40, dtype=torch.bool), [0, 16, 0, 7])
    found, there = hog(wide, valid, convention=convention)
    assert found.shape[3:] == (5, 7)
    torch.testing.assert_close(found[..., :4, :5], plain, rtol=0, atol=1e-12)
    assert there[..., :4, :5].all() and there.sum() == plain[:, :, 0].numel() and found.isfinite().all()


def test_a_hole_counts_in_no_cell():
    # a channel of the second cell has no pixel whose neighbours are all there; 3 x 3 pixels around a hole are left out
    x = images(1)
    valid = torch.ones(1, 3, 32, 40, dtype=torch.bool)
    valid[:, 1, :8, 8:16] = False
    valid[:, 2, 20, 20] = False
    x = torch.where(valid, x, torch.nan)
    found, there = hog(x, valid)
    assert (
        not there[0, 1, 0, 1] and (~there).sum() == 1 and found.isfinite().all() and (found[0, 1, :, 0, 1] == 0).all()
    )
    other = torch.where(valid, x, 77.0)
    assert torch.equal(hog(other, valid)[0], found)
    assert (found[0, 0] == of(images(1))[0, 0]).all()
    # what is left of a cell has norm 1 like every other
    torch.testing.assert_close(found[0, 2, :, 2, 2].square().sum(), torch.tensor(1.0, dtype=torch.float64))


def test_a_last_cell_that_is_not_full():
    found = of(images(1, 1, 12, 20))
    assert found.shape == (1, 1, 9, 2, 3)
    # the same pixels in the one cell of another size: rows 8 to 11, and the full norm
    alone = of(images(1, 1, 12, 20), cell=(4, 20))[0, 0, :, 2, 0]
    parts = of(images(1, 1, 12, 20), cell=(4, 4))[0, 0]
    assert alone.shape == (9,) and torch.isclose(alone.norm(), torch.ones((), dtype=torch.float64))
    torch.testing.assert_close(of(images(1, 1, 12, 20), cell=(12, 4))[0, 0, :, 0, 0].norm(), parts[:, 2, 4].norm())


def test_single_precision_outside_autocast_and_the_same_twice():
    x = images().float()
    valid = torch.ones_like(x[:, :1], dtype=torch.bool)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = hog(x, valid)
    assert found.dtype == torch.float32 and torch.equal(found, of(x))
    torch.testing.assert_close(found, of(x.double()).float(), rtol=0, atol=1e-5)
    assert hog(x.bfloat16(), valid)[0].dtype == torch.float32
