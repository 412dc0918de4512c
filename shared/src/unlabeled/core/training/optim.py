"""Parameter groups, optimiser, and its learning rate and weight decay as pure functions of the step."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from unlabeled.core.contracts.recipe import Optimiser, Recipe, Schedule
from unlabeled.core.schedules import infinite, momentum, passed, warmup_cosine, wsd

_TABLE = re.compile(r"token|pos")


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Learned parameters in two groups, with and without weight decay.

    Not decayed: what has at most one axis (biases, norms, scales), learned tokens, tables of positions. A pull towards
    zero there is no regulariser but a change of the function (Touvron et al. 2021, DeiT, and its successors).
    """
    tables = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, p in module.named_parameters():
        if p.requires_grad:
            exempt = p.ndim <= 1 or id(p) in tables or _TABLE.search(name.rpartition(".")[2]) is not None
            (free if exempt else decayed).append(p)
    groups = (
        {"params": decayed, "weight_decay": weight_decay, "decayed": True},
        {"params": free, "weight_decay": 0.0, "decayed": False},
    )
    return [dict(g) for g in groups if g["params"]]


def adamw(module: nn.Module, options: Optimiser) -> torch.optim.AdamW:
    """Fused AdamW: fastest on CPU and CUDA, and the one kind whose update a device-side flag can cancel (see guard)."""
    groups = parameter_groups(module, options.weight_decay)
    return torch.optim.AdamW(groups, lr=options.lr, betas=options.betas, fused=True)


def learning_rate(schedule: Schedule, peak: float, step: int, total: int) -> float:
    """Learning rate of the 0-based `step` out of `total`."""
    if schedule.name == "cosine":
        return warmup_cosine(step, total, schedule.warmup, peak)
    if schedule.name == "infinite":
        shares = (schedule.constant * peak, schedule.final * peak)
        return infinite(step, total, schedule.warmup, schedule.cooldown, schedule.decay, peak, *shares)
    decay = schedule.decay if schedule.name == "wsd" else 0
    return wsd(step, total, schedule.warmup, decay, peak)


def weight_decay(options: Optimiser, progress: float) -> float:
    """Weight decay at this progress of the run: Caron et al. 2021 (DINO), section 3.2, where it has a final value."""
    final = options.weight_decay_final
    return options.weight_decay if final is None else momentum(progress, options.weight_decay, final)


def schedule(optimiser: torch.optim.Optimizer, recipe: Recipe, step: int) -> float:
    """Set the learning rate and the weight decay of the 0-based `step`; returns the former."""
    lr = learning_rate(recipe.schedule, recipe.optimiser.lr, step, recipe.max_steps)
    start = recipe.schedule.trunk(recipe.max_steps)
    decay = weight_decay(recipe.optimiser, passed(step, recipe.max_steps, start))
    for group in optimiser.param_groups:
        group["lr"] = lr
        if group["decayed"]:
            group["weight_decay"] = decay
    return lr
