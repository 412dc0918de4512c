"""CLIP: Radford et al. 2021, Learning Transferable Visual Models From Natural Language Supervision."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from unlabeled.core.contracts import Incompatible, InputSpec, RequestError
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.contracts.recipe import nearest
from unlabeled.core.losses.contrastive import info_nce
from unlabeled.core.methods import base
from unlabeled.core.methods.base import Context, Method, Views, unchanged, weighted
from unlabeled.core.nn.base import Encoder, Features
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.nn.fitting import Sizes


class TextTower(TokenEncoder.Options):
    """Of a token encoder that reads bytes (`data.texts.BYTES`) unless told otherwise."""

    patch: Sizes | dict[str, Sizes] = Field((1,), description="ids per token: one")
    vocabulary: Sizes | dict[str, Sizes] = Field((257,), description="how many ids the tokenizer has")


class CLIP(Method):
    """An image and its text shall be closer than the image and other texts, and than the text and other images.

    Two encoders, a linear projection of the features of each without bias, and the cross-entropy of the cosines in both
    directions, halved, against the items of all ranks (figure 3). The cosines are divided by a learned temperature, whose
    inverse begins at 1 / 0.07 and stays at most 100 (section 2.5). The text is an input of the sample, ids of any
    tokenizer (`data.texts`); its tower is a token encoder, with random weights or those of a bundle. The image encoder
    reads all other inputs, and alone goes into the bundle. An item that lacks its image or its text takes no part.

    Raises RequestError where `text` names no input or the only one.

    Deviations: the text tower is no GPT: unless `causal` is set every token sees all, and its feature is the mean over
    them, where the paper takes the last one; the temperature is brought back to its bound after a step, so that its
    gradient never ends; items cut from one record share its text and are no negatives of each other; AdamW decays neither
    norms nor biases, as there.
    """

    class Options(base.Options):
        text: str = Field("text", description="name of the input that is the text")
        text_encoder: TextTower = Field(TextTower(), description="the text's token encoder, as under encoder")
        text_start: str | None = Field(
            None,
            description="weights of the text's encoder: a bundle's folder or a weight file; none: random",
        )
        freeze_text: bool = Field(False, description="whether the text's encoder stays as it began")
        width: int = Field(256, ge=1, description="of the common space (paper: 512)")
        temperature: float = Field(0.07, gt=0, description="divides the cosines at first; it is learned")
        max_scale: float = Field(100.0, gt=0, description="what the cosines are multiplied with at most")

        @model_validator(mode="after")
        def _begun(self) -> Self:
            if self.freeze_text and not self.text_start:
                raise ValueError("freeze_text keeps the weights that text_start names; name them")
            return self

    encoder: Encoder
    couples = "every item of the batch is a negative of the others"

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        self.encodes(specs, options)
        super().__init__(encoder, specs, options, views)
        self.text_encoder = TokenEncoder({options.text: specs[options.text]}, options.text_encoder)
        if not self.text_encoder.vocabulary[options.text]:
            raise RequestError("method.text_encoder.vocabulary: a text holds ids; name how many the tokenizer has")
        self.project_image = nn.Linear(self.encoder.width, options.width, bias=False)
        self.project_text = nn.Linear(self.text_encoder.width, options.width, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(options.temperature)))

    @classmethod
    def encodes(cls, specs: Mapping[str, InputSpec], options: Any) -> Mapping[str, InputSpec]:
        if options.text not in specs:
            raise RequestError(f"method.text: {nearest(options.text, list(specs))}")
        others = {name: spec for name, spec in specs.items() if name != options.text}
        if not others:
            raise RequestError(f"method.text: {options.text!r} is the only input; read images beside the texts")
        return others

    def take_text(self, encoder: Encoder) -> None:
        """Take `encoder` as the text's. Raises Incompatible where it is none of ids, or gives features of another width."""
        own = self.text_encoder
        if not isinstance(encoder, TokenEncoder) or encoder.vocabulary != own.vocabulary or encoder.width != own.width:
            raise Incompatible(
                "method.text_start: these weights are of another encoder than method.text_encoder; write there what they "
                "have: width, vocabulary, pool"
            )
        self.text_encoder = encoder.requires_grad_(not self.options.freeze_text)

    def on_batch(self, batch: Batch, ctx: Context) -> Batch:
        return self.views(batch, ctx.draw(batch, "view"))

    def step(self, batch: Batch, ctx: Context) -> dict[str, Any]:
        image, text, weight = self._features(batch)
        a, b = self.project_image(image.pooled), self.project_text(text.pooled)
        there = ((-self.log_scale).exp(), weight, batch.record)
        return weighted(
            {"image_to_text": (0.5, info_nce(a, b, *there)), "text_to_image": (0.5, info_nce(b, a, *there))},
            image.pooled,
        )

    def _features(self, batch: Batch) -> tuple[Features, Features, Tensor]:
        """Of images and of texts, and the weight (B,) of the items that have both."""
        name = self.options.text
        image = self.encoder({n: x for n, x in batch.inputs.items() if n != name})
        text = self.text_encoder({name: batch.inputs[name]})
        return image, text, batch.weight * image.valid.any(1) * text.valid.any(1)

    @torch.no_grad()
    def after_step(self, ctx: Context) -> None:
        self.log_scale.clamp_(max=math.log(self.options.max_scale))
