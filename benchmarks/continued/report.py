"""The page and the results file, both from the jobs' files alone."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from learning import digits, stamp
from learning.report import BLOCK, Confusions

from continued import budget
from continued.budget import Budget
from continued.jobs import PIXELS, file_of, jobs
from continued.regimes import COSINE_FIRST, INFINITE_BOTH, INFINITE_FIRST, MIXED, RANDOM, REPEATED, SCRATCH
from continued.rule import BESIDE, QUESTIONS, RULE
from continued.sets import FIRST, SECOND, Set
from unlabeled.core.measures.confusion import confusion
from unlabeled.core.measures.intervals import RESAMPLES, Interval, difference, interval
from unlabeled.core.studies.verdict import word

ENDS = (RANDOM, COSINE_FIRST, INFINITE_FIRST, REPEATED, INFINITE_BOTH, SCRATCH, MIXED)
PACKAGES = ("unlabeled-core", "torch", "scikit-learn", "numpy")
Made = Mapping[str, Mapping[str, Confusions]]  # by end and set


def results(plan: Budget, sets: Mapping[str, Set], out: Path) -> dict[str, Any]:
    """Everything that follows from the jobs' files. predictions: by method, end and set, of every seed and label draw."""
    runs = {job: json.loads(file_of(out, job).read_text()) for job in jobs(plan)}
    predictions: dict[str, Any] = {}
    for (method, _, _), run in runs.items():
        for end, of in run.get("predictions", {}).items():
            for name, made in of.items():
                predictions.setdefault(method, {}).setdefault(end, {}).setdefault(name, []).append(made)
    seconds: dict[str, Any] = {}
    for (method, regime, _), run in runs.items():
        seconds.setdefault(method, {}).setdefault(regime, []).append(run["cpu_seconds"])
    found = {
        **stamp.stamp(),
        "commit": ", ".join(sorted({run["commit"] for run in runs.values()})),
        "versions": {"python": platform.python_version(), **{n: version(n) for n in PACKAGES}},
        "data": {
            FIRST: "1,797 images of handwritten digits, 8 x 8 (scikit-learn's load_digits)",
            SECOND: "Fashion-MNIST (Xiao et al. 2017), images of articles of clothing, cut to 24 x 24 and averaged to 8 x 8",
        },
        "rule": RULE,
        "interval": f"95 %, percentiles of {RESAMPLES} resamples of blocks of {BLOCK} test images and of pretraining seeds; "
        "draws are averaged; differences are paired",
        "budget": budget.settings(plan),
        "sets": {
            n: {
                "pool": len(s.pool),
                "truth": "".join(map(str, s.labels[s.test])),
                "block": s.block.tolist(),
            }
            for n, s in sets.items()
        },
        "predictions": predictions,
        "failed": [{"job": list(job), "why": run["failed"]} for job, run in runs.items() if "failed" in run],
        "cpu_seconds": seconds,
    }
    return json.loads(json.dumps(found, sort_keys=True))  # type: ignore[no-any-return]  # what is returned is what is kept


def confusions(of: Mapping[str, Any], predictions: list[list[str]]) -> Confusions:
    """(S, D, G, K, K) of predictions by seed and draw, over the blocks of a set's test images."""
    truth, block = np.array([int(c) for c in of["truth"]]), np.array(of["block"])
    predicted = np.array([[[int(c) for c in row] for row in draws] for draws in predictions])
    return np.stack(
        [confusion(truth[block == b], predicted[:, :, block == b], digits.CLASSES) for b in range(block.max() + 1)], 2
    )


def page(found: Mapping[str, Any]) -> str:
    """continued.md, as text."""
    seeds = len(found["budget"]["seeds"])
    pixels = {n: confusions(found["sets"][n], p) for n, p in found["predictions"][""][PIXELS].items()}
    made: dict[str, Made] = {}
    for method in found["budget"]["methods"]:
        # an end of which a seed failed is left out: what is left of it would be a choice
        ends = {e: of for e, of in found["predictions"][method].items() if len(of[FIRST]) == seeds}
        made[method] = {e: {n: confusions(found["sets"][n], p) for n, p in of.items()} for e, of in ends.items()}
    parts = [HEAD, _seen(made), _setting(found), _regimes(found["budget"])]
    parts += [_method(m, pixels, ends, found) for m, ends in made.items()]
    return "\n\n".join([*parts, AGAIN]) + "\n"


HEAD = """# Continued pretraining

Written by `tools/continued`; do not edit. Two real sets, one after the other: what is kept of the first and learned of the
second, under an infinite schedule, under a cosine that is repeated, and from scratch.

## What is seen"""

AGAIN = """## Again

`tools/continued -o runs/continued --fashion FOLDER` goes on where it stopped; FOLDER holds the four files of Fashion-MNIST
(`benchmarks/continued/README.md` says where they come from). Every prediction is in `benchmarks/results`."""


