"""From a recipe to its plan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.plan import Plan
from unlabeled.core.contracts.recipe import Recipe, Strict, nearest, validated
from unlabeled.core.data.items import Items
from unlabeled.core.data.plans.plain import Uniform
from unlabeled.core.data.plans.pruned import Pruned

Made = Callable[[Recipe, Items, Path], Plan]


def _uniform(recipe: Recipe, items: Items, run: Path) -> Plan:
    validated(Strict, recipe.plan.options, "plan")
    return Uniform(len(items), recipe.batch_size)


def _pruned(recipe: Recipe, items: Items, run: Path) -> Plan:
    from unlabeled.core.curate.choices import Choices

    options = validated(Pruned.Options, recipe.plan.options, "plan")
    return Pruned(len(items), recipe.batch_size, options, Choices(items, options, recipe.seed, run))


PLANS: dict[str, Made] = {"uniform": _uniform, "pruned": _pruned}


def build_plan(recipe: Recipe, items: Items, run: Path) -> Plan:
    """The recipe's plan of these items; what it chooses is kept in `run`. Raises RequestError for what does not fit."""
    if recipe.plan.name not in PLANS:
        raise RequestError(f"plan.name: {nearest(recipe.plan.name, list(PLANS))}")
    return PLANS[recipe.plan.name](recipe, items, run)
