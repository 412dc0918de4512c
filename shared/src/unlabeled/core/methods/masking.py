"""What methods that hide tokens share: which encoder they need, and how they choose what is hidden."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from pydantic import Field
from torch import nn

from unlabeled.core.contracts import RequestError
from unlabeled.core.methods import base
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.streams import Draw
from unlabeled.core.tokens.masks import Mask, block_mask, random_mask
from unlabeled.core.tokens.tokens import Tokens


class Masking(base.Options):
    mask_ratio: float = Field(0.75, gt=0, lt=1, description="share of the valid tokens that is hidden")
    mask: Literal["random", "block"] = Field("random", description="block: connected blocks of tokens")
    blocks: int = Field(1, ge=1, description="block masks: number of blocks, which may touch")


def token_encoder(encoder: nn.Module, method: str) -> TokenEncoder:
    """`encoder` itself. Raises RequestError where it works on no tokens."""
    if not isinstance(encoder, TokenEncoder):
        raise RequestError(
            f"method {method}: needs a token encoder, got {type(encoder).__name__}; set encoder.name: tokens"
        )
    return encoder


def draw_masks(options: Masking, encoder: TokenEncoder, tokens: Mapping[str, Tokens], draw: Draw) -> dict[str, Mask]:
    """A mask for every input, each by itself."""
    masks = {}
    for name, t in tokens.items():
        noise = draw.uniform(name, *t.places).flatten(1)
        if options.mask == "random":
            mask = random_mask(t.valid, options.mask_ratio, noise)
        else:
            position = encoder.position(name, t.coords)
            mask = block_mask(t.valid, options.mask_ratio, noise, position, options.blocks)
        masks[name] = replace(mask, whole=t.whole)
    return masks
