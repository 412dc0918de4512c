"""Regions of an item: which cells belong together, by a grid, by k-means or by a map that comes with the item.

It stands alone because whatever compares parts of items (DetCon, and those that contrast objects or organs) can take these
regions, and to be tested by itself. A recipe writes `regions: grid`, `regions: {name: kmeans, size: 8}`, or the name of an
input that holds the map.

Ids are (B, *S) int64, one for every cell, -1 for a cell of no region. Padding moves no region.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from torch import Tensor

from unlabeled.core.contracts.batch import Batch, Dense
from unlabeled.core.contracts.recipe import nearest
from unlabeled.core.streams import Draw
from unlabeled.core.tokens.extent import extent
from unlabeled.core.tokens.patches import grid_of, patchify


class Kind(BaseModel):
    """Base of the kinds of regions."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str

    def count(self, axes: int) -> int:
        """Ids are below this, for items of so many axes."""
        raise NotImplementedError  # pragma: no cover

    def ids(self, batch: Batch, x: Dense, draws: Draw) -> Tensor:
        """The region of every cell of x (B, *S), an input of the batch."""
        raise NotImplementedError  # pragma: no cover


class Grid(Kind):
    name: Literal["grid"] = Field("grid", description="equal boxes")
    parts: int = Field(4, ge=1, description="boxes along each axis of the item")

    def count(self, axes: int) -> int:
        return math.prod([self.parts] * axes)

    def ids(self, batch: Batch, x: Dense, draws: Draw) -> Tensor:
        return grid_ids(x.valid, self.parts)


class KMeans(Kind):
    name: Literal["kmeans"] = Field("kmeans", description="cells alike in value and near in place")
    size: int = Field(16, ge=1, description="regions of an item")
    place: float = Field(1.0, ge=0, description="what the place weighs beside the values; both have a deviation of 1")
    steps: int = Field(10, ge=1, description="moves of the centres")

    def count(self, axes: int) -> int:
        return self.size

    def ids(self, batch: Batch, x: Dense, draws: Draw) -> Tensor:
        return kmeans_ids(x, self.size, self.place, self.steps, draws.uniform("start", *x.values.shape[2:]))


class Given(Kind):
    name: Literal["input"] = Field("input", description="a map that comes with the item")
    input: str = Field(min_length=1, description="the input that holds it, one channel of whole numbers")
    size: int = Field(256, ge=1, description="whole numbers from 0 to below this name a region, others none")

    def count(self, axes: int) -> int:
        return self.size

    def ids(self, batch: Batch, x: Dense, draws: Draw) -> Tensor:
        given = batch.inputs[self.input]
        assert isinstance(given, Dense)
        there = (given.valid & x.valid.any(1, keepdim=True))[:, 0]
        ids = torch.where(there, given.values[:, 0], -1).round().long()
        return torch.where((ids >= 0) & (ids < self.size), ids, -1)


KINDS: dict[str, type[Kind]] = {"grid": Grid, "kmeans": KMeans, "input": Given}


def _named(value: Any) -> Any:
    """A plain name as the kind with its defaults, or as the name of an input that holds the map."""
    if isinstance(value, str):
        return {"name": value} if value in KINDS else {"name": "input", "input": value}
    if not isinstance(value, Mapping):
        return value
    if "name" not in value or value["name"] not in KINDS:
        raise ValueError(nearest(str(value.get("name", "")), list(KINDS)))
    return value


Regions = Annotated[Grid | KMeans | Given, Field(discriminator="name"), BeforeValidator(_named)]


