"""The one place where ranks reduce.

A method computes the *global* loss on every rank: it sums numerators and counts through `total` and gathers rows through
`gather`. Their backward passes sum over ranks too, so the gradient that the optimiser sees after averaging over ranks
(what DDP does) equals the gradient of one process that holds the whole batch, also when valid counts differ.

    every rank holds L = f(sum_r x_r); backward of the sum over ranks gives W * dL/dx_r; the mean over W ranks undoes W.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world() -> int:
    """Number of ranks; 1 outside a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)
        return grad


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        return grad.chunk(world())[rank()]


def total(x: Tensor) -> Tensor:
    """Sum over ranks, elementwise, with gradient."""
    return x if world() == 1 else _Total.apply(x)


def gather(x: Tensor) -> Tensor:
    """Rows of all ranks in rank order, with gradient. Ranks hold equally many rows (plans pad with weight 0)."""
    return x if world() == 1 else _Gather.apply(x)


def mean(x: Tensor, weight: Tensor) -> Tensor:
    """sum(x * weight) / sum(weight) over all elements of all ranks; 0 where the weights sum to 0. At least fp32."""
    wide = torch.promote_types(x.dtype, torch.float32)
    x, weight = x.to(wide), weight.to(wide)[(None,) * (x.ndim - weight.ndim)]
    # elements that share a weight are summed first, which is one pass over them instead of three
    shared = [axis for axis, n in enumerate(weight.shape) if n == 1 and x.shape[axis] > 1]
    count = math.prod(x.shape[axis] for axis in shared)
    x = x.sum(shared, keepdim=True) if shared else x
    # an invalid element may hold NaN, and 0 * NaN is NaN: it is taken out before the product
    both = total(torch.stack([torch.where(weight > 0, x, 0).mul(weight).sum(), weight.expand_as(x).sum() * count]))
    return both[0] / both[1].clamp_min(torch.finfo(wide).tiny)


def agree(flag: Tensor) -> Tensor:
    """True on every rank where `flag` is True on any (no gradient)."""
    if world() == 1:
        return flag
    as_int = flag.to(torch.int32)
    dist.all_reduce(as_int, op=dist.ReduceOp.MAX)
    return as_int.bool()
