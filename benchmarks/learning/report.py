"""The table and the results file, both from the jobs' files alone."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from learning import digits, jobs, ranking, stamp
from learning.budget import Budget
from unlabeled.core.contracts.domain import methods
from unlabeled.core.measures.confusion import confusion
from unlabeled.core.measures.intervals import RESAMPLES, Interval, difference, interval
from unlabeled.core.studies.verdict import RULE, word

BLOCK = 10  # test images that a bootstrap draws together: neighbours are of one hand
LEVEL_RULE = (
    "level: the 95 % interval of ours minus the peer's covers 0; above, below: it lies above, below 0. "
    "Not worse than the peer: level or above."
)
Confusions = NDArray[np.int64]


def confusions(test: digits.Ids, predictions: list[list[str]]) -> Confusions:
    """(S, D, G, K, K) of predictions by seed and draw; G blocks of neighbouring test images, within one form."""
    truth = load_digits().target[test].astype(np.int64)
    predicted = np.array([[[int(c) for c in row] for row in draws] for draws in predictions], np.int64)
    block = blocks(test)
    return np.stack(
        [confusion(truth[block == b], predicted[:, :, block == b], digits.CLASSES) for b in range(block.max() + 1)], 2
    )


def blocks(test: digits.Ids) -> digits.Ids:
    """The block (T,) of every test image: ten in a row, the last of a form with what is left."""
    form = digits.form_of(test)
    own = np.concatenate([np.arange((form == f).sum()) // BLOCK for f in np.unique(form)])
    return np.unique(np.stack([form, own]), axis=1, return_inverse=True)[1].reshape(-1)


def results(budget: Budget, names: list[str], out: Path, test: digits.Ids) -> dict[str, Any]:
    """Everything that follows from the jobs' files."""
    runs = {n: [json.loads(jobs.file_of(out, n, s).read_text()) for s in jobs.seeds_of(budget, n)] for n in names}
    failed = {n: [r["failed"] for r in of if "failed" in r] for n, of in runs.items()}
    found = {
        **stamp.stamp(),
        "commit": ", ".join(sorted({r["commit"] for of in runs.values() for r in of})),
        "versions": {
            "python": platform.python_version(),
            **{n: version(n) for n in ("unlabeled-core", "torch", "timm", "scikit-learn", "lightly")},
        },
        "data": "real: 1,797 images of handwritten digits, 8 x 8 (scikit-learn's load_digits)",
        "rules": {"against random weights": RULE.split(" Fixed")[0], "against the peer": LEVEL_RULE},
        "interval": f"95 %, percentiles of {RESAMPLES} resamples of blocks of {BLOCK} test images and of seeds; draws are "
        "averaged; differences are paired",
        "budget": budget.model_dump(mode="json"),
        "test_images": test.tolist(),
        "runs": {
            n: {
                "encoder": encoder_of(budget, n),
                "cpu_seconds": [r["cpu_seconds"] for r in of],
                "loss": [r.get("loss") for r in of],
                "rankme": [r.get("rankme") for r in of],
                "choices": [r.get("choices") for r in of],
                "failed": failed[n],
                "predictions": [] if failed[n] else [r["predictions"] for r in of],
            }
            for n, of in runs.items()
        },
    }
    return json.loads(json.dumps(found, sort_keys=True))  # what is returned is what is kept


def encoder_of(budget: Budget, start: str) -> str:
    kind, _, name = start.rpartition(" ")
    return "" if start == jobs.PIXELS else name if kind == jobs.RANDOM else budget.methods[name].encoder


def table(found: Mapping[str, Any], watch: Mapping[str, Any] | None = None) -> str:
    """methods.md, as text."""
    test = np.array(found["test_images"])
    made = {n: confusions(test, r["predictions"]) for n, r in found["runs"].items() if r["predictions"]}
    parts = [
        HEAD,
        _setting(found, len(test)),
        _scores(found["runs"], made, found["budget"]["left_out"]),
        _against_peer(found, made),
    ]
    scores = {n: interval(c, 0).mean for n, c in made.items()}
    parts.append(ranking.section(found["runs"], scores, _ours(found["runs"])))
    if watch:
        parts.append(_watch(watch))
    return "\n\n".join([*(p for p in parts if p), AGAIN]) + "\n"


HEAD = """# What the methods learn

Written by `tools/learn`; do not edit. Good or bad, every method of `unlabeled methods` is here.

## Digits"""

AGAIN = """## Again

```sh
tools/learn -o runs/learn --peer lightly        # digits; goes on where it stopped
tools/learn -o runs/learn --methods mae,simclr  # some of them; prints the table and writes nothing here
tools/learn -o runs/learn --watch               # the study of the watch recordings, as `make demo` runs it
```"""


