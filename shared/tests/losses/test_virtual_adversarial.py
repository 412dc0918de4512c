"""Virtual adversarial training: its direction, and its loss."""

import math

import pytest
import torch

from unlabeled.core.losses.virtual_adversarial import adversarial, divergence, symmetric, unit

ALL = torch.ones(1, 1, dtype=torch.bool)


def linear(d=6, v=9, seed=0):
    g = torch.Generator().manual_seed(seed)
    weight, x = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((v, d), (1, 1, d)))
    return weight, x, torch.randn(1, 1, d, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("seed", range(5))
def test_power_iteration_reaches_the_top_eigenvector(seed):
    # of logits W x the Hessian of KL(p(x) || p(x + r)) at r = 0 is J^T F J with J = W and F = diag(p) - p p^T,
    # the Fisher information of the logits
    weight, x, start = linear(seed=seed)
    clean = x @ weight.T
    found = adversarial(lambda r: divergence(clean, (x + r) @ weight.T).sum(), start, ALL, steps=300, probe=1e-6)
    p = clean[0, 0].softmax(0)
    hessian = weight.T @ (torch.diag(p) - torch.outer(p, p)) @ weight
    values, vectors = torch.linalg.eigh(hessian)
    cosine = torch.nn.functional.cosine_similarity(found[0, 0], vectors[:, -1], dim=0)
    assert abs(cosine) > 0.999999
    # and what is gained there is half the eigenvalue times the squared length: sqrt(6) e for a unit direction in 6 channels
    e = 1e-4
    gained = divergence(clean, (x + e * found) @ weight.T).item()
    assert gained == pytest.approx(0.5 * values[-1].item() * 6 * e * e, rel=1e-3)


def test_one_step_is_better_than_chance_and_its_opposite_no_worse():
    gains = []
    for seed in range(20):
        weight, x, start = linear(d=30, seed=seed)
        clean = x @ weight.T

        def gain(r, clean=clean, x=x, weight=weight):
            return divergence(clean, (x + 0.01 * r) @ weight.T).sum()

        gains.append((gain(adversarial(gain, start, ALL)), gain(unit(start, ALL))))
    # of 30 directions at most 8 change anything, so that a random one loses most of its length
    assert all(a > b for a, b in gains) and sum(a for a, _ in gains) > 2 * sum(b for _, b in gains)


def test_a_unit_direction_has_a_mean_square_of_1():
    g = torch.Generator().manual_seed(0)
    x = 1e-30 * torch.randn(3, 5, 4, generator=g)
    valid = torch.tensor([[True] * 5, [True] * 2 + [False] * 3, [False] * 5])
    x[1, 3] = torch.nan
    found = unit(x, valid)
    squares = found.square().sum((1, 2))
    torch.testing.assert_close(squares, torch.tensor([20.0, 8.0, 0.0]))
    assert (found[~valid] == 0).all()
    assert (unit(torch.zeros(1, 1, 3), ALL) == 0).all()


def test_the_directions_of_rows_do_not_mix():
    weight, x, start = linear()
    clean = x @ weight.T
    alone = adversarial(lambda r: divergence(clean, (x + r) @ weight.T).sum(), start, ALL, steps=3)
    both, starts = torch.cat([x, 3 - x]), torch.cat([start, start + 1])
    logits = both @ weight.T
    found = adversarial(lambda r: divergence(logits, (both + r) @ weight.T).sum(), starts, ALL.expand(2, 1), steps=3)
    torch.testing.assert_close(found[:1], alone, rtol=0, atol=1e-12)


def test_kl_by_hand():
    # p = (3/4, 1/4), q = (1/2, 1/2): 3/4 ln(3/2) + 1/4 ln(1/2) = 0.130812; the other way 1/2 ln(2/3) + 1/2 ln 2 = 0.143841
    p, q = torch.tensor([3.0, 1.0]).double().log(), torch.zeros(2).double()
    assert divergence(p, q).item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), abs=1e-12)
    assert symmetric(p, q, torch.ones(())).item() == pytest.approx(0.130812 + 0.143841, abs=1e-6)


def test_the_loss_is_0_for_equal_logits_and_never_below():
    g = torch.Generator().manual_seed(0)
    for scale in (1e-4, 1.0, 100.0):
        clean, other = (scale * torch.randn(50, 7, generator=g) for _ in range(2))
        assert symmetric(clean, clean, torch.ones(50)) == 0
        assert symmetric(clean, other, torch.ones(50)) > 0
        assert (divergence(clean, other) >= -1e-6).all()


def test_the_clean_side_gets_no_gradient_and_the_mean_is_over_tokens():
    g = torch.Generator().manual_seed(0)
    clean, other = (torch.randn(4, 5, 7, generator=g, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weight = torch.ones(4, 5)
    loss = symmetric(clean, other, weight)
    loss.backward()
    assert clean.grad is None and other.grad.abs().sum() > 0
    # twice the batch, twice the length: the same loss, where a sum would be four times as large
    twice = [x.detach().repeat(2, 2, 1) for x in (clean, other)]
    torch.testing.assert_close(symmetric(*twice, torch.ones(8, 10)), loss.detach(), rtol=0, atol=1e-12)


def test_what_does_not_count_may_hold_anything():
    g = torch.Generator().manual_seed(0)
    clean, other = (torch.randn(4, 7, generator=g) for _ in range(2))
    weight = torch.tensor([1.0, 0, 1, 1])
    plain = symmetric(clean[weight > 0], other[weight > 0], torch.ones(3))
    clean[1], other[1] = torch.nan, torch.inf
    other.requires_grad_()
    loss = symmetric(clean, other, weight)
    loss.backward()
    torch.testing.assert_close(loss, plain)
    assert other.grad.isfinite().all() and (other.grad[1] == 0).all()
