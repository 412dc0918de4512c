"""Jobs: one regime of one method with one seed, from nothing to its predictions on both tests, kept in one JSON file."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from learning import digits, stamp

from continued import budget
from continued.budget import Budget
from continued.regimes import REGIMES, Runs
from continued.sets import FIRST, Images, Set
from unlabeled.core.contracts import RequestError, RunFailed
from unlabeled.core.evaluation.embed import embed
from unlabeled.core.evaluation.probe import probe
from unlabeled.core.files import write_json

PIXELS = "pixels"
Job = tuple[str, str, int]  # method ("" for pixels), regime, seed


def jobs(plan: Budget) -> list[Job]:
    trained = [(m, r, s) for m in plan.methods for s in plan.seeds for r in REGIMES]
    return [("", PIXELS, plan.seeds[0]), *trained]


def file_of(out: Path, job: Job) -> Path:
    method, regime, seed = job
    return out / f"{f'{method}-' if method else ''}{regime}-seed-{seed}.json"


def run(plan: Budget, sets: Mapping[str, Set], job: Job, out: Path) -> bool:
    """Do the job, unless its file is there. Returns whether it was done now.

    Raises RequestError where the file there came of other settings. A run that fails is a result too, and kept.
    """
    method, _, _ = job
    file, wanted = file_of(out, job), budget.settings(plan)
    wanted["recipes"] = {n: r for n, r in wanted["recipes"].items() if n == method}
    wanted = {k: v for k, v in wanted.items() if k not in ("methods", "seeds")}
    if file.exists():
        if json.loads(file.read_text())["settings"] != wanted:
            raise RequestError(f"{file} came of another budget; choose another folder, or remove it")
        return False
    found: dict[str, Any] = {"job": job, "settings": wanted, "commit": stamp.commit()}
    began = time.process_time()
    try:
        found["predictions"] = _predictions(plan, sets, job)
    except RunFailed as error:
        found["failed"] = str(error)
    write_json(file, found | {"cpu_seconds": round(time.process_time() - began, 1)})
    return True


def _predictions(plan: Budget, sets: Mapping[str, Set], job: Job) -> dict[str, dict[str, list[str]]]:
    """By end and set: the predictions of its test images for each label draw, one class a character."""
    method, regime, seed = job
    if regime == PIXELS:
        return {PIXELS: {n: read_out(s, s.grey.reshape(len(s.grey), -1) / digits.WHITE) for n, s in sets.items()}}
    torch.set_num_threads(1)
    scale = digits.scale_of(sets[FIRST].pool)  # the first set's, for both: who goes on has no other
    pools = {n: Images(s.grey[s.pool] / scale) for n, s in sets.items()}
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(plan.recipe(method, seed), plan.schedules.infinite, pools, Path(folder))
        ends = REGIMES[regime](runs)
    everything: dict[str, Any] = {n: Images(s.grey / scale) for n, s in sets.items()}
    return {
        end: {n: read_out(s, embed(encoder, everything[n], digits.SPECS).values) for n, s in sets.items()}
        for end, encoder in ends.items()
    }


def read_out(of: Set, features: Any) -> list[str]:
    """The frozen probe on features (N, P) of all images of the set, for each label draw."""
    data, made = budget.data(), []
    for drawn in digits.label_draws(of.labels, of.pool, data.labels_per_class, data.draws, data.seed):
        done = probe(features[drawn], of.labels[drawn], drawn, features[of.test], digits.CLASSES)
        made.append("".join(map(str, done.scores.argmax(1))))
    return made
