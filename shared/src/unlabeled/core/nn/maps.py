"""Feature maps: what every convolutional encoder gives, whatever net is inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import BatchInput
from unlabeled.core.nn.base import Encoder, Features
from unlabeled.core.nn.norms import Places
from unlabeled.core.nn.pooling import mean_pool


@dataclass(frozen=True)
class Map:
    """values (B, C, *s), 0 where not valid; valid (B, *s) bool; stride in cells of the input.

    places: of the valid positions, where their number is known on the host.
    """

    values: Tensor
    valid: Tensor
    stride: tuple[int, ...]
    places: Places | None = None


class ConvEncoder(Encoder):
    """An encoder of one dense input that gives a feature map after every layer or stage, the coarsest last.

    input     name of the input
    channels  of every map
    strides   of every map, in cells of the input; `stride` is the last one
    pools     make the pooled features from the last map: one vector of its channels each

    Raises RequestError where it is given anything but one dense input.
    """

    pools: Sequence[Callable[[Tensor, Tensor], Tensor]] = (mean_pool,)

    def __init__(
        self, specs: Mapping[str, InputSpec], channels: Sequence[int], strides: Sequence[tuple[int, ...]]
    ) -> None:
        super().__init__(specs, len(self.pools) * channels[-1], channels[-1])
        (self.input,) = specs
        self.channels = tuple(channels)
        self.strides = tuple(strides)
        self.stride = self.strides[-1]

    def maps(self, inputs: Mapping[str, BatchInput], count: int | None = None) -> list[Map]:
        """count: of the input's valid cells, where the host knows it and they are whole cells of the last map."""
        raise NotImplementedError  # pragma: no cover

    def features(self, last: Map) -> Features:
        """The last map as tokens, and pooled over its valid sites."""
        tokens, valid = last.values.flatten(2).transpose(1, 2), last.valid.flatten(1)
        return Features(tokens, valid, torch.cat([pool(tokens, valid) for pool in self.pools], 1))

    def forward(self, inputs: Mapping[str, BatchInput]) -> Features:
        return self.features(self.maps(inputs)[-1])


def one_dense(specs: Mapping[str, InputSpec], ranks: Sequence[int], kind: str) -> InputSpec:
    """The spec of the only input. RequestError where there are others, or it is not dense with one of these ranks."""
    spec, *others = specs.values()
    if others or spec.layout != "dense" or spec.rank not in ranks:
        axes = f"{ranks[0]} to {ranks[-1]}" if len(ranks) > 1 else f"{ranks[0]}"
        raise RequestError(
            f"encoder: a {kind} reads one dense input of {axes} axes, got {', '.join(specs)}; use the token encoder"
        )
    return spec
