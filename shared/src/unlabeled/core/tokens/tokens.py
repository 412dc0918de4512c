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
    whole    known on the host, without a look at the device, that everything is valid, so that masks may be left out
    """

    patches: Tensor
    elements: Tensor
    coords: Tensor
    valid: Tensor
    grid: tuple[int, ...] = ()
    whole: bool = False

    @property
    def places(self) -> tuple[int, ...]:
        """The shape in which to draw one number per token, so that it follows the place and not the padding."""
        return self.grid or (self.valid.shape[1],)

    @classmethod
    def of(
        cls, patches: Tensor, elements: Tensor, coords: Tensor, grid: tuple[int, ...] = (), whole: bool = False
    ) -> Tokens:
        """Tokens from patches, their element validity and coordinates; whatever is invalid becomes zero."""
        if whole:
            return cls(patches, elements, coords, elements[..., 0], grid, whole=True)
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
            whole=self.whole and other.whole,
        )

    def take(self, index: Tensor, index_valid: Tensor | None) -> Tokens:
        """The tokens at `index` (B, K), invalid where `index_valid` (B, K) is False; None: nowhere."""
        if self.whole and index_valid is None:
            elements = self.elements[:, :1].expand(-1, index.shape[1], -1)
            return Tokens.of(_rows(self.patches, index), elements, _rows(self.coords, index), whole=True)
        elements = _rows(self.elements, index)
        return Tokens.of(
            patches=_rows(self.patches, index),
            elements=elements if index_valid is None else elements & index_valid[..., None],
            coords=_rows(self.coords, index),
        )


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """x (B, L, P) at index (B, K) -> (B, K, P). One copy per token, where a gather would look up every element."""
    b, length = x.shape[:2]
    first = torch.arange(b, device=x.device)[:, None] * length
    return x.flatten(0, 1).index_select(0, (index + first).flatten()).reshape(b, -1, x.shape[2])
