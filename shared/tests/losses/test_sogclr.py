"""The contrastive loss with moving averages."""

import math

import pytest
import torch

from unlabeled.core import ranks
from unlabeled.core.losses.contrastive import dcl
from unlabeled.core.losses.sogclr import sogclr
from unlabeled.core.testing.ranks import assert_same


def views(b=8, d=6):
    g = torch.Generator().manual_seed(0)
    return [torch.randn(b, d, generator=g, dtype=torch.float64) for _ in range(2)]


def full(value, b=8):
    return torch.full((b,), value, dtype=torch.float64)


def gradients(loss, z):
    return torch.cat(torch.autograd.grad(loss, z), 1)


def test_uniform_similarities():
    # all cosines c = 1: g = e^(1 / t), so every weight is 1 and the loss c - c = 0; the slope is log g - c / t = 0
    z = torch.ones(8, 3, dtype=torch.float64)
    found = sogclr(z, z, full(0.5), full(0.0), 0.8)
    assert abs(found.loss.item()) < 1e-12
    torch.testing.assert_close(found.average, full(math.exp(2)), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.slope, full(0.0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("record", [None, torch.tensor([0, 0, 1, 1, 2, 3, 4, 4])])
@pytest.mark.parametrize(("gamma", "before"), [(1.0, 3.0), (0.8, 0.0)])
def test_without_an_average_the_gradient_is_that_of_dcl(gamma, before, record):
    # gamma = 1, or nothing to average with: d(t log sum e^(s / t) - s+) = t d(dcl)
    z = [v.requires_grad_() for v in views()]
    weight = torch.tensor([1.0, 1, 0, 1, 1, 1, 0, 1])
    ours = gradients(sogclr(*z, full(0.3), full(before), gamma, weight, record).loss, z)
    theirs = gradients(0.3 * dcl(*z, 0.3, weight, record), z)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-15)
    assert theirs.abs().max() > 1e-3


def test_by_its_definition():
    z1, z2 = views(4)
    t = torch.tensor([0.1, 0.2, 0.5, 1.0], dtype=torch.float64)
    a = torch.tensor([2.0, 0.0, 1.5, 1.0], dtype=torch.float64)
    found = sogclr(z1, z2, t, a, 0.8)
    unit = torch.nn.functional.normalize(torch.cat([z1, z2]), dim=1)
    losses, averages, slopes = [], [], []
    for anchor in range(8):
        i = anchor % 4
        s = torch.stack([unit[anchor] @ unit[k] for k in range(8) if k % 4 != i])
        g = (s / t[i]).exp().mean()
        average = 0.2 * a[i] + 0.8 * g if i != 1 else g
        w = (s / t[i]).exp() / average
        losses.append((w * s).mean() - unit[anchor] @ unit[(anchor + 4) % 8])
        averages.append(average)
        slopes.append(average.log() - (w * s / t[i]).mean())
    torch.testing.assert_close(found.loss, torch.stack(losses).mean(), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.average, torch.stack(averages).view(2, 4).mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.slope, torch.stack(slopes).view(2, 4).mean(0), rtol=0, atol=1e-12)


def test_the_slope_is_minus_the_divergence_from_uniform():
    # with gamma = 1 the w / n are a distribution p over n = 14: log g - sum p s / t = sum p log(1 / (n p))
    z = views()
    found = sogclr(*z, full(0.1), full(0.0), 1.0)
    unit = torch.nn.functional.normalize(torch.cat(z), dim=1)
    apart = torch.arange(16)[:, None] % 8 != torch.arange(16) % 8
    p = (unit @ unit.T / 0.1).masked_fill(~apart, -torch.inf).softmax(1)
    divergence = (torch.xlogy(p, p) + p * math.log(14)).sum(1)
    torch.testing.assert_close(found.slope, -divergence.view(2, 8).mean(0), rtol=0, atol=1e-12)
    assert divergence.min() > 0.5 and divergence.max() < math.log(14)


def test_the_slope_is_the_gradient_of_the_temperature():
    # of t (log mean e^(s / t) + rho) - s+, up to rho, by differences
    z, h = views(), 1e-5

    def dual(t):
        return (t * sogclr(*z, full(t), full(0.0), 1.0).average.log()).mean()

    # identical views, so that an item's two anchors have one average
    z = [z[0], z[0]]
    slope = sogclr(*z, full(0.3), full(0.0), 1.0).slope.mean()
    assert math.isclose(slope.item(), ((dual(0.3 + h) - dual(0.3 - h)) / (2 * h)).item(), rel_tol=1e-8)


def test_rows_of_weight_zero_may_hold_nan():
    weight = torch.tensor([1.0, 1, 0, 1, 1, 0, 1, 1])
    there = weight > 0
    expected = sogclr(*(z[there] for z in views()), full(0.2, 6), full(1.0, 6), 0.8)
    z = views()
    z[0][2] = z[1][5] = torch.nan
    z = [v.requires_grad_() for v in z]
    found = sogclr(*z, full(0.2), full(1.0), 0.8, weight)
    torch.testing.assert_close(found.loss, expected.loss, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.average[there], expected.average, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.slope[there], expected.slope, rtol=0, atol=1e-12)
    assert torch.equal(found.weight, weight.double()) and gradients(found.loss, z).isfinite().all()


def test_without_negatives():
    # one record, or one item: nobody counts, and everything stays finite
    z = [v.requires_grad_() for v in views()]
    found = sogclr(*z, full(0.2), full(0.0), 0.8, None, torch.zeros(8, dtype=torch.int64))
    assert found.loss == 0 and (found.weight == 0).all()
    assert found.average.isfinite().all() and found.slope.isfinite().all() and (gradients(found.loss, z) == 0).all()


def test_the_lowest_temperature_is_within_fp32():
    z = torch.ones(4, 3)
    found = sogclr(z, z, torch.full((4,), 0.02), torch.zeros(4), 0.8)
    assert found.average.isfinite().all() and math.isclose(found.average[0].log().item(), 50, abs_tol=1e-3)


def on_rank():
    mine = slice(ranks.rank() * 8 // ranks.world(), (ranks.rank() + 1) * 8 // ranks.world())
    weight, record = torch.tensor([1.0, 1, 0, 1, 0, 1, 0, 0]), torch.tensor([0, 0, 1, 2, 2, 2, 3, 3])
    z = [v[mine].requires_grad_() for v in views()]
    t, a = torch.linspace(0.1, 0.9, 8).double()[mine], torch.linspace(0, 2, 8).double()[mine]
    found = sogclr(*z, t, a, 0.8, weight[mine], record[mine])
    rows = {
        "average": found.average,
        "slope": found.slope,
        "weight": found.weight,
        "gradient": gradients(found.loss, z),
    }
    gathered = {name: ranks.gather(x.detach()) for name, x in rows.items()}
    return gathered | {"loss": found.loss.detach(), "gradient": gathered["gradient"] / ranks.world()}


def test_two_ranks_equal_one(two_ranks):
    assert_same(two_ranks.run(f"{__file__}:on_rank"), on_rank(), tolerance=1e-9)
