"""What the two rows of MAE share: ViT-S/16 at 224 px, three quarters hidden, against lightly's example."""

from __future__ import annotations

from typing import Any

import torch

from bench import peers
from bench.ours import batch_of, images, spec, stepper
from bench.row import Work
from unlabeled.core.methods.mae import MAE
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.nn.predictor import Predictor

VIT_S = {"width": 384, "depth": 12, "heads": 6}
EXAMPLE = {"width": 512, "depth": 1, "heads": 16}  # the decoder of lightly's documentation


def ours(encoder: dict[str, int], decoder: dict[str, int] | None) -> MAE:
    """`decoder` None: our default one."""
    specs = {"x": spec()}
    net = TokenEncoder(specs, TokenEncoder.Options(**encoder, patch=(16, 16)))
    made: dict[str, Any] = {} if decoder is None else {"decoder": Predictor.Options(**decoder)}
    return MAE(net, specs, MAE.Options(**made))


def pair(device: torch.device, tiny: bool, decoder: dict[str, int] | None) -> tuple[Work, Work]:
    side, size = (64, 2) if tiny else (224, 16 if device.type == "cpu" else 256)
    vit = {"width": 48, "depth": 2, "heads": 3} if tiny else VIT_S
    x = images(size, side, device)
    peer = peers.MAE(side, **vit, decoder=EXAMPLE).to(device)
    return stepper(ours(vit, decoder), batch_of(x), device), peers.stepper(
        peer, lambda: peer(x, *peer.masks(x)), device
    )
