"""The page of a pretraining run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from unlabeled.core.evaluation.look import Look, read
from unlabeled.core.files import without_folders
from unlabeled.core.report.blocks import Block, Items, More, Page, Say, Section, Table
from unlabeled.core.report.facts import (
    contract,
    curve_section,
    json_in,
    manifest_in,
    map_section,
    picture_section,
    provenance,
    quarantine,
    records,
    short,
    undone,
)
from unlabeled.core.report.svg import label, many
from unlabeled.core.training.curves import curves
from unlabeled.core.training.log import read as read_lines

NO_LOOK = "this run wrote no look.npz, which pretraining leaves at its end"


def page(run: Path) -> Page:
    """From recipe.yaml, metrics.jsonl, manifest.parquet, splits.parquet, look.npz and bundle.json, as far as they are there."""
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    about, summary = json_in(run / "bundle" / "bundle.json"), json_in(run / "summary.json")
    lines = read_lines(run / "metrics.jsonl") if (run / "metrics.jsonl").exists() else []
    found = curves(lines)
    look = read(run / "look.npz") if (run / "look.npz").exists() else None
    sections = [_data(run, recipe)]
    sections.append(curve_section(found) if lines else Section("Loss and health", [Say("No step was logged.")]))
    sections += [map_section(look, NO_LOOK), picture_section(look, NO_LOOK)]
    if about is not None:
        sections.append(Section("What it may be fed", contract(about["inputs"], recipe["data"]["conversions"])))
        sections.append(Section("Provenance", provenance(about, recipe, about["data"]["sha256"])))
    sections.append(undone(_undone(recipe, about, look)))
    method, name = recipe["method"]["name"], Path(recipe["data"]["path"]).name
    return Page(
        f"Pretraining with {method} on {name}",
        f"Unlabeled · {recipe['domain']} · run",
        _lead(recipe, about, summary, lines),
        sections,
    )


def _lead(
    recipe: Mapping[str, Any],
    about: Mapping[str, Any] | None,
    summary: Mapping[str, Any] | None,
    lines: list[dict[str, Any]],
) -> list[Block]:
    steps, wanted = len(lines), recipe["max_steps"]
    skipped = sum(bool(line["skipped"]) for line in lines)
    texts = []
    if about is None:
        texts.append(f"The run is not finished: {steps} of {wanted} steps are done, and there is no bundle.")
    else:
        data = about["data"]
        texts.append(
            f"{many(steps, 'step')} of {recipe['batch_size']} items, drawn from {many(data['items'], 'item')} of "
            f"{many(data['records'], 'record')} of {many(len(about['groups']), 'group')}. No label was used."
        )
    if lines:
        first, last = _tenths(lines)
        texts.append(
            f"The loss went from {_said(first)} to {_said(last)} (means of the first and last tenth); "
            f"{many(skipped, 'step') if skipped else 'no step'} skipped as not finite."
        )
    blocks: list[Block] = [Say(" ".join(texts)), *_health(summary)]
    quiet = "A loss that falls says that the method works, not that the encoder is worth having: that is for a study to say."
    return [*blocks, Say(quiet, "quiet")]


def _health(summary: Mapping[str, Any] | None) -> list[Block]:
    """Alarms and rollbacks in words, all else in a table."""
    if summary is None:
        return [Say("The run left no summary.json, so nothing is known of its health beyond the curves.", "quiet")]
    words = [without_folders(f"{r['reason']} (what was done: {r['action']})") for r in summary.get("alarms", ())]
    words += [without_folders(str(summary["advice"]))] if summary.get("advice") else []
    rest = {k: v for k, v in summary.items() if k not in ("alarms", "advice") and v not in (None, [], {})}
    table = More("What the run says of its health and speed", [Table(("", ""), _rows(rest))])
    return [Items(words) if words else Say("No alarm was raised."), table]


def _rows(values: Mapping[str, Any], where: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, value in values.items():
        name = f"{where}{key.replace('_', ' ')}"
        if isinstance(value, Mapping):
            rows += _rows(value, f"{name}: ")
        else:
            rows.append((name, label(value) if isinstance(value, float) else str(value)))
    return rows


def _tenths(lines: list[dict[str, Any]]) -> tuple[float | None, float | None]:
    n = max(1, len(lines) // 10)
    return _mean(lines[:n]), _mean(lines[-n:])


def _mean(lines: list[dict[str, Any]]) -> float | None:
    there = [line["loss"] for line in lines if line["loss"] is not None]
    return sum(there) / len(there) if there else None


def _said(value: float | None) -> str:
    return "nothing finite" if value is None else label(value)


def _data(run: Path, recipe: Mapping[str, Any]) -> Section:
    manifest, file = manifest_in(run), run / "splits.parquet"
    if manifest is None or not file.exists():
        return Section("Data and splits", [Say("The run wrote no manifest.")])
    splits = pq.read_table(file).to_pylist()
    count = Counter(row["split"] for row in splits)
    held = [short(row["group"]) for row in splits if row["split"] == "held out"]
    text = f"Trained on: {many(len(manifest.ok), 'record')} of {many(count['pretrain'], 'group')}"
    text += f"; held out: {many(len(held), 'group')} ({', '.join(held)})." if held else "; no group was held out."
    shown = More("Records by group, as the first characters of keyed hashes", [records(manifest)])
    return Section("Data and splits", [Say(text), *quarantine(manifest), shown])


def _undone(recipe: Mapping[str, Any], about: Mapping[str, Any] | None, look: Look | None) -> list[str]:
    found = [
        "No label was looked at, so nothing here says what the encoder is worth on a task: `study` and `evaluate` do."
    ]
    if not recipe["data"]["hold_out"]:
        found.append("No group was held out (data.hold_out is 0): a test needs groups that are not among these.")
    found.append("The loss is of the items trained on; no loss of other items was computed.")
    if about is None:
        found.append("The run is not finished.")
    if look is not None:
        found.append(f"The map shows {len(look.points)} items at most, on two axes of the embedding's many.")
    return found
