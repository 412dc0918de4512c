"""Gradients: ramps, scipy's Sobel, what they read where, and padding."""

import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F

from unlabeled.core.targets.gradients import gradients, magnitude


def grid(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def whole(x):
    return torch.ones_like(x[:, :1], dtype=torch.bool)


def inside(x, rank=3):
    return x[(..., *[slice(1, -1)] * rank)]


@pytest.mark.parametrize(("kernel", "gain"), [("sobel", 32), ("scharr", 512), ("central", 2)])
def test_a_ramp_gives_the_gain_of_the_kernel(kernel, gain):
    # 2x + 3y - z over (x, y, z): a difference over two cells, times 4 (1 + 2 + 1) or 16 (3 + 10 + 3) for each other axis
    x, y, z = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in (5, 6, 7)], indexing="ij")
    ramp = (2 * x + 3 * y - z)[None, None]
    found, valid = gradients(ramp, whole(ramp), kernel)
    assert valid.all() and found.shape == (1, 1, 3, 5, 6, 7)
    for axis, slope in enumerate((2, 3, -1)):
        assert (inside(found[0, 0, axis]) == gain * slope).all()
    # across an edge that is reflected there is no difference
    assert (found[0, 0, 0, [0, -1]] == 0).all() and (found[0, 0, 2, :, :, [0, -1]] == 0).all()
    # sqrt(4 + 9 + 1), and the mean of 2, 3 and 1
    torch.testing.assert_close(inside(magnitude(found)), torch.full((1, 1, 3, 4, 5), gain * 14**0.5).double())
    torch.testing.assert_close(inside(magnitude(found, "mean")), torch.full((1, 1, 3, 4, 5), 2.0 * gain).double())


@pytest.mark.parametrize("shape", [(17,), (9, 12), (6, 7, 8)])
def test_equals_scipys_sobel_up_to_the_edge(shape):
    # scipy's mode "mirror" is our reflection: the edge is not repeated
    x = grid(2, 3, *shape)
    found, _ = gradients(x, whole(x))
    for axis in range(len(shape)):
        wanted = np.stack([[scipy.ndimage.sobel(c, axis, mode="mirror") for c in item] for item in x.numpy()])
        torch.testing.assert_close(found[:, :, axis], torch.from_numpy(wanted), rtol=0, atol=1e-13)


def test_uni4eyes_map_of_an_image():
    x = grid(1, 1, 8, 8)
    dy, dx = gradients(x, whole(x))[0].unbind(2)
    torch.testing.assert_close(magnitude(torch.stack([dy, dx], 2), "mean"), 0.5 * dx.abs() + 0.5 * dy.abs())


def test_a_constant_is_flat_and_flips_turn_the_sign_to_the_bit():
    assert (gradients(torch.full((1, 2, 6, 7), 0.1), torch.ones(1, 1, 6, 7, dtype=torch.bool))[0] == 0).all()
    x = grid(2, 1, 8, 9)
    plain, turned = (gradients(a, whole(a), "scharr")[0] for a in (x, x.flip(3)))
    assert torch.equal(turned[:, :, 1].flip(3), -plain[:, :, 1]) and torch.equal(
        turned[:, :, 0].flip(3), plain[:, :, 0]
    )
    quarter = gradients(x.rot90(1, (2, 3)), whole(x.rot90(1, (2, 3))), "scharr")[0]
    # rot90 turns x into -y: the derivative along the new y is minus the one along the old x
    torch.testing.assert_close(quarter[:, :, 0], -plain[:, :, 1].rot90(1, (2, 3)), rtol=0, atol=1e-13)


@pytest.mark.parametrize(("kernel", "hit"), [("sobel", 9), ("central", 5)])
def test_a_hole_takes_what_reads_it(kernel, hit):
    # of 3 x 3 cells around a hole all read it with smoothing, and a cross of 5 without
    x, valid = grid(1, 1, 9, 9), torch.ones(1, 1, 9, 9, dtype=torch.bool)
    valid[..., 4, 5] = False
    x[..., 4, 5] = torch.nan
    found, there = gradients(x, valid, kernel)
    assert (~there).sum() == hit and not there[0, 0, 3, 5] and found.isfinite().all()
    assert bool(there[0, 0, 3, 4]) == (kernel == "central")
    x[..., 4, 5] = 0
    plain, _ = gradients(x, torch.ones_like(valid), kernel)
    assert torch.equal(plain.masked_fill(~there.unsqueeze(2), 0), found.masked_fill(~there.unsqueeze(2), 0))


@pytest.mark.parametrize("d", [1, 2, 3])
def test_padding_changes_nothing(d):
    x = grid(2, 2, *(6, 5, 7)[:d])
    plain, _ = gradients(x, whole(x))
    far = [3, 2] * d
    wide, there = gradients(F.pad(x, far, value=torch.nan), F.pad(whole(x), far))
    part = (..., *[slice(3, -2)] * d)
    assert torch.equal(wide[part], plain) and there[part].all() and there.sum() == whole(x).sum()


def test_single_precision_outside_autocast():
    x = grid(1, 1, 8, 8).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = gradients(x, whole(x))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, gradients(x.float(), whole(x))[0])