def _setting(found: Mapping[str, Any], tested: int) -> str:
    data, forms = found["budget"]["data"], len(digits.FORMS)
    versions = ", ".join(f"{n} {v}" for n, v in found["versions"].items())
    return f"""{found["data"].capitalize()}. Of the {forms} forms they were written on, {data["test_forms"]} are the test \
({tested} images) and {forms - data["test_forms"]} the pool ({digits.IMAGES - tested} images). Pretraining sees the pool without \
labels; then the encoder is frozen, and logistic regression reads its pooled features, on {data["labels_per_class"]} labels per class, \
its regularisation chosen within them; {data["draws"]} label draws, the same for every row; {len(found["budget"]["seeds"])} pretraining \
seeds. Macro-F1 on the test images.

Interval: {found["interval"]}. {found["rules"]["against random weights"]}

{found["date"]}, {found["device"]}, commit {found["commit"]}; {versions}."""


def _scores(runs: Mapping[str, Any], made: Mapping[str, Confusions], left_out: Mapping[str, str]) -> str:
    baselines = [n for n in runs if n == jobs.PIXELS or n.startswith(jobs.RANDOM)]
    lines = [
        "| start | encoder | macro-F1 | minus random weights | | minus pixels | CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    for n in (*baselines, *_ours(runs)):
        run = runs[n]
        if n not in made:
            lines.append(f"| {n} | {run['encoder']} | failed: {run['failed'][0]} | | | | {_seconds(run)} |")
            continue
        gain = "|" if n in baselines else _gain(made[n], made[f"{jobs.RANDOM} {run['encoder']}"])
        plain = "" if n == jobs.PIXELS else _signed(difference(made[n], made[jobs.PIXELS], 0))
        cells = [n, run["encoder"], str(interval(made[n], 0)), gain, plain, _seconds(run)]
        lines.append(f"| {' | '.join(cells)} |")
    missing = ", ".join(f"`{n}` ({why})" for n, why in left_out.items())
    note = f"""
Without a row: {missing}.
`pixels`: the grey levels themselves, without any encoder. Random: the weights that pretraining of this seed began from, each
encoder its own. CPU s: mean of a pretraining run, one thread, on a shared machine."""
    return "\n".join([*lines, note])


def _against_peer(found: Mapping[str, Any], made: Mapping[str, Confusions]) -> str:
    peers = [n for n in found["runs"] if n.startswith(jobs.PEER)]
    lines = [
        f"### Against lightly {found['versions']['lightly']}, at equal budget",
        "",
        f"What is equal and what is not: `benchmarks/learning/README.md`. {found['rules']['against the peer']}",
        "",
        "| method | ours | lightly | ours minus lightly | |",
        "|---|---|---|---|---|",
    ]
    for n in peers:
        name = n.removeprefix(f"{jobs.PEER} ")
        if n in made and name in made:
            gap = difference(made[name], made[n], 0)
            own, theirs = interval(made[name], 0), interval(made[n], 0)
            lines.append(f"| {name} | {own} | {theirs} | {_signed(gap)} | {level(gap)} |")
        else:
            lines.append(f"| {name} | | | a run failed | |")
    return "\n".join(lines) if peers else ""


def level(gap: Interval) -> str:
    return "above" if gap.low > 0 else "below" if gap.high < 0 else "level"


def _ours(runs: Mapping[str, Any]) -> list[str]:
    """The methods in the order of `unlabeled methods`: by family and name, never by score."""
    cards = methods()
    return sorted((n for n in runs if n in cards), key=lambda n: (cards[n].family, n))


def _gain(ours: Confusions, random: Confusions) -> str:
    found = difference(ours, random, 0)
    return f"{_signed(found)} | {word(found)}"


def _signed(i: Interval) -> str:
    return f"{i.mean:+.3f} [{i.low:+.3f}, {i.high:+.3f}]"


def _seconds(run: Mapping[str, Any]) -> str:
    return "" if run["encoder"] == "" else f"{np.mean(run['cpu_seconds']):.0f}"


def _watch(found: Mapping[str, Any]) -> str:
    """What the committed study says of frozen encoders."""
    study = found["study"]
    frozen, random = "ours, frozen", "random weights, frozen"
    lines = [
        "## Watch recordings",
        "",
        f"""{study["data"]["what"].capitalize()}; `{found["command"]}`, {found["date"]}, {found["device"]}, commit {found["commit"]}.
{study["recipe"]["method"]["name"]} frozen, with logistic regression, on people left out; {len(study["seeds"])} pretraining seeds.
The whole study, with fine-tuning and every simple baseline: `packages/biosignal/README.md`.""",
        "",
        "| labels | frozen | random weights | minus random weights | | best simple baseline |",
        "|---|---|---|---|---|---|",
    ]
    for title in (b["title"] for b in study["budgets"]):
        gain = next(d for d in study["differences"] if (d["a"], d["b"], d["budget"]) == (frozen, random, title))
        simple = study["best_simple"][title]
        ours, control, best = (_read(study["scores"][s][title]) for s in (frozen, random, simple))
        lines.append(f"| {title} | {ours} | {control} | {_signed(_read(gain))} | {gain['word']} | {simple} {best} |")
    return "\n".join(lines)


def _read(row: Mapping[str, Any]) -> Interval:
    return Interval(row["mean"], row["low"], row["high"])
