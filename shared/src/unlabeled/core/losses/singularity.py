"""How mask tokens stand out against visible tokens in attention (Choi et al. 2024, MTO, whose equations we could not read).

MTO takes them; they are losses, and a method holds none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unlabeled.core import ranks


def attention_on(attention: Tensor, queries: Tensor, keys: Tensor, weight: Tensor) -> Tensor:
    """Share of their attention that `queries` give to `keys`, global mean over queries and heads, in [0, 1].

    attention (B, heads, L, L), a softmax over the last axis; queries, keys (B, L) bool; weight (B,).
    """
    share = torch.where(keys[:, None, None], attention, 0).sum(-1).mean(1)
    return ranks.mean(share, queries * weight[:, None])


def heterogeneity(attention: Tensor, keys: Tensor) -> Tensor:
    """(B, L) in [0, 1]: entropy of every token's attention among `keys` alone, over that of n equal ones, ln n.

    1: the token is like none of them more than like another; 0: it is like one alone. Mean over heads; shapes as above.
    It says nothing where a row has fewer than two keys.
    """
    tiny = torch.finfo(attention.dtype).tiny
    share = torch.where(keys[:, None, None], attention, 0)
    share = share / share.sum(-1, keepdim=True).clamp_min(tiny)
    # the slope of x ln x at 0 is not finite
    entropy: Tensor = torch.special.entr(share.clamp_min(tiny)).sum(-1).mean(1)
    return entropy / keys.sum(1, keepdim=True).clamp_min(2).to(entropy.dtype).log()
