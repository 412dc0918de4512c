"""BYOL's regression and DINO's cross-entropy."""

import math

import pytest
import torch

from unlabeled.core import ranks
from unlabeled.core.losses.distillation import assignments, dino, regression
from unlabeled.core.testing.ranks import assert_same


def rows(count=2, b=8, d=5):
    g = torch.Generator().manual_seed(0)
    return [torch.randn(b, d, generator=g, dtype=torch.float64) for _ in range(count)]


def multi_crop(*z, weight=None):
    """Two teacher crops, and the students of these and of two small ones."""
    targets = [assignments(t, torch.linspace(-1, 1, 5), 0.3) for t in z[:2]]
    return dino(z[2:], targets, 0.5, weight)


CASES = {"regression": (2, lambda *z, weight=None: regression(*z, weight)), "dino": (6, multi_crop)}


def test_regression_of_known_angles():
    z = torch.eye(4, dtype=torch.float64)
    assert regression(z, 3 * z).item() == 0
    assert regression(z, z.roll(1, 0)).item() == 2
    assert regression(z, -z).item() == 4
    # the squared distance of the unit vectors, as the paper writes it
    a, b = rows()
    unit = [x / x.norm(dim=1, keepdim=True) for x in (a, b)]
    expected = (unit[0] - unit[1]).square().sum(1).mean()
    torch.testing.assert_close(regression(a, b), expected, rtol=0, atol=1e-12)


def test_the_losses_stop_no_gradient():
    a, b = (x.requires_grad_() for x in rows())
    regression(a, b).backward()
    assert (b.grad.norm(dim=1) > 0).all()


def test_assignments():
    # equal outputs share alike; the centre is taken off; a low temperature sharpens: e^1 : 1 and e^10 : 1
    assert torch.equal(assignments(torch.ones(2, 4), torch.zeros(4), 0.1), torch.full((2, 4), 0.25))
    z = torch.tensor([[3.0, 2.0]])
    torch.testing.assert_close(assignments(z, z[0], 0.1), torch.full((1, 2), 0.5))
    torch.testing.assert_close(assignments(z, torch.zeros(2), 1.0)[0, 0].item(), math.e / (math.e + 1))
    torch.testing.assert_close(assignments(z, torch.zeros(2), 0.1)[0, 1].item(), 1 / (math.exp(10) + 1))


def test_uniform_students_cost_log_k():
    # whatever the teacher says: log 32 = 3.4657359
    targets = [x.softmax(1) for x in rows(2, d=32)]
    students = [torch.zeros(8, 32, dtype=torch.float64)] * 4
    assert math.isclose(dino(students, targets, 0.1).item(), 3.4657359, abs_tol=1e-7)


def test_sure_and_equal_costs_nothing():
    one_hot = torch.eye(8, dtype=torch.float64)
    assert dino([one_hot * 100] * 3, [one_hot] * 2, 1.0).item() < 1e-12
    # and sure of another prototype the whole margin: 100
    loss = dino([one_hot.roll(1, 0) * 100] * 3, [one_hot] * 2, 1.0).item()
    assert math.isclose(loss, 100, abs_tol=1e-9)


def test_a_crop_is_not_compared_with_itself():
    # the students of the two teacher crops are sure of their own prototype 0 or 1, each teacher of its own: only the
    # other's counts, which is the margin of 10; were a crop compared with itself, half would cost nothing
    first, second = (torch.eye(2, dtype=torch.float64)[[i] * 4] for i in range(2))
    expected = 10 + math.log1p(math.exp(-10))
    assert math.isclose(dino([first * 10, second * 10], [first, second], 1.0).item(), expected, abs_tol=1e-12)
    # a third, small, crop that is sure of 0 meets both teachers: (2 * expected + (expected - 10) + expected) / 4
    found = dino([first * 10, second * 10, first * 10], [first, second], 1.0).item()
    assert math.isclose(found, (4 * expected - 10) / 4, abs_tol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_rows_of_weight_zero_may_hold_nan(name):
    count, loss = CASES[name]
    weight = torch.tensor([1.0, 1, 0, 1, 1, 0, 1, 1])
    there = weight > 0
    full = [z.requires_grad_() for z in rows(count)]
    part = [z.detach()[there].requires_grad_() for z in full]
    with torch.no_grad():
        for z in full:
            z[~there] = torch.nan
    whole, alone = loss(*full, weight=weight), loss(*part)
    torch.testing.assert_close(whole, alone, rtol=0, atol=1e-12)
    whole.backward()
    alone.backward()
    for a, b in zip(full, part, strict=True):
        assert (a.grad[there] - b.grad).abs().max() < 1e-12
    students = full[2:] if name == "dino" else full
    assert all((z.grad[~there] == 0).all() for z in students)
    assert loss(*part, weight=torch.zeros(6)) == 0


@pytest.mark.parametrize("name", CASES)
def test_gradient(name):
    count, loss = CASES[name]
    weight = torch.tensor([1.0, 1, 0, 1]).double()
    z = [x.requires_grad_() for x in rows(count, b=4)]
    assert torch.autograd.gradcheck(lambda *x: loss(*x, weight=weight), z)


@pytest.mark.parametrize("name", CASES)
def test_under_autocast_it_stays_in_single(name):
    count, loss = CASES[name]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(*(z.float() for z in rows(count)))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), loss(*rows(count)), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_lightly_agrees(lightly, name, two_ranks):
    count, loss = CASES[name]
    z = rows(count)
    if name == "regression":
        theirs = 2 + 2 * lightly.NegativeCosineSimilarity()(*z)
    else:
        other = lightly.DINOLoss(5, student_temp=0.5)
        other.center = torch.linspace(-1, 1, 5).view(1, 1, 5)
        theirs = other(z[:2], z[2:], teacher_temp=0.3)
    torch.testing.assert_close(loss(*z), theirs, rtol=0, atol=1e-5)
    for answer in two_ranks.run(f"{__file__}:on_rank", name, None):
        torch.testing.assert_close(answer["loss"], theirs, rtol=0, atol=1e-5)


def on_rank(name, weight):
    """Loss, and its gradient averaged over ranks, on this rank's rows."""
    count, loss = CASES[name]
    n = 8 // ranks.world()
    mine = slice(ranks.rank() * n, (ranks.rank() + 1) * n)
    z = [x[mine].requires_grad_() for x in rows(count)]
    value = loss(*z, weight=None if weight is None else weight[mine])
    value.backward()
    return {"loss": value.detach(), "gradient": ranks.gather(torch.cat([x.grad for x in z], 1)) / ranks.world()}


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_equal_one(two_ranks, name):
    for weight in (None, torch.tensor([1.0, 1, 1, 1, 0, 1, 0, 0])):
        assert_same(two_ranks.run(f"{__file__}:on_rank", name, weight), on_rank(name, weight), tolerance=1e-9)
