"""The term of Mixed Barlow Twins."""

import torch

from unlabeled.core import ranks
from unlabeled.core.losses.decorrelation import mixing, standardised
from unlabeled.core.testing.ranks import assert_same


def vectors(b=8, d=3):
    g = torch.Generator().manual_seed(0)
    return [torch.randn(b, d, generator=g, dtype=torch.float64) + i for i in range(4)]


def test_standardised_is_a_batch_norm():
    z = vectors()[1]
    torch.testing.assert_close(standardised(z), torch.nn.functional.batch_norm(z, None, None, training=True))


def test_by_its_definition_in_six_correlations():
    mixture, first, second, other = vectors()

    def c(a, b):
        return a.T @ b / 8

    expected = sum((c(mixture, z) - (0.3 * c(first, z) + 0.7 * c(other, z))).square().sum() for z in (first, second))
    torch.testing.assert_close(mixing(*vectors(), 0.3), expected, rtol=1e-12, atol=0)
    assert expected > 1


def test_a_linear_map_costs_nothing():
    # without the scale of every dimension: standardised, the deviation of a mixture is not that of its parts
    x1, x2, x = vectors()[:3]
    a = vectors(3, 5)[0]
    other = x2.roll(1, 0)
    parts = [v @ a for v in (0.3 * x1 + 0.7 * other, x1, x2, other)]
    assert mixing(*parts, 0.3) < 3e-27
    centred = [v - v.mean(0) for v in parts]
    assert mixing(*centred, 0.3) < 3e-27
    assert mixing(*(standardised(v) for v in parts), 0.3) > 1e-3
    # the same mixture with another item's parts
    assert mixing(parts[0], *(v @ a for v in (x1, x2, x)), 0.3) > 1e-3


def test_by_hand():
    # two items in one dimension: 1, 3 and 2, 4; what is left of the mixture 2, 2 is 2 - .5 * 1 - .5 * 1 = 1 and
    # 2 - .5 * 3 - .5 * 1 = 0: (1 * 1 / 2)^2 + (1 * 2 / 2)^2
    column = [torch.tensor([[x], [y]], dtype=torch.float64) for x, y in ((2, 2), (1, 3), (2, 4), (1, 1))]
    assert mixing(*column, 0.5) == 1.25


def test_nothing_is_detached():
    z = [v.requires_grad_() for v in vectors()]
    assert all(g.abs().max() > 1e-3 for g in torch.autograd.grad(mixing(*z, 0.3), z))
    assert torch.autograd.gradcheck(lambda *v: mixing(*v, 0.3), [v.requires_grad_() for v in vectors(4, 2)])


def test_rows_of_weight_zero_may_hold_nan():
    weight = torch.tensor([1.0, 1, 0, 1, 1, 0, 1, 1])
    expected = mixing(*(v[weight > 0] for v in vectors()), 0.3)
    z = vectors()
    for i, v in enumerate(z):
        v[2 + 3 * (i % 2)] = torch.nan
    z = [v.requires_grad_() for v in z]
    loss = mixing(*z, 0.3, weight)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, z))
    assert mixing(*vectors(), 0.3, torch.zeros(8)) == 0


def test_under_autocast_it_stays_in_single():
    z = [v.float() for v in vectors()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = mixing(*z, 0.3)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), mixing(*vectors(), 0.3), rtol=1e-5, atol=0)


def on_rank():
    mine = slice(ranks.rank() * 8 // ranks.world(), (ranks.rank() + 1) * 8 // ranks.world())
    weight = torch.tensor([1.0, 1, 0, 1, 0, 1, 0, 0])[mine]
    z = [v[mine].requires_grad_() for v in vectors()]
    unit = [standardised(v, weight) for v in z]
    loss = mixing(*unit, 0.3, weight)
    loss.backward()
    return {"loss": loss.detach(), "gradient": ranks.gather(torch.cat([v.grad for v in z], 1)) / ranks.world()}


def test_two_ranks_equal_one(two_ranks):
    assert_same(two_ranks.run(f"{__file__}:on_rank"), on_rank(), tolerance=1e-9)
