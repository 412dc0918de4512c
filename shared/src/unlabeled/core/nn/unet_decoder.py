"""SparK's decoder: a light U-Net from the maps of an encoder to the picture (Tian et al. 2023, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from unlabeled.core.nn.convnet import CONVOLUTIONS
from unlabeled.core.nn.maps import Map
from unlabeled.core.nn.masked import MaskedDense
from unlabeled.core.nn.norms import RankBatchNorm

TRANSPOSED: dict[int, type[nn.Module]] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NARROWEST = 8  # channels, however fine the map


class UNetDecoder(nn.Module):
    """Densifies every map and adds it on the way up: maps of equal stride count once, from the finest to the coarsest.

    channels, strides  of the maps
    outputs            channels of the prediction; None: features of `width` channels instead
    """

    class Options(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")

        width: int = Field(256, ge=1, description="channels at the coarsest map, halved at every step up")

    def __init__(
        self, channels: Sequence[int], strides: Sequence[tuple[int, ...]], outputs: int | None, options: Options
    ) -> None:
        super().__init__()
        # from the coarsest to the finest, as they are needed
        finer = [*reversed(strides[:-1]), (1,) * len(strides[0])]
        steps = [
            tuple(a // b for a, b in zip(*pair, strict=True)) for pair in zip(reversed(strides), finer, strict=True)
        ]
        widths = [max(options.width >> i, min(NARROWEST, options.width)) for i in range(len(strides) + 1)]
        self.densify = nn.ModuleList(
            Densify(c, w, len(strides[0]), 1 if i == 0 else 3)
            for i, (c, w) in enumerate(zip(reversed(channels), widths[:-1], strict=True))
        )
        self.ups = nn.ModuleList(Up(widths[i], widths[i + 1], step) for i, step in enumerate(steps))
        self.width = widths[-1]
        self.head = nn.Identity() if outputs is None else CONVOLUTIONS[len(strides[0])](self.width, outputs, 1)

    def forward(self, maps: Sequence[Map], sites: Tensor | None) -> Tensor:
        """Prediction (B, outputs, *S), from the finest map to the coarsest.

        sites (B, *S) bool: where there is anything; None: everywhere
        """
        with MaskedDense(sites) as masked:
            x: Tensor | None = None
            for densify, up, found in zip(self.densify, self.ups, reversed(maps), strict=True):
                dense = densify(found, masked)
                x = up(dense if x is None else dense + x)
            return self.head(x)  # type: ignore[no-any-return]


class Densify(nn.Module):
    """Norm, mask token where the encoder saw nothing, projection."""

    def __init__(self, channels: int, width: int, rank: int, kernel: int) -> None:
        super().__init__()
        self.norm = RankBatchNorm(channels)
        self.mask_token = nn.Parameter(torch.randn(channels, *[1] * rank) * 0.02)
        self.project = CONVOLUTIONS[rank](channels, width, kernel, padding=kernel // 2)

    def forward(self, found: Map, masked: MaskedDense) -> Tensor:
        x = self.norm(found.values, found.valid, found.places)
        x = torch.where(found.valid.unsqueeze(1), x, self.mask_token.to(x.dtype))
        # no token where there is nothing to predict
        return self.project(masked.hide(x))  # type: ignore[no-any-return]


class Up(nn.Module):
    """Finer by `step` along each axis, then twice convolution, norm, ReLU."""

    def __init__(self, width: int, out: int, step: tuple[int, ...]) -> None:
        super().__init__()
        conv = CONVOLUTIONS[len(step)]
        self.up = TRANSPOSED[len(step)](width, width, step, step)
        self.layers = nn.Sequential(
            *(conv(width, width, 3, padding=1, bias=False), RankBatchNorm(width), nn.ReLU()),
            *(conv(width, out, 3, padding=1, bias=False), RankBatchNorm(out), nn.ReLU()),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.up(x))  # type: ignore[no-any-return]
