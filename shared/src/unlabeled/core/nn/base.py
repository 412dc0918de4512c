"""What every encoder gives, whatever its kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec
from unlabeled.core.contracts.batch import BatchInput


@dataclass(frozen=True)
class Features:
    """tokens (B, L, D) with valid (B, L) bool; pooled (B, P), over valid tokens only.

    layers: where they are asked for, what every block's MLP adds to the tokens, (B, L, D) each.
    states: where they are asked for, the tokens after every block, before the final norm, (B, L, D) each.
    attention: where it is asked for, how much the last block attends to each token, (B, L), mean over heads: of the class
        token, or where there is none of all valid tokens.
    whole: known on the host that every token is valid.
    cls: (B, D) the class token; None where there is none.
    """

    tokens: Tensor
    valid: Tensor
    pooled: Tensor
    layers: tuple[Tensor, ...] = ()
    whole: bool = False
    cls: Tensor | None = None
    states: tuple[Tensor, ...] = ()
    attention: Tensor | None = None

    def parts(self, n: int) -> list[Features]:
        """The rows in n parts of equal size."""

        def cut(value: Any) -> list[Any]:
            if isinstance(value, Tensor):
                return list(value.chunk(n))
            if isinstance(value, tuple):
                return list(zip(*(x.chunk(n) for x in value), strict=True)) if value else [()] * n
            return [value] * n

        columns = (cut(getattr(self, f.name)) for f in fields(self))
        return [Features(*row) for row in zip(*columns, strict=True)]


class Encoder(nn.Module):
    """Maps the named inputs of a batch to features.

    specs         contract of each named input
    width         P, the width of `Features.pooled`
    token_width   D, the width of `Features.tokens`
    named         its name and all its options, from which a bundle builds it again; None where it was made by hand
    bundle        what it was loaded from, and report of that load; None for random weights
    """

    def __init__(self, specs: Mapping[str, InputSpec], width: int, token_width: int) -> None:
        super().__init__()
        self.specs = dict(specs)
        self.width = width
        self.token_width = token_width
        self.named: dict[str, Any] | None = None
        self.bundle: Any = None
        self.report: Any = None

    @property
    def input_spec(self) -> InputSpec:
        """The contract of the only, or the first, input."""
        return next(iter(self.specs.values()))

    def forward(self, inputs: Mapping[str, BatchInput]) -> Features:
        raise NotImplementedError  # pragma: no cover

    def summary(self, inputs: Mapping[str, BatchInput]) -> Features:
        """The same where only `pooled` is wanted: an encoder may leave out what that does not need, its tokens too."""
        found: Features = self(inputs)
        return found


def cells_of(encoder: Encoder) -> tuple[int, ...] | None:
    """Cells that one token stands for: `encoder.patch` of its only input, else `encoder.stride`; None: not on one grid."""
    name, *others = encoder.specs
    if others or encoder.specs[name].layout != "dense":
        return None
    patch = getattr(encoder, "patch", {}).get(name) or getattr(encoder, "stride", None)
    return None if patch is None else tuple(patch)
