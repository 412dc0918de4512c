"""ARM: Ren et al. 2024, Autoregressive Pretraining with Mamba in Vision."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field
from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.losses.masked import masked_mse, normalised_patches
from unlabeled.core.methods import base
from unlabeled.core.methods.base import Context, Method, Views, unchanged, weighted
from unlabeled.core.methods.masking import token_encoder
from unlabeled.core.nn.causal_decoder import CausalDecoder
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.tokens.clusters import before, cluster_order
from unlabeled.core.tokens.tokens import Tokens


@dataclass(frozen=True)
class Scanned:
    """All tokens of a batch's only input; weight (B,)."""

    tokens: Tokens
    weight: Tensor


class ARM(Method):
    """Scan an item cluster by cluster and predict the raw patches of each cluster from the features of those before it.

    The encoder is causal (its option `causal` gives the size of a cluster; the paper's are 4 x 4 patches in raster
    order), so no feature knows of a later cluster. A decoder of cross-attention, whose queries know nothing but their
    place, sees the earlier clusters only (section 3.2). The loss is the MSE on patches normalised each by itself. The
    first cluster has nothing before it and is not predicted. Raises RequestError where the encoder works on no tokens or
    is not causal, or where one cluster holds all of the grid.

    Deviations: the paper's encoder is a Mamba, whose kernel runs on CUDA alone and which sees its tokens one by one; the
    objective asks for no more than a causal encoder, and here that is a transformer, whose tokens see all of their own
    cluster. Every block of the decoder reads the encoder's last features; in the authors' code four layers are joined.
    Their code drops the last cluster before the encoder; here it is encoded, since the bundle's features are of the
    whole item, and nothing reads it. One scan, from the first cluster to the last, as in their pretraining code.
    """

    class Options(base.Options):
        norm_target: bool = Field(True, description="predict patches normalised by their own mean and deviation")
        decoder: CausalDecoder.Options = Field(CausalDecoder.Options(), description="thrown away afterwards")

    encoder: TokenEncoder

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        encoder = token_encoder(encoder, "arm", pixels=True)
        if not encoder.options.causal:
            raise RequestError(
                "method arm: needs a causal encoder; set encoder.causal to the patches of a cluster along each axis, "
                "such as [4, 4]"
            )
        super().__init__(encoder, specs, options, views)
        (self.input,) = encoder.specs  # a causal encoder has one input
        self.decoder = CausalDecoder(encoder.token_width, encoder.patch_widths[self.input], options.decoder)

    def on_batch(self, batch: Batch, ctx: Context) -> Scanned:
        batch = self.views(batch, ctx.draw(batch, "view"))
        tokens, cluster = self.encoder.tokenise(batch.inputs)[self.input], self.encoder.options.causal
        # a batch of which nothing could be read has a grid of one token
        read = math.prod(tokens.grid) > 1 or tokens.whole
        if read and tokens.grid and all(n <= c for n, c in zip(tokens.grid, cluster, strict=True)):
            raise RequestError(
                f"encoder.causal: a cluster of {list(cluster)} holds all {list(tokens.grid)} patches of {self.input!r}, "
                "and nothing comes after it; make it smaller"
            )
        return Scanned(tokens, batch.weight)

    def step(self, batch: Scanned, ctx: Context) -> dict[str, Any]:
        tokens = batch.tokens
        features = self.encoder.encode({self.input: tokens})
        position = self.encoder.position(self.input, tokens.coords)
        sees = before(cluster_order(position, self.encoder.options.causal), tokens.valid)
        pred = self.decoder(features.tokens, sees, position)
        elements = None if tokens.whole else tokens.elements
        target = normalised_patches(tokens.patches, elements) if self.options.norm_target else tokens.patches
        weight = tokens.elements * (sees.any(-1) * batch.weight[:, None])[..., None]
        return weighted({"mse": (1.0, masked_mse(pred, target, weight))}, features.pooled)
