"""VideoMAE V2: Wang et al. 2023, Scaling Video Masked Autoencoders with Dual Masking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.methods.base import Context, Views, unchanged
from unlabeled.core.methods.mae import MAE, Masked
from unlabeled.core.tokens.lines import cell_size, most_running, running_cell
from unlabeled.core.tokens.masks import Mask, Rounding
from unlabeled.core.tokens.schemes import Scheme, Tube
from unlabeled.core.tokens.tokens import Tokens


class VideoMAE2(MAE):
    """MAE of clips with two masks: tubes hide 9 of 10 places from the encoder, and the decoder predicts half of them.

    The first axis of an input is time. The encoder's mask is the same at all times (Tong et al. 2022, VideoMAE). The
    decoder's are running cells (section 3.2): of every cell of 2 x 2 tokens half are predicted, others at the next time,
    so that all are over a cycle; an input with one axis beside time has cells of 2. Of 8 x 14 x 14 tokens the encoder
    sees 160 and 704 are predicted. `reconstruct` predicts all that is hidden.

    Raises RequestError where the encoder works on no tokens, an input has no axis beside time, or its cells cannot leave
    out the share that is asked for.

    Deviations: tokens that the cells take but the encoder sees are not decoded, where the authors decode them and leave
    them out of the loss; a target is normalised over all channels of a patch, as MAE's, and theirs for each channel by
    itself; grids of odd size cut cells, where their code stops; the decoder is MAE's, 128 wide and 2 deep by default
    (paper: 4 deep). Their several masks of one decoded clip are not here, nor the supervised stage after pretraining.
    """

    class Options(MAE.Options):
        mask_ratio: float = Field(0.9, gt=0, lt=1, description="share of the places that is hidden from the encoder")
        mask: Scheme = Field(Tube(), description="which tokens are hidden: a name, or a name with its options")
        rounding: Rounding = Field(
            "mask",
            description="of n places, keep: int(n * (1 - mask_ratio)) stay; mask: int(n * mask_ratio) are hidden",
        )
        decoder_mask_ratio: float = Field(
            0.5, ge=0, lt=1, description="share of each cell that is not predicted; 0: all that is hidden is predicted"
        )

    options: Options

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        super().__init__(encoder, specs, options, views)
        for name, spec in self.encoder.specs.items():
            if spec.layout != "dense" or spec.rank < 2:
                raise RequestError(f"method videomae2: the input {name!r} has no grid of two axes or more; use mae")
            size, ratio = cell_size(spec.rank), options.decoder_mask_ratio
            if abs(size * ratio - round(size * ratio)) > 1e-9:
                raise RequestError(
                    f"method.decoder_mask_ratio: the input {name!r} has cells of {size} tokens, of which {ratio} is no "
                    f"whole number; use a multiple of {1 / size:g}"
                )

    def on_batch(self, batch: Batch, ctx: Context) -> Masked:
        batch = self.views(batch, ctx.draw(batch, "view"))
        tokens, masks = self._masked(batch, ctx)
        cut = self._cut(tokens, masks, batch.weight)
        if not self.options.decoder_mask_ratio:
            return cut
        draw = ctx.draw(batch, "cells")
        return replace(cut, hidden={n: self._decoded(t, masks[n], draw.uniform(n, 1)) for n, t in tokens.items()})

    def _decoded(self, tokens: Tokens, mask: Mask, start: Tensor) -> Tokens:
        """The hidden tokens that the cells take. Sizes follow from the grid and the options, so rows may have fillers."""
        size = cell_size(len(tokens.grid))
        taken = size - round(size * self.options.decoder_mask_ratio)
        cells = running_cell(tokens.grid, taken, (start[:, 0] * size).long())
        chosen = cells.gather(1, mask.hide) & mask.hide_valid
        most, most_of_line = most_running(tokens.grid, taken)
        time, count = tokens.grid[0], mask.hide.shape[1]
        # a tube is hidden at all times, so no row has more than this
        most = min(most, count, count // time * most_of_line if self.options.mask.name == "tube" else count)
        order = (~chosen).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
        exact = tokens.whole and self.options.mask.name == "tube" and time % size == 0
        return tokens.take(mask.hide.gather(1, order), None if exact else chosen.gather(1, order))
