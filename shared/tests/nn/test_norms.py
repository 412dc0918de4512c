"""Batch norm over ranks and valid positions."""

import pytest
import torch

from unlabeled.core import ranks
from unlabeled.core.nn.norms import RankBatchNorm
from unlabeled.core.testing.ranks import assert_same


def step(norm, x, *args):
    x = x.clone().requires_grad_()
    y = norm(x, *args)
    (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)).sum().backward()
    return y.detach(), x.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var


@pytest.mark.parametrize("shape", [(7, 3), (4, 3, 9), (2, 3, 4, 5)])
def test_equals_torch(shape):
    torch.manual_seed(0)
    ours = RankBatchNorm(3).double()
    theirs = {2: torch.nn.BatchNorm1d, 3: torch.nn.BatchNorm1d, 4: torch.nn.BatchNorm2d}[len(shape)](3).double()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        p.data.copy_(q.data.copy_(torch.randn(3)))
    for _ in range(2):
        x = torch.randn(*shape, dtype=torch.float64) * 3 + 5
        for a, b in zip(step(ours, x), step(theirs, x), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-12)


def test_only_valid_positions_count():
    # equals torch on the gathered valid positions; the others hold NaN
    torch.manual_seed(0)
    x = torch.randn(4, 3, 6, dtype=torch.float64)
    valid = torch.rand(4, 6) < 0.6
    x[~valid.unsqueeze(1).expand_as(x)] = torch.nan
    ours, theirs = RankBatchNorm(3).double(), torch.nn.BatchNorm1d(3).double()
    y = ours(x, valid).transpose(1, 2)[valid]
    torch.testing.assert_close(y, theirs(x.transpose(1, 2)[valid]), rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=0, atol=1e-12)


def test_nothing_valid_moves_nothing():
    norm = RankBatchNorm(2)
    out = norm(torch.randn(3, 2), torch.zeros(3))
    assert out.isfinite().all()
    assert norm.running_mean.tolist() == [0, 0]
    assert norm.running_var.tolist() == [1, 1]


def test_a_large_offset_keeps_its_digits():
    # fp32, mean 10000 and deviation 0.1: sums of squares near 1e8 have a step of 8, two passes keep the variance to 1 %
    # (the input itself is rounded to 2^-10, which adds (2^-10)^2 / 12, a hundred-thousandth of the variance)
    torch.manual_seed(0)
    x = 1e4 + 0.1 * torch.randn(512, 1)
    out = RankBatchNorm(1, eps=1e-12)(x, torch.ones(512))
    assert abs(out.std().item() - 1) < 0.01


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5), (2, 3, 4, 5)])
def test_an_all_valid_mask_changes_nothing(shape: tuple[int, ...]) -> None:
    # torch's own kernel runs where no mask is given, ours where one is: values, gradients and moments agree
    found = []
    for valid in (None, torch.ones(shape[0], *shape[2:], dtype=torch.bool)):
        torch.manual_seed(0)
        norm, x = RankBatchNorm(3).double(), torch.randn(shape, dtype=torch.float64, requires_grad=True)
        (norm(x, valid) ** 3).sum().backward()
        found.append([x.grad, norm.weight.grad, norm.running_mean, norm.running_var])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def task_unequal_counts():
    torch.manual_seed(0)
    x = torch.randn(6, 3, 5, dtype=torch.float64) + 2
    # rank 0 would hold 13 valid positions, rank 1 only 2
    valid = torch.ones(6, 5, dtype=torch.bool)
    valid[0, :2] = valid[3:, :] = False
    valid[5, :2] = True
    scale = torch.randn_like(x)
    n = 6 // ranks.world()
    rows = slice(ranks.rank() * n, (ranks.rank() + 1) * n)
    norm = RankBatchNorm(3).double()
    mine = x[rows].clone().requires_grad_()
    y = norm(mine, valid[rows])
    ranks.total((y * scale[rows] * valid[rows].unsqueeze(1)).sum()).backward()
    # every rank's loss is the global one, so after the sum over ranks a gradient counts `world` times
    grads = torch.stack([norm.weight.grad, norm.bias.grad])
    return {
        "y": ranks.gather(y.detach()),
        "x": ranks.gather(mine.grad) / ranks.world(),
        "parameters": ranks.total(grads) / ranks.world(),
        "mean": norm.running_mean,
        "var": norm.running_var,
    }


def test_two_ranks_with_unequal_counts_equal_one(two_ranks):
    assert_same(two_ranks.run(f"{__file__}:task_unequal_counts"), task_unequal_counts(), tolerance=1e-12)
