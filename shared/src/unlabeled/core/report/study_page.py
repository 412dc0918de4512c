"""The page of a study: the verdict first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from unlabeled.core.contracts import RequestError
from unlabeled.core.evaluation.look import read
from unlabeled.core.report.blocks import Block, Cards, Figure, Items, More, Page, Say, Section, Table
from unlabeled.core.report.facts import (
    contract,
    json_in,
    manifest_in,
    map_section,
    panel,
    provenance,
    quarantine,
    short,
    title,
    undone,
)
from unlabeled.core.report.svg import Axis, Plot, label, legend, many
from unlabeled.core.studies.jobs import FROZEN, OURS, RANDOM, TUNED
from unlabeled.core.studies.table import absent, sentences
from unlabeled.core.training.curves import curves
from unlabeled.core.training.log import read as read_lines

TONES = {"paid": "good", "did not pay": "bad", "cannot tell": "open"}
NO_LOOK = "this study wrote no look.npz, which its first pretraining leaves"


def page(out: Path) -> Page:
    """From study.json and the folders of its pretrainings. Raises RequestError where the study is not finished."""
    report = json_in(out / "study.json")
    if report is None:
        raise RequestError(
            f"{out} holds no study.json: the study is not finished; go on with it by `study RECIPE -o {out}`"
        )
    runs = sorted(p.parent for p in out.glob("pretraining/*/metrics.jsonl"))
    look = read(out / "look.npz") if (out / "look.npz").exists() else None
    sections = [
        Section("Label efficiency", _efficiency(report)),
        Section("Differences", _differences(report)),
        Section("Data and splits", _data(report, runs)),
        Section("Pretraining", _pretraining(runs, report)),
        map_section(look, NO_LOOK),
        Section("What was chosen", _choices(report)),
    ]
    about = json_in(runs[0] / "bundle" / "bundle.json") if runs else None
    if about is not None:
        fed = contract(about["inputs"], report["recipe"]["data"]["conversions"])
        note = Say("Constants of the first fold and seed; every fold measures its own on its training groups.", "quiet")
        sections.append(Section("What it may be fed", [*fed, note]))
    sections.append(Section("Provenance", provenance(report, report["recipe"], report["data"]["sha256"])))
    sections.append(undone(_undone(report)))
    domain = report["data"]["domain"]
    return Page(
        f"Was pretraining with {report['recipe']['method']['name']} worth it?",
        f"Unlabeled · {domain} · study",
        _lead(report),
        sections,
    )


# the verdict


def _lead(report: Mapping[str, Any]) -> list[Block]:
    verdict, n, unit = report["verdict"], report["n"], report["unit"]
    what = f"{report['data']['what']}. " if report["data"]["what"] else ""
    about = (
        f"{what}{many(n[f'labelled_{unit}s'], f'labelled {unit}')} of {many(n['tested_groups'], 'group')}, "
        f"{len(n[f'{unit}s_of_class'])} classes; {many(len(report['folds']), 'fold')}, "
        f"{many(len(report['seeds']), 'pretraining seed')}. At the smallest budget, {verdict['budget']}:"
    )
    cards = [
        _card("Against random weights", verdict["against_random"]),
        _card("Against the best simple baseline", verdict["against_simple"]),
        _card("Beside the verdict: against off-the-shelf weights", verdict["against_off_the_shelf"]),
    ]
    told = More("The verdict in sentences, and its rule", [Items(sentences(report)), Say(verdict["rule"], "quiet")])
    return [Say(about), Cards(cards), told]


def _card(question: str, found: Mapping[str, Any]) -> tuple[str, str, str, str]:
    if "why" in found:
        return question, found["word"], "quiet", found["why"]
    return question, found["word"], TONES[found["word"]], f"{found['a']} − {found['b']}: {_interval(found)}"


def _interval(row: Mapping[str, Any]) -> str:
    return f"{row['mean']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"


# label efficiency


def _efficiency(report: Mapping[str, Any]) -> list[Block]:
    budgets, scores, units = report["budgets"], report["scores"], f"{report['unit']}s"
    shown = _shown(report)
    sizes = [float(np.mean(b[units])) for b in budgets]
    ends = [scores[s][b["title"]][k] for s in shown for b in budgets for k in ("low", "high")]
    about = "; ".join(f"{s}: " + ", ".join(f"{scores[s][b['title']]['mean']:.3f}" for b in budgets) for s in shown)
    plot = Plot(
        f"{_metric(report)} against labelled {units}",
        f"{about}.",
        Axis.around(sizes, log=True, pad=0.1),
        Axis.around(ends),
        460,
        300,
    )
    plot.x_title = f"labelled {units} to train on (logarithmic)"
    plot.axes({x: label(round(x)) for x in sizes})
    for number, start in enumerate(shown):
        shift = 4.0 * (number - (len(shown) - 1) / 2)
        rows = [scores[start][b["title"]] for b in budgets]
        for x, row in zip(sizes, rows, strict=True):
            plot.interval(x, row["low"], row["high"], number, shift)
        xs, ys = sizes, [row["mean"] for row in rows]
        plot.line(xs, ys, number, shift=shift)
        plot.points(xs, ys, number, 3, shift)
    caption = (
        f"{_metric(report)} over {units}, with 95 % intervals over groups and seeds; budgets: {', '.join(b['title'] for b in budgets)}. "
        "Intervals are moved aside so that they can be told apart. Not every start is drawn; the table has all."
    )
    return [Figure(Markup("{}{}").format(legend(shown), plot.svg()), caption, True), _table(report)]


def _shown(report: Mapping[str, Any]) -> list[str]:
    """Ours alone and joined, random weights, the best baseline and the best off-the-shelf weights: what the verdict rests on."""
    verdict = report["verdict"]
    wanted = [f"{OURS}, {FROZEN}", verdict["against_simple"].get("a"), verdict["against_simple"].get("b")]
    wanted += [f"{RANDOM}, {FROZEN}", verdict["against_off_the_shelf"].get("b")]
    return list(dict.fromkeys(s for s in wanted if s))


def _table(report: Mapping[str, Any]) -> Table:
    budgets = [b["title"] for b in report["budgets"]]
    most = {b: max(s[b]["draws"] for s in report["scores"].values()) for b in budgets}
    rows = []
    for start, scores in report["scores"].items():
        cells = (
            f"{s['mean']:.3f} [{s['low']:.3f}, {s['high']:.3f}]{'*' if s['draws'] < most[b] else ''}"
            for b, s in ((b, scores[b]) for b in budgets)
        )
        rows.append((start, *cells))
    rows += [(name, *(["absent here"] * len(budgets))) for name in absent(report)]
    units = f"{report['unit']}s"
    heads = [f"{b['title']} ({_span(b[units])} {units})" for b in report["budgets"]]
    caption = f"{_metric(report)} [95 % interval]. * on fewer label draws than the others: compare by the differences."
    return Table(("start", *heads), rows, caption, numbers=len(heads))


def _metric(report: Mapping[str, Any]) -> str:
    """`Macro-F1`, `mIoU`, at the beginning of a sentence."""
    name: str = report["metric"]
    return name.replace("macro", "Macro")


def _span(values: Sequence[int]) -> str:
    return str(min(values)) if min(values) == max(values) else f"{min(values)} to {max(values)}"


# differences


def _differences(report: Mapping[str, Any]) -> list[Block]:
    rows = report["differences"]
    blocks: list[Block] = [Say("Paired: the same groups, label draws and seeds on both sides.", "quiet")]
    for number, budget in enumerate(b["title"] for b in report["budgets"]):
        here = [r for r in rows if r["budget"] == budget]
        axis = Axis.around([0.0, *(r[k] for r in here for k in ("low", "high"))])
        cells = [(f"{r['a']} − {r['b']}", _band(r, axis), _interval(r), r["word"]) for r in here]
        table = Table((f"difference in {report['metric']}", "95 % interval", "", ""), cells, f"At {budget}")
        blocks.append(table if number == 0 else More(f"At {budget}", [table]))
    return blocks


def _band(row: Mapping[str, Any], axis: Axis) -> Markup:
    plot = Plot(f"{row['a']} minus {row['b']}", _interval(row), axis, Axis(0, 1), 144, 16, 2, 2, 1, 1)
    plot.zero()
    series = {"paid": 2, "did not pay": 1, "cannot tell": 7}[row["word"]]
    plot.reach(0.5, row["low"], row["high"], series)
    plot.points([row["mean"]], [0.5], series, 3)
    return Markup('<div class="band">{}</div>').format(plot.svg())


# the rest


def _data(report: Mapping[str, Any], runs: Sequence[Path]) -> list[Block]:
    n, units = report["n"], f"{report['unit']}s"
    left, nowhere = n[f"{units}_without_label_or_window"], n[f"labelled_{units}_in_no_fold"]
    blocks: list[Block] = [
        Say(
            f"{n[units]} {units} of {n['groups']} groups ({n['windows']} windows); {left or 'none'} without a label or a window. "
            "Groups are left out whole, before anything is cut or drawn; pretraining and normaliser see the other groups only."
            + (f" {nowhere} labelled {units} are in no fold: neither trained nor tested on." if nowhere else "")
        ),
        Table(("class", units), [(c, str(k)) for c, k in n[f"{units}_of_class"].items()], numbers=1),
    ]
    manifest = manifest_in(runs[0]) if runs else None
    if manifest is not None:
        blocks += quarantine(manifest, f"pretraining/{runs[0].name}/manifest.parquet")
    folds = [
        (f["name"] or str(i), str(len(f["train"])), ", ".join(short(g) for g in f["test"]))
        for i, f in enumerate(report["folds"])
    ]
    folded = Table(
        ("fold", "groups to train on", "groups left out"), folds, "Groups as the first characters of keyed hashes"
    )
    return [*blocks, More("Folds", [folded])]


def _pretraining(runs: Sequence[Path], report: Mapping[str, Any]) -> list[Block]:
    losses = {run.name: curves(read_lines(run / "metrics.jsonl"))["loss"] for run in runs}
    if not losses:
        return [Say("The folders of the pretrainings are not here, so their losses are not drawn.")]
    picture = panel("Loss of every pretraining", losses, "thin", 560)
    rows = [(name, label(c.values[0]), label(c.values[-1])) for name, c in losses.items()]
    caption = (
        f"{title('loss')} of the {many(len(runs), 'pretraining')}, one for each fold and seed; "
        f"{report['pretraining_seconds']:.0f} s in all."
    )
    return [
        Figure(picture, caption, True),
        More("The losses in numbers", [Table(("run", "first", "last"), rows, numbers=2)]),
    ]


def _choices(report: Mapping[str, Any]) -> list[Block]:
    rates = [
        (
            r["start"],
            str(r["fold"]),
            label(r["lr"]),
            ", ".join(f"{lr}: {score:.3f}" for lr, score in r["scores"].items()),
        )
        for r in report["learning_rates"]
    ]
    heads = [
        (start, budget, ", ".join(f"{value} ({n})" for value, n in counted.items()))
        for start, of in report["choices"].items()
        for budget, counted in of.items()
        if counted and not start.endswith(TUNED)
    ]
    notes = [f"{name}: {line}" for name, about in report["off_the_shelf"].items() for line in about.get("adapted", ())]
    blocks: list[Block] = [
        Say(
            f"Learning rates and regularisation are chosen for every start alike, from one grid, never with a test {report['unit']}."
        ),
        More(
            "Learning rates of fine-tuning",
            [Table(("start", "fold", "chosen", f"{report['metric']} on held-out training groups"), rates)],
        ),
        More("Regularisation of the heads", [Table(("start", "budget", "value (times chosen)"), heads)]),
        More("Protocol", [Items([f"{k}: {v}" for k, v in report["protocol"].items()])]),
    ]
    return [*blocks, Say("What was done to off-the-shelf weights:"), Items(notes)] if notes else blocks


def _undone(report: Mapping[str, Any]) -> list[str]:
    draws = min(
        s[report["budgets"][0]["title"]]["draws"] for name, s in report["scores"].items() if name.endswith(TUNED)
    )
    found = [
        f"One metric ({report['metric']} over {report['unit']}s) and one task; nothing is said of calibration or of other "
        "shifts than new groups.",
        f"{many(len(report['seeds']), 'pretraining seed')}: what another seed would change is estimated from these.",
        f"Fine-tuned starts were scored on {many(draws, 'label draw')} at the smallest budget.",
        "The simple baseline with the best score of this study was taken, which favours the baselines.",
    ]
    if not report["off_the_shelf"]:
        found.append("No off-the-shelf weights were named (study.starts), so ours is not compared with any.")
    found += [f"{name} was not compared: {why}." for name, why in absent(report).items()]
    return found
