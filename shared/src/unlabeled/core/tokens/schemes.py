"""Which tokens are hidden: the schemes by name, each with its options. What they do is done by functions beside this file.

A recipe writes `mask: random`, or with options `mask: {name: block, blocks: 2}`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator
from torch import Tensor

from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.recipe import nearest
from unlabeled.core.streams import Draw
from unlabeled.core.tokens.boxes import BOXES, boxes_mask, group_boxes, group_mask
from unlabeled.core.tokens.cubes import cluster_mask
from unlabeled.core.tokens.lines import span_mask, tube_mask
from unlabeled.core.tokens.masks import Mask, Rounding, block_mask, inverse_block_mask, random_mask
from unlabeled.core.tokens.noise import Color, noise_mask, reach
from unlabeled.core.tokens.tokens import Tokens


@dataclass(frozen=True)
class Asked:
    """Of what a mask is asked: the tokens of the input `name`, position (B, L, d) in patches, draws, ratio and rounding."""

    name: str
    tokens: Tokens
    position: Tensor
    draws: Draw
    ratio: float
    rounding: Rounding = "keep"

    @property
    def count(self) -> tuple[Tensor, float]:
        """What every mask function takes first: validity (B, L) and ratio."""
        return self.tokens.valid, self.ratio

    def uniform(self, what: str, *shape: int) -> Tensor:
        return self.draws.uniform(f"{self.name}/{what}", *shape)

    @property
    def noise(self) -> Tensor:
        """A uniform number for every token, (B, L)."""
        return self.draws.uniform(self.name, *self.tokens.places).flatten(1)


class Kind(BaseModel):
    """Base of the schemes."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str

    def draw(self, of: Asked) -> Mask:
        """A mask for each item.

        Raises RequestError where the tokens do not lie as the scheme needs it.
        """
        raise NotImplementedError  # pragma: no cover

    def choices(self, tokens: Tokens, name: str) -> int:
        """Among how many tokens, or lines of tokens, of a whole grid it chooses; packed rows are of any length: 0.

        Raises RequestError as `draw`.
        """
        return math.prod(tokens.grid) if tokens.grid else 0

    def _grid(self, tokens: Tokens, name: str, least: int = 1) -> tuple[int, ...]:
        """The grid of the tokens. Raises RequestError where they have none, or one of fewer than `least` axes."""
        if len(tokens.grid) >= least:
            return tokens.grid
        has = f"has {len(tokens.grid)}" if tokens.grid else "has none, its tokens are packed"
        need = "a grid" if least == 1 else f"a grid of {least} axes or more"
        raise RequestError(f"method.mask: {self.name} needs {need}, and the input {name!r} {has}; use random or block")


class Random(Kind):
    name: Literal["random"] = "random"

    def draw(self, of: Asked) -> Mask:
        return random_mask(*of.count, of.noise, of.rounding)


class Block(Kind):
    name: Literal["block"] = Field("block", description="connected blocks of tokens")
    blocks: int = Field(1, ge=1, description="number of blocks, which may touch")

    def draw(self, of: Asked) -> Mask:
        return block_mask(*of.count, of.noise, of.position, self.blocks, of.rounding)


class InverseBlock(Kind):
    name: Literal["inverse_block"] = Field(
        "inverse_block", description="cubes are kept, what is between them is hidden"
    )
    length: int = Field(3, ge=1, description="tokens of a kept cube along each axis, odd")
    adjust: float = Field(0.07, ge=0, description="how much more the kept cubes cover, since they overlap")

    @field_validator("length")
    @classmethod
    def _odd(cls, length: int) -> int:
        if length % 2 == 0:
            raise ValueError("must be odd, so that a cube has a middle")
        return length

    def choices(self, tokens: Tokens, name: str) -> int:
        return math.prod(self._grid(tokens, name))

    def draw(self, of: Asked) -> Mask:
        grid = self._grid(of.tokens, of.name)
        noise = of.draws.uniform(of.name, 2, *grid).flatten(2)
        return inverse_block_mask(*of.count, noise, grid, self.length, self.adjust, of.rounding)


class Boxes(Kind):
    name: Literal["boxes"] = Field("boxes", description="rectangles of many sizes, as BEiT")
    least: int = Field(16, ge=1, description="fewest tokens of a rectangle, where so many are hidden")
    aspect: float = Field(0.3, gt=0, le=1, description="least ratio of its sides; the largest is the inverse")

    def draw(self, of: Asked) -> Mask:
        boxes = of.uniform("boxes", BOXES, 2 * of.position.shape[-1])
        return boxes_mask(*of.count, of.position, boxes, of.noise, self.least, self.aspect, of.rounding)


