"""Masks over tokens: which are kept and which are hidden, with exact counts, from given uniform draws.

Two roundings are in use. Of n valid tokens "keep" keeps int(n * (1 - ratio)), as He et al. 2022 (MAE); "mask" hides
int(n * ratio), as Tong et al. 2022 (VideoMAE) and Bao et al. 2022 (BEiT). Either way one is kept at least, and from two on
one is hidden. Sizes depend on L and the ratio only, so nothing waits for the device: shorter rows have entries that their
`*_valid` marks False.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.core.contracts.batch import Moves
from unlabeled.core.tokens.tokens import Tokens

Rounding = Literal["keep", "mask"]


@dataclass(frozen=True)
class Mask(Moves):
    """keep (B, K) and hide (B, M) int64 token numbers; keep_valid and hide_valid bool, False for fillers. K + M = L.

    `whole`: known on the host that there are no fillers, which is so where every token is valid.
    """

    keep: Tensor
    keep_valid: Tensor
    hide: Tensor
    hide_valid: Tensor
    whole: bool = False

    def visible(self, tokens: Tokens) -> Tokens:
        return tokens.take(self.keep, None if self.whole else self.keep_valid)

    def hidden(self, tokens: Tokens) -> Tokens:
        return tokens.take(self.hide, None if self.whole else self.hide_valid)


def kept(tokens: int, ratio: float, rounding: Rounding = "keep") -> int:
    """How many of `tokens` valid tokens are kept."""
    n = int(tokens * (1 - ratio)) if rounding == "keep" else tokens - int(tokens * ratio)
    return min(max(min(n, tokens - 1), 1), tokens)


def kept_each(n: Tensor, ratio: float, rounding: Rounding = "keep") -> Tensor:
    """`kept` of every number of a tensor (int64), by the same products of doubles, rounded down."""
    wide = n.to(torch.float64)
    k = (wide * (1 - ratio)).long() if rounding == "keep" else n - (wide * ratio).long()
    return k.minimum(n - 1).clamp_min(1).minimum(n)


def random_mask(valid: Tensor, ratio: float, noise: Tensor, rounding: Rounding = "keep") -> Mask:
    """Keeps the valid tokens with the lowest noise. valid (B, L) bool, noise (B, L) uniform."""
    return keep_lowest(noise, valid, ratio, rounding)


def block_mask(
    valid: Tensor, ratio: float, noise: Tensor, position: Tensor, blocks: int = 1, rounding: Rounding = "keep"
) -> Mask:
    """Hides blocks that grow together around random valid tokens until the count is met.

    valid (B, L) bool, noise (B, L) uniform, position (B, L, d) in patches. Every block is a cube in patches, clipped by
    the grid. Its last shell fills from the middle of the faces to the corners, so each block stays connected. One block
    that hides half of a grid or more always has its middle, and a corner seldom.
    """
    count = min(blocks, valid.shape[1])
    noise = noise.to(torch.float64)
    first = noise.masked_fill(~valid, torch.inf).argsort(dim=1, stable=True)[:, :count]
    centre = position.take_along_dim(first[..., None], 1)
    offset = (position[:, :, None] - centre[:, None]).abs().to(torch.float64)
    # on a grid the sum of offsets stays below d * L: the second term orders a shell, the third breaks its ties
    step = 1 / (1 + position.shape[-1] * valid.shape[1])
    distance = offset.amax(-1) + step * offset.sum(-1)
    distance = distance.masked_fill(~valid.gather(1, first)[:, None], torch.inf).amin(-1)
    return keep_lowest(-(distance + 0.5 * step * noise), valid, ratio, rounding)


def inverse_block_mask(
    valid: Tensor,
    ratio: float,
    noise: Tensor,
    grid: Sequence[int],
    length: int = 3,
    adjust: float = 0.07,
    rounding: Rounding = "keep",
) -> Mask:
    """Keeps cubes of `length` tokens and hides what is between them (Baevski et al. 2022, data2vec 2.0, section 3.2).

    valid (B, L) bool, noise (B, 2, L) uniform, grid the tokens along each of 1 to 3 axes, L in all, in raster order. The
    middles of n * (1 - ratio + adjust) / length^d cubes are random valid tokens; the grid's border cuts cubes. Where the
    cubes hold more or fewer tokens than are to be kept, random ones of theirs are hidden, or of the others kept.
    `length` is odd.
    """
    pool = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[len(grid)]
    share = (1 - ratio + adjust) / length ** len(grid)
    most = max(1, int(valid.shape[1] * share))
    first = noise[:, 0].masked_fill(~valid, torch.inf).argsort(dim=1, stable=True)[:, :most]
    count = (valid.sum(1, keepdim=True).to(torch.float64) * share).long().clamp_min(1)
    is_cube = torch.arange(most, device=valid.device) < count
    middles = torch.zeros_like(noise[:, 0]).scatter(1, first, is_cube.to(noise.dtype))
    inside = pool(middles.reshape(-1, 1, *grid), length, stride=1, padding=length // 2).flatten(1)
    return keep_lowest(noise[:, 1].to(torch.float64) + (1 - inside), valid, ratio, rounding)


def keep_lowest(score: Tensor, valid: Tensor, ratio: float, rounding: Rounding = "keep") -> Mask:
    """The mask that keeps the valid tokens with the lowest score (B, L)."""
    keep_n = kept_each(valid.sum(1, keepdim=True), ratio, rounding)
    return keep_first(score, valid, keep_n, kept(valid.shape[1], ratio, rounding))


def keep_first(score: Tensor, valid: Tensor, keep_n: Tensor, most: int) -> Mask:
    """The mask that keeps the keep_n (B, 1) valid tokens with the lowest score (B, L); keep_n is at most `most`."""
    length = valid.shape[1]
    order = score.masked_fill(~valid, torch.inf).argsort(dim=1, stable=True)
    n = valid.sum(1, keepdim=True)
    slots = torch.arange(length, device=valid.device)
    at = keep_n + slots[: length - most]
    return Mask(
        keep=order[:, :most],
        keep_valid=slots[:most] < keep_n,
        hide=order.gather(1, at.clamp_max(length - 1)),
        hide_valid=at < n,
    )
