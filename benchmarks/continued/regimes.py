"""The regimes, each a function from one seed's pools to encoders by the name of the moment they are of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from learning import digits

from continued.sets import FIRST, SECOND, Images
from unlabeled.core.build import build_method
from unlabeled.core.contracts.recipe import Branch, Recipe, Schedule, dump
from unlabeled.core.data.loading import Loader
from unlabeled.core.data.plans import Uniform
from unlabeled.core.methods.base import Method
from unlabeled.core.training import branch
from unlabeled.core.training.fit import fit

RANDOM = "random weights"
COSINE_FIRST = "cosine on digits"
INFINITE_FIRST = "infinite, after digits"
INFINITE_BOTH = "infinite, digits then fashion"
REPEATED = "repeated cosine, digits then fashion"
SCRATCH = "from scratch on fashion"
MIXED = "from scratch on both mixed"

Ends = dict[str, Any]  # name -> encoder


@dataclass(frozen=True)
class Runs:
    """The runs of one method and seed. recipe: of one cosine over the steps of one set; folder: where runs are written."""

    recipe: Recipe
    infinite: Schedule
    pools: Mapping[str, Images]
    folder: Path

    def train(self, name: str, source: Images, weights: Mapping[str, Any] | None = None, **changes: Any) -> Method:
        """The method after a run of the recipe with these changes, begun from `weights`, or from what `branch` names."""
        recipe, run = self.recipe.model_copy(update=changes), self.folder / name
        method = build_method(recipe, digits.DOMAIN, digits.SPECS)
        if weights is not None:
            method.load_state_dict(weights)
        loader = Loader(source, digits.SPECS, Uniform(len(source), recipe.batch_size), recipe.seed)
        run.mkdir(parents=True)
        (run / "recipe.yaml").write_text(dump(recipe))
        if recipe.branch is not None:
            branch.begin(recipe, method, run, same_data=source is self.pools[FIRST])
        fit(method, loader, recipe, run, resume=recipe.branch is not None)
        return method


def random(runs: Runs) -> Ends:
    return {RANDOM: build_method(runs.recipe, digits.DOMAIN, digits.SPECS).exported}


def cosine(runs: Runs) -> Ends:
    """One on the first set; from all of its weights, the projector's or decoder's too, a new one with a new warm-up and a
    new optimiser on the second."""
    first = runs.train("first", runs.pools[FIRST])
    again = runs.train("again", runs.pools[SECOND], weights=first.state_dict())
    return {COSINE_FIRST: first.exported, REPEATED: again.exported}


def infinite(runs: Runs) -> Ends:
    """A trunk without a decay over the first set. One branch decays on the first set within its steps; the other goes on from
    the trunk's end, with the optimiser's state and no new warm-up, on the second set and decays at its end."""
    steps, schedule = runs.recipe.max_steps, runs.infinite
    trainer = runs.recipe.trainer.model_copy(update={"keep_every": steps - schedule.decay})
    runs.train("trunk", runs.pools[FIRST], schedule=schedule.model_copy(update={"decay": 0}), trainer=trainer)

    def branched(name: str, at: int, total: int, source: Images) -> Any:
        origin = Branch(run=runs.folder / "trunk", step=at)
        return runs.train(name, source, schedule=schedule, branch=origin, max_steps=total).exported

    return {
        INFINITE_FIRST: branched("decayed", steps - schedule.decay, steps, runs.pools[FIRST]),
        INFINITE_BOTH: branched("on", steps, 2 * steps, runs.pools[SECOND]),
    }


def scratch(runs: Runs) -> Ends:
    return {SCRATCH: runs.train("scratch", runs.pools[SECOND]).exported}


def mixed(runs: Runs) -> Ends:
    """Both sets at once, for the steps of both: what there is to reach where the first set may be kept."""
    both = Images(np.concatenate([runs.pools[name].values for name in (FIRST, SECOND)]))
    return {MIXED: runs.train("mixed", both, max_steps=2 * runs.recipe.max_steps).exported}


REGIMES: dict[str, Callable[[Runs], Ends]] = {
    "random": random,
    "cosine": cosine,
    "infinite": infinite,
    "scratch": scratch,
    "mixed": mixed,
}
