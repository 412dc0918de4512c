"""iSogCLR: Qiu et al. 2023, Not All Semantics are Created Equal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from unlabeled.core import ranks
from unlabeled.core.contracts import InputSpec
from unlabeled.core.losses.sogclr import Contrast, sogclr
from unlabeled.core.methods import base
from unlabeled.core.methods.base import Context, Views, unchanged, weighted
from unlabeled.core.methods.views import Pair, TwoViews


class ISogCLR(TwoViews):
    """Contrast with all other items, at a temperature for every item that is learned.

    Three tables hold a number for every item, whose two views share it: its temperature tau, the moving average s of
    exp(similarity / tau) over its negatives, in whose place other methods have the sum over the batch, and the momentum
    u of the gradient of tau. That gradient is rho minus how far the item's weights on its negatives are from uniform: an
    item among many alike gets a higher temperature. From the paper's algorithm and the authors' code for images. What
    an item's two anchors ask for is averaged, and so it is where it comes twice in a batch, on any rank. The tables are
    written after the backward pass and are equal on all ranks.

    Deviations: rho, the first temperature and the learning rate of the temperatures are those of the authors' command
    for CIFAR-100; the defaults in their code have rho = 6, and since no divergence is above the logarithm of the number
    of negatives, that lowers all temperatures to the least in batches below some 200. The average of an item starts with
    its first value, where theirs starts with the first epoch and an item first met later counts 1 / gamma times; a
    normaliser averages over the negatives there are. As in that code, and not in the paper, similarities are averaged and
    not their differences from the positive's. The loss is the mean of the two views, not their sum. Tables are as
    long as the data, not 15 million. Items cut from one record are no negatives unless asked for; AdamW in place of SGD.
    """

    class Options(base.Options):
        temperature: float = Field(0.1, ge=0.02, description="of every item at first")
        tau_min: float = Field(
            0.05, ge=0.02, description="lowest temperature; below 0.02 fp32 does not hold exp(1 / t)"
        )
        tau_max: float = Field(1.0, gt=0, description="highest temperature")
        temperature_lr: float = Field(0.03, ge=0, description="learning rate of the temperatures; 0: they stay")
        rho: float = Field(
            0.4, ge=0, description="how far from uniform an item's weights may be, in nats; lower: higher temperatures"
        )
        gamma: float = Field(0.8, gt=0, le=1, description="share of the batch in the moving average; 1: no average")
        beta: float = Field(
            0.5, gt=0, le=1, description="share of the batch in the momentum of a temperature's gradient"
        )
        projector: tuple[int, ...] = Field((256, 128), min_length=1, description="widths of the projector's layers")
        same_record_negatives: bool = Field(False, description="whether items of one record repel each other")

    couples = "every item of the batch is a negative of the others"
    tables = ("tau", "s", "u")
    tau: Tensor
    s: Tensor
    u: Tensor

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        super().__init__(encoder, specs, options, views)
        self.sized(0)

    def sized(self, items: int) -> None:
        like = next(self.projector.parameters())
        for name, start in zip(self.tables, (self.options.temperature, 0.0, 0.0), strict=True):
            self.register_buffer(name, like.new_full((items,), start, requires_grad=False))

    def step(self, batch: Pair, ctx: Context) -> dict[str, Any]:
        o, first = self.options, batch[0]
        # padding has the number -1 and no weight: it reads the first row, and writes nothing
        item = first.index.clamp_min(0)
        pooled, z1, z2 = self.project(batch)
        record = None if o.same_record_negatives else first.record
        tau = self.tau[item]
        found = sogclr(z1, z2, tau, self.s[item], o.gamma, first.weight, record)
        self._found = item, found._replace(loss=found.loss.detach())
        return weighted({"isogclr": (1.0, found.loss)}, pooled, temperature=ranks.mean(tau, first.weight))

    @torch.no_grad()
    def after_backward(self, ctx: Context) -> None:
        o, (item, counts, average, slope) = self.options, _by_item(*self._found)
        grad = (slope + o.rho).clamp(-3, 3)
        u = torch.lerp(self.u[item], grad, o.beta)
        tau = (self.tau[item] - o.temperature_lr * u).clamp(o.tau_min, o.tau_max)
        for table, new in ((self.tau, tau), (self.s, average), (self.u, u)):
            table[item] = torch.where(counts, new.to(table.dtype), table[item])


def _by_item(item: Tensor, found: Contrast) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of all ranks' rows (N,): the item, whether it counts anywhere, and the mean over where it does of average and slope.

    All rows of an item hold the same numbers to the bit, so it does not matter which of them is written last.
    """
    item, weight = ranks.gather(item), ranks.gather(found.weight)
    told = ranks.gather(torch.stack([found.average, found.slope], 1))
    same = (item[:, None] == item[None, :]) & (weight > 0)[None, :]
    number = same.sum(1)
    means = same.to(told.dtype) @ told / number.clamp_min(1)[:, None]
    average, slope = means[same.int().argmax(1)].unbind(1)
    return item, number > 0, average, slope
