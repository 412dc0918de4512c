"""Masked MSE and its target."""

import math

import pytest
import torch

from unlabeled.core.losses.masked import masked_l1, masked_mse, masked_smooth_l1, normalised_patches


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