def grid_ids(valid: Tensor, parts: int) -> Tensor:
    """Equal boxes, `parts` along each axis of an item's extent; ids in raster order. valid (B, 1 | C, *S) bool."""
    ids = valid.new_zeros(len(valid), *[1] * (valid.ndim - 2), dtype=torch.int64)
    for axis, (first, last) in enumerate(extent(valid), 1):
        at = torch.arange(valid.shape[axis + 1], device=valid.device) - first[:, None]
        number = (at * parts // (last - first + 1)[:, None]).clamp(0, parts - 1)
        ids = ids * parts + number.view(len(valid), *[-1 if a == axis else 1 for a in range(1, valid.ndim - 1)])
    return torch.where(valid.any(1), ids, -1)


def kmeans_ids(x: Dense, size: int, place: float, steps: int, noise: Tensor) -> Tensor:
    """k-means (Lloyd 1982) of every item's cells by value and place, beginning at the `size` cells of lowest noise (B, *S).

    Values have a total variance of 1 over an item's valid cells, and so have places, times `place`. An item of fewer cells
    has fewer regions. Nothing waits for the device, as the number of steps is fixed.
    """
    wide = torch.promote_types(x.values.dtype, torch.float32)
    there = x.valid.any(1).flatten(1)
    values = torch.where(x.valid, x.values, 0).to(wide).flatten(2).transpose(1, 2)
    cells = torch.cat([_scaled(values, there), place * _scaled(_places(x.valid, wide), there)], 2)
    order = noise.flatten(1).masked_fill(~there, 2.0).argsort(dim=1, stable=True)[:, :size]
    centres, lives = cells.take_along_dim(order[..., None], 1), there.gather(1, order)
    numbers = torch.arange(order.shape[1], device=order.device)
    for _ in range(steps):
        own = ((_nearest(cells, centres, lives)[..., None] == numbers) & there[..., None]).to(wide)
        mass = own.sum(1)[..., None]
        centres = torch.where(mass > 0, own.transpose(1, 2) @ cells / mass.clamp_min(1), centres)
    return torch.where(there, _nearest(cells, centres, lives), -1).view(len(there), *x.values.shape[2:])


def _nearest(cells: Tensor, centres: Tensor, lives: Tensor) -> Tensor:
    """Number (B, N) of the nearest of the centres (B, K, F) that live."""
    # without |cell|^2, which all centres share
    distance = centres.square().sum(2)[:, None] - 2 * cells @ centres.transpose(1, 2)
    return distance.masked_fill(~lives[:, None], torch.inf).argmin(2)


def _places(valid: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, N, d): where every cell lies in its item's extent, from 0 to 1 along each axis."""
    axes = []
    for axis, (first, last) in enumerate(extent(valid), 1):
        at = torch.arange(valid.shape[axis + 1], device=valid.device) - first[:, None]
        share = at.to(dtype) / (last - first).clamp_min(1)[:, None]
        shape = [len(valid), *[-1 if a == axis else 1 for a in range(1, valid.ndim - 1)]]
        axes.append(share.view(shape).expand(len(valid), *valid.shape[2:]).flatten(1))
    return torch.stack(axes, 2)


def _scaled(x: Tensor, there: Tensor) -> Tensor:
    """x (B, N, F) with mean 0 and a total variance of 1 over the cells that are there; where all are alike, 0."""
    n = there.sum(1).clamp_min(1)[:, None, None]
    centred = torch.where(there[..., None], x - torch.where(there[..., None], x, 0).sum(1, keepdim=True) / n, 0)
    deviation = (centred.square().sum((1, 2), keepdim=True) / n).sqrt()
    return torch.where(deviation > 1e-6, centred / deviation.clamp_min(1e-6), 0)


def chosen(ids: Tensor, noise: Tensor, most: int) -> Tensor:
    """At most `most` of the regions that an item has, one channel each: (B, R, *S) bool; empty channels where it has fewer.

    Of the ids (B, *S), those with the lowest noise (B, K) are taken; K is the number of possible ids.
    """
    size = noise.shape[1]
    # one place more, for cells of no region
    present = torch.zeros(len(ids), size + 1, dtype=torch.bool, device=ids.device)
    present = present.scatter(1, torch.where(ids < 0, size, ids).flatten(1), True)[:, :size]
    order = noise.masked_fill(~present, 2.0).argsort(dim=1, stable=True)[:, :most]
    taken = torch.where(present.gather(1, order), order, -2)
    return ids[:, None] == taken.view(*taken.shape, *[1] * (ids.ndim - 1))


def shares(regions: Tensor, patch: Sequence[int]) -> Tensor:
    """Which share of the cells of every patch belongs to each region: (B, R, *S) bool -> (B, L, R) float, in raster order.

    Patches stand as in `dense_tokens`; what is beyond the grid belongs to no region.
    """
    grid = grid_of(regions.shape[2:], patch)
    tail = [g * p - s for g, p, s in zip(grid, patch, regions.shape[2:], strict=True)]
    padded = F.pad(regions, [n for t in reversed(tail) for n in (0, t)])
    patches = patchify(padded.float(), patch)
    return patches.view(*patches.shape[:2], -1, regions.shape[1]).mean(2)
