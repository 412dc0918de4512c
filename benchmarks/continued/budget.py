"""The budget: what continued pretraining adds to benchmarks/learning/budget.yaml, and the recipes of its runs."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from learning import budget as learning

from unlabeled.core.contracts.recipe import Recipe, Schedule, Strict, validated

FILE = Path(__file__).with_name("budget.yaml")


class Fashion(Strict):
    seed: int
    pool: int
    test: int


class Schedules(Strict):
    cosine: Schedule
    infinite: Schedule


class Budget(Strict):
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    schedules: Schedules
    fashion: Fashion

    def values(self, method: str, seed: int) -> dict[str, Any]:
        """What the learning table's recipe of this method says, but for one cosine over the steps of one set."""
        values = _shared().values(method, seed)
        trainer = {**values["trainer"], "save_every": self.steps}
        cosine = self.schedules.cosine.model_dump(mode="json", exclude_unset=True)
        return {**values, "schedule": cosine, "max_steps": self.steps, "trainer": trainer}

    def recipe(self, method: str, seed: int) -> Recipe:
        return validated(Recipe, self.values(method, seed), f"{FILE.name}: {method}")


def read(path: Path = FILE) -> Budget:
    return validated(Budget, yaml.safe_load(path.read_text()), path.name)


def data() -> learning.Data:
    """The digits' split and the label draws of both sets."""
    return _shared().data


@cache
def _shared() -> learning.Budget:
    """The learning table's budget; once, so that all runs of a call are of one."""
    return learning.read()


def settings(plan: Budget) -> dict[str, Any]:
    """Everything that is fixed before the runs, as the files say it."""
    recipes = {m: {k: v for k, v in plan.values(m, 0).items() if k != "seed"} for m in plan.methods}
    own = plan.model_dump(mode="json", exclude_unset=True)
    found: dict[str, Any] = json.loads(json.dumps({**own, "data": data().model_dump(mode="json"), "recipes": recipes}))
    return found