def _seen(made: Mapping[str, Made]) -> str:
    lines = ["| method | question | test set | infinite minus repeated cosine | |", "|---|---|---|---|---|"]
    for method, ends in made.items():
        lines += [f"| {method} | {what} | {name} | {_gap(ends, a, b, name)} |" for what, a, b, name in QUESTIONS]
    return "\n".join(lines)


def _setting(found: Mapping[str, Any]) -> str:
    data, sets = found["budget"]["data"], found["sets"]
    versions = ", ".join(f"{n} {v}" for n, v in found["versions"].items())
    size = {n: f"{s['pool']:,} images are the pool and {len(s['truth']):,} the test" for n, s in sets.items()}
    return f"""{found["rule"]}

First set, `{FIRST}`, real: {found["data"][FIRST]}, split by writers' forms as in `methods.md`: {size[FIRST]}. Second set, \
`{SECOND}`, real: {found["data"][SECOND]}: {size[SECOND]}, by lot. Pretraining sees the pools without labels, both divided by the \
deviation of the first one's grey levels; the views are those of the digits. Then the encoder is frozen, and on either set \
logistic regression reads its pooled features on {data["labels_per_class"]} labels per class, its regularisation chosen within \
them; {data["draws"]} label draws, the same everywhere; {len(found["budget"]["seeds"])} pretraining seeds. Macro-F1 on the \
test images.

Interval: {found["interval"]}. A block of `{FIRST}` is ten neighbouring images of one form; of `{SECOND}`, of which nothing says \
what is kin, ten by lot. It carries what other test images and initial weights would change, not what other pairs of sets would.

{found["date"]}, {found["device"]}, commit {found["commit"]}; {versions}."""


def _regimes(budget: Mapping[str, Any]) -> str:
    n, infinite = budget["steps"], budget["schedules"]["infinite"]
    warmup, decay = infinite["warmup"], infinite["decay"]
    lines = [
        "## Regimes",
        "",
        f"| | steps on {FIRST} | steps on {SECOND} | schedule |",
        "|---|---|---|---|",
        f"| {COSINE_FIRST} | {n} | 0 | a cosine after {warmup} steps of warm-up; also what repeated cosine has after {FIRST} |",
        f"| {INFINITE_FIRST} | {n} | 0 | {warmup} steps of warm-up, {infinite['cooldown']} down to the constant rate, a share of "
        f"{infinite['constant']} of the peak; a branch after {n - decay} steps decays over {decay} |",
        f"| {REPEATED} | {n} | {n} | from all weights of {COSINE_FIRST}, a new cosine with a new warm-up and a new optimiser |",
        f"| {INFINITE_BOTH} | {n} | {n} | the constant rate to step {n} without a decay, then on with the optimiser's state, no new "
        f"warm-up, and a decay over the last {decay} steps |",
        f"| {SCRATCH} | 0 | {n} | a cosine |",
        f"| {MIXED} | {n} | {n} | one cosine over both sets at once, {2 * n} steps: an upper reference, as it never has to go "
        "without the first set |",
    ]
    return "\n".join(lines)


def _method(method: str, pixels: Mapping[str, Confusions], ends: Made, found: Mapping[str, Any]) -> str:
    lines = [f"## {method}", "", f"| end | macro-F1 on {FIRST} | macro-F1 on {SECOND} |", "|---|---|---|"]
    for end, of in (({PIXELS: pixels}) | {e: ends[e] for e in ENDS if e in ends}).items():
        lines.append(f"| {end} | {interval(of[FIRST], 0)} | {interval(of[SECOND], 0)} |")
    lines += ["", "| question | a minus b | test set | difference | |", "|---|---|---|---|---|"]
    lines += [f"| {what} | {a} minus {b} | {name} | {_gap(ends, a, b, name)} |" for what, a, b, name in BESIDE]
    failed = [f for f in found["failed"] if f["job"][0] == method]
    lines += ["", *(f"Failed: {f['job'][1]}, seed {f['job'][2]}: {f['why']}" for f in failed)] if failed else []
    seconds = ", ".join(f"{r} {np.mean(s):.0f}" for r, s in found["cpu_seconds"][method].items())
    return "\n".join([*lines, "", f"CPU seconds of a job, one thread, on a shared machine: {seconds}."])


def _gap(ends: Made, a: str, b: str, name: str) -> str:
    if a not in ends or b not in ends:
        return "a run failed |"
    found = difference(ends[a][name], ends[b][name], 0)
    return f"{_signed(found)} | {word(found)}"


def _signed(i: Interval) -> str:
    return f"{i.mean:+.3f} [{i.low:+.3f}, {i.high:+.3f}]"
