"""The token encoder: one transformer for every modality."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec
from unlabeled.core.contracts.batch import BatchInput, Dense
from unlabeled.core.nn import fitting
from unlabeled.core.nn.adapter import adapt
from unlabeled.core.nn.base import Encoder, Features
from unlabeled.core.nn.fitting import Scale, Sizes
from unlabeled.core.nn.ids import IdEmbedding
from unlabeled.core.nn.pooling import max_pool, mean_pool
from unlabeled.core.nn.transformer import ALL, Transformer, Turn, Watch, xavier
from unlabeled.core.tokens.clusters import cluster_order
from unlabeled.core.tokens.masks import Mask
from unlabeled.core.tokens.packed import packed_tokens
from unlabeled.core.tokens.patches import dense_tokens
from unlabeled.core.tokens.positions import in_patches, interpolate, rotary, sincos
from unlabeled.core.tokens.tokens import Tokens

# Changes the projected patches (B, L, D) of a named input, before they get their positions.
Corrupt = Callable[[str, Tensor], Tensor]


class TokenEncoder(Encoder):
    """Patches or packed tokens of all named inputs in one sequence, through timm's blocks.

    Every token carries its coordinate, so the features depend on where a token is and never on its place in the
    sequence: permuting tokens permutes the features, and dropping tokens equals masking them in the attention (a causal
    encoder goes by their coordinates too).
    `Features.tokens` are those of the inputs; a class token is `Features.cls`.

    Raises RequestError where the options do not fit the specs.
    """

    class Options(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")

        width: int = Field(192, ge=1, description="width of a token")
        depth: int = Field(4, ge=0, description="number of blocks")
        heads: int = Field(3, ge=1, description="attention heads")
        patch: Sizes | dict[str, Sizes] = Field((), description="cells per patch along each axis, or by input name")
        mlp_ratio: float = Field(4.0, gt=0, description="width of the hidden layer over the width")
        positions: Literal["sincos", "learned", "rope", "none"] = Field(
            "sincos",
            description="learned: a table over `grid`; rope: rotary, in every block; none: no token has a place",
        )
        grid: Sizes = Field((), description="patches along each axis of the learned table")
        position_scale: Scale | dict[str, Scale] | None = Field(
            None, description="size of a patch in physical units; none: patch times spacing"
        )
        causal: Sizes = Field(
            (),
            description="patches along each axis of a cluster: a token attends to its own cluster and those before in raster "
            "order; (1, 1): token by token; (): to all",
        )
        vocabulary: Sizes | dict[str, Sizes] = Field(
            (),
            description="channels hold whole numbers below these, which are embedded and not projected; or by input name",
        )
        cls: bool = Field(False, description="put a class token before the others")
        pool: Literal["mean", "cls", "mean_max"] = Field("mean", description="how tokens become one vector")
        adapter: int = Field(0, ge=0, description="width of the adapters beside every MLP, zero at the start; 0: none")

    def __init__(self, specs: Mapping[str, InputSpec], options: Options) -> None:
        width = options.width
        super().__init__(specs, 2 * width if options.pool == "mean_max" else width, width)
        fitting.check(self.specs, options)
        self.patch = {name: fitting.patch(name, spec, options.patch) for name, spec in specs.items()}
        self.scale = fitting.scales(self.specs, self.patch, options.position_scale)
        # the scale in use is kept in the options, so that a bundle restores it whatever the default becomes
        self.options = options.model_copy(update={"position_scale": self.scale})
        self.patch_widths = {n: s.width * math.prod(self.patch[n]) for n, s in specs.items()}
        self.vocabulary = {n: fitting.vocabulary(n, s, self.patch[n], options.vocabulary) for n, s in specs.items()}
        self.project = nn.ModuleDict(
            {
                n: IdEmbedding(self.vocabulary[n], width) if self.vocabulary[n] else nn.Linear(p, width)
                for n, p in self.patch_widths.items()
            }
        )
        self.input_embedding = nn.Parameter(torch.randn(len(specs), width) * 0.02) if len(specs) > 1 else None
        self.cls_token = nn.Parameter(torch.randn(width) * 0.02) if options.cls else None
        self.table = self._table(options)
        self.transformer = Transformer(width, options.depth, options.heads, options.mlp_ratio)
        xavier(self)
        if options.positions in ("rope", "none"):
            # nothing is added to a blank patch, and at a zero the slope of a layer norm is 1000 and that of a cosine endless
            for part in self.project.values():
                if isinstance(part, nn.Linear):
                    nn.init.normal_(part.bias, std=0.02)
        if options.adapter:  # last, so that all else begins as without
            adapt(self.transformer.blocks, width, options.adapter)

    def _table(self, options: Options) -> nn.Parameter | None:
        if options.positions != "learned":
            return None
        return nn.Parameter(torch.randn(*options.grid, options.width) * 0.02)

    def tokenise(self, inputs: Mapping[str, BatchInput]) -> dict[str, Tokens]:
        """Raw patches of every named input. No parameter is involved."""
        return {
            name: dense_tokens(x, self.patch[name]) if isinstance(x := inputs[name], Dense) else packed_tokens(x)
            for name in self.specs
        }

    def position(self, name: str, coords: Tensor) -> Tensor:
        """Coordinates (B, L, d) of a named input, counted in patches."""
        return in_patches(coords, self.scale[name])

    def _place(self, position: Tensor) -> Tensor | None:
        """What is added to tokens at positions (B, L, d)."""
        if self.options.positions in ("rope", "none"):
            return None
        return sincos(position, self.token_width) if self.table is None else interpolate(self.table, position)

    def projected(self, name: str, tokens: Tokens) -> Tensor:
        """Patches of a named input as vectors (B, L, D), before they get their positions."""
        if self.vocabulary[name]:  # whole numbers stay as they are: half precision does not hold 257
            return self.project[name](tokens.patches)  # type: ignore[no-any-return]
        return self.project[name](tokens.patches.to(next(self.parameters()).dtype))  # type: ignore[no-any-return]

    def embed(self, tokens: Mapping[str, Tokens], corrupt: Corrupt | None = None) -> tuple[Tensor, Tensor]:
        """Embedded tokens of all inputs (B, L, D) in the order of the specs, and their validity (B, L)."""
        embedded = []
        for i, name in enumerate(self.specs):
            x = self.projected(name, tokens[name])
            x = x if corrupt is None else corrupt(name, x)
            place = self._place(self.position(name, tokens[name].coords))
            x = x if place is None else x + place.to(x.dtype)
            embedded.append(x if self.input_embedding is None else x + self.input_embedding[i])
        if len(embedded) == 1:  # most encoders, whom a copy of all tokens would cost
            return embedded[0], tokens[name].valid
        return torch.cat(embedded, 1), torch.cat([tokens[name].valid for name in self.specs], 1)

    def encode(
        self,
        tokens: Mapping[str, Tokens],
        corrupt: Corrupt | None = None,
        layers: bool = False,
        keys: Tensor | None = None,
        states: bool = False,
        attention: bool = False,
        watch: Watch | None = None,
        summary: bool = False,
    ) -> Features:
        """Features of given tokens; the tokens of the inputs follow each other in the order of the specs.

        layers, states, attention: which of these `Features` are wanted. keys (B, L) bool: which valid tokens are attended
        to; None: all.
        watch: called before every block (see `nn.transformer`).
        summary: only the pooled feature is wanted: where that is the class token, the last block computes no other.
        """
        x, valid = self.embed(tokens, corrupt)
        whole = all(tokens[name].whole for name in self.specs)
        seen, own = valid if keys is None else valid & keys, 0
        if self.cls_token is not None:
            own = 1
            x = torch.cat([self.cls_token.to(x.dtype).expand(x.shape[0], 1, -1), x], 1)
            seen = torch.cat([valid.new_ones(x.shape[0], 1), seen], 1)
        mlps: list[Tensor] | None = [] if layers else None
        order, turn = self._order(tokens, own), self._turn(tokens, own)
        after: list[Tensor] | None = [] if states else None
        weights: list[Tensor] | None = [] if attention else None
        attend = None if whole and keys is None else seen
        asking = slice(0, own) if summary and self.options.pool == "cls" else ALL
        x = self.transformer(
            x, attend, mlps, order=order, turn=turn, states=after, attention=weights, watch=watch, asking=asking
        )
        if asking != ALL:
            return self._pooled(x[:, own:], valid[:, :0], torch.where(valid.any(1, keepdim=True), x[:, 0], 0), True)
        features = self._pooled(x[:, own:], valid, x[:, 0] if own else None, whole)
        if after:
            features = replace(features, states=tuple(s[:, own:] for s in after))
        if weights:
            features = replace(features, attention=_attended(weights[0].mean(1)[..., own:], valid, own))
        return replace(features, layers=tuple(m[:, own:] for m in mlps)) if mlps else features

    def _order(self, tokens: Mapping[str, Tokens], own: int) -> Tensor | None:
        """Causal order of the class token, which is the first, and the tokens."""
        if not self.options.causal:
            return None
        ((name, t),) = ((name, tokens[name]) for name in self.specs)
        return F.pad(cluster_order(self.position(name, t.coords), self.options.causal), (own, 0), value=-(2**62))

    def _turn(self, tokens: Mapping[str, Tokens], own: int) -> Turn | None:
        """Rotary positions of the class token, which is not turned, and the tokens of all inputs."""
        if self.options.positions != "rope":
            return None
        head = self.token_width // self.options.heads
        turns = [rotary(self.position(name, tokens[name].coords), head) for name in self.specs]
        cos, sin = (torch.cat(of_all, 2) for of_all in zip(*turns, strict=True))
        return F.pad(cos, (0, 0, own, 0), value=1.0), F.pad(sin, (0, 0, own, 0))

    def _pooled(self, x: Tensor, valid: Tensor, cls: Tensor | None, whole: bool) -> Features:
        if not whole:
            x = torch.where(valid[..., None], x, 0)
        if self.options.pool == "cls":
            assert cls is not None
            pooled = cls if whole else torch.where(valid.any(1, keepdim=True), cls, 0)
        elif self.options.pool == "mean":
            pooled = mean_pool(x, valid)
        else:
            pooled = torch.cat([mean_pool(x, valid), max_pool(x, valid)], 1)
        return Features(tokens=x, valid=valid, pooled=pooled, whole=whole, cls=cls)

    def summary(self, inputs: Mapping[str, BatchInput]) -> Features:
        return self.encode(self.tokenise(inputs), summary=True)

    def forward(self, inputs: Mapping[str, BatchInput], mask: Mapping[str, Mask] | None = None) -> Features:
        """Features of all tokens, or, with a mask per input, of the kept ones: raw patches are gathered first."""
        tokens = self.tokenise(inputs)
        if mask is not None:
            tokens = {name: mask[name].visible(t) for name, t in tokens.items()}
        return self.encode(tokens)


def _attended(weights: Tensor, valid: Tensor, own: int) -> Tensor:
    """Attention that tokens get (B, L), from weights (B, own + L, L): of the class token, or the mean of the valid ones."""
    if own:
        return weights[:, 0]
    return torch.where(valid[..., None], weights, 0).sum(1) / valid.sum(1, keepdim=True).clamp_min(1)
