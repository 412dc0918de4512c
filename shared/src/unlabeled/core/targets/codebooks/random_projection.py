"""Random-projection quantiser (Chiu et al. 2022, BEST-RQ, section 3.1; iteration 1 of Chen et al. 2023, BEATs)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.core.streams import key, normal
from unlabeled.core.targets.codebooks.nearest import most_alike


class RandomProjection(nn.Module):
    """Codes of patches by a matrix and a codebook that follow from the sizes and the seed alone and never change.

    The projected patch and the entries have length 1, so a positive scale of the patch changes no code. The paper
    normalises what it projects (mean 0, deviation 1), or few codes are in use: so should the caller. Both are normal, as
    in the paper, whose matrix is scaled too, which the length of 1 undoes. BEST-RQ has 8192 entries of width 16, BEATs
    1024 of width 256.
    """

    projection: Tensor
    entries: Tensor

    def __init__(self, patch: int, size: int = 8192, width: int = 16, seed: int = 0) -> None:
        super().__init__()
        self.register_buffer("projection", normal(key(seed, "projection"), torch.arange(patch), (width,)))
        self.register_buffer("entries", F.normalize(normal(key(seed, "entries"), torch.arange(size), (width,)), dim=1))

    @property
    def size(self) -> int:
        return len(self.entries)

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        """Patches (..., P) -> (...) int64 in [0, size). A patch of zeros has code 0."""
        with torch.autocast(x.device.type, enabled=False):
            # no need to divide by the length: it moves no maximum
            return most_alike(x.to(self.projection.dtype) @ self.projection, self.entries)
