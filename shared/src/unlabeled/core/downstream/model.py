"""A model: an encoder with the head of one task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.batch import BatchInput, Dense
from unlabeled.core.nn.base import Encoder, cells_of
from unlabeled.core.nn.heads import ClassificationHead, SegmentationHead


class Model(nn.Module):
    """encoder, layer norm, linear; the norm lets starts of another output scale share one grid of learning rates.

    kind     "classification": logits (B, K) of the pooled features; "multilabel": the same, each of its own;
             "regression": values (B, 1) in the labels' unit; "segmentation": logits (B, K, *S) of every cell of the one
             dense input, from the token it lies in.
    about    what `model.json` says, where it was loaded.

    Raises RequestError where the encoder's tokens lie on no grid and `kind` is segmentation.
    """

    offset: Tensor
    scale: Tensor

    def __init__(self, encoder: Encoder, kind: str, outputs: int) -> None:
        super().__init__()
        self.encoder, self.kind, self.outputs = encoder, kind, outputs
        self.frozen = False
        self.about: Any = None
        if kind == "segmentation":
            patch = patch_of(encoder)
            self.norm = nn.LayerNorm(encoder.token_width)
            self.head: nn.Module = SegmentationHead(encoder.token_width, outputs, patch)
        else:
            self.norm = nn.LayerNorm(encoder.width)
            self.head = ClassificationHead(encoder.width, outputs)
        if kind == "regression":
            self.register_buffer("offset", torch.zeros(outputs))
            self.register_buffer("scale", torch.ones(outputs))

    def freeze(self) -> Self:
        """From now on the encoder learns nothing and stays in evaluation mode."""
        self.frozen = True
        self.encoder.requires_grad_(False)
        return self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, inputs: Mapping[str, BatchInput]) -> Tensor:
        features = self.encoder(inputs)
        if self.kind == "segmentation":
            (x,) = (inputs[name] for name in self.encoder.specs)
            assert isinstance(x, Dense)
            features = replace(features, tokens=self.norm(features.tokens))
            logits: Tensor = self.head(features, x.values.shape[2:])
            return logits.float()
        out: Tensor = self.head(replace(features, pooled=self.norm(features.pooled))).float()
        return out * self.scale + self.offset if self.kind == "regression" else out


def patch_of(encoder: Encoder) -> tuple[int, ...]:
    """Cells that one token stands for: `encoder.patch` of its only input, else `encoder.stride`."""
    name, *others = encoder.specs
    if others or encoder.specs[name].layout != "dense":
        raise RequestError("segmentation needs an encoder of one input on a regular grid; choose another task")
    patch = cells_of(encoder)
    if patch is None:
        raise RequestError(
            f"the tokens of a {type(encoder).__name__} lie on no grid, so it cannot segment; choose another encoder"
        )
    return patch
