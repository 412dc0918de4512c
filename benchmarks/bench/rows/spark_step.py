"""A masked training step of SparK against the dense step of the same nets."""

from __future__ import annotations

from typing import Any

import torch

from bench.ours import batch_of, images, spec, stepper
from bench.row import Row, Work
from unlabeled.core.losses.masked import masked_mse, normalised_patches
from unlabeled.core.methods.base import Context, weighted
from unlabeled.core.methods.spark import Hidden, SparK
from unlabeled.core.nn.backbone import TimmBackbone
from unlabeled.core.tokens.patches import patch_valid, patchify


class Dense(SparK):
    """The same encoder, decoder and loss, with nothing hidden and not one mask in the nets."""

    def step(self, batch: Hidden, ctx: Context) -> dict[str, Any]:
        maps = self.encoder.maps({self.encoder.input: batch.x})
        found = {m.stride: m for m in maps}
        x: Any = None
        for densify, up, stride in zip(self.decoder.densify, self.decoder.ups, reversed(self.strides), strict=True):
            dense = densify.project(densify.norm(found[stride].values))  # type: ignore[operator]
            x = up(dense if x is None else dense + x)
        pred = patchify(self.decoder.head(x), self.encoder.stride)
        elements, _ = patch_valid(batch.x.valid, self.encoder.stride, batch.x.values.shape[1])
        target = normalised_patches(patchify(batch.x.values, self.encoder.stride), elements)
        weight = elements * (batch.hidden * batch.weight[:, None])[..., None]
        return weighted({"mse": (1.0, masked_mse(pred, target, weight))}, self.encoder.features(maps[-1]).pooled)


def pair(device: torch.device, tiny: bool) -> tuple[Work, Work]:
    side, size, model = (64, 2, "resnet18") if tiny else (224, 8 if device.type == "cpu" else 64, "resnet50")
    batch = batch_of(images(size, side, device))

    def made(kind: type[SparK]) -> Work:
        specs = {"x": spec()}
        encoder = TimmBackbone(specs, TimmBackbone.Options(model=model))
        return stepper(kind(encoder, specs, SparK.Options()), batch, device)

    return made(SparK), made(Dense)


ROW = Row(
    what="A whole training step of SparK in fp32: ResNet-50 at 224 px, 60 % hidden; 8 images on a CPU, 64 on a GPU.",
    peer_name="our own step with the same nets and loss, nothing hidden",
    difference="What masking costs: the peer's nets see every pixel and know of no mask, so this is no speed-up.",
    target=1.15,
    make=pair,
    turns=5,
)
