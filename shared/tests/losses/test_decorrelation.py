"""Barlow Twins and VICReg."""

import math

import pytest
import torch

from unlabeled.core import ranks
from unlabeled.core.losses.decorrelation import barlow_twins, invariance, variance_and_covariance
from unlabeled.core.testing.ranks import assert_same


def views(b=8, d=3):
    g = torch.Generator().manual_seed(0)
    return [torch.randn(b, d, generator=g, dtype=torch.float64) * 2 + 1 for _ in range(2)]


def white(b=16, d=5):
    """Dimensions of mean 0 and biased variance 1 that do not correlate."""
    z = torch.randn(b, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return torch.linalg.qr(z - z.mean(0))[0] * b**0.5


def vicreg(z1, z2, weight=None):
    (v1, c1), (v2, c2) = (variance_and_covariance(z, weight) for z in (z1, z2))
    return 25 * invariance(z1, z2, weight) + 25 * (v1 + v2) / 2 + c1 + c2


def barlow(z1, z2, weight=None):
    return barlow_twins(z1, z2, 0.0051, weight)


CASES = {"barlow": barlow, "vicreg": vicreg}


def test_barlow_of_whitened_dimensions():
    # C = I / (1 + eps): D (eps / (1 + eps))^2, and D (2 - eps)^2 against the opposite
    z, eps = white(), 1e-5
    assert math.isclose(barlow_twins(z, z, 0.0051).item(), 5 * (eps / (1 + eps)) ** 2, rel_tol=1e-6)
    assert math.isclose(barlow_twins(z, z, 0.0051, eps=0.0).item(), 0, abs_tol=1e-12)
    assert math.isclose(barlow_twins(z, -z, 0.0051, eps=0.0).item(), 4 * 5, abs_tol=1e-9)


def test_barlow_of_one_dimension_is_the_correlation():
    z1, z2 = views(d=1)
    corr = torch.corrcoef(torch.cat([z1, z2], 1).T)[0, 1]
    torch.testing.assert_close(barlow_twins(z1, z2, 0.0051, eps=0.0), (1 - corr) ** 2, rtol=0, atol=1e-12)


def test_barlow_by_its_definition():
    z1, z2 = views()
    c = torch.corrcoef(torch.cat([z1, z2], 1).T)[:3, 3:]
    off = c.square().sum() - c.diagonal().square().sum()
    expected = (1 - c.diagonal()).square().sum() + 0.3 * off
    torch.testing.assert_close(barlow_twins(z1, z2, 0.3, eps=0.0), expected, rtol=0, atol=1e-12)
    # shift and positive scale of a dimension do not matter, nor does the order of the items
    moved = z1 * torch.tensor([0.5, 3, 10]) + torch.tensor([5, -2, 100])
    torch.testing.assert_close(barlow_twins(moved, z2, 0.3, eps=0.0), expected, rtol=0, atol=1e-10)
    assert (barlow_twins(z1, z2.roll(1, 0), 0.3, eps=0.0) - expected).abs() > 0.1


def test_barlow_of_constant_dimensions_is_finite():
    # no correlation with anything: D, and no gradient that is not finite
    z = torch.ones(8, 4, requires_grad=True)
    loss = barlow_twins(z, z, 0.0051)
    loss.backward()
    assert loss == 4 and z.grad.isfinite().all()


def test_vicreg_of_zeros():
    # the deviation is sqrt(1e-4) = .01: 25 (1 - .01) = 24.75
    z = torch.zeros(8, 4, requires_grad=True)
    loss = vicreg(z, z)
    loss.backward()
    assert math.isclose(loss.item(), 24.75, abs_tol=1e-5)
    assert z.grad.isfinite().all()


def test_vicreg_of_whitened_dimensions():
    # biased variance 1 is unbiased 16 / 15 of 16 items: sqrt is above 1, so that nothing is missing
    z = white()
    assert vicreg(z, z) < 1e-20
    # half as large: 1 - sqrt(1/4 * 16/15 + 1e-4)
    variance, covariance = variance_and_covariance(z / 2)
    assert math.isclose(variance.item(), 1 - math.sqrt(4 / 15 + 1e-4), abs_tol=1e-12)
    assert covariance < 1e-20
    # a shift of .1 everywhere: .01, and the rest does not see it
    assert math.isclose(invariance(z, z + 0.1).item(), 0.01, abs_tol=1e-12)


def test_vicreg_covariance_of_one_dimension_twice():
    # two equal dimensions of unbiased variance v: 2 v^2 / 2
    z = views(d=1)[0]
    _, covariance = variance_and_covariance(z.repeat(1, 2))
    torch.testing.assert_close(covariance, z.var() ** 2, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_rows_of_weight_zero_may_hold_nan(name):
    weight = torch.tensor([1.0, 1, 0, 1, 1, 0, 1, 1])
    there = weight > 0
    full = [z.requires_grad_() for z in views()]
    part = [z.detach()[there].requires_grad_() for z in full]
    with torch.no_grad():
        full[0][~there] = full[1][~there] = torch.nan
    whole, alone = CASES[name](*full, weight), CASES[name](*part)
    torch.testing.assert_close(whole, alone, rtol=0, atol=1e-12)
    whole.backward()
    alone.backward()
    for a, b in zip(full, part, strict=True):
        assert (a.grad[~there] == 0).all()
        torch.testing.assert_close(a.grad[there], b.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("valid", [0, 1])
@pytest.mark.parametrize("name", CASES)
def test_too_few_items_for_a_variance(name, valid):
    # every moment is 0: D for Barlow Twins; 24.75 and the one item's distance for VICReg
    z1, z2 = (z.requires_grad_() for z in views())
    weight = torch.zeros(8)
    weight[:valid] = 1
    apart = 25 * (z1 - z2)[:valid].square().sum().item() / 3
    loss = CASES[name](z1, z2, weight)
    assert math.isclose(loss.item(), {"barlow": 3.0, "vicreg": 24.75 + apart}[name], abs_tol=1e-9)
    loss.backward()
    assert z1.grad.isfinite().all() and z2.grad.isfinite().all()


@pytest.mark.parametrize("name", CASES)
def test_gradient(name):
    weight = torch.tensor([1.0, 1, 1, 0, 1, 1]).double()
    assert torch.autograd.gradcheck(lambda a, b: CASES[name](a, b, weight), [z.requires_grad_() for z in views(6)])


@pytest.mark.parametrize("name", CASES)
def test_under_autocast_it_stays_in_single(name):
    z1, z2 = (z.float() for z in views())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = CASES[name](z1, z2)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), CASES[name](*views()), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_lightly_agrees(lightly, name, two_ranks):
    theirs = {"barlow": lightly.BarlowTwinsLoss(0.0051), "vicreg": lightly.VICRegLoss()}[name](*views())
    torch.testing.assert_close(CASES[name](*views()), theirs, rtol=0, atol=1e-5)
    # over two ranks it is still the answer for the whole batch: lightly's own gathering normalises each rank by itself
    # (Barlow Twins) and averages the ranks' invariance terms
    for answer in two_ranks.run(f"{__file__}:on_rank", name, None):
        torch.testing.assert_close(answer["loss"], theirs, rtol=0, atol=1e-5)


def on_rank(name, weight):
    """Loss, and its gradient averaged over ranks, on this rank's rows."""
    n = 8 // ranks.world()
    mine = slice(ranks.rank() * n, (ranks.rank() + 1) * n)
    z = [v[mine].requires_grad_() for v in views()]
    loss = CASES[name](*z, None if weight is None else weight[mine])
    loss.backward()
    return {"loss": loss.detach(), "gradient": ranks.gather(torch.cat([v.grad for v in z], 1)) / ranks.world()}


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_equal_one(two_ranks, name):
    # a reduction without gradient, as in the official code of Barlow Twins, would give half of it here
    for weight in (None, torch.tensor([1.0, 1, 1, 1, 0, 1, 0, 0])):
        assert_same(two_ranks.run(f"{__file__}:on_rank", name, weight), on_rank(name, weight), tolerance=1e-9)
