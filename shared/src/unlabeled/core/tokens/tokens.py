"""Tokens: the raw patches of one named input, before any parameter has touched them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unlabeled.core.contracts.batch import Moves


@dataclass(frozen=True)
class Tokens(Moves):
    """Patches with what they carry.

    patches  (B, L, P), zero where not valid
    elements (B, L, P) bool, validity of every element of a patch
    coords   (B, L, d) centre of each patch in the unit of the input's spec, zero where not valid
    valid    (B, L) bool, at least one element is valid
    grid     tokens along each axis where they fill a grid in raster order, prod(grid) = L; () where they do not
    """

    patches: Tensor
    elements: Tensor
    coords: Tensor
    valid: Tensor
    grid: tuple[int, ...] = ()

    @property
    def places(self) -> tuple[int, ...]:
        """The shape in which to draw one number per token, so that it follows the place and not the padding."""
        return self.grid or (self.valid.shape[1],)

    @classmethod
    def of(cls, patches: Tensor, elements: Tensor, coords: Tensor, grid: tuple[int, ...] = ()) -> Tokens:
        """Tokens from patches, their element validity and coordinates; whatever is invalid becomes zero."""
        valid = elements.any(-1)
        return cls(
            patches=torch.where(elements, patches, 0),
            elements=elements,
            coords=torch.where(valid[..., None], coords, 0),
            valid=valid,
            grid=grid,
        )

    def followed_by(self, other: Tokens) -> Tokens:
        """These tokens and then the other ones of the same rows."""
        return Tokens(
            patches=torch.cat([self.patches, other.patches], 1),
            elements=torch.cat([self.elements, other.elements], 1),
            coords=torch.cat([self.coords, other.coords], 1),
            valid=torch.cat([self.valid, other.valid], 1),
        )

    def take(self, index: Tensor, index_valid: Tensor) -> Tokens:
        """The tokens at `index` (B, K), invalid where `index_valid` (B, K) is False."""
        at = index[..., None]
        return Tokens.of(
            patches=self.patches.take_along_dim(at, 1),
            elements=self.elements.take_along_dim(at, 1) & index_valid[..., None],
            coords=self.coords.take_along_dim(at, 1),
        )
