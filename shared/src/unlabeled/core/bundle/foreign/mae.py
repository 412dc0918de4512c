"""He et al. 2022 (MAE), the checkpoints of its authors: a ViT with sincos positions as a table, beside a decoder.

The patch embedding is a convolution, so the pixel order of the loss (`nhwpqc`, channels last) does not concern it.
"""

from __future__ import annotations

from torch import Tensor

from unlabeled.core.bundle.foreign.files import drop


def adapt(state: dict[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    return drop(state, ("decoder_", "mask_token", "head."), notes)
