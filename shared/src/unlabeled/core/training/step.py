"""One optimiser step, whatever drives it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from unlabeled.core import ranks
from unlabeled.core.contracts import RequestError, RunFailed
from unlabeled.core.contracts.batch import Batch, Moves
from unlabeled.core.contracts.recipe import Recipe
from unlabeled.core.methods.base import Context, Method
from unlabeled.core.nn.norms import RankBatchNorm
from unlabeled.core.streams import key
from unlabeled.core.training.guard import Guard
from unlabeled.core.training.optim import adamw, schedule


def floating(batch: Moves, dtype: torch.dtype) -> Any:
    """The batch with its floating point tensors as `dtype`."""

    def move(x: Any) -> Any:
        if isinstance(x, Moves):
            return x._each(move)
        return x.to(dtype) if x.is_floating_point() else x

    return move(batch)


def check_parts(method: Method, recipe: Recipe) -> None:
    """Raises RequestError where computing a batch in parts would change the loss."""
    n = recipe.trainer.accumulate
    norms = any(isinstance(m, RankBatchNorm | nn.modules.batchnorm._BatchNorm) for m in method.modules())
    why = method.couples or ("its batch norm takes the statistics of the whole batch" if norms else "")
    if n > 1 and why:
        raise RequestError(
            f"trainer.accumulate is {n}, which would change what {recipe.method.name} computes: {why}; set it to 1, and "
            "for less memory use trainer.precision bf16 or a smaller batch_size"
        )


class Step:
    """Does the optimiser step `index` of a run on one batch; the same for every loop, so that loops agree to the bit.

    Precision is set here and not by Lightning, which runs the backward pass of manual optimisation under autocast too.

    With `trainer.accumulate` the batch is computed in parts, one after the other, whose losses are weighted by their
    rows of weight above 0 on all ranks: the gradient is that of the whole batch where the loss is a mean over rows. It
    is not exactly so where rows count unequally (a masked mean over the valid elements of all rows, with items that are
    partly invalid), and dropout draws other numbers.
    """

    def __init__(self, method: Method, recipe: Recipe) -> None:
        check_parts(method, recipe)
        self.method = method.double() if recipe.trainer.precision == "64" else method
        self.recipe = recipe
        self.optimiser = adamw(method, recipe.optimiser)
        self.guard = Guard(method, self.optimiser, recipe.optimiser.clip)

    def __call__(
        self,
        index: int,
        epoch: int,
        batch: Batch,
        device: torch.device,
        backward: Callable[[Tensor], None],
        update: Callable[[], object],
    ) -> dict[str, Any]:
        """loss, parts, vitals, grad_norm, skipped (0-d tensors on the device, detached), lr, embedding (B, D), weight (B,).

        backward  puts the gradient of the global loss into the parameters, averaged over ranks
        update    the optimiser's step, directly or through a wrapper
        """
        recipe, method = self.recipe, self.method
        ctx = Context(recipe.seed, index, epoch, recipe.max_steps, recipe.schedule.trunk(recipe.max_steps))
        # dropout and the like draw from torch's global stream: seeded by the step, it needs no place in a checkpoint
        torch.manual_seed(key(recipe.seed, index))
        lr = schedule(self.optimiser, recipe, index)
        batch = batch.to(device, non_blocking=True).ready()
        if recipe.trainer.precision == "64":
            batch = floating(batch, torch.float64)

        self.guard.hold()
        self.optimiser.zero_grad(set_to_none=True)
        out = self._forward_backward(batch, ctx, device, backward)
        method.after_backward(ctx)
        norm, bad = self.guard.judge(out["loss"])
        update()
        method.after_step(ctx)
        self.guard.release(bad)
        return {**out, "grad_norm": norm, "skipped": bad, "lr": lr, "weight": batch.weight}

    def _forward_backward(
        self, batch: Batch, ctx: Context, device: torch.device, backward: Callable[[Tensor], None]
    ) -> dict[str, Any]:
        """What the method returns for the whole batch, detached, with the gradient in the parameters."""
        n = self.recipe.trainer.accumulate
        if n == 1:
            out = self._loss(batch, ctx, device)
            backward(out["loss"])
            return {**out, "loss": out["loss"].detach()}
        parts = batch.parts(n)
        weights = ranks.total(torch.stack([part.weight.sum() for part in parts]))
        shares = (weights / weights.sum().clamp_min(1)).unbind()
        outs = []
        for part, share in zip(parts, shares, strict=True):
            out = self._loss(part, ctx, device)
            loss = out["loss"] * share.to(out["loss"].dtype)
            backward(loss)
            outs.append({**out, "loss": loss.detach()})
        return {
            "loss": torch.stack([out["loss"] for out in outs]).sum(),
            "parts": _mixed(outs, "parts", shares),
            "vitals": _mixed(outs, "vitals", shares),
            "embedding": torch.cat([out["embedding"] for out in outs]),
        }

    def _loss(self, batch: Batch, ctx: Context, device: torch.device) -> dict[str, Any]:
        given = self.method.on_batch(batch, ctx)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.recipe.trainer.precision == "bf16"):
            out = self.method.step(given, ctx)
        rows = len(out["embedding"])
        if rows != batch.size:
            raise RunFailed(
                f"method {self.recipe.method.name} returned an embedding of {rows} rows for {batch.size} items; its step "
                "must give one row per item"
            )
        return out


def _mixed(outs: list[dict[str, Any]], name: str, shares: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """The named terms of the parts, in their shares."""
    return {
        k: torch.stack([out[name][k] * s.to(out[name][k].dtype) for out, s in zip(outs, shares, strict=True)]).sum()
        for k in outs[0].get(name, {})
    }
