"""SIGReg."""

import math

import pytest
import torch

from unlabeled.core import ranks
from unlabeled.core.losses.sigreg import sigreg, slices
from unlabeled.core.testing.ranks import assert_same

CPU = torch.device("cpu")


def rows(b=8, d=4):
    return torch.randn(b, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def directions(count=6, width=4):
    return slices(7, count, width, CPU)


@pytest.mark.parametrize("n", [4, 64])
def test_a_standard_normal_costs_the_same_whatever_n(n):
    # E|phi_N - phi|^2 = (1 - phi^2) / N, so N cancels: sum_t w (1 - phi^2) = 1.0524642. 2000 independent dimensions,
    # each its own direction: the statistic's deviation is about 1, that of the mean .02
    g = torch.Generator().manual_seed(n)
    z = torch.randn(n, 2000, generator=g)
    assert math.isclose(sigreg(z, torch.eye(2000)).item(), 1.0524642, abs_tol=0.08)


@pytest.mark.parametrize("n", [1, 8])
def test_collapsed_to_zero(n):
    # phi_N is 1 everywhere: N sum_t w (1 - phi)^2
    z = torch.zeros(n, 4, dtype=torch.float64)
    assert math.isclose(sigreg(z, directions()).item() / n, 0.4020476, abs_tol=1e-7)


def test_two_points_by_hand():
    # at +a and -a the sine cancels and the cosine is cos(a t): N sum_t w (cos(a t) - phi)^2
    z = torch.tensor([[1.5], [-1.5]], dtype=torch.float64)
    expected = 0.0
    for i in range(17):
        t, dt = 3 * i / 16, 2 * 3 / 16
        w = (dt / 2 if i in (0, 16) else dt) * math.exp(-t * t / 2)
        expected += 2 * w * (math.cos(1.5 * t) - math.exp(-t * t / 2)) ** 2
    assert math.isclose(sigreg(z, torch.ones(1, 1)).item(), expected, abs_tol=1e-12)


def test_slices_are_unit_vectors_of_the_key():
    a = slices(7, 4000, 3, CPU)
    torch.testing.assert_close(a.norm(dim=1), torch.ones(4000))
    assert torch.equal(a, slices(7, 4000, 3, CPU)) and not torch.equal(a, slices(8, 4000, 3, CPU))
    # uniform on the sphere: mean 0 and second moment I / 3, both within five deviations (1 / sqrt(3 * 4000) = .009)
    torch.testing.assert_close(a.mean(0), torch.zeros(3), rtol=0, atol=0.045)
    torch.testing.assert_close(a.T @ a / 4000, torch.eye(3) / 3, rtol=0, atol=0.045)


def test_rotations_do_not_matter_on_average():
    # an elongated cloud, turned: few slices see a difference, many do not
    z = rows(16, 3) * torch.tensor([3.0, 1, 0.2])
    turned = z @ torch.linalg.qr(rows(3, 3))[0]
    many = slices(7, 20000, 3, CPU)
    torch.testing.assert_close(sigreg(z, many), sigreg(turned, many), rtol=0.03, atol=0)
    assert (sigreg(z, many[:1]) / sigreg(turned, many[:1]) - 1).abs() > 0.1


def test_n_counts_the_valid_rows():
    z = torch.zeros(8, 4, dtype=torch.float64)
    weight = torch.tensor([1.0, 1, 0, 1, 1, 0, 1, 0])
    assert math.isclose(sigreg(z, directions(), weight).item(), 5 * 0.4020476, abs_tol=1e-6)
    assert sigreg(z, directions(), torch.zeros(8)) == 0


def test_rows_of_weight_zero_may_hold_nan():
    weight = torch.tensor([1.0, 1, 0, 1, 1, 0, 1, 1])
    there = weight > 0
    full, part = rows().requires_grad_(), rows()[there].requires_grad_()
    with torch.no_grad():
        full[~there] = torch.nan
    whole, alone = sigreg(full, directions(), weight), sigreg(part, directions())
    torch.testing.assert_close(whole, alone, rtol=0, atol=1e-12)
    whole.backward()
    alone.backward()
    assert (full.grad[~there] == 0).all()
    torch.testing.assert_close(full.grad[there], part.grad, rtol=0, atol=1e-12)


def test_gradient():
    weight = torch.tensor([1.0, 1, 0, 1, 1]).double()
    assert torch.autograd.gradcheck(lambda z: sigreg(z, directions(), weight), rows(5).requires_grad_())


def test_under_autocast_it_stays_in_single():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = sigreg(rows().float(), directions())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), sigreg(rows(), directions()), rtol=1e-5, atol=0)


def test_lightly_agrees(lightly, two_ranks):
    theirs = lightly.SIGReg(num_vectors=6)
    theirs._generate_unit_vectors = lambda device, dtype, width: directions().to(dtype).T
    expected = theirs(rows().float())
    torch.testing.assert_close(sigreg(rows().float(), directions()), expected, rtol=0, atol=1e-5)
    for answer in two_ranks.run(f"{__file__}:on_rank", None):
        torch.testing.assert_close(answer["loss"].float(), expected, rtol=0, atol=1e-5)


def on_rank(weight):
    """Loss, and its gradient averaged over ranks, on this rank's rows."""
    n = 8 // ranks.world()
    mine = slice(ranks.rank() * n, (ranks.rank() + 1) * n)
    z = rows()[mine].requires_grad_()
    loss = sigreg(z, directions(), None if weight is None else weight[mine])
    loss.backward()
    return {"loss": loss.detach(), "gradient": ranks.gather(z.grad) / ranks.world()}


@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 1, 1, 1, 0, 1, 0, 0])])
def test_two_ranks_equal_one(two_ranks, weight):
    assert_same(two_ranks.run(f"{__file__}:on_rank", weight), on_rank(weight), tolerance=1e-9)
