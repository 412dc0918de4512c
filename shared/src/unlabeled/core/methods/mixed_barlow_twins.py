"""Mixed Barlow Twins: Bandara et al. 2023, Guarding Barlow Twins Against Overfitting with Mixed Samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from unlabeled.core import ranks
from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.losses.decorrelation import barlow_twins, mixing, standardised
from unlabeled.core.methods.barlow_twins import BarlowTwins
from unlabeled.core.methods.base import Context, Views, unchanged, weighted
from unlabeled.core.streams import rng
from unlabeled.core.tokens.exchange import donors
from unlabeled.core.views.mixup import mixed


@dataclass(frozen=True)
class Mixture:
    """Two views of every item, and the mixture: `share` of its first view with the second view of item `other` (B,).

    `other` counts the rows of all ranks.
    """

    first: Batch
    second: Batch
    mixture: Batch
    other: Tensor
    share: float


class MixedBarlowTwins(BarlowTwins):
    """Barlow Twins, and mixtures of two items shall correlate with the views as a linear map's would: as their parts do.

    Every item's first view is mixed with the second view of another item, in shares that are drawn uniformly at every step
    for the whole batch (section 3). What the mixture's correlations are compared with has a gradient too, as in the
    authors' code. The other item is the next one in a keyed ring of all items of all ranks, those of weight 0 left out.
    With several ranks a step waits for the device once, to learn the largest grid of any rank (see `mixed`).
    Raises RequestError for an input without a grid.

    Deviations: the weights are those of the authors' code for small data; their code for ImageNet has half the off-diagonal
    weight in their place, rising from 0 over ten epochs, and compares the mixture with the second view's correlation with
    itself where the paper has that of both views. They draw any other item, the item itself too; here it never is. Their
    deviations are unbiased, over a sum divided by N, so that no correlation reaches 1; here both are biased. Their
    projections have length 1 before they are standardised; here they are left as long as they are. As in Barlow Twins
    the correlations are those of all ranks with their gradient, the projector is narrower, and AdamW is in place of LARS.
    """

    class Options(BarlowTwins.Options):
        mixing: float = Field(
            4.0, ge=0, description="weight of the mixtures, as a multiple of off_diagonal; 0: Barlow Twins"
        )

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        for name, spec in specs.items():
            if spec.layout != "dense":
                raise RequestError(
                    f"method mixed_barlow_twins: the input {name!r} has no grid, so that items cannot be mixed; use barlow_twins"
                )
        super().__init__(encoder, specs, options, views)

    def on_batch(self, batch: Batch, ctx: Context) -> Mixture:  # type: ignore[override]
        first, second = super().on_batch(batch, ctx)
        other, _ = donors(batch.index, batch.weight, ctx.shared("other"))
        share = float(rng(ctx.shared("share")).random())
        inputs = {name: mixed(x, second.inputs[name], other, share) for name, x in first.inputs.items()}  # type: ignore[arg-type]
        return Mixture(first, second, first.with_inputs(**inputs), other, share)

    def step(self, batch: Mixture, ctx: Context) -> dict[str, Any]:  # type: ignore[override]
        o, weight = self.options, batch.first.weight
        pooled, z1, z2 = self.project((batch.first, batch.second))
        z = self.projector(self.encoder(batch.mixture.inputs).pooled, weight)
        with torch.autocast(z.device.type, enabled=False):
            z, a, b = standardised(torch.cat([z, z1, z2], 1), weight).chunk(3, 1)
            other = ranks.gather(b).index_select(0, batch.other)
        return weighted(
            {
                "barlow_twins": (1.0, barlow_twins(z1, z2, o.off_diagonal, weight)),
                "mixing": (o.mixing * o.off_diagonal, mixing(z, a, b, other, batch.share, weight)),
            },
            pooled,
        )
