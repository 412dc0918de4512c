"""A training step of SimCLR."""

from __future__ import annotations

import torch

from bench import peers
from bench.ours import batch_of, images, spec, stepper
from bench.row import Row, Work
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.methods.simclr import SimCLR
from unlabeled.core.nn.backbone import TimmBackbone
from unlabeled.core.streams import Draw

HIDDEN, OUT, TEMPERATURE = 512, 128, 0.5


def pair(device: torch.device, tiny: bool) -> tuple[Work, Work]:
    side, size = (32, 4) if tiny else (128, 32 if device.type == "cpu" else 256)
    first, second = images(size, side, device, 1), images(size, side, device, 2)
    views = {"view1": batch_of(first), "view2": batch_of(second)}

    def drawn(batch: Batch, draw: Draw) -> Batch:
        return views[draw.scope]

    specs = {"x": spec()}
    options = SimCLR.Options(projector=(HIDDEN, OUT), temperature=TEMPERATURE)
    method = SimCLR(TimmBackbone(specs, TimmBackbone.Options(model="resnet18")), specs, options, drawn)
    peer = peers.SimCLR(HIDDEN, OUT, TEMPERATURE).to(device)
    return stepper(method, views["view1"], device), peers.stepper(peer, lambda: peer(first, second), device)


ROW = Row(
    what="A whole training step of SimCLR in fp32: ResNet-18, two given views at 128 px, projector 512 and 128; 32 items on "
    "a CPU, 256 on a GPU.",
    peer_name="lightly's SimCLR example on torchvision's ResNet-18",
    like_for_like=True,
    difference="Both normalise view by view. Ours has maps with channels last on a CPU, the fused AdamW and the guard; the "
    "peer torch's AdamW as it comes, and one batch norm more, after its projector.",
    target=0.85,
    make=pair,
    turns=21,
)
