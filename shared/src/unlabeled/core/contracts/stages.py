"""Stages: a recipe as a list of pretrainings, where later ones name the bundles of earlier ones as `stage:NAME`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from unlabeled.core.contracts.errors import RequestError
from unlabeled.core.contracts.recipe import Named, Recipe, nearest

PREFIX = "stage:"
INHERITED = ("encoder", "start", "views", "local_views", "optimiser", "schedule", "batch_size", "max_steps", "seed")


def expanded(recipe: Recipe, before: Collection[str] = ()) -> dict[str, Recipe]:
    """The recipe of every stage by name, in order, without the recipe's own.

    What a stage leaves out is the recipe's. before: names of stages already done. Raises RequestError for a name used
    twice, and where a stage, or the recipe, names one that does not come before it.
    """
    out: dict[str, Recipe] = {}
    for number, stage in enumerate(recipe.stages):
        where = f"stages.{number}"
        if stage.name in out:
            raise RequestError(f"{where}.name: {stage.name!r} is there twice; give each stage a name of its own")
        changes: dict[str, Any] = {k: v for k in INHERITED if (v := getattr(stage, k)) is not None}
        if "start" not in changes and (recipe.start or "").startswith(PREFIX):
            changes["start"] = None  # the recipe begins from a stage, and a stage does not begin from itself
        if any(place.startswith("plan.") for place in named(recipe)):
            changes["plan"] = Named(name="uniform")  # likewise: a plan by a stage's features is the recipe's own
        own = recipe.model_copy(update={"stages": (), "method": stage.method, **changes})
        _check(own, [*before, *out], where)
        out[stage.name] = own
    _check(recipe, [*before, *out], "")
    return out


def _check(recipe: Recipe, before: list[str], where: str) -> None:
    """Every `stage:NAME` is of a stage that comes before."""
    for place, value in named(recipe).items():
        name = value.removeprefix(PREFIX)
        if name not in before:
            place = f"{where}.{place}".removeprefix(".")
            known = nearest(name, before) if before else f"{name!r} is unknown, no stage comes before"
            raise RequestError(f"{place}: {known}")


def named(recipe: Recipe) -> dict[str, str]:
    """The places of a recipe that name a stage, and what they hold."""
    places = {"start": recipe.start, **{f"method.{k}": v for k, v in recipe.method.options.items()}}
    places |= {f"plan.{k}": v for k, v in recipe.plan.options.items()}
    return {place: v for place, v in places.items() if isinstance(v, str) and v.startswith(PREFIX)}


def resolved(recipe: Recipe, bundles: Mapping[str, Path]) -> Recipe:
    """The recipe with the folder of the bundle in the place of every `stage:NAME`."""

    def path(value: Any) -> Any:
        if isinstance(value, str) and value.startswith(PREFIX):
            return str(bundles[value.removeprefix(PREFIX)])
        return value

    def part(of: Named) -> Named:
        return Named(name=of.name, **{name: path(value) for name, value in of.options.items()})

    changes = {"start": path(recipe.start), "method": part(recipe.method), "plan": part(recipe.plan)}
    return recipe.model_copy(update=changes)
