"""An encoder of one dense input as a function of plain tensors, which is what other libraries can hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from unlabeled.core.contracts import Incompatible
from unlabeled.core.contracts.batch import Dense
from unlabeled.core.nn.base import Encoder
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.nn.unet import UNet


@dataclass(frozen=True)
class Written:
    """What a format's writer leaves behind.

    answer    pooled features of what was written, read again, for the tensors of the fixed input
    use       how it is loaded, in Python
    left_out  what the format does not hold, one line each
    shape     of the fixed input's grid, where the format has but one
    width     how many of the pooled features it gives, the first ones; None: all
    """

    answer: Callable[[Mapping[str, Tensor]], Tensor]
    use: str
    left_out: tuple[str, ...] = ()
    shape: tuple[int, ...] | None = None
    width: int | None = None


# options of the token encoder that other libraries have been told of
TOKENS = ("width", "depth", "heads", "patch", "mlp_ratio", "positions", "grid", "position_scale", "cls", "pool")


def plain(options: BaseModel, known: tuple[str, ...]) -> dict[str, Any]:
    """The known options as JSON. Raises Incompatible where another one is set, because a format would drop it."""
    values, defaults = options.model_dump(mode="json"), type(options)().model_dump(mode="json")
    unknown = [k for k in values if k not in known and values[k] != defaults[k]]
    if unknown:
        raise Incompatible(f"this format cannot express encoder.{unknown[0]}; --to onnx or torch hold every encoder")
    if values.get("positions") in ("rope", "none"):
        raise Incompatible(
            f"this format cannot express encoder.positions: {values['positions']}; --to onnx or torch hold every encoder"
        )
    return {k: values[k] for k in known}


class Whole(nn.Module):
    """values (B, C, *S), all valid, and spacing (B, d) where the contract leaves it to each item -> pooled, tokens.

    Raises Incompatible where the encoder reads anything but one dense input.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        (self.name, spec), *others = encoder.specs.items()
        if others or spec.layout != "dense":
            kinds = ", ".join(f"{n} ({s.layout})" for n, s in encoder.specs.items())
            raise Incompatible(f"an export holds one dense input, this bundle reads {kinds}; use it as a bundle")
        self.encoder = encoder.eval().float().cpu()
        self.rank = spec.rank
        self.spacing = spec.spacing or (1.0,) * spec.rank
        self.asks_spacing = spec.spacing is None and isinstance(encoder, TokenEncoder)

    @property
    def steps(self) -> tuple[int, ...]:
        """Cells of one token, or of the coarsest map, along each axis: the grid is a multiple of them."""
        if isinstance(self.encoder, TokenEncoder):
            return tuple(self.encoder.patch[self.name])
        if isinstance(self.encoder, UNet):
            return self.encoder.coarsest
        return tuple(getattr(self.encoder, "stride", (1,) * self.rank))

    @property
    def shape(self) -> tuple[int, ...]:
        """About the fingerprint's grid, and at least two tokens along each axis."""
        near = 64 if self.rank == 1 else 32
        return tuple(step * max(2, near // step) for step in self.steps)

    def forward(self, values: Tensor, spacing: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if spacing is None:
            spacing = torch.tensor([self.spacing], dtype=values.dtype).expand(values.shape[0], -1)
        valid = torch.ones_like(values[:, :1], dtype=torch.bool)
        features = self.encoder({self.name: Dense(values, valid, spacing, whole=True)})
        return features.pooled, features.tokens
