"""One style for a whole batch (Scalbert et al. 2023, Batch Styles Standardization, section 3)."""

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

FAINT = 1e-6  # of an item's root mean square: below it an amplitude is rounding, and its phase means nothing

Spectrum = tuple[Tensor, list[Tensor]]


def batch_styles(
    x: Dense, draw: Draw, spec: InputSpec, *, low: float = 0.02, high: float = 0.2, probability: float = 1.0
) -> Dense:
    """All items get the low-frequency amplitudes of one of them, each channel those of its own; phases stay.

    low, high    the share of the spectrum that is low is drawn between them, once for the batch: frequencies below
                 share ** (1 / axes) of the highest along every axis, the mean of the item among them. 0: nothing changes
    probability  that the batch gets one style at all

    The style is the item with the lowest draw, among those of all ranks that hold anything valid: so it is another one for
    every batch and view, and the same on every rank. A spectrum is that of an item's own extent, in cycles per extent, so that
    padding changes nothing and items of unlike sizes can share one. Invalid cells inside the extent count as the
    mean of the valid ones, and keep what they hold. A frequency that an item does not have at all has no phase to keep, and stays out. With
    several ranks this waits for the device once, to learn the largest grid. Raises RequestError for what lies on no grid,
    and for shares that are none.

    From the abstract, the figure of the method and its uses: the paper draws the share too; how far is decided here.
    """
    if spec.layout != "dense":
        raise RequestError("views: batch_styles needs an input on a regular grid; leave it out for sequences and graphs")
    if not (0 <= low <= high <= 1 and 0 <= probability <= 1):
        raise RequestError(f"views: batch_styles draws from {low:g} to {high:g}; give shares with 0 <= low <= high <= 1")
    lot = ranks.gather(draw.uniform("style", 3))
    there = ranks.gather(x.valid.flatten(1).any(1).byte()) > 0  # not every backend gathers booleans
    style = lot[:, 0].masked_fill(~there, 2.0).argmin()[None]
    _, share, once = lot.index_select(0, style)[0].to(x.values.dtype).unbind()
    side = (low + (high - low) * share) ** (1 / spec.rank) * (once < probability)

    box = extent(x.valid)
    lengths = torch.stack([last - first + 1 for first, last in box], 1)
    theirs = ranks.gather(lengths).index_select(0, style)
    spectrum, waves = _spectrum(x, box, _frequencies(x, high ** (1 / spec.rank)))
    low_ones = torch.ones((), dtype=torch.bool, device=x.values.device)
    for axis, k in enumerate(_frequencies(x, high ** (1 / spec.rank))):
        half = side * torch.minimum(lengths[:, axis], theirs[:, axis]) / 2  # also below the highest of both
        low_ones = low_ones[..., None] & (k.abs() < half[:, None])[(slice(None), *[None] * axis)]
    own = torch.arange(len(lengths), device=style.device) + ranks.rank() * len(lengths) == style
    size = spectrum.abs()
    target = ranks.total(torch.where(_per_item(own, size), size, 0).sum(0))
    loud = size > FAINT * size.flatten(1).square().sum(1).sqrt().view(-1, *[1] * (size.ndim - 1))
    change = torch.where(loud, target * spectrum / torch.where(loud, size, 1), 0) - spectrum
    change = torch.where(low_ones[:, None], change, 0)
    for axis, wave in enumerate(waves, 2):
        change = torch.einsum("b...f,bfn->b...n", change.movedim(axis, -1), wave.conj()).movedim(-1, axis)
    return replace(x, values=torch.where(x.valid, x.values + change.real, x.values))


def _frequencies(x: Dense, side: float) -> list[Tensor]:
    """Along each axis the whole cycles that can be low on a grid as large as any rank's: -K ... K."""
    grid = torch.tensor([x.values.shape[2:]])
    if ranks.world() > 1:
        grid = ranks.gather(grid.to(x.values.device)).amax(0, keepdim=True)
    most = [math.floor(side * n / 2) for n in grid[0].tolist()]
    return [torch.arange(-k, k + 1, device=x.values.device) for k in most]


def _spectrum(x: Dense, box: list[tuple[Tensor, Tensor]], frequencies: list[Tensor]) -> Spectrum:
    """(B, C, *F) complex means of the items times waves over their extents; and the waves (B, F, n) of every axis."""
    valid, dtype = x.valid.expand_as(x.values), x.values.dtype
    values = torch.where(valid, x.values, 0)
    spatial = list(range(2, values.ndim))
    mean = values.sum(spatial, keepdim=True) / valid.sum(spatial, keepdim=True).clamp_min(1)
    found = torch.where(valid, values, mean).to(torch.promote_types(dtype, torch.complex64))
    waves = []
    for axis, (k, (first, last)) in enumerate(zip(frequencies, box, strict=True), 2):
        at = torch.arange(values.shape[axis], device=values.device) - first[:, None]
        length = (last - first + 1)[:, None]
        inside = (at >= 0) & (at < length)
        turn = (-2 * torch.pi) * ((k[:, None] * at[:, None]) % length[:, None]).to(dtype) / length[:, None]
        wave = torch.polar(inside[:, None].to(dtype).expand_as(turn), turn)
        found = torch.einsum("b...n,bfn->b...f", found.movedim(axis, -1), wave / length[:, None]).movedim(-1, axis)
        waves.append(wave)
    return found, waves


def _per_item(flag: Tensor, like: Tensor) -> Tensor:
    return flag.view(-1, *[1] * (like.ndim - 1))
