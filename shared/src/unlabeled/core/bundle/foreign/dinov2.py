"""Oquab et al. 2024 (DINOv2), without registers: a ViT with LayerScale.

Its training checkpoints number blocks by chunk and place (`blocks.0.3.norm1`); the published files do not.
"""

from __future__ import annotations

import re

from torch import Tensor

from unlabeled.core.bundle.foreign.files import drop
from unlabeled.core.contracts import Incompatible

CHUNKED = re.compile(r"blocks\.\d+\.(\d+)\.")


def adapt(state: dict[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    if any(".mlp.w12." in name for name in state):
        raise Incompatible("these DINOv2 weights have gated MLPs (ViT-g), which our encoder has not; choose S, B or L")
    if any(CHUNKED.match(name) for name in state):
        # a chunk keeps the places of the whole model, with nothing in the places of other chunks
        state = {CHUNKED.sub(r"blocks.\1.", name): value for name, value in state.items()}
        notes.append("blocks numbered without their chunks")
    return drop(state, ("mask_token", "head."), notes)
