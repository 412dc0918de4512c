"""A projector whose output is normed too."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from unlabeled.core.nn.heads import Projector
from unlabeled.core.nn.norms import RankBatchNorm


class NormedProjector(Projector):
    """`Projector` with a batch norm at its output (Chen and He 2021, SimSiam, section 3): no bias, scale or shift there."""

    def __init__(self, width: int, sizes: Sequence[int]) -> None:
        super().__init__(width, sizes)
        self.layers[-1].register_parameter("bias", None)
        # a frozen scale of 1 and shift of 0 are none
        self.last = RankBatchNorm(sizes[-1]).requires_grad_(False)

    def forward(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Rows with `weight` (B,) 0 count in no norm."""
        return self.last(super().forward(x, weight), weight)  # type: ignore[no-any-return]
