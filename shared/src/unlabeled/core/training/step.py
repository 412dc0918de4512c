"""One optimiser step, whatever drives it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from unlabeled.core.contracts.batch import Batch, Moves
from unlabeled.core.contracts.recipe import Recipe
from unlabeled.core.methods.base import Context, Method
from unlabeled.core.streams import key
from unlabeled.core.training.guard import Guard
from unlabeled.core.training.optim import adamw, learning_rate


def floating(batch: Moves, dtype: torch.dtype) -> Any:
    """The batch with its floating point tensors as `dtype`."""

    def move(x: Any) -> Any:
        if isinstance(x, Moves):
            return x._each(move)
        return x.to(dtype) if x.is_floating_point() else x

    return move(batch)


class Step:
    """Does the optimiser step `index` of a run on one batch; the same for every loop, so that loops agree to the bit.

    Precision is set here and not by Lightning, which runs the backward pass of manual optimisation under autocast too.
    """

    def __init__(self, method: Method, recipe: Recipe) -> None:
        self.method = method.double() if recipe.trainer.precision == "64" else method
        self.recipe = recipe
        self.optimiser = adamw(method, recipe.optimiser)
        self.guard = Guard(method, self.optimiser, recipe.trainer.max_skipped, recipe.optimiser.clip)

    def __call__(
        self,
        index: int,
        epoch: int,
        batch: Batch,
        device: torch.device,
        backward: Callable[[Tensor], None],
        update: Callable[[], object],
    ) -> dict[str, Any]:
        """loss, parts, grad_norm, skipped (0-d tensors on the device, detached), lr, and embedding (B, D).

        backward  puts the gradient of the global loss into the parameters, averaged over ranks
        update    the optimiser's step, directly or through a wrapper
        """
        recipe, method = self.recipe, self.method
        ctx = Context(recipe.seed, index, epoch, recipe.max_steps)
        # dropout and the like draw from torch's global stream: seeded by the step, it needs no place in a checkpoint
        torch.manual_seed(key(recipe.seed, index))
        lr = learning_rate(recipe.schedule, recipe.optimiser.lr, index, recipe.max_steps)
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        batch = batch.to(device, non_blocking=True)
        if recipe.trainer.precision == "64":
            batch = floating(batch, torch.float64)

        self.guard.hold()
        given = method.on_batch(batch, ctx)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.trainer.precision == "bf16"):
            out = method.step(given, ctx)
        self.optimiser.zero_grad(set_to_none=True)
        backward(out["loss"])
        method.after_backward(ctx)
        loss = out["loss"].detach()
        norm, bad = self.guard.judge(loss)
        update()
        method.after_step(ctx)
        self.guard.release(bad)
        return {**out, "loss": loss, "grad_norm": norm, "skipped": bad, "lr": lr}
