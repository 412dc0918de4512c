"""timm's convolutional nets as encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from unlabeled.core import ranks
from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import BatchInput, Dense
from unlabeled.core.contracts.recipe import nearest
from unlabeled.core.nn.maps import ConvEncoder, Map, one_dense
from unlabeled.core.nn.masked import MaskedDense
from unlabeled.core.tokens.patches import pad_to_patches


class TimmBackbone(ConvEncoder):
    """A convolutional net of timm with random weights, for images of any number of channels; pooled is the mean.

    Its tensors keep timm's names; what no kept map depends on is left out. The input is padded to a multiple of the
    stride. Whatever is not valid is invisible: zero in every map, and in no norm, no pool and no mean (see `nn.masked`,
    which also lets timm's batch norms reduce over all ranks). A site of a map is valid where any cell it stands for is.

    Raises RequestError for a name that timm has not, for a net that is not made of convolutions alone or whose last map
    does not depend on all of it, and for anything but one dense input of two axes.
    """

    class Options(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")

        model: str = Field(
            "resnet18", description="timm's name of a convolutional net, such as resnet50, convnext_tiny"
        )
        stages: int | None = Field(
            None, ge=1, description="feature maps kept, from the finest on; none: all of the net's"
        )

    def __init__(self, specs: Mapping[str, InputSpec], options: Options) -> None:
        spec = one_dense(specs, (2,), "timm net")
        net = _made(options, spec.width)
        info = net.feature_info
        super().__init__(specs, info.channels(), [(stride, stride) for stride in info.reduction()])
        self.options = options
        self.net = net
        self._try()
        _trim(net, options, spec.width)
        self._try()

    def maps(self, inputs: Mapping[str, BatchInput], count: int | None = None) -> list[Map]:
        """What every stage gives."""
        dense = inputs[self.input]
        assert isinstance(dense, Dense)
        dense = pad_to_patches(dense, self.stride)
        x = channels_last(dense.values.to(next(self.parameters()).dtype))
        if dense.whole and (ranks.world() == 1 or not self.training):
            return [Map(m, _all(m), s) for m, s in zip(self.net(x), self.strides, strict=True)]
        x = x if dense.whole else torch.where(dense.valid, x, 0)
        with MaskedDense(None if dense.whole else dense.valid.any(1), count) as masked:
            maps = self.net(x)
        found = [_all(m) if (sites := masked.at(m.shape[2:])) is None else sites for m in maps]
        # a last activation may write a constant where nothing is valid
        return [
            Map(masked.hide(m), v, s, masked.places(m.shape[2:]))
            for m, v, s in zip(maps, found, self.strides, strict=True)
        ]

    @torch.no_grad()
    def _try(self) -> None:
        """One small image through the masked net: attention and maps of other shapes show here, not in the first step."""
        cells = tuple(2 * s for s in self.stride)
        x = torch.zeros(1, self.input_spec.width, *cells)
        self.eval()
        try:
            maps = self.maps({self.input: Dense(x, torch.ones_like(x, dtype=torch.bool), torch.ones(1, 2))})
        except (AssertionError, RuntimeError, RequestError) as error:
            raise RequestError(
                f"encoder.model: {self.options.model} cannot be masked ({error}); choose another"
            ) from None
        self.train()
        for found, width, stride in zip(maps, self.channels, self.strides, strict=True):
            if found.values.shape[1:] != (width, *(n // s for n, s in zip(cells, stride, strict=True))):
                raise RequestError(
                    f"encoder.model: {self.options.model} does not have its channels first; choose a net of convolutions"
                )


def channels_last(x: Tensor) -> Tensor:
    """x (B, C, H, W) in the order of memory that makes convolutions fastest: on a CPU, and under autocast on a GPU.

    Every map of a net has the order of its input. The values are the same.
    """
    if x.device.type == "cpu" or torch.is_autocast_enabled(x.device.type):
        return x.contiguous(memory_format=torch.channels_last)
    return x


def _made(options: TimmBackbone.Options, channels: int) -> Any:
    known = timm.list_models()
    if options.model not in known:
        raise RequestError(f"encoder.model: {nearest(options.model, known)}")
    wanted: dict[str, Any] = {} if options.stages is None else {"out_indices": tuple(range(options.stages))}
    try:
        net: Any = timm.create_model(options.model, pretrained=False, features_only=True, in_chans=channels, **wanted)
        strides = net.feature_info.reduction()
    except (AssertionError, IndexError, RuntimeError, AttributeError, TypeError) as error:
        raise RequestError(
            f"encoder.model: timm gives no {options.stages or ''} feature maps of {options.model} ({error}); choose another"
        ) from None
    if strides != sorted(set(strides)):
        raise RequestError(
            f"encoder.model: the maps of {options.model} do not halve; use the token encoder for such nets"
        )
    return net


def _trim(net: Any, options: TimmBackbone.Options, channels: int) -> None:
    """Take out the parts that no map depends on: some of timm's nets keep, and compute, all later stages.

    DDP stops at a learned tensor that gets no gradient, so that the last map, which makes the features, needs the rest.
    """
    size = 2 * net.feature_info.reduction()[-1]
    with torch.enable_grad():
        maps = net.eval()(torch.zeros(1, channels, size, size))
        _drop(net, _unused(net, maps))
        if _unused(net, maps[-1:]):
            raise RequestError(
                f"encoder.model: the last map of {options.model} does not depend on all of the net; choose another"
            )
    net.train()


def _unused(net: nn.Module, maps: Sequence[Tensor]) -> set[Tensor]:
    """The parameters on which no map depends."""
    learned = list(net.parameters())
    total = torch.stack([m.sum() for m in maps]).sum()
    gradients = torch.autograd.grad(total, learned, retain_graph=True, allow_unused=True)
    return {p for p, g in zip(learned, gradients, strict=True) if g is None}


def _drop(module: nn.Module, unused: set[Tensor]) -> None:
    """Put nothing in the place of every part all of whose parameters are unused."""
    for name, part in module.named_children():
        own = set(part.parameters())
        if own and own <= unused:
            setattr(module, name, nn.Identity())
        else:
            _drop(part, unused)


def _all(x: Tensor) -> Tensor:
    return x.new_ones(x.shape[0], *x.shape[2:], dtype=torch.bool)
