"""timm's `VisionTransformer`, as `torch.save(model.state_dict())` or timm's own safetensors give it."""

from __future__ import annotations

from torch import Tensor

from unlabeled.core.bundle.foreign.files import drop


def adapt(state: dict[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    return drop(state, ("head.",), notes)
