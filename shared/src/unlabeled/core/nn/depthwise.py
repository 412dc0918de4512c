"""The predictor of CNN-JEPA: depthwise separable convolutions over a coarse map, of any rank.

It stands alone as the other predictors and decoders do: a method holds no layers.
"""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn

from unlabeled.core.nn.convnet import CONVOLUTIONS
from unlabeled.core.nn.maps import Map
from unlabeled.core.nn.masked import MaskedDense
from unlabeled.core.nn.norms import RankBatchNorm


class DepthwisePredictor(nn.Module):
    """A mask token where nothing was seen, then `depth` times a depthwise and a 1 x 1 convolution, norm, ReLU.

    Kalapos and Gyires-Toth 2024, section III. The last ReLU keeps the prediction at 0 or above, as are the maps of nets
    that end in one.
    """

    class Options(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")

        depth: int = Field(3, ge=1, description="number of separable convolutions")
        kernel: int = Field(3, ge=1, description="sites of a kernel along each axis, odd")

        @field_validator("kernel")
        @classmethod
        def _odd(cls, kernel: int) -> int:
            if kernel % 2 == 0:
                raise ValueError("must be odd, so that a kernel has a middle")
            return kernel

    def __init__(self, channels: int, rank: int, options: Options) -> None:
        super().__init__()
        make, kernel = CONVOLUTIONS[rank], options.kernel
        self.mask_token = nn.Parameter(torch.randn(channels, *[1] * rank) * 0.02)
        self.layers = nn.Sequential()
        for _ in range(options.depth):
            self.layers.extend(
                [
                    make(channels, channels, kernel, padding=kernel // 2, groups=channels),
                    make(channels, channels, 1, bias=False),
                    RankBatchNorm(channels),
                    nn.ReLU(),
                ]
            )

    def forward(self, seen: Map, sites: Tensor | None) -> Tensor:
        """Prediction (B, C, *s) from a map of C channels; sites (B, *s) bool: where there is anything, None: everywhere."""
        with MaskedDense(sites) as masked:
            x = torch.where(seen.valid.unsqueeze(1), seen.values, self.mask_token.to(seen.values.dtype))
            # no token where there is nothing to predict
            return self.layers(masked.hide(x))  # type: ignore[no-any-return]
