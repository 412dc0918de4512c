"""KoLeo."""

import math

import pytest
import torch

from unlabeled.core import ranks
from unlabeled.core.losses.koleo import koleo
from unlabeled.core.testing.ranks import assert_same


def rows(b=8, d=4):
    return torch.randn(b, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_orthonormal_items():
    # every distance is sqrt(2): -log sqrt(2), whatever their lengths are
    assert math.isclose(koleo(torch.eye(6, dtype=torch.float64)).item(), -0.3465736, abs_tol=1e-7)
    assert math.isclose(koleo(3 * torch.eye(6, dtype=torch.float64)).item(), -0.3465736, abs_tol=1e-7)


def test_the_nearest_item_counts_by_hand():
    # on the circle at 0, 60 and 180 degrees: the first two are each other's nearest at a distance of 1, log 1 = 0; the
    # third is 2 sin 60 = sqrt(3) away from the second: -log(3) / 2 over three items
    at = torch.tensor([0, math.pi / 3, math.pi], dtype=torch.float64)
    z = torch.stack([at.cos(), at.sin()], 1)
    assert math.isclose(koleo(z).item(), -math.log(3) / 6, abs_tol=1e-7)


def test_lightly_agrees(lightly, two_ranks):
    z = rows()
    theirs = lightly.KoLeoLoss()(z)
    torch.testing.assert_close(koleo(z), theirs, rtol=0, atol=1e-5)
    # theirs looks at a rank's own items; ours is the whole batch's answer on two ranks too
    for answer in two_ranks.run(f"{__file__}:on_rank", None):
        torch.testing.assert_close(answer["loss"], theirs, rtol=0, atol=1e-5)


def test_duplicates_cost_much_and_have_a_finite_gradient():
    # -log eps each: 9.2103404 of 1e-4. A pair a tenth of eps apart is pushed by at most 1 / (2 eps), over 2 items, twice
    z = torch.tensor([[0.6, 0.8], [0.6, 0.8]], requires_grad=True)
    loss = koleo(z)
    loss.backward()
    assert math.isclose(loss.item(), 9.2103404, rel_tol=1e-6)
    assert z.grad.isfinite().all()
    near = torch.tensor([[1, 0], [1, 1e-5]], dtype=torch.float64, requires_grad=True)
    koleo(near).backward()
    assert 0 < near.grad.norm(dim=1).max() <= 5000


def test_items_of_weight_zero_are_nobodys_neighbours():
    z, weight = rows(), torch.tensor([1.0, 1, 0, 1, 0, 1, 1, 1])
    spoiled = z.clone()
    spoiled[weight == 0] = torch.nan
    spoiled.requires_grad_()
    loss = koleo(spoiled, weight)
    torch.testing.assert_close(loss, koleo(z[weight > 0]), rtol=0, atol=1e-12)
    loss.backward()
    assert (spoiled.grad[weight == 0] == 0).all() and spoiled.grad.isfinite().all()


@pytest.mark.parametrize("valid", [0, 1])
def test_alone_an_item_has_no_neighbour(valid):
    weight = torch.zeros(8)
    weight[:valid] = 1
    z = rows().requires_grad_()
    loss = koleo(z, weight)
    loss.backward()
    assert loss.item() == 0 and (z.grad == 0).all()


def test_gradient():
    weight = torch.tensor([1.0, 1, 1, 0, 1, 1], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: koleo(z, weight), rows(6).requires_grad_())


def test_under_autocast_it_stays_in_single():
    z = rows().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = koleo(z)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, koleo(z), rtol=0, atol=0)


def on_rank(weight):
    """Loss, and its gradient averaged over ranks, on this rank's rows."""
    n = 8 // ranks.world()
    mine = slice(ranks.rank() * n, (ranks.rank() + 1) * n)
    z = rows()[mine].requires_grad_()
    loss = koleo(z, None if weight is None else weight[mine])
    loss.backward()
    return {"loss": loss.detach(), "gradient": ranks.gather(z.grad) / ranks.world()}


def test_two_ranks_equal_one(two_ranks):
    for weight in (None, torch.tensor([1.0, 1, 1, 1, 0, 1, 0, 0])):
        assert_same(two_ranks.run(f"{__file__}:on_rank", weight), on_rank(weight), tolerance=1e-9)
