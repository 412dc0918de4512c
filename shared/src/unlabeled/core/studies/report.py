"""study.json: every score, every difference, every choice, and the verdict, from the files of the jobs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlabeled.core.bundle.provenance import commit, versions
from unlabeled.core.evaluation.labels import UNLABELLED
from unlabeled.core.measures.confusion import confusion
from unlabeled.core.measures.intervals import Interval, difference, interval, statistic
from unlabeled.core.studies.jobs import FROZEN, OURS, RANDOM, TUNED, fold_name, result, seed_name
from unlabeled.core.studies.plan import Plan, title
from unlabeled.core.studies.protocol import protocol
from unlabeled.core.studies.verdict import RULE, word

Confusions = dict[str, dict[str, NDArray[np.int64]]]


def assemble(
    plan: Plan, out: Path, simple: list[str], joined: str | None, shelf: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Everything that follows from the plan and the jobs' files.

    simple: names of the baselines. joined: what ours is joined with. shelf: what `starts.examined` found.
    """
    results = results_in(plan, out)
    confusions = collect(plan, results)
    return {
        "unit": plan.unit,
        "metric": plan.metric,
        "n": _counts(plan),
        "folds": [{"name": f.name, "train": list(f.train), "test": list(f.test)} for f in plan.folds],
        "seeds": list(plan.seeds),
        "budgets": [
            {"title": title(b), f"{plan.unit}s": [len(plan.label_draws(f, b)[0]) for f in range(len(plan.folds))]}
            for b in plan.by_size()
        ],
        "scores": {
            start: {
                budget: {**vars(interval(c, plan.seed, of=plan.statistic)), "seeds": c.shape[0], "draws": c.shape[1]}
                for budget, c in by_budget.items()
            }
            for start, by_budget in confusions.items()
        },
        "off_the_shelf": dict(shelf),
        **compared(plan, confusions, simple, joined, [n for n, about in shelf.items() if "absent" not in about]),
        "choices": _choices(results),
        "learning_rates": [
            {"fold": f, "start": start, **chosen}
            for f in range(len(plan.folds))
            for start, chosen in results[seed_name(f, plan.seeds[0])]["lr"].items()
        ],
        "protocol": protocol(plan),
        "recipe": plan.recipe,
        "data_sha256": plan.data,
        "versions": versions("scikit-learn"),
        "commit": commit(),
        "job_seconds": round(sum(r["seconds"] for r in results.values()), 1),
        "pretraining_seconds": round(sum(r.get("pretraining_seconds", 0.0) for r in results.values()), 1),
    }


def _counts(plan: Plan) -> dict[str, Any]:
    """How many units there are, and how many with a label are tested once each."""
    labels, tested = np.array(plan.labels), plan.of(tuple(plan.tested))
    units, labelled = f"{plan.unit}s", int((labels != UNLABELLED).sum())
    return {
        units: len(labels),
        f"labelled_{units}": len(tested),
        f"{units}_without_label_or_window": len(labels) - labelled,
        f"labelled_{units}_in_no_fold": labelled - len(tested),
        "groups": len(set(plan.groups)),
        "tested_groups": len(plan.tested),
        f"{units}_of_class": {c: int((labels[tested] == i).sum()) for i, c in enumerate(plan.classes)},
    }


def job_names(plan: Plan) -> list[str]:
    names = [fold_name(f) for f in range(len(plan.folds))]
    return names + [seed_name(f, s) for f in range(len(plan.folds)) for s in plan.seeds]


def results_in(plan: Plan, out: Path) -> dict[str, dict[str, Any]]:
    """What the jobs of a finished study wrote, by name."""
    return {name: json.loads(result(out, name).read_text()) for name in job_names(plan)}


def collect(plan: Plan, results: Mapping[str, dict[str, Any]]) -> Confusions:
    """start -> budget -> confusions (S, D, G, K, K) over all folds."""
    where = {g: i for i, g in enumerate(plan.tested)}
    labels, k = np.array(plan.labels), len(plan.classes)
    out: Confusions = {}

    def put(job: dict[str, Any], first: int, seeds: int | None) -> None:
        units = np.array(job[f"test_{plan.unit}s"], np.int64)
        group = np.array([where[plan.groups[u]] for u in units])
        for start, by_budget in job["predictions"].items():
            for budget, rows in by_budget.items():
                predicted = np.array(rows, np.int64).reshape(len(rows), len(rows[0]), len(units))
                shape = (seeds or len(rows), len(rows[0]), len(where), k, k)
                into = out.setdefault(start, {}).setdefault(budget, np.zeros(shape, np.int64))
                for g in np.unique(group):
                    at = group == g
                    into[first : first + len(rows), :, g] += confusion(labels[units[at]], predicted[:, :, at], k)

    for fold in range(len(plan.folds)):
        put(results[fold_name(fold)], 0, None)
        for number, seed in enumerate(plan.seeds):
            put(results[seed_name(fold, seed)], number, len(plan.seeds))
    return out


