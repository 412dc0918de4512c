"""study(recipe, out): plan, run the jobs, write study.json."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from unlabeled.core.build import build_encoder
from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.domain import domain
from unlabeled.core.contracts.recipe import Recipe, absolute
from unlabeled.core.data.corpus import Corpus
from unlabeled.core.data.items import cut
from unlabeled.core.data.manifest import check_leaks
from unlabeled.core.downstream.model import patch_of
from unlabeled.core.evaluation.heads import head_of
from unlabeled.core.files import outside, write_json
from unlabeled.core.studies.jobs import (
    baseline_job,
    baselines,
    fold_name,
    joined_with,
    result,
    seed_job,
    seed_name,
    simple_name,
)
from unlabeled.core.studies.plan import Plan, as_json, make_plan
from unlabeled.core.studies.readings import covered
from unlabeled.core.studies.report import assemble
from unlabeled.core.studies.runner import Job, run
from unlabeled.core.studies.scoring import open_corpus, windows
from unlabeled.core.studies.starts import examined
from unlabeled.core.studies.tuning import inner_split
from unlabeled.core.studies.units import of_points, points, records

OnProgress = Callable[[int, int, str], None]


def study(recipe: Recipe, out: Path, on_progress: OnProgress | None = None, real: str = "") -> dict[str, Any]:
    """Was pretraining worth it? Writes `out`/study.json and returns it.

    real: what the caller says the data are ("real: 140 recordings of 10 people", "synthetic"). on_progress(done, total,
    what) after each job. An interrupted study goes on from `out`. Raises RequestError (no labels, unusable labels or
    folds, `out` holds another study), Leakage, and whatever reading and pretraining raise.
    """
    began = time.monotonic()
    recipe = absolute(recipe)
    outside(recipe.data.path, out)
    plan, n_windows = planned(recipe)
    shelf = _shelf(recipe, plan, out)
    _claim(out, plan, shelf)
    jobs = [
        Job(fold_name(f), result(out, fold_name(f)), partial(baseline_job, recipe, plan, f, out))
        for f in range(len(plan.folds))
    ]
    for number, seed in enumerate(plan.seeds):
        for f in range(len(plan.folds)):
            name = seed_name(f, seed)
            # the first seed chooses the learning rates of its fold
            after = fold_name(f) if number == 0 else seed_name(f, plan.seeds[0])
            jobs.append(Job(name, result(out, name), partial(seed_job, recipe, plan, f, seed, shelf, out), (after,)))
    run(jobs, recipe.study.jobs, on_progress)
    joined = joined_with(recipe)
    simple = [c.name for c in baselines(recipe)]
    report = assemble(plan, out, simple, simple_name(joined) if joined else None, shelf)
    report["n"]["windows"] = n_windows
    report["data"] = {"what": real, "domain": recipe.domain, "sha256": report.pop("data_sha256")}
    report["wall_seconds"] = round(time.monotonic() - began, 1)
    write_json(out / "study.json", report)
    read: dict[str, Any] = json.loads((out / "study.json").read_text())  # what is returned is what is kept
    return read


def planned(recipe: Recipe) -> tuple[Plan, int]:
    """The plan, and the number of windows. Checks all that can be wrong before anything is computed."""
    if recipe.study.labels is None:
        raise RequestError(
            "study.labels is missing: name a CSV with the columns key and label, or what a task of segmentation reads"
        )
    for card in baselines(recipe):
        head_of(card)
    everything = Corpus.open(domain(recipe.domain), recipe.data.model_copy(update={"groups": None}))
    corpus = everything if recipe.data.groups is None else everything.only(recipe.data.groups)
    elsewhere = {r.key for r in everything.manifest} - {r.key for r in corpus.rows}
    items = windows(recipe, corpus)
    trained = cut(corpus, recipe.data.window, recipe.data.stride, recipe.data.min_valid)
    if of_points(recipe):
        patch_of(build_encoder(recipe, corpus.domain, corpus.specs, recipe.seed))
        units, items = points(recipe, everything, corpus), covered(recipe, corpus)
    else:
        units = records(recipe, corpus, (items, trained), elsewhere)
    check_leaks(corpus.manifest)
    plan = make_plan(recipe, corpus, units, elsewhere)
    for fold in range(len(plan.folds)):
        inner_split(plan, fold, recipe.study.groups_per_fold)
    return plan, len(items)


def _claim(out: Path, plan: Plan, shelf: dict[str, dict[str, Any]]) -> None:
    """Write the plan and what the starts are into `out`, or find the same plan there."""
    file = out / "plan.json"
    wanted = json.loads(json.dumps(as_json(plan)))
    if file.exists():
        if json.loads(file.read_text()) != wanted:
            raise RequestError(
                f"{out} holds a study of another recipe, other labels or other data; choose another folder"
            )
    elif out.exists() and any(out.iterdir()):
        raise RequestError(f"{out} is not empty and no study; choose another folder")
    (out / "jobs").mkdir(parents=True, exist_ok=True)
    write_json(out / "starts.json", shelf)
    write_json(file, wanted)


def _shelf(recipe: Recipe, plan: Plan, out: Path) -> dict[str, dict[str, Any]]:
    """What the off-the-shelf starts are here; found out once, so that a study goes on with the same starts."""
    file = out / "starts.json"
    if file.exists():
        read: dict[str, dict[str, Any]] = json.loads(file.read_text())
        return read
    if not plan.starts:
        return {}
    return examined(recipe, open_corpus(recipe, plan).normalised(recipe.data.normaliser).specs)
