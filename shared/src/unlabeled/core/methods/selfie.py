"""Selfie: Trinh et al. 2019, Selfie: Self-supervised Pretraining for Image Embedding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field
from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.losses.matching import matching
from unlabeled.core.methods.base import Context, Method, Views, unchanged, weighted
from unlabeled.core.methods.mae import Masked
from unlabeled.core.methods.masking import Masking, draw_masks, token_encoder
from unlabeled.core.nn.attention_pool import AttentionPool
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.nn.heads import Projector
from unlabeled.core.nn.transformer import xavier
from unlabeled.core.tokens.positions import sincos


class Selfie(Method):
    """Hide some patches, encode the rest, and say for every hidden place which of the item's hidden patches belongs there.

    The visible features are pooled by attention into one vector u (section 2.2). u and the position of a hidden place make
    the query; its dot products with the embeddings of all hidden patches of the item are the logits of a cross-entropy
    (section 2.1), so the other hidden patches are the distractors. Every named input asks and answers for itself, with u
    in common; the loss is the mean over inputs. Raises RequestError where the encoder works on no tokens.

    Deviations: the paper's query is the sum of u and the position itself. Then u adds the same to a patch's logit in
    all places, the loss asks almost nothing of it, and the encoder learns little; here a hidden layer joins the two.
    Its patch network, the first blocks of a ResNet, reads visible and hidden patches alike; here they share the encoder's
    projection, and the hidden ones go through two layers of their own while the visible ones go through the encoder.
    """

    class Options(Masking):
        mask_ratio: float = Field(0.25, gt=0, lt=1, description="share of the valid tokens that is hidden")
        depth: int = Field(1, ge=1, description="blocks of the attention pooling (paper: 3)")
        heads: int = Field(4, ge=1, description="its attention heads")

    encoder: TokenEncoder

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        encoder = token_encoder(encoder, "selfie")
        super().__init__(encoder, specs, options, views)
        width = encoder.token_width

        def head() -> nn.ModuleDict:
            return nn.ModuleDict({n: Projector(width, (width, width), norm=False) for n in encoder.specs})

        self.pool = AttentionPool(width, options.depth, options.heads)
        self.query, self.candidate = head(), head()
        for heads in (self.query, self.candidate):
            xavier(heads)

    def on_batch(self, batch: Batch, ctx: Context) -> Masked:
        tokens = self.encoder.tokenise(self.views(batch, ctx.draw(batch, "view")).inputs)
        masks = draw_masks(self.options, self.encoder, tokens, ctx.draw(batch, "mask"))
        return Masked(
            visible={n: masks[n].visible(t) for n, t in tokens.items()},
            hidden={n: masks[n].hidden(t) for n, t in tokens.items()},
            weight=batch.weight,
        )

    def step(self, batch: Masked, ctx: Context) -> dict[str, Any]:
        features = self.encoder.encode(batch.visible)
        u = self.pool(features.tokens, None if features.whole else features.valid)
        share = 1 / len(batch.hidden)
        terms = {}
        for name, hidden in batch.hidden.items():
            query, candidate = self.pairs(name, u, batch)
            terms[f"choice_{name}"] = (share, matching(query, candidate, hidden.valid, batch.weight))
        return weighted(terms, features.pooled)

    def pairs(self, name: str, u: Tensor, batch: Masked) -> tuple[Tensor, Tensor]:
        """Queries of the hidden places of an input and embeddings of what is in them, (B, M, D) each; u (B, D)."""
        hidden = batch.hidden[name]
        place = sincos(self.encoder.position(name, hidden.coords), self.encoder.token_width).to(u.dtype)
        # whole numbers stay as they are: half precision does not hold 257
        patches = hidden.patches if self.encoder.vocabulary[name] else hidden.patches.to(u.dtype)
        return self.query[name](u[:, None] + place), self.candidate[name](self.encoder.project[name](patches))
