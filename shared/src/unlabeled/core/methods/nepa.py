"""NEPA: Xu et al. 2025, Next-Embedding Prediction Makes Strong Vision Learners."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.losses.masked import masked_cosine
from unlabeled.core.methods.base import Context, Method, Options, Views, unchanged, weighted
from unlabeled.core.methods.masking import token_encoder
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.targets.features import target_std
from unlabeled.core.tokens.clusters import cluster_order
from unlabeled.core.tokens.tokens import Tokens


@dataclass(frozen=True)
class Ordered:
    """All tokens of a batch by input; in which order (B, L) they are read, and their causal order there; weight (B,)."""

    tokens: dict[str, Tokens]
    at: Tensor
    order: Tensor
    weight: Tensor


class NEPA(Method):
    """From every token and those before it in raster order, predict the embedding of the next valid one.

    The embedding is the encoder's own: the projected patch before it gets its position, behind a stop-gradient, without
    a norm. The loss is the mean of -cos over all pairs of neighbours; where there is a class token, it is the first to
    predict, as in the authors' code. There is neither teacher nor decoder: only the stop-gradient and the embedding that
    input and target share stand against collapse, so the spread of the targets is a vital sign. The paper turns queries
    and keys by their positions: that is `encoder.positions: rope`. Raises RequestError where the encoder is not causal,
    token by token.

    Deviations: the encoder is the recipe's, without the authors' LayerScale, QK norm and random rescaling of positions; the
    bundle carries the trained weights, where they evaluate an average of them.
    """

    class Options(Options):
        pass

    encoder: TokenEncoder

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        encoder = token_encoder(encoder, "nepa")
        super().__init__(encoder, specs, options, views)
        wanted = (1,) * encoder.input_spec.rank
        if encoder.options.causal != wanted:
            raise RequestError(
                f"method nepa: predicts token by token; set encoder.causal to {list(wanted)}, "
                f"got {list(encoder.options.causal)}"
            )

    def on_batch(self, batch: Batch, ctx: Context) -> Ordered:
        tokens = self.encoder.tokenise(self.views(batch, ctx.draw(batch, "view")).inputs)
        ((name, t),) = tokens.items()
        order = cluster_order(self.encoder.position(name, t.coords), self.encoder.options.causal)
        order, at = order.masked_fill(~t.valid, torch.iinfo(torch.int64).max).sort(dim=1, stable=True)
        return Ordered(tokens, at, order, batch.weight)

    def step(self, batch: Ordered, ctx: Context) -> dict[str, Any]:
        ((name, t),) = batch.tokens.items()
        features = self.encoder.encode(batch.tokens)
        with torch.no_grad():
            target = self.encoder.projected(name, t).take_along_dim(batch.at[..., None], 1)
        pred = features.tokens.take_along_dim(batch.at[..., None], 1)[:, :-1]
        there = t.valid.take_along_dim(batch.at, 1)
        # packed tokens may share a place, where the first has seen the second
        counts = there[:, 1:] & (batch.order[:, 1:] > batch.order[:, :-1])
        if features.cls is not None:
            pred, counts = torch.cat([features.cls[:, None], pred], 1), torch.cat([there[:, :1], counts], 1)
        loss = masked_cosine(pred, target[:, -pred.shape[1] :], counts * batch.weight[:, None])
        return weighted(
            {"cosine": (1.0, loss)},
            features.pooled,
            target_std=target_std(target, there * batch.weight[:, None]),
        )
