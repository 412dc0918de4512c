"""Losses over tokens of a vocabulary: name them (BERT), and tell which are replaced (ELECTRA)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.core import ranks
from unlabeled.core.losses.masked import masked_cross_entropy


def naming(logits: Sequence[Tensor], ids: Tensor, weight: Tensor) -> Tensor:
    """-log p of a whole token, its channels taken as independent: the sum over channels of their global mean.

    logits (..., V_c) by channel c; ids (..., C) int64; weight (..., C), 0 for what does not count, which may hold
    anything. Equal logits cost the sum of ln V_c (Devlin et al. 2019, section 3.1). At least fp32.
    """
    return torch.stack([masked_cross_entropy(x, ids[..., c], weight[..., c]) for c, x in enumerate(logits)]).sum()


def detection(logits: Tensor, wrong: Tensor, weight: Tensor) -> Tensor:
    """Global mean of the binary cross-entropy of `wrong` (...) bool; logits of 0 cost ln 2 (Clark et al. 2020, section 2).

    logits and weight (...), 0 for what does not count, which may hold anything. At least fp32.
    """
    with torch.autocast(logits.device.type, enabled=False):
        wide = torch.where(weight > 0, logits.to(torch.promote_types(logits.dtype, torch.float32)), 0)
        return ranks.mean(F.binary_cross_entropy_with_logits(wide, wrong.to(wide.dtype), reduction="none"), weight)
