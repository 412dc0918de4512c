"""Sections that a run's page and a study's page share. Everything in them comes from files of the folder."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import yaml
from markupsafe import Markup
from numpy.typing import NDArray

from unlabeled.core.data.manifest import Manifest
from unlabeled.core.evaluation.look import CHANNELS, Look
from unlabeled.core.files import without_folders
from unlabeled.core.report.blocks import Block, Code, Figure, Grid, Items, More, Say, Section, Table
from unlabeled.core.report.png import data_uri, shades
from unlabeled.core.report.svg import COLOURS, Axis, Plot, label, legend, many, trace
from unlabeled.core.training.curves import Curve

SHORT = 8  # characters of a keyed hash that are shown
ROWS = 50  # of a list of faults

NAMES = {
    "loss": "Loss",
    "lr": "Learning rate",
    "grad_norm": "Gradient norm, before clipping",
    "wait": "Share of the time waiting for data",
    "skipped": "Steps skipped (not finite)",
}


# privacy


def short(group: str) -> str:
    return group[:SHORT]


def pathless(value: Any) -> Any:
    """A recipe's values with every path cut to its last part."""
    if isinstance(value, Mapping):
        return {k: pathless(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [pathless(v) for v in value]
    if isinstance(value, str) and re.match(r"(\w+:)?(/|~|\.\.?/|[A-Za-z]:[\\/])", value):
        kind, colon, file = value.rpartition(":") if re.match(r"\w\w+:", value) else ("", "", value)
        return f"{kind}{colon}{PurePath(file.replace(chr(92), '/')).name}"
    return value


def nameless(reason: str, manifest: Manifest) -> str:
    """A reason without file names and keys, which may name a person: rows of manifest.parquet stand for them."""
    names = {
        name: number for number, r in enumerate(manifest) for name in (r.file, r.key, PurePath(r.file).name) if name
    }
    for name in sorted(names, key=len, reverse=True):
        reason = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", f"row {names[name]}", reason)
    return without_folders(reason)


# data


def quarantine(manifest: Manifest, where: str = "manifest.parquet") -> list[Block]:
    """What was mended and what was refused. where: the file that the rows are of."""
    bad = [(number, r) for number, r in enumerate(manifest) if not r.ok]
    flags = Counter(flag for r in manifest.ok for flag in r.flags)
    found: list[Block] = []
    if flags:
        found.append(
            Table(("what the reader mended", "records"), [(f, str(n)) for f, n in flags.most_common()], numbers=1)
        )
    if not bad:
        return [*found, Say("No file was refused.")]
    rows = [(str(number), nameless(r.reason, manifest)) for number, r in bad[:ROWS]]
    more = f"; {len(bad) - ROWS} more are there" if len(bad) > ROWS else ""
    caption = f"{many(len(bad), 'record')} in quarantine, by their row in {where}, which names the files{more}"
    return [*found, Table(("row", "why it is not used"), rows, caption)]


def records(manifest: Manifest) -> Table:
    """Records by group, the groups as the first characters of their keyed hashes."""
    count = Counter(r.group for r in manifest.ok)
    return Table(("group", "records"), [(short(g), str(n)) for g, n in count.items()], numbers=1)


def contract(inputs: Mapping[str, Any], conversions: Sequence[Mapping[str, Any]]) -> list[Block]:
    found: list[Block] = []
    for name, spec in inputs.items():
        constants = spec["normaliser"]["constants"]
        head = [
            "channel",
            "unit",
            *(f"{what}, {source or 'all'}" for source in constants for what in ("offset", "scale")),
        ]
        rows = [
            (channel, unit or "1", *(label(c[what][i]) for c in constants.values() for what in ("offset", "scale")))
            for i, (channel, unit) in enumerate(zip(spec["channels"], spec["units"], strict=True))
        ]
        steps = [label(s) for s in spec["spacing"] or []]
        grid = f", step {' x '.join(steps)} {spec['unit']}" if steps else ""
        seen = spec["value_range"]
        values = f"; values from {label(seen[0])} to {label(seen[1])} before normalising" if seen else ""
        about = f"Input {name}: {spec['layout']}, axes {', '.join(spec['axes'])}{grid}; normaliser {spec['normaliser']['method']}{values}."
        found += [Say(about), Table(head, rows, numbers=len(head) - 2)]
    for step in conversions:
        options = ", ".join(f"{k}: {v}" for k, v in step.get("options", {}).items())
        found.append(Say(f"Conversion {step['name']}{f' ({options})' if options else ''} is part of the contract."))
    return [*found, Say("The bundle refuses, or converts and says so, whatever does not fit this.", "quiet")]


def provenance(about: Mapping[str, Any], recipe: Mapping[str, Any], data: str | None) -> list[Block]:
    rows = [(name, version) for name, version in about["versions"].items()]
    rows.append(("commit of the working directory", about.get("commit") or "no git repository"))
    rows.append(("fingerprint of the data", data or "unknown"))
    text = yaml.safe_dump(pathless(dict(recipe)), sort_keys=False, allow_unicode=True)
    return [Table(("made with", ""), rows), More("The recipe, paths cut to their last part", [Code(text)])]


# curves


def title(key: str) -> str:
    part, _, name = key.rpartition("/")
    text = NAMES.get(key, f"{name}, {part}" if part else name).replace("_", " ")
    return text[:1].upper() + text[1:]


def curve_section(found: Mapping[str, Curve]) -> Section:
    """Small panels, one for each number that a run has logged, and one table of the same numbers."""
    shown = {key: found[key] for key in sorted(found, key=_order) if _worth(key, found[key], found)}
    drawn = [(title(key), c) for key, c in shown.items() if np.nanmin(c.values) < np.nanmax(c.values)]
    figures = [Figure(panel(name, {"": c}), name) for name, c in drawn]
    every = max((c.every for c in shown.values()), default=1)
    note = f"A point is the mean of up to {every} steps." if every > 1 else "Every point is one step, or one look."
    rows = [(title(key), *(label(v) for v in _ends(c))) for key, c in shown.items()]
    table = Table(("curve", "first", "lowest", "highest", "last"), rows, numbers=4)
    return Section("Loss and health", [Grid(figures), Say(note, "quiet"), More("The curves in numbers", [table])])


def _order(key: str) -> int:
    """The loss and its parts first, then what says how it is learned, then all the rest as it comes."""
    known = ("loss", "parts", "lr", "grad_norm")
    first = key.partition("/")[0]
    return known.index(first) if first in known else len(known)


def _worth(key: str, curve: Curve, found: Mapping[str, Curve]) -> bool:
    """Not a curve that says what another says, and not one of nothing."""
    there = curve.values[~np.isnan(curve.values)]
    if len(there) == 0 or (key == "skipped" and not there.any()):
        return False
    alone = sum(k.startswith("parts/") for k in found) == 1
    return not (
        key.startswith("parts/") and alone and np.allclose(there, found["loss"].values[~np.isnan(curve.values)])
    )


def _ends(curve: Curve) -> tuple[float, float, float, float]:
    there = curve.values[~np.isnan(curve.values)]
    return float(there[0]), float(there.min()), float(there.max()), float(there[-1])


def panel(name: str, found: Mapping[str, Curve], style: str = "", width: float = 360) -> Markup:
    """Curves over optimiser steps in one panel."""
    steps = np.concatenate([c.steps for c in found.values()])
    values = np.concatenate([c.values for c in found.values()])
    there = values[~np.isnan(values)]
    about = (
        f"Over {label(steps.max() + 1)} steps; from {label(there.min())} to {label(there.max())}." if len(there) else ""
    )
    axis = Axis.around(values.tolist())
    plot = Plot(
        name, about, Axis(float(steps.min()), float(max(steps.max(), steps.min() + 1))), axis, width, x_title="step"
    )
    plot.axes()
    for number, curve in enumerate(found.values()):
        plot.line(curve.steps.tolist(), curve.values.tolist(), number, style)
    return plot.svg()


# the embedding map and the reconstructions


def map_section(look: Look | None, why: str) -> Section:
    name = "Embedding map"
    if look is None or "map" in look.missing:
        return Section(name, [Say(f"There is no map: {look.missing['map'] if look else why}.")])
    share = ", ".join(f"{s:.0%}" for s in look.share)
    about = (
        f"{len(look.points)} items, each at its embedding's place on the first two principal axes ({share} of the variance). "
        "Near is not always alike: most of the variance may lie on other axes."
    )
    kinds = {"by group, as keyed hashes": np.array([short(g) for g in look.group])}
    if (look.label >= 0).any():
        classes = np.array([*look.classes, "without a label"])[look.label]
        kinds = {f"by {look.by}; pretraining saw none of these labels": classes, **kinds}
    tables = [_middles(look.points, kind, caption) for caption, kind in kinds.items()]
    figures = [_map(look.points, kind, caption) for caption, kind in kinds.items()]
    blocks: list[Block] = [Say(about), Grid(figures), More("The map in numbers", tables)]
    if "labels" in look.missing:
        blocks.append(Say(f"It is not coloured by label: {look.missing['labels']}.", "quiet"))
    return Section(name, blocks)


def _middles(points: NDArray[np.floating], kind: NDArray[np.str_], caption: str) -> Table:
    rows = []
    for name, n in Counter(kind.tolist()).most_common():
        here = points[kind == name]
        rows.append(
            (name, str(n), *(f"{label(m)} ± {label(s)}" for m, s in zip(here.mean(0), here.std(0), strict=True)))
        )
    return Table(("", "items", "first axis", "second axis"), rows, f"Mean and deviation {caption}", numbers=3)


def _map(points: NDArray[np.floating], kind: NDArray[np.str_], caption: str) -> Figure:
    counted = Counter(kind.tolist()).most_common()
    named = sorted(k for k, _ in counted[: COLOURS - 1 if len(counted) > COLOURS else COLOURS])
    rest = len(counted) - len(named)
    names = [*named, f"{rest} others"] if rest else named
    middle = (points.max(0) + points.min(0)) / 2
    reach = float((points.max(0) - points.min(0)).max()) / 2 or 1.0
    x, y = (Axis(float(m) - 1.05 * reach, float(m) + 1.05 * reach) for m in middle)
    listed = ", ".join(f"{k}: {n}" for k, n in counted[:COLOURS])
    plot = Plot(f"Embeddings {caption}", f"Items of {listed}.", x, y, 300, 300, 4, 4, 4, 4)
    for number, name in enumerate(names):
        at = kind == name if name in named else ~np.isin(kind, named)
        series = number if name in named else COLOURS - 1
        plot.points(points[at, 0].tolist(), points[at, 1].tolist(), series)
    return Figure(Markup('<div class="map">{}</div>{}').format(plot.svg(), legend(names)), caption)


def picture_section(look: Look | None, why: str) -> Section:
    """Original, masked and predicted of a few items: lines for one axis, pictures for two."""
    name = "Reconstructions"
    if look is None or "pictures" in look.missing:
        return Section(name, [Say(f"There are none: {look.missing['pictures'] if look else why}.")])
    kinds = ("original", "masked", "predicted")
    inputs = list(dict.fromkeys(key.rpartition(".")[0] for key in look.pictures))
    blocks: list[Block] = []
    for given in inputs:
        parts = [look.pictures[f"{given}.{kind}"] for kind in kinds]
        cells = [
            _drawn(x, f"{given}, item {i + 1}, {kind}", parts[0][i])
            for i, xs in enumerate(zip(*parts, strict=True))
            for kind, x in zip(kinds, xs, strict=True)
        ]
        heads = Markup("").join(Markup("<p>{}</p>").format(kind) for kind in kinds)
        grid = Markup('<div class="pictures">{}{}</div>').format(heads, Markup("").join(cells))
        channels = parts[0].shape[1]
        axes = parts[0].ndim - 2
        what = (
            f"lines are channels, {CHANNELS} at most"
            if axes == 1
            else "red, green and blue are the three channels"
            if channels == 3
            else "the first channel"
        )
        blocks.append(
            Figure(
                grid, f"Input {given}, items of the training data after their views, in normalised values; {what}", True
            )
        )
    text = (
        "What is visible stays as it is; hidden places show the prediction. Patches predicted normalised borrow the true "
        "patch's mean and deviation."
    )
    return Section(name, [Say(text, "quiet"), *blocks])


def _drawn(x: NDArray[np.floating], name: str, like: NDArray[np.floating]) -> Markup:
    if x.ndim == 2:
        return trace(x.tolist(), like.tolist(), name)
    there = like[~np.isnan(like)]
    low, high = np.percentile(there, (1, 99)) if len(there) else (0.0, 1.0)
    return Markup('<img src="{}" alt="{}">').format(data_uri(shades(x, float(low), float(high))), name)


# reading


def manifest_in(folder: Path) -> Manifest | None:
    file = folder / "manifest.parquet"
    return Manifest.load(file) if file.exists() else None


def json_in(file: Path) -> dict[str, Any] | None:
    if not file.exists():
        return None
    read: dict[str, Any] = json.loads(file.read_text())
    return read


def undone(texts: Iterable[str]) -> Section:
    return Section("What was not done", [Items(list(texts))])