class Group(Kind):
    name: Literal["group"] = Field("group", description="many small rectangles, as GMML")
    size: float = Field(0.3, gt=0, le=1, description="longest side of a rectangle, as a share of the axis")

    def draw(self, of: Asked) -> Mask:
        d = of.position.shape[-1]
        boxes = of.uniform("boxes", group_boxes(of.ratio, self.size, d), 2 * d)
        return group_mask(*of.count, of.position, boxes, of.noise, self.size, of.rounding)


class Clusters(Kind):
    name: Literal["clusters"] = Field("clusters", description="squares of one size per item, as SSAST")
    sizes: tuple[int, int] = Field((3, 5), description="smallest and largest side of a square, in tokens")

    @field_validator("sizes")
    @classmethod
    def _rising(cls, sizes: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= sizes[0] <= sizes[1]:
            raise ValueError("needs two numbers from 1 on, the smaller one first")
        return sizes

    def choices(self, tokens: Tokens, name: str) -> int:
        return math.prod(self._grid(tokens, name))

    def draw(self, of: Asked) -> Mask:
        grid = self._grid(of.tokens, of.name)
        size, time = of.uniform("size", 1)[:, 0], of.uniform("time", *[n + self.sizes[1] - 1 for n in grid])
        return cluster_mask(*of.count, size, time, of.noise, self.sizes, of.rounding)


class Tube(Kind):
    name: Literal["tube"] = Field("tube", description="the same tokens at every place of the first axis, as VideoMAE")

    def choices(self, tokens: Tokens, name: str) -> int:
        return math.prod(self._grid(tokens, name, 2)[1:])

    def draw(self, of: Asked) -> Mask:
        grid = self._grid(of.tokens, of.name, 2)
        return tube_mask(*of.count, of.draws.uniform(of.name, *grid[1:]), grid, of.rounding)


class Spans(Kind):
    name: Literal["spans"] = Field("spans", description="all tokens at spans of places along one axis")
    axis: int = Field(0, ge=0, description="the axis, 0 the first")
    length: int = Field(10, ge=1, description="places of a span")

    def choices(self, tokens: Tokens, name: str) -> int:
        return self._grid(tokens, name, self.axis + 1)[self.axis]

    def draw(self, of: Asked) -> Mask:
        grid = self._grid(of.tokens, of.name, self.axis + 1)
        time, side = of.uniform("time", grid[self.axis] + self.length - 1), of.uniform("side", 1)[:, 0]
        return span_mask(*of.count, time, side, grid, self.axis, self.length, of.rounding)


class FilteredNoise(Kind):
    name: Literal["noise"] = Field("noise", description="where filtered noise is high, as ColorMAE")
    color: Color = Field(
        "green", description="red: low frequencies; blue: high; green: a band; purple: all but the band"
    )
    sigma: tuple[float, float] = Field(
        (0.75, 1.5),
        description="deviations of the two filters, in tokens; the band's wave is 6.5 of the first, if twice",
    )

    @field_validator("sigma")
    @classmethod
    def _rising(cls, sigma: tuple[float, float]) -> tuple[float, float]:
        if not 0 < sigma[0] < sigma[1]:
            raise ValueError("needs two numbers above 0, the smaller one first")
        return sigma

    def choices(self, tokens: Tokens, name: str) -> int:
        return math.prod(self._grid(tokens, name))

    def draw(self, of: Asked) -> Mask:
        wide = [n + 2 * reach(self.sigma) for n in self._grid(of.tokens, of.name)]
        return noise_mask(*of.count, of.draws.normal(of.name, *wide), self.color, self.sigma, of.rounding)


KINDS: tuple[type[Kind], ...] = (Random, Block, Boxes, Group, InverseBlock, Clusters, Tube, Spans, FilteredNoise)
_BY_NAME = {str(kind.model_fields["name"].default): kind for kind in KINDS}


def _named(value: Any) -> Any:
    """A plain name as the scheme with its defaults. Raises ValueError for an unknown name, with the nearest one."""
    given = {"name": value} if isinstance(value, str) else value
    if not isinstance(given, Mapping):
        return given
    if "name" not in given:
        raise ValueError(f"name is missing, one of {', '.join(sorted(_BY_NAME))}")
    name = str(given["name"])
    if name not in _BY_NAME:
        raise ValueError(nearest(name, list(_BY_NAME)))
    for option in given:
        if option not in _BY_NAME[name].model_fields:
            raise ValueError(f"{name}: {nearest(str(option), list(_BY_NAME[name].model_fields))}")
    return given


Scheme = Annotated[
    Random | Block | Boxes | Group | InverseBlock | Clusters | Tube | Spans | FilteredNoise,
    Field(discriminator="name"),
    BeforeValidator(_named),
]
