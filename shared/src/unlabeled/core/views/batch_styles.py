"""One style for a whole batch (Scalbert et al. 2023, Towards domain-invariant SSL with Batch Styles Standardization)."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from unlabeled.core import ranks
from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Dense
from unlabeled.core.streams import Draw
from unlabeled.core.tokens.extent import extent

FAINT = 1e-6  # of a channel's root mean square: an amplitude below it is rounding, and its phase means nothing


def batch_styles(
    x: Dense, draw: Draw, spec: InputSpec, *, low: float = 0.02, high: float = 0.2, probability: float = 1.0
) -> Dense:
    """All items get the low-frequency amplitudes of one of them, channel by channel; their phases stay.

    low, high    which share of the spectrum is low is drawn between them, once for the batch: the frequencies below
                 share ** (1 / axes) of the highest along every axis, with the mean of the item among them. 0: none
    probability  that the batch gets one style at all

    The style is the item with the lowest draw, among those of all ranks that hold anything valid: another one for every
    batch and view, the same on every rank. A spectrum is that of an item's own extent, in cycles per extent, so that padding
    changes nothing, and items of unlike size share what both have. Invalid cells inside the extent count as the mean of the
    valid ones, and keep what they hold. A frequency that an item does not have has no phase, and gets no amplitude. With
    several ranks this waits for the device once, to learn the largest grid. Raises RequestError for what lies on no grid,
    and for shares that are none.

    The paper draws the share of the area too (its figure 1); from where to where is decided here.
    """
    if spec.layout != "dense":
        raise RequestError(
            "views: batch_styles needs an input on a regular grid; leave it out for sequences and graphs"
        )
    if not (0 <= low <= high <= 1 and 0 <= probability <= 1):
        raise RequestError(
            f"views: batch_styles was given low {low:g}, high {high:g} and probability {probability:g}; they are shares, "
            "and low is at most high"
        )
    there = ranks.gather(x.valid.flatten(1).any(1).byte()) > 0  # not every backend gathers booleans
    lot = ranks.gather(draw.uniform("style", 3))
    style = lot[:, 0].masked_fill(~there, 2.0).argmin()[None]
    _, share, once = lot.index_select(0, style)[0].unbind()
    side = (low + (high - low) * share) ** (1 / spec.rank) * (once < probability)

    box = extent(x.valid)
    lengths = torch.stack([last - first + 1 for first, last in box], 1)
    cycles = _cycles(x, high ** (1 / spec.rank))
    highest = torch.minimum(lengths, ranks.gather(lengths).index_select(0, style)) / 2  # that both have
    within = torch.ones_like(lengths[:, 0], dtype=torch.bool)
    for axis, k in enumerate(cycles):
        here = k.abs() < side * highest[:, axis, None]
        within = within[..., None] & here.view(x.size, *[1] * axis, len(k))

    waves = [_waves(k, *ends, n, x.values.dtype) for k, ends, n in zip(cycles, box, x.values.shape[2:], strict=True)]
    filled, rms = _filled(x)
    spectrum = filled.to(waves[0].dtype)
    for axis, wave in enumerate(waves, 2):
        wave = wave / lengths[:, axis - 2, None, None]
        spectrum = torch.einsum("b...n,bfn->b...f", spectrum.movedim(axis, -1), wave).movedim(-1, axis)
    amplitude = spectrum.abs()
    number = torch.arange(x.size, device=style.device) + ranks.rank() * x.size
    wanted = ranks.total(torch.where(_each(number == style, amplitude), amplitude, 0).sum(0))
    loud = amplitude > FAINT * rms
    change = torch.where(loud, wanted * spectrum / torch.where(loud, amplitude, 1), 0) - spectrum
    change = torch.where(within[:, None], change, 0)
    for axis, wave in enumerate(waves, 2):
        change = torch.einsum("b...f,bfn->b...n", change.movedim(axis, -1), wave.conj()).movedim(-1, axis)
    return replace(x, values=torch.where(x.valid, x.values + change.real, x.values))


def _cycles(x: Dense, side: float) -> list[Tensor]:
    """Along each axis the numbers of cycles that can be low on the largest grid of any rank: -K ... K."""
    grid = list(x.values.shape[2:])
    if ranks.world() > 1:
        grid = ranks.gather(torch.tensor([grid], device=x.values.device)).amax(0).tolist()
    most = [math.floor(side * n / 2) for n in grid]
    return [torch.arange(-k, k + 1, device=x.values.device) for k in most]


def _waves(k: Tensor, first: Tensor, last: Tensor, n: int, dtype: torch.dtype) -> Tensor:
    """(B, K, n) complex: so many cycles k (K,) over the cells first ... last (B,) of n, 0 outside."""
    at = torch.arange(n, device=k.device) - first[:, None]
    length = (last - first + 1)[:, None]
    inside = ((at >= 0) & (at < length))[:, None].to(dtype)
    turn = (k[:, None] * at[:, None] % length[..., None]).to(dtype) / length[..., None]
    return torch.polar(inside.expand_as(turn), -2 * torch.pi * turn)


def _filled(x: Dense) -> tuple[Tensor, Tensor]:
    """The values with the channel's mean where they are invalid, and the channel's root mean square (B, C, 1, ...)."""
    valid, axes = x.valid.expand_as(x.values), tuple(range(2, x.values.ndim))
    values, count = torch.where(valid, x.values, 0), valid.sum(axes, keepdim=True).clamp_min(1)
    mean = values.sum(axes, keepdim=True) / count
    return torch.where(valid, values, mean), (values.square().sum(axes, keepdim=True) / count).sqrt()


def _each(flag: Tensor, like: Tensor) -> Tensor:
    """(B,) with as many axes as `like`."""
    return flag.view(-1, *[1] * (like.ndim - 1))
