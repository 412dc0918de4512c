"""DetCon: Henaff et al. 2021, Efficient Visual Pretraining with Contrastive Detection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Batch, Dense, Moves
from unlabeled.core.contracts.recipe import nearest
from unlabeled.core.losses.contrastive import nt_xent
from unlabeled.core.methods import base
from unlabeled.core.methods.base import Context, Method, Views, unchanged, weighted
from unlabeled.core.nn.base import Encoder, cells_of
from unlabeled.core.nn.heads import Projector
from unlabeled.core.nn.pooling import share_pool
from unlabeled.core.streams import Draw
from unlabeled.core.tokens.regions import KINDS, Given, Grid, Regions, chosen, shares


@dataclass(frozen=True)
class View(Moves):
    """A view, and which share of each of its tokens' cells belongs to every region, (B, L, R)."""

    batch: Batch
    shares: Tensor


class DetCon(Method):
    """A region of an item shall be closer to itself in another view than to all other regions.

    Regions come from a map (see `tokens.regions`), drawn anew in every step where an item has many, and go through the
    views with the item. The features of a region are the mean of the tokens, weighted by how many of a token's cells lie in
    it; the loss is NT-Xent over regions instead of items (DetCon-S, section 3). A region that either
    view does not show takes no part.

    Raises RequestError where the tokens of the encoder lie on no grid, or the map's input is not there.

    Deviations: this is DetCon-S alone, without the slow copy of DetCon-B. An item's regions are drawn without repetition
    and are the same in both views, where the authors draw 16 in each view with repetition and drop what has no partner; the
    mean is over the anchors that count. Besides other people's maps there are grids and k-means in place of their
    Felzenszwalb and multiscale segmentations. A cell that a view made of several regions belongs to the one that holds more
    than half of it, or to none. The projector is narrower by default; AdamW in place of LARS.
    """

    class Options(base.Options):
        regions: Regions = Field(
            Grid(), description="grid or kmeans, a name or one with its options; or the name of the input with the map"
        )
        moving: int = Field(
            ge=0, description="how many of the recipe's views, counted from the first, move cells and so regions too"
        )
        count: int = Field(16, ge=1, description="most regions of an item in a step")
        temperature: float = Field(0.1, gt=0, description="divides the cosines")
        projector: tuple[int, ...] = Field((256, 128), min_length=1, description="widths of the projector's layers")
        negatives: Literal["all", "other_items", "other_records"] = Field(
            "all", description="regions that repel: all others; those of other items only; those of other records only"
        )

    couples = "every region of the batch is a negative of the others"
    encoder: Encoder

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        super().__init__(encoder, specs, options, views)
        cells = cells_of(self.encoder)
        if cells is None:
            raise RequestError(
                "method detcon: regions need an encoder of one input whose tokens lie on a grid; choose another encoder"
            )
        self.cells = cells
        (self.name,) = self.encoder.specs
        regions = options.regions
        if isinstance(regions, Given):
            maps = [n for n, spec in specs.items() if n != self.name and spec.layout == "dense" and spec.width == 1]
            if regions.input not in maps:
                raise RequestError(f"method.regions: {nearest(regions.input, [*KINDS, *maps])}")
        if options.moving and not hasattr(views, "first"):
            raise RequestError("method.moving: these views cannot be cut in two; give a recipe's, or set it to 0")
        self.projector = Projector(self.encoder.token_width, options.projector)

    @classmethod
    def encodes(cls, specs: Mapping[str, InputSpec], options: Any) -> Mapping[str, InputSpec]:
        given = options.regions.input if isinstance(options.regions, Given) else None
        return {name: spec for name, spec in specs.items() if name != given}

    def on_batch(self, batch: Batch, ctx: Context) -> tuple[View, View]:
        o, x, draws = self.options, batch.inputs[self.name], ctx.draw(batch, "regions")
        assert isinstance(x, Dense)
        ids = o.regions.ids(batch, x, draws)
        regions = chosen(ids, draws.uniform("chosen", o.regions.count(x.rank)), o.count)
        first, second = (self._view(batch, regions, ctx.draw(batch, f"view{i}")) for i in (1, 2))
        return first, second

    def _view(self, batch: Batch, regions: Tensor, draw: Draw) -> View:
        x, seen = batch.inputs[self.name], self.views(batch, draw)
        after = seen.inputs[self.name]
        assert isinstance(x, Dense) and isinstance(after, Dense)
        if self.options.moving:
            drawn = replace(x, values=regions.to(x.values.dtype), valid=x.valid.any(1, keepdim=True))
            views: Any = self.views
            moved = views.first(self.options.moving)(batch.with_inputs(**{self.name: drawn}), draw).inputs[self.name]
            regions = moved.valid & (moved.values > 0.5)
        if regions.shape[2:] != after.values.shape[2:]:
            raise RequestError(
                f"method.moving: a view after the first {self.options.moving} changes the grid of {self.name!r}; count it too"
            )
        return View(seen, shares(regions & after.valid.any(1, keepdim=True), self.cells))

    def step(self, batch: tuple[View, View], ctx: Context) -> dict[str, Any]:
        o, given = self.options, batch[0].batch
        features = [self.encoder(view.batch.inputs) for view in batch]
        share = [torch.where(f.valid[..., None], view.shares, 0) for f, view in zip(features, batch, strict=True)]
        there = torch.stack([s.sum(1) > 0 for s in share]).all(0)
        weight = (there * given.weight[:, None]).flatten()
        z1, z2 = (
            self.projector(share_pool(f.tokens, s).flatten(0, 1), weight) for f, s in zip(features, share, strict=True)
        )
        kin = {"all": None, "other_items": given.index, "other_records": given.record}[o.negatives]
        kin = None if kin is None else kin.repeat_interleave(there.shape[1])
        return weighted({"nt_xent": (1.0, nt_xent(z1, z2, o.temperature, weight, kin))}, features[0].pooled)
