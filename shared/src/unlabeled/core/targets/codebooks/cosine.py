"""Codebook of directions (Peng et al. 2022, BEiT v2, section 2.2; the tokenizer of Chen et al. 2023, BEATs; EEG tokenizers)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.core.targets.codebooks.kmeans import KMeans
from unlabeled.core.targets.codebooks.nearest import most_alike


@dataclass(frozen=True)
class Quantised:
    """values (..., D) the entries, with the gradient of the unit vectors that they stand for; ids (...) int64.

    distance (...): |h - sg[v]|^2 of unit vector h and entry v, which pulls h to v (the commitment loss, before its mean).
    """

    values: Tensor
    ids: Tensor
    distance: Tensor


class CosineCodebook(KMeans):
    """Entries of length 1; a feature is quantised by its direction, and `forward` is what a tokenizer trains through.

    An entry v with features in a batch becomes l2(decay * v + (1 - decay) * l2(their mean direction)), however many they
    are; one without stays. Unlike the official codebooks nothing changes in a forward pass, in training or evaluation,
    the sums are over all ranks, and dead entries start anew (`dead` 0 switches that off). BEATs' 10 rounds of k-means on
    the first batch are left out: only its seeding is done.
    """

    def __init__(self, width: int, size: int, decay: float = 0.99, dead: float = 0.01) -> None:
        super().__init__(width, size, decay, dead)
        self.entries.copy_(F.normalize(self.entries, dim=1))

    def codes(self, x: Tensor) -> Tensor:
        return most_alike(x, self.entries)

    def forward(self, x: Tensor) -> Quantised:
        """Features (..., D); a straight-through estimator (Bengio et al. 2013): the gradient passes the choice by."""
        unit = _unit(x.to(torch.promote_types(x.dtype, self.entries.dtype)))
        ids = self.codes(unit)
        entry = F.embedding(ids, self.entries)
        return Quantised(unit + (entry - unit).detach(), ids, (unit - entry).square().sum(-1))

    def _rows(self, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        x, w = super()._rows(x, weight)
        return _unit(x), w * x.any(1)  # a zero has no direction

    def _moved(self, means: Tensor, counts: Tensor) -> Tensor:
        moved = _unit(self.entries.lerp(_unit(means), 1 - self.decay))
        return torch.where(means.any(1, keepdim=True), moved, self.entries)


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x, dim=-1)
