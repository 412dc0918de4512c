"""MaskFeat: Wei et al. 2022, Masked Feature Prediction for Self-Supervised Visual Pre-Training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from pydantic import Field
from torch import Tensor

from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.batch import Dense
from unlabeled.core.losses.masked import masked_mse
from unlabeled.core.methods.masking import Masking
from unlabeled.core.methods.simmim import Corrupted, SimMIM
from unlabeled.core.targets.gradients import gradients, magnitude
from unlabeled.core.targets.hog import hog
from unlabeled.core.tokens.masks import Rounding
from unlabeled.core.tokens.patches import pad_to_patches, patchify
from unlabeled.core.tokens.schemes import Boxes, Scheme


class MaskFeat(SimMIM):
    """Put a learned token in the place of the hidden patches, encode all, and predict with one layer the histograms of
    oriented gradients (HOG) of the hidden patches.

    From section 3: 9 unsigned bins, cells of 8 pixels, the histogram of each cell and channel by its own L2 norm, so that
    a patch of 16 pixels in three colours has 2 * 2 * 9 * 3 = 108 numbers; the mean squared error on hidden patches; 40 %
    of them hidden in the boxes of BEiT, 78 of 196. On a grid of three axes the first is time, and the target is the HOG of
    the first frame of each patch. `target: gradient` predicts the size of the gradient at every cell instead, on grids of
    one to three axes.

    Raises RequestError where the encoder works on no tokens, an input is packed, a grid of one axis shall have a HOG, or a
    cell does not divide the patch.

    Deviations: items are reflected at their own edges, not at the edge of the padded batch, and cells without a valid pixel
    count in no loss. As in the authors' code there is no Gaussian window over the cells, which others' code adds. One
    prediction, from the last layer; the authors' multi-scale encoders have several.
    """

    term = "mse"

    class Options(Masking):
        mask_ratio: float = Field(0.4, gt=0, lt=1, description="share of the valid tokens that is hidden")
        mask: Scheme = Field(Boxes(), description="which tokens are hidden: a name, or a name with its options")
        rounding: Rounding = Field(
            "mask", description="of n tokens, int(n * mask_ratio) are hidden; keep: the others count"
        )
        target: Literal["hog", "gradient"] = Field("hog", description="gradient: its size, cell by cell")
        bins: int = Field(9, ge=2, le=255, description="bins of a histogram, which cover half a turn")
        cell: int = Field(
            8, ge=1, description="pixels of a histogram's cell along an axis; in smaller patches, the patch"
        )

    def outputs(self) -> Mapping[str, int]:
        o = self.options
        for name, spec in self.specs.items():
            if spec.layout != "dense":
                raise RequestError(
                    f"method maskfeat: the input {name!r} is {spec.layout} and has no gradients; choose simmim"
                )
        if o.target == "gradient":
            return self.encoder.patch_widths
        return {n: s.width * o.bins * math.prod(self._cells(n)) for n, s in self.specs.items()}

    def target(self, name: str, batch: Corrupted) -> tuple[Tensor, Tensor]:
        x, patch = batch.inputs[name], self.encoder.patch[name]
        assert isinstance(x, Dense)
        x = pad_to_patches(x, patch)
        if self.options.target == "gradient":
            found, there = gradients(x.values, None if x.whole else x.valid)
            values, cut = magnitude(found), patch
        else:
            cut = self._cells(name)
            values, there = self._histograms(x, patch, cut)
        there = there.expand_as(values)
        whole = replace(batch.tokens[name], patches=patchify(values, cut), elements=patchify(there, cut), whole=False)
        hidden = batch.masks[name].hidden(whole)
        return hidden.patches, hidden.elements

    def distance(self, pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        return masked_mse(pred, target, weight)

    def _cells(self, name: str) -> tuple[int, ...]:
        """Histograms of a patch along each axis of its input."""
        patch = self.encoder.patch[name]
        if len(patch) == 1:
            raise RequestError(
                f"method maskfeat: {name!r} has one axis, along which gradients have no direction; set target: gradient"
            )
        cell = self.options.cell
        for pixels in patch[-2:]:
            if pixels > cell and pixels % cell:
                raise RequestError(
                    f"method.cell: {cell} pixels do not divide the patch of {pixels} of the input {name!r}; "
                    f"set it to a divisor such as {math.gcd(pixels, cell)}"
                )
        return (*[1 for _ in patch[:-2]], *(max(1, pixels // cell) for pixels in patch[-2:]))

    def _histograms(self, x: Dense, patch: tuple[int, ...], cells: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """(B, C * bins, *grid of cells) and its validity, where time has one place for each patch."""
        size, bins = [p // n for p, n in zip(patch[-2:], cells[-2:], strict=True)], self.options.bins
        values, valid = x.values, x.valid
        if x.rank == 3:
            values, valid = (t[:, :, :: patch[0]].transpose(1, 2).flatten(0, 1) for t in (values, valid))
        found, there = hog(values, None if x.whole else valid, size, bins=bins)
        found, there = found.flatten(1, 2), there.repeat_interleave(bins, 1)
        if x.rank == 3:
            found, there = (t.reshape(x.size, -1, *t.shape[1:]).transpose(1, 2) for t in (found, there))
        return found, there
