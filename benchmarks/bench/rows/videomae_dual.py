"""One step of VideoMAE V2 that decodes half of what is hidden against one that decodes all of it."""

from __future__ import annotations

import torch

from bench.ours import CHANNELS, batch_of, stepper
from bench.row import Row, Work
from unlabeled.core.contracts import InputSpec
from unlabeled.core.methods.videomae2 import VideoMAE2
from unlabeled.core.nn.encoder import TokenEncoder


def pair(device: torch.device, tiny: bool) -> tuple[Work, Work]:
    frames, side, size = (8, 64, 1) if tiny else (16, 224, 1 if device.type == "cpu" else 32)
    vit = {"width": 48, "depth": 2, "heads": 3} if tiny else {"width": 384, "depth": 12, "heads": 6}
    decoder = {"width": 48, "depth": 1, "heads": 3} if tiny else {"width": 192, "depth": 4, "heads": 3}
    lot = torch.Generator().manual_seed(0)
    batch = batch_of(torch.randn(size, 3, frames, side, side, generator=lot).to(device))
    specs = {
        "x": InputSpec(channels=CHANNELS, units=("",) * 3, axes=("time", "y", "x"), unit="px", spacing=(1.0, 1.0, 1.0))
    }

    def made(left_out: float) -> Work:
        encoder = TokenEncoder(specs, TokenEncoder.Options(**vit, patch=(2, 16, 16)))
        options = VideoMAE2.Options(decoder=decoder, decoder_mask_ratio=left_out)
        return stepper(VideoMAE2(encoder, specs, options), batch, device)

    return made(0.5), made(0.0)


ROW = Row(
    what="One training step of VideoMAE V2 in fp32: ViT-S with patches of 2 x 16 x 16, decoder 192 wide and 4 deep, clips of "
    "16 frames at 224 px; 1 clip on a CPU, 32 on a GPU. 160 of 1568 tokens are seen and 704 predicted.",
    peer_name="our own step that predicts all 1408 hidden tokens",
    difference="The peer learns from twice as many predicted tokens.",
    target=0.75,
    make=pair,
    turns=5,
)
