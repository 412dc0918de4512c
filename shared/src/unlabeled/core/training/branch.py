"""Branches: a run that begins from the training state of another one, before that one's decay.

Until its decay nothing in a run of a branching schedule depends on how long it is: neither the learning rate nor what
else moves over a run (`methods.base.Context.progress`). So a branch on the same data is the run that had been as long
from the start, bit for bit; a branch on other data goes on without a new warm-up (Singh et al. 2025, Beyond Cosine Decay).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.recipe import Recipe, read_recipe
from unlabeled.core.methods.base import Method
from unlabeled.core.training import checkpoint

log = logging.getLogger(__name__)


def kept_for_good(recipe: Recipe) -> checkpoint.ForGood:
    """Which checkpoints of a run stay: the last before its decay, and every `trainer.keep_every` steps."""
    trunk, every = recipe.schedule.trunk(recipe.max_steps), recipe.trainer.keep_every
    return lambda step: (step == trunk > 0) or (every is not None and step % every == 0)


def origin(recipe: Recipe) -> tuple[Path, int]:
    """The checkpoint that the recipe branches off from, and its step.

    Raises RequestError where there is none, or where what it had learned is not what this recipe would go on with.
    """
    assert recipe.branch is not None
    run = recipe.branch.run
    if not (run / "recipe.yaml").is_file():
        raise RequestError(f"branch.run: {run} holds no run to branch off from; name a folder that `pretrain` wrote")
    parent = read_recipe(run / "recipe.yaml")
    _check(parent, recipe)
    trunk = parent.schedule.trunk(parent.max_steps)
    steps = sorted(s for s in map(checkpoint.step_of, checkpoint.saved(run / "checkpoints")) if s <= trunk)
    if not steps:
        raise RequestError(f"branch.run: {run} has no checkpoint of its first {trunk} steps, before its decay")
    step = recipe.branch.step or steps[-1]
    if step not in steps:
        raise RequestError(
            f"branch.step: {run} has no checkpoint of step {step} before its decay, but of {', '.join(map(str, steps))}; "
            "name one of these (trainer.keep_every keeps more)"
        )
    if step > (own := recipe.schedule.trunk(recipe.max_steps)):
        raise RequestError(
            f"max_steps: a run of {recipe.max_steps} steps begins its decay after {own}, and branches off after {step}; "
            f"set max_steps to {step + recipe.schedule.decay} or more"
        )
    return checkpoint.path_of(run / "checkpoints", step), step


def _check(parent: Recipe, recipe: Recipe) -> None:
    """Method, encoder, optimiser and the schedule up to its decay are the same."""
    if not parent.schedule.branches:
        raise RequestError(
            f"branch.run: its schedule is {parent.schedule.name}, which depends on the length of the run at every step; "
            "runs branch off from wsd and infinite"
        )
    if recipe.stages:
        raise RequestError("branch: a run with stages begins anew; leave out branch or stages")
    if recipe.plan.name == "pruned":
        raise RequestError("branch: what the plan pruned chose belongs to the run that chose it; name another plan")
    free = {"decay", "final"}
    for name, a, b in (
        ("method", parent.method, recipe.method),
        ("encoder", parent.encoder, recipe.encoder),
        ("terms", parent.terms, recipe.terms),
        ("optimiser", parent.optimiser, recipe.optimiser),
        ("schedule", parent.schedule.model_dump(exclude=free), recipe.schedule.model_dump(exclude=free)),
        ("trainer.precision", parent.trainer.precision, recipe.trainer.precision),
    ):
        if a != b:
            raise RequestError(f"{name}: a branch goes on with what its origin had, {a}, and not with {b}")


def begin(recipe: Recipe, method: Method, run: Path, same_data: bool, chosen: Sequence[str] = ()) -> None:
    """Give the new run its first checkpoint, the state of its origin.

    chosen: what the run's own plan has chosen so far (`Loader.chosen`). Under other data what was said of items is
    forgotten: failures, batches left out, the method's tables of items, and the health of a start on other data.
    """
    path, step = origin(recipe)
    state = checkpoint.read(path)
    if not same_data:
        weights = {k: v for k, v in state["method"].items() if k not in method.tables}
        health: dict[str, Any] = {name: {} for name in ("values", "start", "row", "well")}
        health |= {name: [] for name in ("alarms", "first", "held", "scalars")}
        state |= {"method": weights, "failures": {}, "skips": [], "rollbacks": [], "health": health}
    checkpoint.save(run / "checkpoints", state | {"plan": list(chosen)}, keep=1)
    log.info(
        "branching off from %s after %d steps%s", path.parents[1].name, step, "" if same_data else ", on other data"
    )
