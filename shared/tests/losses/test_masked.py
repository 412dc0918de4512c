"""Losses over what is hidden, and their target."""

import math

import pytest
import torch

from unlabeled.core import ranks
from unlabeled.core.losses.masked import (
    masked_cross_entropy,
    masked_l1,
    masked_mse,
    masked_smooth_l1,
    normalised_patches,
)
from unlabeled.core.testing.ranks import assert_same


def everything(x):
    return torch.ones_like(x, dtype=torch.bool)


def test_perfect_prediction_is_zero_and_an_offset_is_its_square():
    x = torch.randn(2, 3, 4)
    assert masked_mse(x, x, torch.ones_like(x)) == 0
    torch.testing.assert_close(masked_mse(x + 0.5, x, torch.ones_like(x)), torch.tensor(0.25))


def test_weighted_mean_by_hand():
    # errors 1, 2, 3 with weights 1, 2, 0: (1 + 2 * 4) / 3 = 3
    pred, target = torch.tensor([[[1.0, 2.0, 3.0]]]), torch.zeros(1, 1, 3)
    assert masked_mse(pred, target, torch.tensor([[[1.0, 2.0, 0.0]]])) == 3


def test_what_does_not_count_may_hold_anything():
    pred = torch.zeros(1, 2, 2, requires_grad=True)
    target = torch.tensor([[[1.0, 1.0], [torch.nan, torch.inf]]])
    loss = masked_mse(pred, target, torch.tensor([[[1.0], [0.0]]]))
    loss.backward()
    # mean over 2 elements of (0 - 1)^2 = 1, gradient 2 * (0 - 1) / 2 = -1
    assert loss == 1
    assert pred.grad.tolist() == [[[-1, -1], [0, 0]]]
    assert masked_mse(pred, target, torch.zeros(1, 2, 1)) == 0


def test_half_precision_is_summed_in_single():
    # 3 * 10^4 squared is 9 * 10^8, infinite in fp16
    pred = torch.full((1, 1, 8), 3e4, dtype=torch.float16)
    loss = masked_mse(pred, torch.zeros_like(pred), torch.ones_like(pred))
    assert loss.dtype == torch.float32
    assert math.isclose(loss.item(), 9e8, rel_tol=1e-3)


def test_normalised_patch_by_hand():
    # 1, 2, 3, 6: mean 3, unbiased variance (4 + 1 + 0 + 9) / 3 = 14/3
    patch = torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=torch.float64)
    out = normalised_patches(patch, everything(patch))
    torch.testing.assert_close(out, torch.tensor([-2.0, -1, 0, 3], dtype=torch.float64) / math.sqrt(14 / 3 + 1e-6))
    # the fourth is invalid: mean 2, variance 1
    out = normalised_patches(patch, torch.tensor([True, True, True, False]))
    torch.testing.assert_close(out, torch.tensor([-1.0, 0, 1, 0], dtype=torch.float64) / math.sqrt(1 + 1e-6))


def test_constant_patch_is_zero():
    patch = torch.full((2, 3, 8), 4.2)
    assert normalised_patches(patch, everything(patch)).abs().max() < 1e-3
    single = torch.tensor([[True] + [False] * 7]).expand(2, 3, 8)
    assert (normalised_patches(patch, single) == 0).all()


def test_zero_prediction_of_a_normalised_patch_costs_767_768ths():
    # sum (x - mean)^2 / P = var (P - 1) / P with the unbiased variance, so the loss is (P - 1)/P * var/(var + eps);
    # P = 768 and var = 1 give 767/768 = .99869792, less 10^-6 of it
    torch.manual_seed(0)
    x = torch.randn(2, 5, 768, dtype=torch.float64)
    x = (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True)
    loss = masked_mse(torch.zeros_like(x), normalised_patches(x, everything(x)), torch.ones_like(x))
    assert math.isclose(loss.item(), 767 / 768 / (1 + 1e-6), abs_tol=1e-12)
    assert math.isclose(loss.item(), 0.9986969, abs_tol=1e-7)


def test_l1_of_an_offset_is_its_size():
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    for offset in (0.5, -2.0):
        torch.testing.assert_close(masked_l1(x + offset, x, torch.ones_like(x)).item(), abs(offset))


def test_smooth_l1_by_hand_and_as_torch():
    # beta 1: e^2 / 2 below 1, |e| - 1/2 above; both 1/2 with slope 1 at 1
    zero, one = torch.zeros(1, 1, 1, dtype=torch.float64), torch.ones(1, 1, 1)
    for e, expected in ((0.0, 0.0), (0.5, 0.125), (-0.5, 0.125), (1.0, 0.5), (3.0, 2.5), (-3.0, 2.5)):
        assert masked_smooth_l1(zero + e, zero, one).item() == expected
    x = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2
    expected = torch.nn.functional.smooth_l1_loss(x, torch.zeros_like(x), beta=0.5)
    torch.testing.assert_close(masked_smooth_l1(x, torch.zeros_like(x), torch.ones_like(x), beta=0.5), expected)


