"""The study as a table and a few sentences."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from unlabeled.core.studies.jobs import RANDOM


def table(report: Mapping[str, Any]) -> Table:
    """One row per start, one column per budget: the metric with its 95 % interval."""
    n, unit = report["n"], report["unit"]
    by = "vote per record" if unit == "record" else "point by point"
    made = Table(
        box=SIMPLE,
        padding=(0, 1, 0, 0),
        show_edge=False,
        title=f"{n[f'labelled_{unit}s']} labelled {unit}s of {n['tested_groups']} groups, {len(n[f'{unit}s_of_class'])} classes",
        caption=f"{report['metric']} [95 % interval over groups and seeds], groups left out, {by}\n"
        "* on fewer label draws than the others: compare by the differences, which use shared draws",
    )
    made.add_column("start", overflow="fold")  # names of off-the-shelf weights may be long
    budgets = [b["title"] for b in report["budgets"]]
    for budget in report["budgets"]:
        made.add_column(f"{budget['title']}\n({_span(budget[f'{unit}s'])} {unit}s)", no_wrap=True)
    most = {b: max(scores[b]["draws"] for scores in report["scores"].values()) for b in budgets}
    for start, scores in report["scores"].items():
        made.add_row(
            start.replace(RANDOM, "random"),
            *(_cell(scores[b]) + ("*" if scores[b]["draws"] < most[b] else "") for b in budgets),
        )
    for name in absent(report):
        made.add_row(name, *("absent here" for _ in budgets))
    return made


def absent(report: Mapping[str, Any]) -> dict[str, str]:
    """Off-the-shelf starts that could not be had, and why."""
    return {name: about["absent"] for name, about in report["off_the_shelf"].items() if "absent" in about}


def sentences(report: Mapping[str, Any]) -> list[str]:
    """The two parts of the verdict, what stands beside each, and beside the verdict what off-the-shelf weights are worth."""
    verdict = report["verdict"]
    lines = [
        f"At {verdict['budget']}, against random weights: {_said(verdict['against_random'])}",
        f"  beside it: {_said(verdict['against_random']['fine_tuned'])}",
    ]
    simple = verdict["against_simple"]
    if "why" in simple:
        lines.append(f"At {verdict['budget']}, against simple baselines: {simple['word']}; {simple['why']}")
    else:
        lines.append(f"At {verdict['budget']}, against the best simple baseline: {_said(simple)}")
        lines.append(f"  beside it: {_said(simple['alone'])}")
    shelf = verdict["against_off_the_shelf"]
    if "why" in shelf:
        lines.append(f"Off-the-shelf weights: {shelf['word']}; {shelf['why']}")
    else:
        lines.append(f"At {verdict['budget']}, beside the verdict, against off-the-shelf weights: {_said(shelf)}")
        lines.append(f"  beside it: {_said(shelf['fine_tuned'])}")
    return [*lines, *(f"{name} is absent here: {why}" for name, why in absent(report).items())]


def render(report: Mapping[str, Any]) -> Group:
    return Group(table(report), *(Text(line) for line in sentences(report)))


def text(report: Mapping[str, Any], width: int = 120) -> str:
    """The same in plain characters."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(render(report))
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def _said(row: Mapping[str, Any]) -> str:
    return f"{row['word']} ({row['a']} - {row['b']}: {row['mean']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}])"


def _cell(score: Mapping[str, Any]) -> str:
    return f"{_short(score['mean'])} [{_short(score['low'])} {_short(score['high'])}]"


def _short(value: float) -> str:
    """Three digits without the zero before the point, so that three budgets fit 80 columns."""
    return f"{value:.3f}".removeprefix("0")


def _span(records: list[int]) -> str:
    low, high = min(records), max(records)
    return str(low) if low == high else f"{low} to {high}"
