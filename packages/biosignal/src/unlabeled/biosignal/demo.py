"""The demo: real wrist recordings, from files to a verdict."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unlabeled.biosignal.baselines import Hand
from unlabeled.biosignal.samples import watch
from unlabeled.core.cli.demo import QUICK, inspect_and_study
from unlabeled.core.cli.shell import out, progress
from unlabeled.core.contracts.recipe import Recipe, read_recipe

REAL = "real: 140 recordings of a smartwatch by 10 people, 7 shoulder exercises (seglearn 1.2.5)"


def demo(to: Path) -> None:
    """Inspect, pretrain and study on the watch recordings, into the folder `to`; goes on where it stopped."""
    folder = watch(to / "recordings")
    recipe = _recipe(folder)
    split = "pretrain without labels on the subjects that stay, test on those left out"
    inspect_and_study(recipe, to, REAL, split)

    out.rule("what mirroring the left wrist alone is worth")
    with progress("mirroring") as update:
        worth = _mirroring(recipe, update)
    out.print(worth, markup=False)

    out.rule("where everything lies")
    for what, path in (
        ("recordings and labels", folder),
        ("the report, for a browser", to / "study" / "report.html"),
        ("every number of the table", to / "study" / "study.json"),
        ("pretraining runs, each with its bundle", to / "study" / "pretraining"),
    ):
        out.print(f"{what}: {path}", markup=False)


def _recipe(folder: Path) -> Recipe:
    with as_file(files("unlabeled.biosignal") / "recipes" / "simclr-watch.yaml") as path:
        recipe = read_recipe(path)
    study = recipe.study.model_copy(update={"labels": folder / "labels.csv", **QUICK})
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"path": folder}), "study": study})


def _mirroring(recipe: Recipe, update: Callable[[int, int], None]) -> str:
    """Hand features and logistic regression at the smallest budget, with and without the conversion, paired."""
    from unlabeled.core.data.groups import distinct
    from unlabeled.core.measures.confusion import confusion
    from unlabeled.core.measures.intervals import difference, interval
    from unlabeled.core.studies.plan import title
    from unlabeled.core.studies.run import planned
    from unlabeled.core.studies.scoring import Scorer, open_corpus, training_specs, windows

    found: dict[str, NDArray[np.int64]] = {}
    for name, conversions in (("mirrored", recipe.data.conversions), ("as recorded", ())):
        data = recipe.data.model_copy(update={"conversions": conversions})
        study = recipe.study.model_copy(update={"budgets": recipe.study.budgets[:1]})
        one = recipe.model_copy(update={"data": data, "study": study})
        plan, _ = planned(one)
        groups = distinct(plan.groups)
        k = len(plan.classes)
        confusions = np.zeros((1, plan.draws, len(groups), k, k), np.int64)
        for fold in range(len(plan.folds)):
            corpus = open_corpus(one, plan)
            items = windows(one, corpus.normalised(specs=training_specs(one, corpus, plan.folds[fold])))
            scorer = Scorer(plan, fold, items.record)
            features = Hand().features([items.sample(i) for i in range(len(items))])
            predicted = np.array(scorer.frozen(features)[0][title(plan.budgets[0])])
            labels = np.array(plan.labels)[scorer.test]
            update(len(found) * len(plan.folds) + fold + 1, 2 * len(plan.folds))
            for group in plan.folds[fold].test:
                at = np.array([plan.groups[r] == group for r in scorer.test])
                confusions[0, :, groups.index(group)] += confusion(labels[at], predicted[:, at], k)
        found[name] = confusions
    gain = difference(found["mirrored"], found["as recorded"], recipe.seed)
    rows = [f"{name}: {interval(c, recipe.seed)}" for name, c in found.items()]
    return f"hand features, 1 recording per class, macro-F1: {'; '.join(rows)}; difference {gain}"
