"""What methods that hide tokens share: which encoder they need, and how they choose what is hidden."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pydantic import Field
from torch import Tensor, nn

from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.methods import base
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.streams import Draw
from unlabeled.core.tokens.masks import Mask, Rounding
from unlabeled.core.tokens.schemes import Asked, Random, Scheme
from unlabeled.core.tokens.tokens import Tokens


class Masking(base.Options):
    mask_ratio: float = Field(0.75, gt=0, lt=1, description="share of the valid tokens that is hidden")
    mask: Scheme = Field(
        Random(),
        description="which tokens are hidden, by name or {name, options}: random, block, boxes, group, inverse_block, "
        "clusters, tube, spans, noise",
    )
    rounding: Rounding = Field(
        "keep", description="of n tokens, keep: int(n * (1 - mask_ratio)) stay; mask: int(n * mask_ratio) are hidden"
    )


@dataclass(frozen=True)
class Drawn:
    """All tokens of a batch and a uniform number for each (B, L), by input; weight (B,). For masks that a model guides."""

    tokens: dict[str, Tokens]
    noise: dict[str, Tensor]
    weight: Tensor


def drawn(encoder: TokenEncoder, batch: Batch, draw: Draw) -> Drawn:
    """The noise is that of the random masks of `draw_masks`."""
    tokens = encoder.tokenise(batch.inputs)
    return Drawn(tokens, {n: draw.uniform(n, *t.places).flatten(1) for n, t in tokens.items()}, batch.weight)


def token_encoder(encoder: nn.Module, method: str, pixels: bool = False) -> TokenEncoder:
    """`encoder` itself. Raises RequestError where it works on no tokens, or on ids where `pixels` are predicted."""
    if not isinstance(encoder, TokenEncoder):
        raise RequestError(
            f"method {method}: needs a token encoder, got {type(encoder).__name__}; set encoder.name: tokens"
        )
    if pixels and (ids := [name for name, sizes in encoder.vocabulary.items() if sizes]):
        raise RequestError(
            f"method {method}: predicts measured values, and the input {ids[0]!r} holds ids; use masked_tokens"
        )
    return encoder


def draw_masks(options: Masking, encoder: TokenEncoder, tokens: Mapping[str, Tokens], draw: Draw) -> dict[str, Mask]:
    """A mask for every input, each by itself. Raises RequestError where a grid cannot be masked as the options say."""
    masks = {}
    for name, t in tokens.items():
        _check(options, name, t)
        asked = Asked(name, t, encoder.position(name, t.coords), draw, options.mask_ratio, options.rounding)
        mask = options.mask.draw(asked)
        masks[name] = replace(mask, whole=t.whole)
    return masks


def _check(options: Masking, name: str, tokens: Tokens) -> None:
    """Whether the ratio keeps and hides something of a whole grid. Packed rows are of any length: each keeps a token."""
    n, ratio = options.mask.choices(tokens, name), options.mask_ratio
    share, what, mend = (1 - ratio, "keeps", "lower it") if options.rounding == "keep" else (ratio, "hides", "raise it")
    # a batch of which nothing could be read has a grid of one token; 10 * (1 - 0.9) is a little below 1
    if n and (n > 1 or tokens.whole) and n * share < 1 - 1e-9:
        raise RequestError(
            f"method.mask_ratio: {ratio} with rounding {options.rounding} {what} none of {n}, among which the mask "
            f"{options.mask.name} chooses for the input {name!r}; {mend}, or make encoder.patch smaller"
        )
