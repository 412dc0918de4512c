"""The ratio gradient: closed forms of a step, what leaves it as it is, constant false alarms, and bad input."""

import math

import pytest
import torch
import torch.nn.functional as F

from unlabeled.core.targets.ratio_gradient import ratio_gradient


def gradient(x, radii, valid=None, **options):
    """Of images (H, W) or (B, C, H, W), with eps 0."""
    x = x if x.ndim == 4 else x[None, None]
    valid = torch.ones_like(x[:, :1], dtype=torch.bool) if valid is None else valid
    return ratio_gradient(x, valid, radii, **{"eps": 0.0, **options})


def speckled(mean, seed, size=1024, looks=4):
    g = torch.Generator().manual_seed(seed)
    return mean * -torch.rand(looks, size, size, generator=g, dtype=torch.float64).log().mean(0)


def image(channels=2, n=48):
    g = torch.Generator().manual_seed(1)
    return 0.1 + torch.rand(3, channels, n, n, generator=g, dtype=torch.float64)


@pytest.mark.parametrize(("r", "at", "before"), [(9, 1.27297, 1.52606), (5, 1.09861, 1.46634), (17, 1.40877, 1.56398)])
def test_a_step_by_hand(r, at, before):
    # columns below 40 hold a, the others b. At column 40 the left half has r columns of a and 1 of b, the right r + 1 of b:
    # gx = ln((r a + b) / ((r + 1) b)); at 39 gx = ln((r + 1) a / (a + r b)); gy = 0
    a, b = 0.1, 0.5
    x = torch.full((80, 80), a, dtype=torch.float64)
    x[:, 40:] = b
    found, valid = gradient(x, [r])
    assert valid.all()
    torch.testing.assert_close(found[0, 0, :, 40], torch.full((80,), at, dtype=torch.float64), atol=5e-6, rtol=0)
    torch.testing.assert_close(found[0, 0, :, 39], torch.full((80,), before, dtype=torch.float64), atol=5e-6, rtol=0)
    assert found[0, 0, 7, 40].item() == pytest.approx(-math.log((r * a + b) / ((r + 1) * b)), abs=1e-12)
    # flat ground is 0, and stays so with reflection at the edges
    assert found[0, 0, :, : 40 - r - 1].max() == 0 and found[0, 0, :, 40 + r + 1 :].max() < 1e-14
    # in decibels these are means of logarithms: ln(b) - (r ln(a) + ln(b)) / (r + 1) = r / (r + 1) ln(b / a)
    logs, _ = gradient(x.log(), [r], log=True)
    assert logs[0, 0, 3, 40].item() == pytest.approx(r / (r + 1) * math.log(b / a), abs=1e-12)


def test_a_constant_is_exactly_flat():
    for value in (1e-6, 0.3, 7e4):
        assert (gradient(torch.full((64, 64), value), [5, 9, 13, 17])[0] == 0).all()
    assert (gradient(torch.full((64, 64), -12.5), [5, 9], log=True)[0] == 0).all()


