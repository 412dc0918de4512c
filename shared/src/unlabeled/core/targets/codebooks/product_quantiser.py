"""Product quantiser with Gumbel softmax (Baevski et al. 2020, wav2vec 2.0, sections 2 and 3.2), for audio's methods."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlabeled.core import ranks
from unlabeled.core.targets.codebooks.use import perplexity


@dataclass(frozen=True)
class Chosen:
    """values (..., D), one entry of each group behind the other; ids (..., G) int64; logits (..., G, V)."""

    values: Tensor
    ids: Tensor
    logits: Tensor


class ProductQuantiser(nn.Module):
    """Chooses one of V learned entries in each of G groups: V^G words of width D, from G * V entries of width D / G.

    Forward the choice is hard, backward it is the softmax (Jang et al. 2017, straight-through Gumbel softmax). Raises
    ValueError where G does not divide D.
    """

    def __init__(self, width: int, out: int, groups: int = 2, size: int = 320) -> None:
        super().__init__()
        if out % groups:
            raise ValueError(f"{groups} groups do not divide the width {out}")
        self.logits = nn.Linear(width, groups * size)
        nn.init.normal_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)
        self.entries = nn.Parameter(torch.rand(groups, size, out // groups))

    def forward(self, x: Tensor, noise: Tensor | None = None, temperature: float = 1.0) -> Chosen:
        """Features (..., width); noise (..., G, V) uniform in [0, 1), None: no noise, the likeliest entries.

        temperature: of the softmax that the gradient passes; wav2vec 2.0 lowers it from 2 to 0.5.
        """
        groups, size, _ = self.entries.shape
        logits = self.logits(x).unflatten(-1, (groups, size))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        noisy = logits if noise is None else logits + _gumbel(noise.to(logits.dtype))
        soft = (noisy / temperature).softmax(-1)
        ids = noisy.argmax(-1)
        hard = torch.zeros_like(soft).scatter(-1, ids[..., None], 1.0)
        choice = hard + soft - soft.detach()
        values = torch.einsum("...gv,gvd->...gd", choice, self.entries.to(choice.dtype))
        return Chosen(values.flatten(-2), ids, logits)


def mean_choice(logits: Tensor, weight: Tensor) -> Tensor:
    """(G, V) softmax of logits (..., G, V), without noise, averaged over the features of all ranks by weight (...).

    `perplexity(mean_choice(...)).sum()` is the codebook's, at most G * V.
    """
    counts = weight[..., None, None] > 0
    shares = torch.where(counts, logits, 0).softmax(-1) * weight[..., None, None].to(logits.dtype)
    sums = ranks.total(shares.reshape(-1, *logits.shape[-2:]).sum(0))
    return sums / sums.sum(-1, keepdim=True).clamp_min(torch.finfo(sums.dtype).tiny)


def diversity(logits: Tensor, weight: Tensor) -> Tensor:
    """1 - sum over groups of the perplexity of their mean choice / (G * V): 0 at uniform use, 1 - 1/V at collapse.

    What the authors' code minimises; the paper's eq. 4 has the negative entropy in its place, with the same minimum.
    logits (..., G, V), weight (...), 0 for what does not count, which may hold anything.
    """
    used = mean_choice(logits, weight)
    return 1 - perplexity(used).sum() / used.numel()


def _gumbel(u: Tensor) -> Tensor:
    tiny = torch.finfo(u.dtype).tiny
    return -(-u.clamp_min(tiny).log()).log()
