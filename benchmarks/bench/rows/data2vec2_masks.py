"""One step of data2vec 2.0 with eight masks against eight steps with one."""

from __future__ import annotations

import torch

from bench.ours import batch_of, images, spec, stepper
from bench.row import Row, Work
from unlabeled.core.methods.data2vec2 import Data2Vec2
from unlabeled.core.nn.encoder import TokenEncoder

MASKS = 8


def pair(device: torch.device, tiny: bool) -> tuple[Work, Work]:
    side, size = (64, 2) if tiny else (224, 4 if device.type == "cpu" else 64)
    vit = {"width": 48, "depth": 2, "heads": 3} if tiny else {"width": 384, "depth": 12, "heads": 6}
    batch = batch_of(images(size, side, device))

    def made(masks: int) -> Work:
        specs = {"x": spec()}
        encoder = TokenEncoder(specs, TokenEncoder.Options(**vit, patch=(16, 16)))
        return stepper(Data2Vec2(encoder, specs, Data2Vec2.Options(masks=masks)), batch, device)

    one = made(1)
    return made(MASKS), lambda: [one() for _ in range(MASKS)]


ROW = Row(
    what="One training step of data2vec 2.0 with 8 masks of each image, in fp32: ViT-S/16 at 224 px; 4 images on a CPU, 64 "
    "on a GPU.",
    peer_name="8 of our own steps with 1 mask",
    difference="Equally many masked images are learned from; the peer also makes 8 updates and 8 teacher passes.",
    target=0.40,
    make=pair,
    turns=5,
)