@pytest.mark.parametrize("eps", [0.0, 0.01])
def test_scale_changes_nothing(eps):
    x = image()
    plain = gradient(x, [5, 9], eps=eps)[0]
    torch.testing.assert_close(gradient(1234.5 * x, [5, 9], eps=eps)[0], plain, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(gradient(x.log() + 3, [5], log=True)[0], gradient(x.log(), [5], log=True)[0])
    # each channel by itself
    both = torch.stack([x[:, 0], 50 * x[:, 1]], 1)
    torch.testing.assert_close(gradient(both, [5, 9], eps=eps)[0], plain, rtol=1e-11, atol=1e-12)
    # and an inverse is no negative: a mean of inverses is not the inverse of the mean
    assert (gradient(1 / x, [5])[0] - gradient(x, [5])[0]).abs().max() > 0.1


@pytest.mark.parametrize("log", [False, True])
def test_flips_and_quarter_turns_turn_it(log):
    x = image().float()
    plain = gradient(x, [5, 9], log=log)[0]
    for turn in (lambda a: a.flip(3), lambda a: a.flip(2), lambda a: a.rot90(1, (2, 3)), lambda a: a.rot90(3, (2, 3))):
        torch.testing.assert_close(gradient(turn(x), [5, 9], log=log)[0], turn(plain), rtol=0, atol=2e-6)


def test_speckle_of_bright_and_dark_ground_looks_alike():
    # Gamma(4) speckle of mean 0.05, 0.5 and 5: the ratio's mean stays, a difference (Sobel) grows with the mean
    sobel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]], dtype=torch.float64)[None, None]
    ratios, differences = [], []
    for seed, mean in enumerate((0.05, 0.5, 5.0)):
        x = speckled(mean, seed)[None, None]
        ratios.append(gradient(x, [9])[0].mean().item())
        differences.append(torch.hypot(F.conv2d(x, sobel), F.conv2d(x, sobel.mT)).mean().item())
    assert max(ratios) / min(ratios) < 1.03 and max(differences) / min(differences) > 50
    # 1024^2 cells hold (1024 / 19)^2 windows apart: a mean of Rayleigh draws is good to 0.52 / 54 = 1 %. Its size: halves of
    # n = 190 cells share 19, so var gx = 2 (n - 19) / n^2 / 4 looks, and the mean of a Rayleigh is sqrt(pi / 2) sigma
    assert ratios[0] == pytest.approx(math.sqrt(math.pi / 2 * 2 * 171 / 190**2 / 4), rel=0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_separable_sums_are_those_of_the_direct_convolution(dtype):
    x = image(channels=1).to(dtype)
    for r in (5, 17):
        found = gradient(x, [r])[0]
        left = torch.zeros(2 * r + 1, 2 * r + 1, dtype=dtype)
        left[:, : r + 1] = 1
        wide = F.pad(x, (r, r, r, r), mode="reflect")
        sums = [F.conv2d(wide, k[None, None]) for k in (left, left.flip(1), left.T, left.T.flip(0))]
        direct = torch.hypot((sums[0] / sums[1]).log(), (sums[2] / sums[3]).log())
        torch.testing.assert_close(found, direct, rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-12)


def test_channels_then_scales():
    x = image()
    found, valid = gradient(x, [5, 9, 13])
    assert found.shape == (3, 6, 48, 48) and valid.shape == (3, 6, 48, 48)
    assert torch.equal(found[:, 4:5], gradient(x[:, 1:], [9])[0])
    # a hole in the second channel is one in its scales
    valid = torch.ones_like(x, dtype=torch.bool)
    valid[:, 1, 20, 20] = False
    assert gradient(x, [5, 9], valid=valid)[1].flatten(2).all(2).tolist() == [[True, True, False, False]] * 3


def test_what_touches_a_hole_is_invalid_and_nothing_leaks():
    x, r = image(), 5
    valid = torch.ones(3, 1, 48, 48, dtype=torch.bool)
    valid[:, :, 20, 30] = False
    spoiled = torch.where(valid, x, torch.nan)
    found, there = gradient(spoiled, [r], valid=valid)
    expected = torch.ones(48, 48, dtype=torch.bool)
    expected[20 - r : 20 + r + 1, 30 - r : 30 + r + 1] = False
    assert torch.equal(there[0, 0], expected)
    assert torch.equal(found[..., expected], gradient(x, [r])[0][..., expected])


def test_a_collar_is_the_end_of_the_item():
    # nodata around 40 x 30 valid cells, which are worth what they are worth alone
    x = image()[..., :40, :30]
    wide, valid = (F.pad(t, (7, 11, 5, 3)) for t in (x, torch.ones(3, 1, 40, 30, dtype=torch.bool)))
    wide = torch.where(valid, wide, torch.nan)
    found, there = gradient(wide, [5, 17], valid=valid, eps=0.01)
    assert torch.equal(there, valid.expand_as(there))
    torch.testing.assert_close(found[..., 5:45, 7:37], gradient(x, [5, 17], eps=0.01)[0], rtol=1e-12, atol=1e-14)


def test_zeros_negatives_and_items_smaller_than_the_window_are_finite():
    x = torch.zeros(2, 1, 12, 12)
    x[1, :, :, 6:] = -3.0
    found, valid = gradient(x, [17], eps=0.01)
    assert (found == 0).all() and valid.all()
    x[1, :, :, 6:] = 3.0
    assert gradient(x, [2, 17])[0].isfinite().all()
    assert gradient(torch.ones(1, 1), [3])[0].item() == 0
    nothing, there = gradient(torch.full((1, 1, 8, 8), torch.nan), [3], valid=torch.zeros(1, 1, 8, 8, dtype=torch.bool))
    assert not there.any() and nothing.isfinite().all()


def test_half_precision_in_full_out():
    x = image().half()
    exact = gradient(x.double(), [5, 17])[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradient(x, [5, 17])[0]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=2e-6)
    assert not gradient(image().requires_grad_(), [5])[0].requires_grad