@pytest.mark.parametrize("loss", [masked_mse, masked_l1, masked_smooth_l1])
def test_what_has_no_weight_gets_no_gradient_and_may_be_nan(loss):
    pred = torch.tensor([[[1.0, 2.0], [torch.nan, 5.0]]], requires_grad=True)
    value = loss(pred, torch.tensor([[[0.0, 0.0], [0.0, torch.nan]]]), torch.tensor([[[1.0], [0.0]]]))
    value.backward()
    assert value.isfinite() and (pred.grad[0, 1] == 0).all() and (pred.grad[0, 0] > 0).all()


def some_logits(*shape):
    return 3 * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_equal_logits_cost_log_k(smoothing):
    # -log(1/K) of every class, so of any mixture of them: ln 8192 = 9.0109133
    ids = torch.tensor([[0, 8191, 77]])
    loss = masked_cross_entropy(torch.full((1, 3, 8192), 4.2, dtype=torch.float64), ids, torch.ones(1, 3), smoothing)
    assert math.isclose(loss.item(), 9.0109133, abs_tol=1e-7)


def test_a_sure_prediction_with_smoothing_in_closed_form():
    # logit a for the right one of K = 4, 0 elsewhere, Z = e^a + 3: log Z - a for the right one, log Z for the others.
    # The target has 1 - s + s/4 there and s/4 in each other: log Z - a (1 - s + s/4)
    a, s = 5.0, 0.2
    logits = a * torch.eye(4, dtype=torch.float64)[[2, 0]]
    for smoothing in (0.0, s):
        expected = math.log(math.exp(a) + 3) - a * (1 - smoothing + smoothing / 4)
        found = masked_cross_entropy(logits, torch.tensor([2, 0]), torch.ones(2), smoothing).item()
        assert math.isclose(found, expected, abs_tol=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_cross_entropy_as_torch_where_all_count_alike(smoothing):
    logits, ids = some_logits(4, 6, 7), torch.arange(24).reshape(4, 6) % 7
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten(), label_smoothing=smoothing)
    torch.testing.assert_close(masked_cross_entropy(logits, ids, torch.ones(4, 6), smoothing), expected)


def test_cross_entropy_is_weighted_and_reads_nothing_without_weight():
    # tokens of cost ln 2 and ln 3 with weights 1 and 2, and one that holds NaN and no class: (ln 2 + 2 ln 3) / 3
    logits = torch.zeros(3, 3, dtype=torch.float64)
    logits[0, 2], logits[2] = -torch.inf, torch.nan
    logits.requires_grad_()
    loss = masked_cross_entropy(logits, torch.tensor([0, 1, -100]), torch.tensor([1.0, 2.0, 0.0]))
    assert math.isclose(loss.item(), (math.log(2) + 2 * math.log(3)) / 3, abs_tol=1e-12)
    loss.backward()
    # softmax less one-hot, in shares of the weight
    expected = torch.tensor([[-0.5, 0.5, 0.0], [2 / 3, -4 / 3, 2 / 3], [0.0, 0.0, 0.0]], dtype=torch.float64) / 3
    torch.testing.assert_close(logits.grad, expected)
    assert masked_cross_entropy(logits, torch.zeros(3, dtype=torch.int64), torch.zeros(3)) == 0


def test_cross_entropy_of_half_precision_is_single():
    logits = some_logits(2, 5, 9).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = masked_cross_entropy(logits, torch.zeros(2, 5, dtype=torch.int64), torch.ones(2, 5))
    assert loss.dtype == torch.float32
    assert torch.equal(
        loss, masked_cross_entropy(logits.float(), torch.zeros(2, 5, dtype=torch.int64), torch.ones(2, 5))
    )


def cross_entropy_on_rank():
    """Of this rank's half of the rows: 1 of 9 tokens that count is on the first."""
    logits, ids = some_logits(4, 5, 6), torch.arange(20).reshape(4, 5) % 6
    weight = torch.zeros(4, 5)
    weight[1, 3], weight[2], weight[3, :3] = 1.0, 0.5, 2.0
    n = 4 // ranks.world()
    mine = slice(ranks.rank() * n, (ranks.rank() + 1) * n)
    given = logits[mine].requires_grad_()
    loss = masked_cross_entropy(given, ids[mine], weight[mine], 0.1)
    loss.backward()
    # DDP's mean over ranks undoes the sum over them
    return {"loss": loss.detach(), "grad": ranks.gather(given.grad) / ranks.world()}


def test_cross_entropy_on_two_ranks_equals_one(two_ranks):
    assert_same(two_ranks.run(f"{__file__}:cross_entropy_on_rank"), cross_entropy_on_rank(), tolerance=1e-12)
