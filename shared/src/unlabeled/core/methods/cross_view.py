"""What methods share that complete one view of an item with the help of another (Weinzaepfel et al. 2022, CroCo)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field
from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.methods.base import Context, Views, unchanged
from unlabeled.core.methods.mae import MAE, Masked
from unlabeled.core.methods.masking import draw_masks
from unlabeled.core.nn.base import Features
from unlabeled.core.nn.cross import CrossPredictor
from unlabeled.core.tokens.masks import Mask
from unlabeled.core.tokens.tokens import Tokens


@dataclass(frozen=True)
class Pair(Masked):
    """The view to complete, cut in two, and all tokens of the one that helps, by input."""

    reference: dict[str, Tokens]


class CrossView(MAE):
    """MAE on one view of an item, whose decoder also looks at another view, the reference, which is encoded whole.

    A subclass gives `pair`, the two views. The embedding of a step is that of the reference, since of the other view
    hardly anything is seen.
    """

    class Options(MAE.Options):
        decoder: CrossPredictor.Options = Field(
            CrossPredictor.Options(), description="the predictor, thrown away afterwards"
        )

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Any, views: Views = unchanged
    ) -> None:
        super().__init__(encoder, specs, options, views)
        head, axes = options.decoder.width // options.decoder.heads, max(spec.rank for spec in specs.values())
        if options.decoder.positions == "rope" and (head % 2 or head < 2 * axes):
            raise RequestError(
                f"method.decoder: rope turns pairs of channels, so {axes} axes need an even number of at least {2 * axes} "
                f"channels a head, and a width of {options.decoder.width} with {options.decoder.heads} heads has {head}"
            )

    def make_predictor(self) -> CrossPredictor:
        widths = {n: p for n, p in self.encoder.patch_widths.items() if n in self.completed}
        return CrossPredictor(self.encoder.token_width, widths, self.options.decoder)

    @property
    def completed(self) -> Collection[str]:
        """Inputs that are completed, and encoded of the first view."""
        return self.specs

    @property
    def shown(self) -> Collection[str]:
        """Inputs that the reference holds."""
        return self.specs

    def pair(self, batch: Batch, ctx: Context) -> tuple[Batch, Batch]:
        """The view to complete, and the reference."""
        raise NotImplementedError  # pragma: no cover

    def on_batch(self, batch: Batch, ctx: Context) -> Pair:
        return self._paired(batch, ctx)[-1]

    def _paired(self, batch: Batch, ctx: Context) -> tuple[Batch, dict[str, Tokens], dict[str, Mask], Pair]:
        first, second = self.pair(batch, ctx)
        tokens = _only(self.completed, self.encoder.tokenise(first.inputs))
        reference = _only(self.shown, self.encoder.tokenise(second.inputs))
        to_mask = {n: t for n, t in tokens.items() if n in self.completed}
        masks = draw_masks(self.options, self.encoder, to_mask, ctx.draw(batch, "mask"))
        visible = {n: masks[n].visible(t) if n in masks else t for n, t in tokens.items()}
        hidden = {n: mask.hidden(tokens[n]) for n, mask in masks.items()}
        return first, tokens, masks, Pair(visible, hidden, batch.weight, reference)

    def _predicted(self, batch: Masked) -> tuple[Features, dict[str, Tensor]]:
        assert isinstance(batch, Pair)
        reference = self.encoder.encode(batch.reference)
        places = {n: self.encoder.position(n, t.coords) for n, t in batch.reference.items()}
        seen = self.encoder.encode(batch.visible)
        return reference, self.predictor(seen, *self._places(batch), reference, places)

    def reconstruct(self, batch: Batch, ctx: Context) -> dict[str, Tensor]:
        """As MAE's, of the view that is completed."""
        first, tokens, masks, pair = self._paired(batch, ctx)
        return self._drawn(first, tokens, masks, pair)


def _only(names: Collection[str], tokens: Mapping[str, Tokens]) -> dict[str, Tokens]:
    """The tokens of these inputs, and none of the others."""
    nothing = {n: t.valid.new_zeros(len(t.valid), 0).long() for n, t in tokens.items() if n not in names}
    return {n: t.take(nothing[n], None) if n in nothing else t for n, t in tokens.items()}
