"""Masks that hide more of one item than of another, and nothing of some.

It stands alone, beside the masks, because everything with an online tokenizer hides so: iBOT and those after it here, and
the recipes of slides and scenes in the packages.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unlabeled.core.tokens.masks import Mask


def part_of(mask: Mask, valid: Tensor, ratio: Tensor) -> Tensor:
    """Which of `mask.hide` (B, M) stay hidden where an item hides the share `ratio` (B,) of its own, bool (B, M).

    int(n * ratio) of an item's n valid tokens, one at least and no more than the mask hides; where `ratio` is 0, none.
    They are what the mask was surest to hide: the middle of a block, the first of many boxes. valid (B, L) bool.
    """
    n = (valid.sum(1).to(torch.float64) * ratio.to(torch.float64)).long().clamp_min(1)
    n = torch.where(ratio > 0, n, 0)[:, None]
    most = mask.hide_valid.sum(1, keepdim=True)
    slots = torch.arange(mask.hide.shape[1], device=valid.device)
    # tokens stand in the order of their score, and those with the highest are hidden
    return mask.hide_valid & (slots >= most - n)
