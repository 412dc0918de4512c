"""MixedAE: Chen et al. 2023, Mixed Autoencoder for Self-supervised Visual Representation Learning."""

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
from unlabeled.core.losses.homologous import homologous
from unlabeled.core.losses.masked import masked_mse, normalised_patches
from unlabeled.core.methods import base
from unlabeled.core.methods.base import Context, Method, Views, unchanged, weighted
from unlabeled.core.methods.masking import token_encoder
from unlabeled.core.nn.base import Features
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.nn.pooling import mean_pool
from unlabeled.core.nn.predictor import Predictor
from unlabeled.core.streams import uniform
from unlabeled.core.tokens.exchange import everybody, rows
from unlabeled.core.tokens.mix import Groups, mixed
from unlabeled.core.tokens.tokens import Tokens


@dataclass(frozen=True)
class Mixed:
    """The items of this rank's groups, cut in two by input: tokens of theirs that went into the mixed sequence, and those
    that did not, (G * n, ...) each; weight (G * n,)."""

    given: dict[str, Tokens]
    hidden: dict[str, Tokens]
    groups: Groups
    weight: Tensor


class MixedAE(Method):
    """Mix the patches of several items into one sequence, and recover every item from its own tokens in it.

    Groups of `mix` items are drawn from the items of all ranks. Every place of a group is taken from one of them, so each
    gives 1 / mix of its patches, and the encoder sees as few tokens per item as MAE's. A predictor gets the tokens of one
    item and predicts the patches it did not give; the loss is MAE's on them. The encoder also has to tell which tokens
    belong together: among its outputs, tokens of one item attract and those of the others repel (homologous contrast).
    A rank encodes its share of the groups. With several ranks a step waits for the device once, to learn the largest grid
    of any rank. Raises RequestError where the encoder works on no tokens, or an input has no grid.

    Deviations: from the abstract and what others wrote of the paper; no code of the authors was found. The homologous
    attention (each token attends to the most similar ones only) and the segment embedding are left out, since an encoder
    that is exported should compute what it was trained to compute; so the contrast alone asks for the recognition. Its
    temperature and weight are decided here.
    """

    couples = "patches of several items of the batch make one sequence"

    class Options(base.Options):
        mix: int = Field(4, ge=2, description="items whose patches are mixed; 4 hides as much of each as MAE does")
        weight: float = Field(0.1, ge=0, description="of the homologous contrast, beside the recovery")
        temperature: float = Field(0.25, gt=0, description="divides the cosines of the contrast")
        norm_target: bool = Field(True, description="predict patches normalised by their own mean and deviation")
        decoder: Predictor.Options = Field(Predictor.Options(), description="the predictor, thrown away afterwards")

    encoder: TokenEncoder

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        encoder = token_encoder(encoder, "mixedae", pixels=True)
        for name, spec in encoder.specs.items():
            if spec.layout != "dense":
                raise RequestError(
                    f"method mixedae: the input {name!r} has no grid, so no place of it is another item's too; use mae"
                )
        super().__init__(encoder, specs, options, views)
        self.predictor = Predictor(encoder.token_width, encoder.patch_widths, options.decoder)

    def on_batch(self, batch: Batch, ctx: Context) -> Mixed:
        tokens = self.encoder.tokenise(self.views(batch, ctx.draw(batch, "view")).inputs)
        groups = Groups.of(batch.index, batch.weight, self.options.mix, ctx.shared("groups"))
        given, hidden = {}, {}
        for name, t in tokens.items():
            items = rows(everybody(t), groups.member, groups.there)
            noise = uniform(ctx.shared(f"mix/{name}"), groups.number, items.grid).flatten(1)
            mask = mixed(items.valid.reshape(-1, self.options.mix, items.valid.shape[1]), noise)
            given[name], hidden[name] = mask.visible(items), mask.hidden(items)
        return Mixed(given, hidden, groups, groups.there.to(batch.weight.dtype))

    def step(self, batch: Mixed, ctx: Context) -> dict[str, Any]:
        o, position = self.options, self.encoder.position
        # every item's tokens one after the other: they carry their coordinates, so their order is of no matter
        sequence = {
            n: t._each(lambda x: x.reshape(-1, o.mix * x.shape[1], *x.shape[2:])) for n, t in batch.given.items()
        }
        features = self.encoder.encode(sequence)
        contrast = homologous(features.tokens, self._owner(features, batch), features.valid, o.temperature)
        own = self._apart(features, batch)
        pred = self.predictor(
            own,
            {n: position(n, t.coords) for n, t in batch.given.items()},
            {n: (position(n, t.coords), t.valid) for n, t in batch.hidden.items()},
        )
        share = 1 / len(pred)
        terms = {f"mse_{n}": (share, self._loss(pred[n], t, batch.weight)) for n, t in batch.hidden.items()}
        embedding = ranks.gather(own.pooled.detach())[batch.groups.place]
        return weighted(terms | {"contrast": (o.weight, contrast)}, embedding)

    def _owner(self, features: Features, batch: Mixed) -> Tensor:
        """Which of its group's items every token of a sequence comes from, (G, L)."""
        item = torch.arange(self.options.mix, device=features.valid.device)[:, None]
        owner = torch.cat([item.expand(-1, t.valid.shape[1]).flatten() for t in batch.given.values()])
        return owner.expand_as(features.valid)

    def _apart(self, features: Features, batch: Mixed) -> Features:
        """The features of the sequences, item by item: tokens (G * n, K, D)."""
        counts = [self.options.mix * t.valid.shape[1] for t in batch.given.values()]
        parts = torch.split(features.tokens, counts, 1)
        tokens = torch.cat([x.reshape(len(batch.weight), -1, x.shape[2]) for x in parts], 1)
        valid = torch.cat([t.valid for t in batch.given.values()], 1)
        return Features(tokens, valid, mean_pool(tokens, valid))

    def _loss(self, pred: Tensor, hidden: Tokens, weight: Tensor) -> Tensor:
        normalised = self.options.norm_target
        target = normalised_patches(hidden.patches, hidden.elements) if normalised else hidden.patches
        return masked_mse(pred, target, hidden.elements * weight[:, None, None])
