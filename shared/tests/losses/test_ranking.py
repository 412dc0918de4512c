"""The pairwise loss on the order of predictions."""

import math

import torch

from unlabeled.core import ranks
from unlabeled.core.losses.ranking import pairwise_order
from unlabeled.core.testing.ranks import assert_same


def numbers(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def ones(*shape):
    return torch.ones(*shape, dtype=torch.float64)


def test_a_constant_prediction_costs_ln_2():
    # sigmoid(0) = 1/2 for every pair: ln 2 = .693147; 10^-6 inside the logarithm would make it .6931452
    loss = pairwise_order(torch.full((3, 7), 0.3, dtype=torch.float64), numbers(3, 7), ones(3, 7))
    assert math.isclose(loss.item(), math.log(2), abs_tol=1e-15)


def test_the_right_order_at_a_large_scale_costs_nothing_and_the_wrong_one_its_distance():
    y = torch.tensor([[0.0, 1, 2, 3]], dtype=torch.float64)
    losses = [pairwise_order(scale * y, y, ones(1, 4)).item() for scale in (0.0, 1.0, 10.0, 1000.0)]
    assert losses == sorted(losses, reverse=True) and losses[-1] == 0
    # softplus(s d) -> s d; the 6 pairs are 1, 1, 1, 2, 2, 3 apart: mean 10/6. A +eps inside the log would end at 13.8
    wrong = pairwise_order(-1000 * y, y, ones(1, 4))
    assert math.isclose(wrong.item(), 1000 * 10 / 6, rel_tol=1e-12)


def test_by_hand_with_a_tie_and_weights():
    # targets 2, 1, 1: pairs (0, 1) and (0, 2), the tie is none. Predictions 1, 0, 3: log(1 + e^-1) and log(1 + e^2)
    pred, y = torch.tensor([[1.0, 0, 3]], dtype=torch.float64), torch.tensor([[2.0, 1, 1]], dtype=torch.float64)
    a, b = math.log1p(math.exp(-1)), math.log1p(math.exp(2))
    assert math.isclose(pairwise_order(pred, y, ones(1, 3)).item(), (a + b) / 2, rel_tol=1e-14)
    # the pair (0, 2) weighs 1/2, the lighter of 1 and 1/2
    weight = torch.tensor([[1.0, 1, 0.5]], dtype=torch.float64)
    assert math.isclose(pairwise_order(pred, y, weight).item(), (a + b / 2) / 1.5, rel_tol=1e-14)


def test_only_the_order_of_the_target_matters_and_it_gets_no_gradient():
    pred, y = numbers(2, 6).requires_grad_(), numbers(2, 6, seed=1).requires_grad_()
    loss = pairwise_order(pred, y, ones(2, 6))
    torch.testing.assert_close(pairwise_order(pred, (3 * y).exp(), ones(2, 6)), loss, rtol=0, atol=0)
    loss.backward()
    assert y.grad is None and pred.grad.abs().min() > 0
    # a shift of all predictions of a row changes nothing
    torch.testing.assert_close(pred.grad.sum(1), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-15)


def test_what_does_not_count_may_be_nan():
    pred, y = numbers(3, 5), numbers(3, 5, seed=1)
    weight = ones(3, 5)
    weight[0, 3:] = weight[2] = 0
    expected = pairwise_order(pred, y, weight)
    pred[weight == 0] = y[weight == 0] = torch.nan
    pred.requires_grad_()
    found = pairwise_order(pred, y, weight)
    assert torch.equal(found, expected)
    found.backward()
    assert (pred.grad[weight == 0] == 0).all() and pred.grad.isfinite().all()
    assert pairwise_order(pred, y, 0 * weight) == 0


def test_half_precision_is_summed_in_single():
    y = torch.tensor([[0.0, 1.0]])
    loss = pairwise_order(torch.tensor([[1000.0, 0.0]], dtype=torch.float16), y, torch.ones(1, 2))
    assert loss.dtype == torch.float32 and loss == 1000


def on_rank():
    pred, y, weight = numbers(4, 5).requires_grad_(), numbers(4, 5, seed=1), ones(4, 5)
    weight[0, 2:] = weight[1] = 0  # a first rank has 1 pair, a second 20
    n = 4 // ranks.world()
    rows = slice(ranks.rank() * n, (ranks.rank() + 1) * n)
    loss = pairwise_order(pred[rows], y[rows], weight[rows])
    loss.backward()
    return {"loss": loss.detach(), "grad": ranks.total(pred.grad) / ranks.world()}


def test_two_ranks_equal_one(two_ranks):
    assert_same(two_ranks.run(f"{__file__}:on_rank"), on_rank(), tolerance=1e-12)
