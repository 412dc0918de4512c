"""From a recipe to its plan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.plan import Plan
from unlabeled.core.contracts.recipe import Recipe, Strict, nearest, validated
from unlabeled.core.data.items import Items
from unlabeled.core.data.loading import check_filled
from unlabeled.core.data.plans.cluster_balanced import ClusterBalanced
from unlabeled.core.data.plans.label_guided import Clustered, LabelGuided
from unlabeled.core.data.plans.mixture import Mixture
from unlabeled.core.data.plans.plain import Uniform
from unlabeled.core.data.plans.pruned import Pruned

Made = Callable[[Recipe, Items, Path, Any], Plan]


def _uniform(recipe: Recipe, items: Items, run: Path, options: Strict) -> Plan:
    return Uniform(len(items), recipe.batch_size)


def _pruned(recipe: Recipe, items: Items, run: Path, options: Pruned.Options) -> Plan:
    from unlabeled.core.curate.choices import Choices

    return Pruned(len(items), recipe.batch_size, options, Choices(items, options, recipe.seed, run))


def _mixture(recipe: Recipe, items: Items, run: Path, options: Mixture.Options) -> Plan:
    return Mixture([items.corpus.rows[int(r)].key for r in items.record], recipe.batch_size, options)


def _clustered(kind: type[LabelGuided] | type[ClusterBalanced]) -> Made:
    def made(recipe: Recipe, items: Items, run: Path, options: Clustered) -> Plan:
        from unlabeled.core.curate.assignments import Recorded, assigned

        cluster = assigned(recipe, items, run, options)
        return Recorded(kind(cluster, recipe.batch_size), cluster)

    return made


PLANS: dict[str, tuple[type[Strict], Made]] = {
    "uniform": (Strict, _uniform),
    "pruned": (Pruned.Options, _pruned),
    "label_guided": (LabelGuided.Options, _clustered(LabelGuided)),
    "cluster_balanced": (ClusterBalanced.Options, _clustered(ClusterBalanced)),
    "mixture": (Mixture.Options, _mixture),
}


def _chosen(recipe: Recipe) -> tuple[Strict, Made]:
    if recipe.plan.name not in PLANS:
        raise RequestError(f"plan.name: {nearest(recipe.plan.name, list(PLANS))}")
    kind, made = PLANS[recipe.plan.name]
    return validated(kind, recipe.plan.options, "plan"), made


def check_plan(recipe: Recipe, items: Items) -> None:
    """Raises RequestError for what can be told to be wrong before a folder is made, and before a stage is trained."""
    options, made = _chosen(recipe)
    plan: Plan = Uniform(len(items), recipe.batch_size)
    if not isinstance(options, Clustered):
        plan = made(recipe, items, Path(), options)
    else:
        options.check()
        if recipe.plan.name == "label_guided" and options.clusters is not None:
            LabelGuided.check(options.clusters, recipe.batch_size)
    check_filled(plan, len(items))


def build_plan(recipe: Recipe, items: Items, run: Path) -> Plan:
    """The recipe's plan of these items; what it chooses is kept in `run`. Raises RequestError for what does not fit."""
    options, made = _chosen(recipe)
    return made(recipe, items, run, options)
