"""A U-Net as an encoder: its decoder is kept, so that what it learned is there for dense tasks."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from unlabeled.core.contracts import InputSpec, RequestError, load
from unlabeled.core.contracts.batch import BatchInput, Dense
from unlabeled.core.contracts.recipe import Named, nearest, validated
from unlabeled.core.nn.base import Encoder, Features
from unlabeled.core.nn.maps import ConvEncoder
from unlabeled.core.nn.unet_decoder import UNetDecoder
from unlabeled.core.tokens.patches import pad_to_patches

INNER = {"convnet": "unlabeled.core.nn.convnet:ConvNet", "timm": "unlabeled.core.nn.backbone:TimmBackbone"}


class UNet(Encoder):
    """A convolutional encoder with a decoder on its maps (Ronneberger et al. 2015): one token for every cell.

    encoder   the inner encoder; `Features.pooled` is what it pools from its coarsest map
    decoder   from its maps to `token_width` features at every cell, which are `Features.tokens` in raster order
    stride    1 along each axis; coarsest: cells of one site of the coarsest map. The input is padded to a multiple of it.

    Whatever is not valid is invisible to both (see `nn.convnet`, `nn.masked`). Methods that read pooled features alone
    leave the decoder without a gradient. Raises RequestError for an inner encoder that is not there or does not fit.
    """

    class Options(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")

        encoder: Named = Field(Named(name="convnet"), description="convnet or timm, with its options")
        decoder: UNetDecoder.Options = Field(UNetDecoder.Options(), description="from its maps to every cell")

    def __init__(self, specs: Mapping[str, InputSpec], options: Options) -> None:
        name = options.encoder.name
        if name not in INNER:
            raise RequestError(f"encoder.encoder.name: {nearest(name, list(INNER))}")
        kind = load(INNER[name])
        inner: ConvEncoder = kind(specs, validated(kind.Options, options.encoder.options, "encoder.encoder"))
        # of several maps of one resolution the last one
        read = dict(zip(inner.strides, inner.channels, strict=True))
        decoder = UNetDecoder(list(read.values()), list(read), None, options.decoder)
        super().__init__(specs, inner.width, decoder.width)
        self.encoder, self.decoder = inner, decoder
        self.read = tuple(read)
        self.input, self.coarsest = inner.input, inner.stride
        self.stride = (1,) * len(inner.stride)
        # all options of the inner encoder are kept, so that a bundle restores it whatever the defaults become
        own = Named(name=name, **inner.options.model_dump(mode="json"))  # type: ignore[operator, union-attr]
        self.options = options.model_copy(update={"encoder": own})

    def forward(self, inputs: Mapping[str, BatchInput]) -> Features:
        given = inputs[self.input]
        assert isinstance(given, Dense)
        x = pad_to_patches(given, self.coarsest)
        maps = self.encoder.maps({self.input: x})
        by_stride = {m.stride: m for m in maps}
        cells = self.decoder([by_stride[s] for s in self.read], None if x.whole else x.valid.any(1))
        for axis, n in enumerate(given.values.shape[2:], 2):  # what was padded is cut off again
            cells = cells.narrow(axis, 0, n)
        tokens: Tensor = cells.flatten(2).transpose(1, 2)
        valid = given.valid.any(1).flatten(1)
        return Features(tokens, valid, self.encoder.features(maps[-1]).pooled, whole=given.whole)
