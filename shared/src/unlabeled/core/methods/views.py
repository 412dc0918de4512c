"""What methods that compare views of one item share: how views are drawn, and the two-view method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Batch, BatchInput
from unlabeled.core.methods.base import Context, Method, Views, unchanged
from unlabeled.core.nn.base import Encoder, Features
from unlabeled.core.nn.heads import Projector

Pair = tuple[Batch, Batch]


def crops(method: Method, batch: Batch, ctx: Context, views: int, local_crops: int) -> tuple[list[Batch], list[Batch]]:
    """`views` global views and `local_crops` small ones of every item, each with draws of its own.

    Raises RequestError where small ones are asked for and the recipe has no `local_views`.
    """
    if local_crops and method.local_views is None:
        raise RequestError(
            f"method.local_crops is {local_crops} but the recipe has no local_views; add them or set local_crops: 0"
        )
    local = method.local_views or unchanged
    return (
        [method.views(batch, ctx.draw(batch, f"view{i + 1}")) for i in range(views)],
        [local(batch, ctx.draw(batch, f"local{i + 1}")) for i in range(local_crops)],
    )


def encoded(encoder: Callable[[Mapping[str, BatchInput]], Features], views: Sequence[Batch]) -> list[Features]:
    """Features of every view, in order, by one pass of the encoder for all views of one shape.

    Norms in the encoder see the views of a pass together (as those of the wrapper of DINO's and SwAV's authors).
    """
    alike: dict[object, list[int]] = {}
    for i, view in enumerate(views):
        shape = tuple((name, type(x), x.values.shape, x.valid.shape) for name, x in view.inputs.items())
        alike.setdefault(shape, []).append(i)
    found: dict[int, Features] = {}
    for at in alike.values():
        inputs = views[at[0]].inputs
        if len(at) > 1:
            inputs = {name: _joined([views[i].inputs[name] for i in at]) for name in inputs}
        found |= zip(at, encoder(inputs).parts(len(at)), strict=True)
    return [found[i] for i in range(len(views))]


def _joined(parts: Sequence[Any]) -> BatchInput:
    found: BatchInput = type(parts[0]).joined(parts)
    return found


class TwoViews(Method):
    """Two views of an item, each through encoder and projector; a subclass gives the loss between them.

    Norms see one view at a time. The options hold `projector`, the widths of its layers.
    """

    encoder: Encoder

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Any, views: Views = unchanged
    ) -> None:
        super().__init__(encoder, specs, options, views)
        self.projector = Projector(self.encoder.width, options.projector)

    def on_batch(self, batch: Batch, ctx: Context) -> Pair:
        (first, second), _ = crops(self, batch, ctx, 2, 0)
        return first, second

    def project(self, views: Pair) -> tuple[Tensor, Tensor, Tensor]:
        """Pooled features (B, P) of the first view, and the projections (B, D) of both."""
        first, second = (self.encoder(view.inputs).pooled for view in views)
        weight = views[0].weight
        return first, self.projector(first, weight), self.projector(second, weight)
