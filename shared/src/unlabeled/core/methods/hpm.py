"""HPM: Wang et al. 2023, Bootstrap Masked Visual Modeling via Hard Patches Mining."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.losses.ranking import pairwise_order
from unlabeled.core.methods.base import Context, Views, unchanged, weighted
from unlabeled.core.methods.mae import MAE, Masked
from unlabeled.core.methods.masking import Drawn, drawn
from unlabeled.core.nn.predictor import Predictor
from unlabeled.core.targets.teacher import Teacher
from unlabeled.core.tokens.guided import loss_guided
from unlabeled.core.tokens.masks import Mask
from unlabeled.core.tokens.tokens import Tokens


class HPM(MAE):
    """MAE that hides what its own teacher expects to be hard.

    A second predictor learns which hidden patches have the larger loss: the pairwise loss of their order, beside MAE's,
    on the losses of this step, which get no gradient from it. An EMA teacher of encoder and loss predictor looks at the
    whole item; a share of the hidden patches are those it expects the largest loss of, the rest is random. The share
    grows linearly over the run ("easy to hard"). Both predictors have the same options. The bundle carries the trained
    encoder, as the paper evaluates it.

    Deviations: the teacher is asked by mask tokens in every place, beside the tokens of the whole item; the authors read
    the expected loss off the visible tokens, at which their loss predictor was never trained. All masks come of one sort,
    and not of a loop over items on the host. The share grows with every step (theirs with every epoch), and so does the
    teacher's momentum, over the whole run (theirs over 100 epochs). The loss predictor gives one number a token, and not
    the mean of P. No 10^-6 stands inside the logarithm, so that the gradient of a pair in the wrong order never vanishes.
    """

    class Options(MAE.Options):
        first_share: float = Field(0.0, ge=0, le=1, description="of the hidden tokens, the hardest: at the first step")
        last_share: float = Field(0.5, ge=0, le=1, description="and at the last step, linearly")
        weight: float = Field(1.0, gt=0, description="of the order of the losses, beside MAE's")
        teacher: Teacher.Options = Field(
            Teacher.Options(momentum=0.999, final_momentum=0.9999, schedule="linear"), description="the EMA teacher"
        )

        @model_validator(mode="after")
        def _guided(self) -> Self:
            if self.mask.name != "random":
                raise ValueError("mask is not free: the hardest tokens are hidden, and random ones; leave it out")
            return self

    options: Options

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        super().__init__(encoder, specs, options, views)
        outputs = dict.fromkeys(self.encoder.patch_widths, 1)
        self.loss_predictor = Predictor(self.encoder.token_width, outputs, options.decoder)
        self.teacher = Teacher(options.teacher, encoder=self.encoder, loss_predictor=self.loss_predictor)

    def on_batch(self, batch: Batch, ctx: Context) -> Drawn:  # type: ignore[override]
        return drawn(self.encoder, self.views(batch, ctx.draw(batch, "view")), ctx.draw(batch, "mask"))

    def _masked(self, batch: Batch, ctx: Context) -> tuple[dict[str, Tokens], dict[str, Mask]]:
        of_batch = drawn(self.encoder, batch, ctx.draw(batch, "mask"))
        return of_batch.tokens, self._guided(of_batch, ctx)

    def _guided(self, batch: Drawn, ctx: Context) -> dict[str, Mask]:
        o, expected = self.options, self.expected(batch.tokens)
        share = o.first_share + (o.last_share - o.first_share) * ctx.progress
        masks = {}
        for n, t in batch.tokens.items():
            mask = loss_guided(t.valid, o.mask_ratio, batch.noise[n], expected[n], share, o.rounding)
            masks[n] = replace(mask, whole=t.whole)
        return masks

    @torch.no_grad()
    def expected(self, tokens: Mapping[str, Tokens]) -> dict[str, Tensor]:
        """How large a loss the teacher expects of every token (B, L), up to any rising function, by input."""
        features = self.teacher["encoder"].encode(tokens)
        whole = Masked(dict(tokens), dict(tokens), features.tokens.new_ones(len(features.tokens)))
        found = self.teacher["loss_predictor"](features, *self._places(whole))
        return {n: x[..., 0] for n, x in found.items()}

    def step(self, batch: Drawn, ctx: Context) -> dict[str, Any]:  # type: ignore[override]
        cut = self._cut(batch.tokens, self._guided(batch, ctx), batch.weight)
        features, pred = self._predicted(cut)
        order = self.loss_predictor(features, *self._places(cut))
        share, terms = 1 / len(pred), {}
        for n, hidden in cut.hidden.items():
            counts = hidden.valid * cut.weight[:, None]
            terms[f"mse_{n}"] = (share, self._loss(pred[n], hidden, cut.weight))
            ranked = pairwise_order(order[n][..., 0], self._errors(pred[n], hidden), counts)
            terms[f"order_{n}"] = (share * self.options.weight, ranked)
        gap = self.teacher.gap(encoder=self.encoder, loss_predictor=self.loss_predictor)
        return weighted(terms, features.pooled, teacher_gap=gap)

    @torch.no_grad()
    def _errors(self, pred: Tensor, hidden: Tokens) -> Tensor:
        """The loss of every hidden token (B, M)."""
        target, elements = self._target(hidden)
        error = (pred - target).square()
        if elements is None:
            return error.mean(-1)
        return torch.where(elements, error, 0).sum(-1) / elements.sum(-1).clamp_min(1)

    def after_step(self, ctx: Context) -> None:
        self.teacher.follow(ctx.progress, encoder=self.encoder, loss_predictor=self.loss_predictor)
