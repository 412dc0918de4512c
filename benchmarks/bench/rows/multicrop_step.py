"""A training step of DINO with small crops."""

from __future__ import annotations

import torch

from bench import peers
from bench.mae import VIT_S
from bench.ours import batch_of, images, spec, stepper
from bench.row import Row, Work
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.methods.dino import DINO
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.streams import Draw

GLOBAL, LOCAL = 2, 8
HIDDEN, BOTTLENECK, PROTOTYPES = 512, 64, 2048  # the head of lightly's example


def pair(device: torch.device, tiny: bool) -> tuple[Work, Work]:
    sides, size = ((64, 32), 2) if tiny else ((224, 96), 2 if device.type == "cpu" else 64)
    vit = {"width": 48, "depth": 2, "heads": 3} if tiny else VIT_S
    crops = {f"view{i + 1}": images(size, sides[0], device, i) for i in range(GLOBAL)}
    crops |= {f"local{i + 1}": images(size, sides[1], device, GLOBAL + i) for i in range(LOCAL)}
    views = {name: batch_of(x) for name, x in crops.items()}

    def drawn(batch: Batch, draw: Draw) -> Batch:
        return views[draw.scope]

    specs = {"x": spec()}
    encoder = TokenEncoder(specs, TokenEncoder.Options(**vit, patch=(16, 16), cls=True, pool="cls"))
    options = DINO.Options(
        prototypes=PROTOTYPES, projector=(HIDDEN, HIDDEN, BOTTLENECK), local_crops=LOCAL, freeze_steps=0
    )
    method = DINO(encoder, specs, options, drawn)
    method.local_views = drawn
    peer = peers.DINO(sides[0], **vit, head=(HIDDEN, BOTTLENECK, PROTOTYPES)).to(device)
    given = list(crops.values())
    ours = stepper(method, views["view1"], device)
    return ours, peers.stepper(peer, lambda: peer(given[:GLOBAL], given), device, after=peer.follow)


ROW = Row(
    what="A whole training step of DINO in fp32: ViT-S/16, 2 given crops at 224 px and 8 at 96 px of each of 2 images on a "
    "CPU, 64 on a GPU, 2,048 prototypes.",
    peer_name="lightly's DINO example on timm's ViT-S",
    like_for_like=True,
    difference="Same crops, tokens and heads, one update of the teacher. Ours sends all crops of a size through the encoder "
    "in one pass and all crops through the head, where the example goes crop by crop, and has the fused AdamW, the guard and "
    "the vital signs; the peer torch's AdamW as it comes.",
    target=0.75,
    make=pair,
)
