"""Adapters: small layers beside the MLPs of a transformer whose own weights stay.

They stand alone for every way to train few parameters on given weights: GLARE first, fine-tuning next.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, TypeVar

import torch.nn.functional as F
from timm.layers.mlp import Mlp
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


class Adapter(nn.Module):
    """(..., D) -> (..., D): down to a few channels, GELU, and up again; the way up is zero at the start.

    Houlsby et al. 2019, section 2.1, beside the MLP as in UniAdapter (Lu et al. 2024), whose code begins the way up of
    texts at zero, and forgets that of images. Decided here: it reads what the MLP reads, after the block's own norm, where
    UniAdapter has a norm more; GELU, where its code has ReLU; no factor on what it gives.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, hidden)
        self.up = nn.Linear(hidden, width)
        nn.init.xavier_uniform_(self.down.weight)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(F.gelu(self.down(x)))  # type: ignore[no-any-return]


class AdaptableMlp(Mlp):
    """timm's MLP, beside which an adapter may stand; without one it is the same, with the same state."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.adapter: Adapter | None = None

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return out if self.adapter is None else out + self.adapter(x)


def adapt(blocks: Iterable[Any], width: int, hidden: int) -> None:
    """Put an adapter beside the MLP of every block."""
    for block in blocks:
        block.mlp.adapter = Adapter(width, hidden)


def adapters(module: nn.Module) -> nn.ModuleList:
    """The adapters of a module, in order."""
    return nn.ModuleList(m for m in module.modules() if isinstance(m, Adapter))


def with_adapters(module: M, theirs: nn.ModuleList) -> M:
    """The same module with other adapters, in order. It shares its frozen parameters: none of them is copied."""
    memo: dict[int, Any] = {id(p): p for p in module.parameters() if not p.requires_grad}
    return copy.deepcopy(module, memo | {id(a): b for a, b in zip(adapters(module), theirs, strict=True)})
