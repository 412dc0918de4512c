"""The product quantiser: hard forward and soft backward, its diversity at both ends, temperature, ranks."""

import math

import pytest
import torch

from unlabeled.core import ranks
from unlabeled.core.targets.codebooks.product_quantiser import ProductQuantiser, diversity, mean_choice
from unlabeled.core.targets.codebooks.use import perplexity
from unlabeled.core.testing.ranks import assert_same

G, V = 2, 5


def made():
    torch.manual_seed(0)
    return ProductQuantiser(6, 8, G, V).double()


def features(*shape):
    return torch.randn(*shape, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def noise(*shape):
    return torch.rand(*shape, G, V, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def test_forward_is_one_entry_of_each_group():
    q, x = made(), features(3, 4)
    for out in (q(x), q(x, noise(3, 4), 0.7)):
        expected = torch.cat([q.entries[g][out.ids[..., g]] for g in range(G)], -1)
        torch.testing.assert_close(out.values, expected, rtol=0, atol=1e-14)
        assert out.values.shape == (3, 4, 8) and out.logits.shape == (3, 4, G, V)
    assert torch.equal(q(x).ids, q(x).logits.argmax(-1))


def test_backward_is_the_softmax():
    q, x, u = made(), features(3), noise(3)
    w = torch.arange(8, dtype=torch.float64)
    logits = q(x, u, 0.7).logits
    (hard,) = torch.autograd.grad((q(x, u, 0.7).values * w).sum(), q.logits.weight)
    # the softmax of (logits + Gumbel noise) / temperature, in the place of the choice
    soft = ((logits - (-u.log()).log()) / 0.7).softmax(-1)
    (expected,) = torch.autograd.grad(
        (torch.einsum("bgv,gvd->bgd", soft, q.entries.detach()).flatten(1) * w).sum(), q.logits.weight
    )
    torch.testing.assert_close(hard, expected)
    # the entries learn from the choice that was made
    q(x, u, 0.7).values.sum().backward()
    ids = q(x, u, 0.7).ids
    chosen = torch.stack([torch.bincount(ids[:, g], minlength=V) for g in range(G)])
    torch.testing.assert_close(q.entries.grad, chosen[..., None].double().expand(G, V, 4))


def test_gumbel_noise_chooses_by_the_softmax():
    # logits 0, ln 2, 0, 0, 0: entry 1 in 2 of 6 draws, within 5 deviations of sqrt(p (1 - p) / n)
    q, n = made(), 20_000
    torch.nn.init.zeros_(q.logits.weight)
    with torch.no_grad():
        q.logits.bias[1] = math.log(2)
    ids = q(features(n), noise(n)).ids
    for group, p in ((0, 1 / 3), (1, 1 / 5)):
        assert abs((ids[:, group] == 1).double().mean().item() - p) < 5 * math.sqrt(p * (1 - p) / n)


def test_noise_of_zero_is_finite():
    q, x = made(), features(3)
    out = q(x, torch.zeros(3, G, V), 0.5)
    out.values.sum().backward()
    assert torch.equal(out.ids, q(x).ids) and all(p.grad.isfinite().all() for p in q.parameters())


def test_a_low_temperature_leaves_no_gradient_to_the_choice():
    # temperature -> 0: the softmax is one-hot, and one-hot it has no slope
    q, x, u = made(), features(3), noise(3)
    grads = [torch.autograd.grad(q(x, u, t).values.square().sum(), q.logits.weight)[0].norm() for t in (1.0, 1e-4)]
    assert grads[0] > 1e-2 and grads[1] < 1e-12


def test_diversity_at_both_ends():
    # uniform: every group has perplexity V, 1 - G V / (G V) = 0. Collapsed: perplexity 1 each, 1 - G / (G V) = 1 - 1 / V
    even = torch.zeros(3, 4, G, V, dtype=torch.float64)
    one = torch.zeros_like(even)
    one[..., 2] = 1e4
    weight = torch.ones(3, 4)
    assert diversity(even, weight).item() == pytest.approx(0, abs=1e-12)
    assert diversity(one, weight).item() == pytest.approx(1 - 1 / V, abs=1e-12)
    assert perplexity(mean_choice(even, weight)).sum().item() == pytest.approx(G * V)
    # each item sure of another entry is uniform use again: it is the mean that counts
    sure = 1e4 * torch.eye(V, dtype=torch.float64)[:, None].expand(V, G, V)
    assert diversity(sure, torch.ones(V)).item() == pytest.approx(0, abs=1e-12)


def test_minimising_it_spreads_the_use():
    logits = torch.zeros(8, G, V, dtype=torch.float64)
    logits[..., 0] = 2.0
    logits.requires_grad_()
    before = diversity(logits, torch.ones(8))
    before.backward()
    with torch.no_grad():
        assert diversity(logits - 5 * logits.grad, torch.ones(8)) < before
    assert (logits.grad[..., 0] > 0).all() and (logits.grad[..., 1:] < 0).all()


def test_what_has_no_weight_may_be_nan():
    logits = torch.randn(4, G, V, dtype=torch.float64)
    logits[2] = torch.nan
    logits.requires_grad_()
    weight = torch.tensor([1.0, 1, 0, 1])
    loss = diversity(logits, weight)
    torch.testing.assert_close(loss, diversity(logits[[0, 1, 3]], torch.ones(3)))
    loss.backward()
    assert (logits.grad[2] == 0).all() and logits.grad.isfinite().all()
    assert diversity(logits, 0 * weight).isfinite()


def task():
    q, x, u = made(), features(6), noise(6)
    n = 6 // ranks.world()
    mine = slice(ranks.rank() * n, (ranks.rank() + 1) * n)
    weight = torch.tensor([1.0, 0, 0, 1, 1, 1])[mine]
    out = q(x[mine], u[mine], 0.9)
    loss = diversity(out.logits, weight) + ranks.mean(out.values.square(), weight[:, None])
    loss.backward()
    return {"loss": loss.detach()} | {n: ranks.total(p.grad) / ranks.world() for n, p in q.named_parameters()}


def test_two_ranks_equal_one(two_ranks):
    assert_same(two_ranks.run(f"{__file__}:task"), task(), tolerance=1e-12)


def test_groups_must_divide_the_width():
    with pytest.raises(ValueError, match="3 groups do not divide the width 8"):
        ProductQuantiser(6, 8, 3)
