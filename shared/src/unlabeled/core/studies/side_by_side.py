"""Compare: runs and studies side by side, and what of them may be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.box import SIMPLE
from rich.console import Group
from rich.table import Table
from rich.text import Text

from unlabeled.core.contracts import RequestError
from unlabeled.core.files import without_folders
from unlabeled.core.measures.intervals import difference
from unlabeled.core.studies.jobs import result
from unlabeled.core.studies.plan import Plan, planned_in, title
from unlabeled.core.studies.report import collect, job_names, results_in
from unlabeled.core.studies.verdict import word
from unlabeled.core.training.curves import numbers
from unlabeled.core.training.log import read

LAST = 0.1  # share of the steps whose mean is given as a run's last loss

# what two studies must share so that the predictions of one are paired with those of the other
PAIRED = {
    "data": "data",
    "metric": "metric",
    "keys": "records or points",
    "groups": "groups, or the project key they are hashed with",
    "labels": "labels",
    "classes": "classes",
    "folds": "folds",
    "seeds": "pretraining seeds",
    "draws": "number of label draws",
    "seed": "seed of the label draws",
}


def compare(paths: Sequence[str | Path]) -> dict[str, Any]:
    """What differs between run folders and study folders, as plain JSON.

    runs         by name: kind, steps, last_loss, skipped, failed_items, metrics (means over the last tenth), data
    recipe       key -> value by name, of the keys whose values differ
    same_data    whether the fingerprints of the data are equal
    differences  of every later study minus the first, by start and budget, with a 95 % interval; paired
    not_paired   study -> why it is not compared with the first

    Raises RequestError where a folder is neither.
    """
    if len(paths) < 2:
        raise RequestError("name two run or study folders, or more")
    folders = _named([Path(p) for p in paths])
    found = {name: _about(path) for name, path in folders.items()}
    studies = {name: path for name, path in folders.items() if found[name]["kind"] == "study"}
    recipes = {name: flattened(found[name].pop("recipe")) for name in found}
    data = [about["data"] for about in found.values()]
    return {
        "runs": found,
        "recipe": _differing(recipes),
        "same_data": None if None in data else len(set(data)) == 1,
        **_paired(studies),
    }


def _named(paths: Sequence[Path]) -> dict[str, Path]:
    """Last parts of the paths as names, with as many folders before them as tell them apart."""
    whole = [p.resolve() for p in paths]
    if len(set(whole)) < len(whole):
        raise RequestError("one folder is named twice; name different ones")
    depth = 1
    while len({p.parts[-depth:] for p in whole}) < len(whole):
        depth += 1
    return {"/".join(p.parts[-depth:]): p for p in whole}


def _about(path: Path) -> dict[str, Any]:
    if (path / "plan.json").is_file():
        return _study(path)
    if (path / "recipe.yaml").is_file():
        return _run(path)
    raise RequestError(f"{path} is no run and no study: it holds neither recipe.yaml nor plan.json")


def _run(path: Path) -> dict[str, Any]:
    recipe = yaml.safe_load((path / "recipe.yaml").read_text())
    file, bundle, data = path / "metrics.jsonl", path / "bundle" / "bundle.json", path / "data.sha256"
    lines = read(file) if file.exists() else []
    last = [numbers(line) for line in lines[-max(1, round(LAST * len(lines))) :]]
    keys = dict.fromkeys(key for line in last for key in line)
    means = {key: _mean([line.get(key) for line in last]) for key in keys if key not in ("step", "epoch")}
    health = json.loads(bundle.read_text())["health"] if bundle.exists() else {}
    return {
        "kind": "run",
        "finished": bundle.exists(),
        "steps": len(lines),
        "last_loss": means.pop("loss", None),
        "skipped": sum(bool(line["skipped"]) for line in lines),
        "metrics": {key: value for key, value in means.items() if key != "skipped"},
        "health": {key: value for key, value in health.items() if key not in ("steps", "last_loss")},
        "data": data.read_text() if data.exists() else None,
        "recipe": recipe,
    }


def _mean(values: Sequence[float | None]) -> float | None:
    there = [v for v in values if v is not None]
    return float(np.mean(there)) if there else None


def _study(path: Path) -> dict[str, Any]:
    plan = planned_in(path)
    file = path / "study.json"
    report = json.loads(file.read_text()) if file.exists() else {}
    done = [name for name in job_names(plan) if result(path, name).exists()]
    return {
        "kind": "study",
        "finished": bool(report),
        "jobs": f"{len(done)} of {len(job_names(plan))}",
        "verdict": {k: v["word"] for k, v in report["verdict"].items() if isinstance(v, dict)} if report else {},
        "scores": report.get("scores", {}),
        "data": plan.data,
        "recipe": plan.recipe,
    }


def flattened(value: Any, where: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`; lists stay whole."""
    if not isinstance(value, Mapping):
        return {where: without_folders(value) if isinstance(value, str) else value}
    found: dict[str, Any] = {}
    for key, part in value.items():
        found |= flattened(part, f"{where}.{key}" if where else str(key))
    return found