def compared(
    plan: Plan, confusions: Confusions, simple: list[str], joined: str | None, shelf: list[str]
) -> dict[str, Any]:
    """All differences, and the verdict on those fixed in advance; beside it, what off-the-shelf weights are worth."""
    rows: list[dict[str, Any]] = []
    mean = partial(statistic, of=plan.statistic)
    frozen, tuned = f"{OURS}, {FROZEN}", f"{OURS}, {TUNED}"
    with_simple = f"{OURS} + {joined}" if joined else None

    def against(other: str) -> list[tuple[str, str]]:
        pairs = [(frozen, f"{other}, {FROZEN}"), (tuned, f"{other}, {TUNED}")]
        return [*pairs, (with_simple, f"{other} + {joined}")] if with_simple else pairs

    controls = [pair for other in (RANDOM, *shelf) for pair in against(other)]
    mine = [s for s in (frozen, tuned, with_simple) if s]
    best: dict[str, str] = {}
    for budget in (title(b) for b in plan.by_size()):
        pairs = controls + [(a, b) for b in simple for a in mine]
        rows += [_row(plan, confusions, budget, a, b) for a, b in pairs]
        if simple:
            best[budget] = max(simple, key=lambda b, at=budget: mean(confusions[b][at]))  # type: ignore[misc]
    first = title(plan.by_size()[0])

    def found(a: str, b: str) -> dict[str, Any]:
        return next(r for r in rows if (r["budget"], r["a"], r["b"]) == (first, a, b))

    verdict: dict[str, Any] = {
        "rule": RULE,
        "budget": first,
        "against_random": _beside(found, against(RANDOM)),
    }
    if shelf:
        first_of = {name: mean(confusions[f"{name}, {FROZEN}"][first]) for name in shelf}
        verdict["against_off_the_shelf"] = _beside(found, against(max(shelf, key=lambda name: first_of[name])))
    elif plan.starts:
        verdict["against_off_the_shelf"] = {"word": "absent here", "why": "none of those named can be had"}
    else:
        verdict["against_off_the_shelf"] = {"word": "not asked", "why": "study.starts names no weights"}
    if simple:
        main = with_simple or frozen
        verdict["against_simple"] = {**found(main, best[first]), "alone": found(frozen, best[first])}
    else:
        verdict["against_simple"] = {
            "word": "cannot tell",
            "why": f"the domain declares no simple baseline for a {plan.unit}",
        }
    return {"differences": rows, "best_simple": best, "verdict": verdict}


def _beside(found: Callable[[str, str], dict[str, Any]], pairs: list[tuple[str, str]]) -> dict[str, Any]:
    return {**found(*pairs[0]), "fine_tuned": found(*pairs[1])}


def _row(plan: Plan, confusions: Confusions, budget: str, a: str, b: str) -> dict[str, Any]:
    left, right = confusions[a][budget], confusions[b][budget]
    draws = min(left.shape[1], right.shape[1])  # fine-tuned starts have fewer: the first draws are everybody's
    found: Interval = difference(left[:, :draws], right[:, :draws], plan.seed, of=plan.statistic)
    return {"budget": budget, "a": a, "b": b, **vars(found), "word": word(found), "draws": draws}


def _choices(results: dict[str, dict[str, Any]]) -> dict[str, dict[str, dict[str, int]]]:
    """start -> budget -> how often each value was chosen."""
    counted: dict[str, dict[str, Counter[str]]] = {}
    for job in results.values():
        for start, by_budget in job["choices"].items():
            for budget, rows in by_budget.items():
                values = [f"{v:g}" for row in rows for v in row if v is not None]
                counted.setdefault(start, {}).setdefault(budget, Counter()).update(values)
    return {start: {b: dict(sorted(c.items())) for b, c in of.items()} for start, of in counted.items()}
