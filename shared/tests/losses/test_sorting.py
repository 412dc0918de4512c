"""The differentiable sorting network and the order of groups."""

import math

import pytest
import torch

from unlabeled.core import ranks
from unlabeled.core.losses.sorting import groco, group_order, odd_even
from unlabeled.core.testing.ranks import assert_same


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def row(*values):
    return torch.tensor([values], dtype=torch.float64)


def by_products(x, steepness=1.0):
    """The network of one row as a product of one matrix for every pair that is compared."""
    n = len(x)
    whole = torch.eye(n, dtype=torch.float64)
    for layer in range(n):
        for i in range(layer % 2, n - 1, 2):
            stay = math.atan(steepness * (x[i + 1] - x[i])) / math.pi + 0.5
            swap = torch.eye(n, dtype=torch.float64)
            swap[i, i] = swap[i + 1, i + 1] = stay
            swap[i, i + 1] = swap[i + 1, i] = 1 - stay
            x, whole = x @ swap, whole @ swap
    return whole


def test_two_elements():
    # P = atan(d) / pi + 1/2: .75 of d = 1, .25 of d = -1, and atan(3) / pi + 1/2 = .89758 of d = 1 at steepness 3
    for x, steepness, stays in ((row(0, 1), 1.0, 0.75), (row(1, 0), 1.0, 0.25), (row(0, 1), 3.0, 0.8975836)):
        found = odd_even(x, steepness)[0]
        expected = torch.tensor([[stays, 1 - stays], [1 - stays, stays]], dtype=torch.float64)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("n", [1, 2, 3, 6, 11])
def test_it_is_a_product_of_swaps_and_doubly_stochastic(n):
    x = numbers(4, n)
    found = odd_even(x, 2.0)
    expected = torch.stack([by_products(r, 2.0) for r in x])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.sum(1), torch.ones(4, n, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.sum(2), torch.ones(4, n, dtype=torch.float64), rtol=0, atol=1e-12)
    assert found.min() >= 0


def test_a_steep_network_sorts():
    x = numbers(5, 8)
    found = odd_even(x, 1e9)
    expected = torch.nn.functional.one_hot(x.argsort(1).argsort(1), 8).double()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_what_is_not_there_takes_no_part():
    # the first 0 to 6 elements of a row are sorted as a network of their own size does, the rest stays
    x = numbers(7, 6)
    found = odd_even(x, 1.0, torch.arange(7))
    for count in range(7):
        expected = torch.eye(6, dtype=torch.float64)
        expected[:count, :count] = by_products(x[count, :count])
        torch.testing.assert_close(found[count], expected, rtol=0, atol=1e-12)


def test_the_loss_of_two_elements():
    # -ln(3/4) = .28768, and the wrong way round -ln(1/4) = 1.38629
    for negative, positive, expected in ((0, 1, -math.log(0.75)), (1, 0, math.log(4)), (0.5, 0.5, math.log(2))):
        cost, counts = group_order(row(negative), row(positive))
        assert counts.all() and math.isclose(cost.item(), expected, abs_tol=1e-12)
    assert math.isclose(-math.log(0.75), 0.28768, abs_tol=1e-5)


def test_well_separated_groups_cost_nothing():
    negative, positive = row(-1, 0, 1), row(1, 2)
    losses = [group_order(negative, positive + far)[0].item() for far in (0.0, 10.0, 1e4, 1e12)]
    assert losses == sorted(losses, reverse=True) and losses[0] > 0.3 and 0 <= losses[-1] < 1e-9


def test_it_is_the_binary_cross_entropy_of_both_groups():
    negative, positive = numbers(6, 4).sort(1).values, numbers(6, 3, seed=1).sort(1).values
    p = odd_even(torch.cat([negative, positive], 1))
    truth = torch.tensor([0.0] * 4 + [1.0] * 3).double().expand(6, 7)
    last, first = p[:, :, 4:].sum(2).clamp(0, 1), p[:, :, :4].sum(2).clamp(0, 1)
    bce = torch.nn.functional.binary_cross_entropy
    expected = (bce(last, truth) + bce(first, 1 - truth)) / 2
    torch.testing.assert_close(group_order(negative, positive)[0].mean(), expected, rtol=0, atol=1e-12)


def test_the_order_within_a_group_does_not_matter():
    negative, positive = numbers(6, 5), numbers(6, 3, seed=1)
    expected = group_order(negative, positive)[0]
    moved = group_order(negative[:, [3, 0, 4, 1, 2]], positive[:, [2, 0, 1]])[0]
    assert torch.equal(moved, expected)
    # across the groups it does
    other = group_order(
        torch.cat([negative[:, :4], positive[:, :1]], 1), torch.cat([negative[:, 4:], positive[:, 1:]], 1)
    )
    assert (other[0] - expected).abs().min() > 1e-3


