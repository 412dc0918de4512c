"""What a student says of hidden patches."""

import math

import pytest
import torch

from unlabeled.core import ranks
from unlabeled.core.losses.distillation import assignments
from unlabeled.core.losses.patches import hidden_assignments, patch_contrast
from unlabeled.core.testing.ranks import assert_same

B, M, K = 8, 6, 32


def given():
    g = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(B, M, K, generator=g, dtype=torch.float64) for _ in range(2))
    hidden = torch.rand(B, M, generator=g) < 0.4
    hidden[3] = False
    return student, assignments(teacher, torch.zeros(K), 0.07), hidden


def test_no_choice_costs_log_k():
    # log 32 where each item hides something; an item that hides nothing counts as 0: 7 / 8 of it
    student, target, hidden = given()
    even = torch.zeros_like(student)
    assert math.isclose(
        hidden_assignments(even, target, 0.1, hidden | True, torch.ones(B)).item(), 3.4657359, abs_tol=1e-7
    )
    loss = hidden_assignments(even, target, 0.1, hidden, torch.ones(B)).item()
    assert math.isclose(loss, 7 / 8 * 3.4657359, abs_tol=1e-7)


def test_the_same_choice_costs_nothing():
    student, _, hidden = given()
    one = torch.nn.functional.one_hot(student.argmax(-1), K).double()
    assert hidden_assignments(10 * one, one, 0.1, hidden, torch.ones(B)) < 1e-12


def test_lightly_agrees(lightly):
    student, _, hidden = given()
    teacher = torch.randn(B, M, K, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    theirs = lightly.IBOTPatchLoss(output_dim=K, teacher_temp=0.07, student_temp=0.1)
    expected = theirs(teacher[hidden], student[hidden], hidden.reshape(B, 2, 3))
    target = assignments(teacher, torch.zeros(K), 0.07)
    torch.testing.assert_close(
        hidden_assignments(student, target, 0.1, hidden, torch.ones(B)), expected, rtol=0, atol=1e-5
    )


def test_only_hidden_patches_and_items_of_a_weight_count():
    student, target, hidden = given()
    weight = torch.tensor([1.0, 1, 0, 1, 0, 1, 1, 1])
    counts = hidden & (weight[:, None] > 0)
    spoiled = torch.where(counts[..., None], student, torch.nan).requires_grad_()
    loss = hidden_assignments(spoiled, torch.where(counts[..., None], target, torch.nan), 0.1, hidden, weight)
    there = weight > 0
    plain = hidden_assignments(student[there], target[there], 0.1, hidden[there], torch.ones(6))
    torch.testing.assert_close(loss, plain, rtol=0, atol=1e-12)
    loss.backward()
    assert (spoiled.grad[~counts] == 0).all() and spoiled.grad.isfinite().all()
    assert (spoiled.grad[counts] != 0).any(-1).all()


@pytest.mark.parametrize("what", ["nothing hidden", "no item", "no patch"])
def test_nothing_to_say_costs_nothing(what):
    student, target, hidden = given()
    weight = torch.zeros(B) if what == "no item" else torch.ones(B)
    m = 0 if what == "no patch" else M
    student.requires_grad_()
    loss = hidden_assignments(student[:, :m], target[:, :m], 0.1, hidden[:, :m] & (what != "nothing hidden"), weight)
    loss.backward()
    assert loss.item() == 0 and (student.grad == 0).all()


def test_gradient():
    student, target, hidden = (x[:2, :3] for x in given())
    weight = torch.tensor([1.0, 1])
    assert torch.autograd.gradcheck(
        lambda s: hidden_assignments(s, target, 0.1, hidden, weight), student.requires_grad_()
    )


def test_under_autocast_it_stays_in_single():
    student, target, hidden = given()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = hidden_assignments(student.float(), target.float(), 0.1, hidden, torch.ones(B))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(
        loss.double(), hidden_assignments(student, target, 0.1, hidden, torch.ones(B)), rtol=1e-5, atol=0
    )


def on_rank(weight):
    """Loss, and its gradient averaged over ranks, on this rank's rows."""
    n = B // ranks.world()
    mine = slice(ranks.rank() * n, (ranks.rank() + 1) * n)
    student, target, hidden = (x[mine] for x in given())
    student = student.clone().requires_grad_()
    loss = hidden_assignments(student, target, 0.1, hidden, weight[mine])
    loss.backward()
    return {"loss": loss.detach(), "gradient": ranks.gather(student.grad) / ranks.world()}


def test_two_ranks_equal_one(two_ranks):
    for weight in (torch.ones(B), torch.tensor([1.0, 1, 1, 1, 0, 1, 0, 0])):
        assert_same(two_ranks.run(f"{__file__}:on_rank", weight), on_rank(weight), tolerance=1e-9)


def pairs():
    g = torch.Generator().manual_seed(2)
    student, teacher = (torch.randn(B, M, 5, generator=g, dtype=torch.float64) for _ in range(2))
    return student, teacher, given()[2]


RECORD = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3])


