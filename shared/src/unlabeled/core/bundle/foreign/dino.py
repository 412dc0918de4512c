"""Caron et al. 2021 (DINO), student or teacher: a plain ViT, beside a projection head."""

from __future__ import annotations

from torch import Tensor

from unlabeled.core.bundle.foreign.files import drop


def adapt(state: dict[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    return drop(state, ("head.",), notes)
