"""The model card, from what a bundle knows of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def card(about: Mapping[str, Any], parameters: int) -> str:
    recipe, data = about["recipe"], about["data"]
    lines = [
        f"# {recipe['method']['name']} encoder for {about['domain']}",
        "",
        f"- {about['encoder']['name']}, {parameters:,} values, {recipe['max_steps']} steps of {recipe['batch_size']} items",
        f"- begun from {began(about)}",
        f"- trained on {data['records']} records of {len(about['groups'])} groups ({data['items']} items); no labels were used",
        "- groups are stored as keyed hashes; the project key is not in this folder",
        f"- made with {', '.join(f'{name} {number}' for name, number in about['versions'].items())}",
        "",
        *fed(about),
        "",
        "## Use",
        "",
        "```python",
        "from unlabeled.core import load_bundle",
        "encoder = load_bundle('.')  # an nn.Module with .input_spec; raises where the weights do not fit",
        "```",
        "",
        "Without this library: `unlabeled export . --to hf -o FOLDER` (also timm, onnx, torch); every export is compared",
        "with this encoder when it is written.",
        "",
        "## Health of the run",
        "",
        *(health(about) or ["- nothing was recorded"]),
        "",
        *limits(about),
    ]
    return "\n".join(lines) + "\n"


def began(about: Mapping[str, Any]) -> str:
    start = about.get("start") or {"start": "random"}
    if start["start"] == "random":
        return "random weights"
    return f"{start['start']} (SHA-256 {start['sha256']})"


def fed(about: Mapping[str, Any]) -> list[str]:
    """The contract of every input, one line each."""
    lines = ["## What it may be fed", ""]
    for name, spec in about["inputs"].items():
        channels = ", ".join(f"{c} [{u}]" if u else c for c, u in zip(spec["channels"], spec["units"], strict=True))
        step = f", step {' x '.join(f'{s:g}' for s in spec['spacing'])} {spec['unit']}" if spec["spacing"] else ""
        seen = f"; seen {spec['value_range'][0]:g} to {spec['value_range'][1]:g}" if spec["value_range"] else ""
        lines.append(
            f"- `{name}` ({spec['layout']}{step}): {channels}; normaliser: {spec['normaliser']['method']}{seen}"
        )
    return lines


def health(about: Mapping[str, Any]) -> list[str]:
    """Every plain number of the run's health."""
    plain = {k: v for k, v in about["health"].items() if isinstance(v, int | float | str | bool)}
    return [
        f"- {k.replace('_', ' ')}: {v:.4g}" if isinstance(v, float) else f"- {k.replace('_', ' ')}: {v}"
        for k, v in plain.items()
    ]


def limits(about: Mapping[str, Any]) -> list[str]:
    return [
        "## Limits",
        "",
        "- What it is worth on a task is for `study` and `evaluate` to say, on groups it has not seen.",
        "- Other channels, units or spacing than above are another input, of which these weights know nothing.",
        "- No licence is stated here: the terms of the training data"
        + ("" if began(about) == "random weights" else " and of the weights it began from")
        + " bind whoever passes it on.",
    ]
