"""A small ConvNet of any rank that knows which positions are valid."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from operator import mul
from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from unlabeled.core.contracts import InputSpec
from unlabeled.core.contracts.batch import BatchInput, Dense
from unlabeled.core.nn.maps import ConvEncoder, Map, one_dense
from unlabeled.core.nn.norms import RankBatchNorm
from unlabeled.core.nn.pooling import max_pool, mean_pool

CONVOLUTIONS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class ConvNet(ConvEncoder):
    """Convolution, batch norm, ReLU; mean and max over valid positions, so the width is twice the last channels.

    Invalid positions are zero before every convolution and count in no norm and no pool, so a sample alone equals itself
    in a padded batch. A position stays valid under a stride where the input at the middle of its kernel is valid.

    Raises RequestError where it is given anything but one dense input of one to three axes.
    """

    pools = (mean_pool, max_pool)

    class Options(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")

        channels: tuple[int, ...] = Field((32, 64, 128, 128), min_length=1, description="channels of each layer")
        kernels: tuple[int, ...] = Field((9, 7, 5, 3), description="kernel size of each layer, odd")
        strides: tuple[int, ...] = Field((2, 2, 2, 1), description="stride of each layer")
        norm: Literal["batch", "none"] = Field("batch", description="batch: over all ranks and valid positions")

        @model_validator(mode="after")
        def _fits(self) -> Self:
            if not len(self.channels) == len(self.kernels) == len(self.strides):
                raise ValueError("channels, kernels and strides need equally many numbers")
            if any(k % 2 == 0 for k in self.kernels):
                raise ValueError("kernels must be odd, so that every kernel has a middle")
            return self

    def __init__(self, specs: Mapping[str, InputSpec], options: Options) -> None:
        spec = one_dense(specs, tuple(CONVOLUTIONS), "convnet")
        strides = [(stride,) * spec.rank for stride in accumulate(options.strides, mul)]
        super().__init__(specs, options.channels, strides)
        self.options = options
        batch = options.norm == "batch"
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        widths = (spec.width, *options.channels)
        for i, (kernel, stride) in enumerate(zip(options.kernels, options.strides, strict=True)):
            make = CONVOLUTIONS[spec.rank]
            self.convs.append(make(widths[i], widths[i + 1], kernel, stride, kernel // 2, bias=not batch))
            if batch:
                self.norms.append(RankBatchNorm(widths[i + 1]))

    def maps(self, inputs: Mapping[str, BatchInput], count: int | None = None) -> list[Map]:
        """What every layer gives; `count` is of no use here."""
        dense = inputs[self.input]
        assert isinstance(dense, Dense)
        x = dense.values if dense.whole else torch.where(dense.valid, dense.values, 0)
        x = x.to(next(self.parameters()).dtype)
        valid = dense.valid.any(1)
        out = []
        for i, (conv, stride) in enumerate(zip(self.convs, self.options.strides, strict=True)):
            x = conv(x)
            valid = valid[(slice(None), *[slice(None, None, stride)] * dense.rank)]
            if self.norms:
                x = self.norms[i](x, None if dense.whole else valid)
            x = x.relu() if dense.whole else torch.where(valid.unsqueeze(1), x.relu(), 0)
            out.append(Map(x, valid, self.strides[i]))
        return out