def test_the_contrast_by_hand():
    student, teacher, hidden = pairs()
    weight = torch.tensor([1.0, 1, 0, 1, 1, 1, 1, 1])
    unit = torch.nn.functional.normalize
    for record in (None, RECORD):
        items = []
        for i in (i for i in range(B) if weight[i] > 0):
            losses = [torch.zeros((), dtype=torch.float64)]
            for p in (p for p in range(M) if hidden[i, p]):
                met = [
                    teacher[j, q]
                    for j in range(B)
                    for q in range(M)
                    if hidden[j, q] and weight[j] > 0 and (record is None or j == i or record[j] != record[i])
                ]
                similarity = unit(torch.stack(met), dim=1) @ unit(student[i, p], dim=0) / 0.2
                own = unit(teacher[i, p], dim=0) @ unit(student[i, p], dim=0) / 0.2
                losses.append(similarity.logsumexp(0) - own)
            items.append(sum(losses) / max(1, len(losses) - 1))
        loss = patch_contrast(student, teacher, 0.2, hidden, weight, record)
        torch.testing.assert_close(loss, sum(items) / 7, rtol=0, atol=1e-12)


def test_alike_patches_cost_the_log_of_their_number():
    # 8 items with 6 patches each: log 48; with records, the three items of the first meet themselves and 5 others, ...
    alike = torch.ones(B, M, 5, dtype=torch.float64)
    everywhere = torch.ones(B, M, dtype=torch.bool)
    loss = patch_contrast(alike, alike, 0.2, everywhere, torch.ones(B))
    assert math.isclose(loss.item(), math.log(48), abs_tol=1e-12)
    loss = patch_contrast(alike, alike, 0.2, everywhere, torch.ones(B), RECORD)
    expected = (3 * math.log(6 * 6) + 4 * math.log(6 * 7) + math.log(6 * 8)) / 8
    assert math.isclose(loss.item(), expected, abs_tol=1e-12)


def test_orthonormal_patches_that_agree():
    # 2 items with 3 patches, 6 axes: log(e^5 + 5) - 5 at a temperature of .2
    axes = torch.eye(6, dtype=torch.float64).view(2, 3, 6)
    loss = patch_contrast(axes, 3 * axes, 0.2, torch.ones(2, 3, dtype=torch.bool), torch.ones(2))
    assert math.isclose(loss.item(), math.log(math.exp(5) + 5) - 5, abs_tol=1e-12)


def test_the_contrast_of_what_does_not_count():
    student, teacher, hidden = pairs()
    weight = torch.tensor([1.0, 1, 0, 1, 0, 1, 1, 1])
    counts = hidden & (weight[:, None] > 0)
    plain = patch_contrast(student, teacher, 0.2, hidden, weight)
    spoiled = torch.where(counts[..., None], student, torch.nan).requires_grad_()
    loss = patch_contrast(spoiled, torch.where(counts[..., None], teacher, torch.nan), 0.2, hidden, weight)
    torch.testing.assert_close(loss, plain, rtol=0, atol=1e-12)
    loss.backward()
    assert (spoiled.grad[~counts] == 0).all() and spoiled.grad.isfinite().all()
    student.requires_grad_()
    nothing = patch_contrast(student, teacher, 0.2, hidden & False, weight, RECORD)
    nothing.backward()
    assert nothing.item() == 0 and (student.grad == 0).all()


def test_gradient_of_the_contrast():
    student, teacher, hidden = (x[:3, :3] for x in pairs())
    assert torch.autograd.gradcheck(
        lambda s: patch_contrast(s, teacher, 0.2, hidden, torch.ones(3)), student.requires_grad_()
    )


def contrast_on_rank(weight, record):
    n = B // ranks.world()
    mine = slice(ranks.rank() * n, (ranks.rank() + 1) * n)
    student, teacher, hidden = (x[mine] for x in pairs())
    student = student.clone().requires_grad_()
    loss = patch_contrast(student, teacher, 0.2, hidden, weight[mine], None if record is None else record[mine])
    loss.backward()
    return {"loss": loss.detach(), "gradient": ranks.gather(student.grad) / ranks.world()}


def test_two_ranks_contrast_as_one(two_ranks):
    for given_ in ((torch.ones(B), None), (torch.tensor([1.0, 1, 1, 1, 0, 1, 0, 0]), RECORD)):
        found = two_ranks.run(f"{__file__}:contrast_on_rank", *given_)
        assert_same(found, contrast_on_rank(*given_), tolerance=1e-9)