def test_missing_negatives():
    negative, positive = numbers(3, 4), numbers(3, 2, seed=1)
    some = negative.clone()
    some[0, [1, 3]] = some[1] = -torch.inf
    some = some.requires_grad_()
    cost, counts = group_order(some, positive)
    assert counts.tolist() == [True, False, True]
    torch.testing.assert_close(cost[:1], group_order(negative[:1, [0, 2]], positive[:1])[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(cost[2:], group_order(negative[2:], positive[2:])[0], rtol=0, atol=1e-12)
    cost[counts.nonzero()[:, 0]].sum().backward()
    assert some.grad.isfinite().all() and (some.grad[0, [0, 2]] != 0).all()


def crops(count=3, b=8, d=5):
    return [numbers(b, d, seed=i) for i in range(count)]


def test_groco_by_its_definition():
    # 2 large crops and a small one: 1, 1 and 2 positives; 3 negatives of the same crop. Only the anchor has a gradient
    z = [c.requires_grad_() for c in crops()]
    unit = [torch.nn.functional.normalize(c, dim=1) for c in z]
    terms = []
    for i, positives in ((0, [1]), (1, [0]), (2, [0, 1])):
        for b in range(8):
            others = [(unit[i][b] @ unit[i][k].detach()) for k in range(8) if k != b]
            nearest = torch.stack(sorted(others)[-3:])[None]
            own = torch.stack([unit[i][b] @ unit[j][b].detach() for j in positives])[None]
            terms.append(group_order(nearest, own, 2.0)[0])
    # every crop has as many anchors, so that the mean of their means is the mean
    expected = torch.cat(terms).mean()
    loss = groco(z, 2, 3, 2.0)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad(x, z, retain_graph=True) for x in (loss, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)
    assert all(g.abs().max() > 1e-3 for g in gradients[0])


def test_fewer_items_than_negatives():
    # 3 others each: the fourth place of the row itself is empty, whatever the number asked for
    z = crops(2, b=4)
    assert torch.equal(groco(z, 2, 10), groco(z, 2, 4))
    torch.testing.assert_close(groco(z, 2, 10), groco(z, 2, 3), rtol=0, atol=1e-12)
    # one item, or one record: nobody counts
    assert groco([c[:1] for c in z], 2, 10) == 0
    assert groco(z, 2, 10, record=torch.zeros(4, dtype=torch.int64)) == 0


def test_items_of_a_record_are_no_negatives():
    z = [c[:3] for c in crops(2)]
    found = groco(z, 2, 10, record=torch.tensor([0, 0, 1]))
    unit = [torch.nn.functional.normalize(c, dim=1) for c in z]
    terms = []
    for a, p in ((0, 1), (1, 0)):
        for b, others in ((0, [2]), (1, [2]), (2, [0, 1])):
            nearest = torch.stack([unit[a][b] @ unit[a][k] for k in others])[None]
            terms.append(group_order(nearest, (unit[a][b] @ unit[p][b])[None, None])[0])
    torch.testing.assert_close(found, torch.cat(terms).mean(), rtol=0, atol=1e-12)


def test_rows_of_weight_zero_may_hold_nan():
    weight = torch.tensor([1.0, 1, 0, 1, 1, 0, 1, 1])
    expected = groco([c[weight > 0] for c in crops()], 2, 4)
    z = crops()
    z[0][2] = z[1][5] = z[2][2] = torch.nan
    z = [c.requires_grad_() for c in z]
    loss = groco(z, 2, 4, weight=weight)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, z))


def on_rank():
    mine = slice(ranks.rank() * 8 // ranks.world(), (ranks.rank() + 1) * 8 // ranks.world())
    weight, record = torch.tensor([1.0, 1, 0, 1, 0, 1, 0, 1]), torch.tensor([0, 0, 1, 2, 2, 3, 3, 4])
    found = {}
    for negatives in (2, 10):
        z = [c[mine].requires_grad_() for c in crops()]
        loss = groco(z, 2, negatives, 1.0, weight[mine], record[mine])
        loss.backward()
        found[f"loss{negatives}"] = loss.detach()
        found[f"gradient{negatives}"] = ranks.gather(torch.cat([c.grad for c in z], 1)) / ranks.world()
    return found


def test_two_ranks_equal_one(two_ranks):
    assert_same(two_ranks.run(f"{__file__}:on_rank"), on_rank(), tolerance=1e-9)
