"""Batch norm whose statistics are those of the whole batch, over all ranks and valid positions only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

from unlabeled.core import ranks


@dataclass(frozen=True)
class Places:
    """The valid positions of a map, of which the host knows how many there are, so that they can be taken out alone.

    at    (n,) their numbers among all N positions of the batch
    back  (N,) of every position its number among those n, or n where it is not valid
    """

    at: Tensor
    back: Tensor

    @classmethod
    def of(cls, valid: Tensor, count: int) -> Places:
        flat = valid.flatten()
        at = torch.nonzero_static(flat, size=count)[:, 0]
        return cls(at, torch.where(flat, flat.cumsum(0) - 1, count))


class RankBatchNorm(nn.Module):
    """Batch norm (Ioffe and Szegedy 2015, alg. 1) over rows and positions of all ranks, in at least fp32.

    Equals `torch.nn.BatchNorm*d` with one process and no weight. Two passes, first the mean and then the squares around
    it, because a difference of two large sums loses its digits in fp32.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))

    def forward(self, x: Tensor, valid: Tensor | None = None, places: Places | None = None) -> Tensor:
        """x (B, C, *S); valid (B, *S) bool or weights, None: all; the valid positions are counted.

        What comes out at the others is of no use: they are normalised too, or 0 where `places` were of use.
        """
        known = (self.running_mean, self.running_var, self.weight, self.bias)
        return batch_norm(x, *known, self.training, self.momentum, self.eps, valid, places)


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    valid: Tensor | None = None,
    places: Places | None = None,
) -> Tensor:
    """`F.batch_norm` over all ranks and valid positions. A surrounding function mode (`nn.masked`) sees it as it sees torch's."""
    if has_torch_function((x,)):
        args = (x, running_mean, running_var, weight, bias, training, momentum, eps, valid, places)
        return handle_torch_function(batch_norm, (x,), *args)
    if places is not None and alone(x, training):
        rows = _Taken.apply(x, places.at, places.back)
        wide = rows.to(torch.promote_types(x.dtype, torch.float32))
        out = F.batch_norm(wide, running_mean, running_var, weight, bias, True, momentum, eps).to(x.dtype)
        return _Put.apply(out, places.at, places.back, x.shape)  # type: ignore[no-any-return]
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    if not training or (valid is None and ranks.world() == 1):
        return F.batch_norm(wide, running_mean, running_var, weight, bias, training, momentum, eps).to(x.dtype)
    column = (1, -1, *[1] * (x.ndim - 2))
    mean, var, count = _moments(wide, valid, column)
    if running_mean is not None and running_var is not None:
        share = momentum * (count > 0).to(wide.dtype)
        _move(running_mean, mean, share)
        _move(running_var, var * (count / (count - 1).clamp_min(1)), share)
    scale = torch.rsqrt(var + eps) if weight is None else weight * torch.rsqrt(var + eps)
    out = (wide - mean.view(column)) * scale.view(column)
    return (out if bias is None else out + bias.view(column)).to(x.dtype)


def alone(x: Tensor, training: bool) -> bool:
    """Whether a batch norm of this map can leave all but the valid positions alone: with channels last each is one row."""
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return last and training and ranks.world() == 1


def _rows(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (N, C), without a copy where the channels are last in memory."""
    return x.movedim(1, -1).flatten(0, -2)


def _spread(rows: Tensor, back: Tensor, shape: torch.Size) -> Tensor:
    """(n, C) -> the map of `shape` with channels last, 0 where nothing belongs; a look-up for every row uses all cores."""
    out = torch.empty(shape, dtype=rows.dtype, device=rows.device, memory_format=torch.channels_last)
    torch.index_select(torch.cat([rows, rows.new_zeros(1, rows.shape[1])]), 0, back, out=_rows(out))
    return out


class _Taken(torch.autograd.Function):
    """(B, C, H, W) -> (n, C), the positions at given places."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, at: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        ctx.shape = x.shape
        return _rows(x).index_select(0, at)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (back,) = ctx.saved_tensors
        return _spread(grad, back, ctx.shape), None, None


class _Put(torch.autograd.Function):
    """(n, C) -> (B, C, H, W), the rows at their places and zeros elsewhere; a map of its own, which the net may change."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, at: Tensor, back: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(at)
        return _spread(rows, back, shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return _rows(grad).index_select(0, *ctx.saved_tensors), None, None, None


def _moments(x: Tensor, valid: Tensor | None, column: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (C,), variance (C,) and number of the positions of all ranks."""
    dims = [i for i in range(x.ndim) if i != 1]
    w = x.new_ones(()) if valid is None else valid.unsqueeze(1).to(x.dtype)
    w = w.expand(x.shape[0], 1, *x.shape[2:])
    # 0 * NaN is NaN, so what is invalid is taken out before the products
    x = x if valid is None else torch.where(w > 0, x, 0)
    both = ranks.total(torch.cat([w.sum()[None], (x * w).sum(dims)]))
    count = both[0].detach()
    mean = both[1:] / count.clamp_min(1)
    var = ranks.total(((x - mean.view(column)).square() * w).sum(dims)) / count.clamp_min(1)
    return mean, var, count


@torch.no_grad()
def _move(buffer: Tensor, to: Tensor, share: Tensor) -> None:
    buffer.copy_(buffer + (to - buffer) * share)
