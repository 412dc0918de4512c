"""The protocol of a study in words."""

from __future__ import annotations

from unlabeled.core.measures.intervals import RESAMPLES
from unlabeled.core.studies.plan import Plan


def protocol(plan: Plan) -> dict[str, str]:
    """How every number of study.json was made."""
    named = any(fold.name for fold in plan.folds)
    return {
        **(_points(plan) if plan.unit_at else _records(plan)),
        "splits": ("named folds" if named else "groups")
        + " left out; pretraining and normaliser see the training groups only"
        + ("; those are of earlier folds than the one tested" if plan.recipe["study"].get("forward") else "")
        + ("; records in no fold are neither trained nor tested on" if named else ""),
        "random weights": "the same encoder with the random weights of this seed, from which pretraining began unless the "
        "recipe names a start",
        "off-the-shelf": "weights named in study.starts, scored as ours is: frozen, joined and fine-tuned; a bundle among "
        "them has seen no tested group; what others have seen is not known",
        "interval": f"95 %, percentiles of {RESAMPLES} resamples of groups and seeds; draws are averaged; differences are "
        "paired",
    }


HEAD = (
    "multinomial logistic regression; the regularisation of every start is chosen from one grid by the held-out loss within "
    "the labelled {}s of the draw"
)
RATES = (
    "all weights; the learning rate of each start and fold is chosen from one grid by its first seed on held-out training "
    "groups, whose labels come on top of the label budget, for every start alike; pretraining saw these groups without labels"
)


def _records(plan: Plan) -> dict[str, str]:
    return {
        "metric": f"{plan.metric} over records; a record is voted by the mean score of its windows; confusions are summed over "
        "folds",
        "frozen": f"standardised features, {HEAD.format('record')}",
        "baselines": "their features are fitted, without labels, on all training windows, as pretraining is",
        "joined": "the simple features beside the embedding of the same window, with the same head",
        "fine-tuned": RATES,
    }


def _points(plan: Plan) -> dict[str, str]:
    return {
        "metric": f"{plan.metric} (mean over classes of intersection over union) over points; confusions are summed over folds",
        "points": f"{spaced(plan)}, where there are a label and data; the labels of a draw are those of points",
        "frozen": "of each point the token of its cell, from the window in which it lies nearest to the middle; standardised, "
        + HEAD.format("point"),
        "baselines": "features of the points' cells, fitted, without labels, on all training records",
        "joined": "the simple features beside the token of the same point, with the same head",
        "fine-tuned": f"{RATES}; trained on a window around each labelled point, without views, and each token predicts the "
        "cells of its patch",
    }


def spaced(plan: Plan) -> str:
    every = plan.recipe["study"]["every"]
    return "every cell" if every == 1 else f"one cell in {every} along each axis"
