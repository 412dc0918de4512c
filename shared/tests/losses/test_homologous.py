"""The homologous contrast."""

import math

import pytest
import torch
import torch.nn.functional as F

from unlabeled.core import ranks
from unlabeled.core.losses.homologous import homologous
from unlabeled.core.testing.ranks import assert_same


@pytest.mark.parametrize(("groups", "size", "t"), [(2, 8, 0.25), (4, 4, 0.25), (3, 2, 1.0)])
def test_orthonormal_groups(groups, size, t):
    # an anchor has size - 1 positives at cosine 1 and (groups - 1) size negatives at 0
    label = torch.arange(groups).repeat_interleave(size)[None]
    z = 3 * torch.eye(groups, dtype=torch.float64)[label]
    expected = math.log((size - 1) * math.exp(1 / t) + (groups - 1) * size) - 1 / t
    loss = homologous(z, label, torch.ones(1, groups * size, dtype=torch.bool), t)
    assert math.isclose(loss.item(), expected, abs_tol=1e-12)


def test_collapsed():
    # L - 1 others alike
    label = torch.arange(2).repeat(5)[None]
    loss = homologous(torch.ones(1, 10, 3), label, torch.ones(1, 10, dtype=torch.bool), 0.1)
    assert math.isclose(loss.item(), math.log(9), abs_tol=1e-6)


def given():
    g = torch.Generator().manual_seed(0)
    z = torch.randn(4, 7, 5, generator=g, dtype=torch.float64)
    label = torch.randint(3, (4, 7), generator=g)
    valid = torch.rand(4, 7, generator=g) < 0.7
    return z, label, valid


def test_by_its_definition():
    z, label, valid = given()
    unit, terms = F.normalize(z, dim=-1), []
    for b in range(4):
        there = [i for i in range(7) if valid[b, i]]
        for i in there:
            s = {j: float(unit[b, i] @ unit[b, j]) / 0.3 for j in there if j != i}
            positive = [j for j in s if label[b, j] == label[b, i]]
            if positive and len(positive) < len(s):
                total = math.log(sum(math.exp(x) for x in s.values()))
                terms.append(sum(total - s[j] for j in positive) / len(positive))
    assert len(terms) > 5
    assert math.isclose(homologous(z, label, valid, 0.3).item(), sum(terms) / len(terms), abs_tol=1e-12)


def test_what_is_invalid_may_hold_anything():
    z, label, valid = given()
    spoiled = z.masked_fill(~valid[..., None], torch.nan).requires_grad_()
    loss = homologous(spoiled, label, valid, 0.3)
    torch.testing.assert_close(loss, homologous(z, label, valid, 0.3), rtol=0, atol=1e-12)
    loss.backward()
    assert (spoiled.grad[~valid] == 0).all() and spoiled.grad.isfinite().all()


def test_alone_nothing_is_to_be_told():
    z = torch.randn(2, 4, 3, requires_grad=True)
    one = torch.zeros(2, 4, dtype=torch.int64)
    loss = homologous(z, one, torch.ones(2, 4, dtype=torch.bool), 0.3)
    loss.backward()
    assert loss == 0 and (z.grad == 0).all()


def on_rank():
    n = 4 // ranks.world()
    z, label, valid = (x[ranks.rank() * n :][:n] for x in given())
    z.requires_grad_()
    loss = homologous(z, label, valid, 0.3)
    loss.backward()
    return {"loss": loss.detach(), "grad": ranks.gather(z.grad) / ranks.world()}


def test_two_ranks_equal_one(two_ranks):
    assert_same(two_ranks.run(f"{__file__}:on_rank"), on_rank(), tolerance=1e-9)
