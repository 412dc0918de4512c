"""Which hidden patch belongs in a hidden place."""

import math

import torch

from unlabeled.core import ranks
from unlabeled.core.losses.matching import matching
from unlabeled.core.testing.ranks import assert_same

ALL = torch.ones(2, 4, dtype=torch.bool)
ONES = torch.ones(2)


def test_constant_embeddings_leave_a_guess():
    q = torch.randn(2, 4, 3, dtype=torch.float64)
    assert math.isclose(matching(q, torch.ones_like(q), ALL, ONES).item(), math.log(4), abs_tol=1e-12)
    # a row with 2 valid ones guesses between these
    valid = ALL.clone()
    valid[1, 2:] = False
    loss = matching(q, torch.ones_like(q), valid, ONES).item()
    assert math.isclose(loss, (4 * math.log(4) + 2 * math.log(2)) / 6, abs_tol=1e-12)


def test_orthonormal_embeddings():
    # the query is its own patch, 2 long: logits 4 and 0, 0, 0; or is at right angles to all: ln 4
    z = 2 * torch.eye(8, dtype=torch.float64)[:4].expand(2, -1, -1)
    assert math.isclose(matching(z, z, ALL, ONES).item(), math.log(math.exp(4) + 3) - 4, abs_tol=1e-12)
    other = torch.eye(8, dtype=torch.float64)[4:].expand(2, -1, -1)
    assert math.isclose(matching(other, z, ALL, ONES).item(), math.log(4), abs_tol=1e-12)


def test_order_does_not_matter_and_distractors_do():
    g = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, 4, 3, dtype=torch.float64, generator=g) for _ in range(2))
    order = torch.tensor([2, 0, 3, 1])
    loss = matching(q, k, ALL, ONES)
    torch.testing.assert_close(matching(q[:, order], k[:, order], ALL, ONES), loss, rtol=0, atol=1e-12)
    assert (matching(q, k[:, order], ALL, ONES) - loss).abs() > 1e-3


def given():
    g = torch.Generator().manual_seed(0)
    q, k = (torch.randn(4, 3, 5, dtype=torch.float64, generator=g) for _ in range(2))
    valid = torch.ones(4, 3, dtype=torch.bool)
    valid[0, 1:], valid[3, 2] = False, False
    return q, k, valid, torch.tensor([1.0, 1, 0, 1])


def test_fillers_and_rows_of_weight_zero_change_nothing():
    q, k, valid, weight = given()
    spoiled = [torch.where((valid & (weight > 0)[:, None])[..., None], x, 9.0).requires_grad_() for x in (q, k)]
    loss = matching(*spoiled, valid, weight)
    torch.testing.assert_close(loss, matching(q, k, valid, weight), rtol=0, atol=1e-12)
    loss.backward()
    for x in spoiled:
        assert (x.grad[~valid] == 0).all() and (x.grad[2] == 0).all() and x.grad[1].abs().sum() > 0


def on_rank():
    n = 4 // ranks.world()
    q, k, valid, weight = (x[ranks.rank() * n :][:n] for x in given())
    q.requires_grad_()
    loss = matching(q, k, valid, weight)
    loss.backward()
    return {"loss": loss.detach(), "grad": ranks.gather(q.grad) / ranks.world()}


def test_two_ranks_equal_one(two_ranks):
    assert_same(two_ranks.run(f"{__file__}:on_rank"), on_rank(), tolerance=1e-9)