def _differing(recipes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    keys = dict.fromkeys(key for recipe in recipes.values() for key in recipe)
    rows = {key: {name: recipe.get(key) for name, recipe in recipes.items()} for key in keys}
    return {key: row for key, row in rows.items() if len({json.dumps(v, sort_keys=True) for v in row.values()}) > 1}


def _paired(studies: Mapping[str, Path]) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    refused: dict[str, str] = {}
    first, *others = [*studies, ""][: len(studies)] or [""]
    plans = {name: planned_in(path) for name, path in studies.items()}
    for name in others:
        why = _apart(plans[first], plans[name]) or _undone(plans[first], studies[first], first)
        why = why or _undone(plans[name], studies[name], name)
        if why:
            refused[name] = why
        else:
            rows += _differences(plans[first], studies[first], first, plans[name], studies[name], name)
    return {"first": first or None, "differences": rows, "not_paired": refused}


def _apart(a: Plan, b: Plan) -> str:
    """Why the predictions of two studies are not paired, or ""."""
    other = [name for field, name in PAIRED.items() if getattr(a, field) != getattr(b, field)]
    if other:
        return f"not the same {', '.join(other)}"
    return "" if set(a.budgets) & set(b.budgets) else "no label budget in common"


def _undone(plan: Plan, path: Path, name: str) -> str:
    missing = [job for job in job_names(plan) if not result(path, job).exists()]
    return f"{name} is not finished: {len(missing)} jobs are left" if missing else ""


def _differences(a: Plan, here: Path, first: str, b: Plan, there: Path, second: str) -> list[dict[str, Any]]:
    left, right = (collect(plan, results_in(plan, at)) for plan, at in ((a, here), (b, there)))
    rows = []
    for start in left:
        for budget in (title(x) for x in a.by_size() if x in b.budgets):
            if start not in right or left[start][budget].shape[0] != right[start][budget].shape[0]:
                continue
            x, y = left[start][budget], right[start][budget]
            draws = min(x.shape[1], y.shape[1])
            found = difference(y[:, :draws], x[:, :draws], a.seed, of=a.statistic)
            rows.append({"start": start, "budget": budget, "a": second, "b": first, **vars(found), "word": word(found)})
    return rows


# for a reader


def show(found: Mapping[str, Any]) -> Group:
    """The comparison as tables."""
    parts: list[Any] = [_runs(found["runs"])]
    if found["recipe"]:
        parts.append(_table("recipe", found["runs"], found["recipe"]))
    else:
        parts.append(Text("The recipes are equal."))
    same = {True: "The data are the same.", False: "The data differ.", None: "Of one, the data are not known."}
    parts.append(Text(same[found["same_data"]]))
    for row in found["differences"]:
        interval = f"{row['mean']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
        parts.append(Text(f"{row['budget']}, {row['start']}: {row['a']} - {row['b']}: {interval}"))
    for name, why in found["not_paired"].items():
        parts.append(Text(f"{name} cannot be compared with {found['first']} score by score: {why}."))
    return Group(*parts)


def _runs(runs: Mapping[str, Mapping[str, Any]]) -> Table:
    rows: dict[str, dict[str, Any]] = {}
    for name, about in runs.items():
        plain = {k: v for k, v in about.items() if k not in ("data", "scores", "metrics", "health", "verdict")}
        plain["data"] = about["data"] and about["data"][:12]
        score = {f"{start}, {b}": s["mean"] for start, of in about.get("scores", {}).items() for b, s in of.items()}
        for key, value in (plain | flattened(about.get("metrics", {})) | flattened(about.get("health", {}))).items():
            rows.setdefault(key, {})[name] = value
        for key, value in {**about.get("verdict", {}), **score}.items():
            rows.setdefault(key, {})[name] = value
    return _table("", runs, rows)


def _table(title: str, names: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> Table:
    made = Table(title, *names, box=SIMPLE, padding=(0, 1, 0, 0), show_edge=False)
    for key, values in rows.items():
        made.add_row(key, *(_text(values.get(name)) for name in names))
    return made


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
