"""Write a bundle: weights as safetensors, the contract as JSON, a model card."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from unlabeled.core.bundle.fingerprint import fingerprint
from unlabeled.core.contracts.recipe import Recipe
from unlabeled.core.data.corpus import contract
from unlabeled.core.data.groups import key_id, project_key
from unlabeled.core.files import folder_atomic, sha256, write_json
from unlabeled.core.nn.base import Encoder

FORMAT = 1


def save_bundle(
    path: Path,
    encoder: Encoder,
    recipe: Recipe,
    groups: Sequence[str],
    data: Mapping[str, Any],
    health: Mapping[str, Any],
) -> Path:
    """Write `encoder.safetensors`, `bundle.json` and `README.md` into `path`, whole or not at all.

    groups: keyed hashes of the groups seen. data: fingerprint and counts of what it was trained on.
    No path of this machine and no raw group goes into it.
    """
    settings = recipe.model_dump(mode="json", exclude={"data": {"path", "groups"}, "study": True})
    state = {k: v.detach().cpu().contiguous() for k, v in encoder.state_dict().items()}
    with folder_atomic(path) as temp:
        save_file(state, temp / "encoder.safetensors")
        about = {
            "format": FORMAT,
            "domain": recipe.domain,
            "encoder": recipe.encoder.model_dump(mode="json"),
            "inputs": contract(encoder.specs),
            "recipe": settings,
            "groups": sorted(set(groups)),
            "key": key_id(project_key()),
            "data": dict(data),
            "health": dict(health),
            "fingerprint": fingerprint(encoder),
            "sha256": sha256(temp / "encoder.safetensors"),
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("unlabeled-core", "torch", "numpy")},
            },
        }
        write_json(temp / "bundle.json", about)
        (temp / "README.md").write_text(card(about, sum(v.numel() for v in state.values())))
    return path


def card(about: Mapping[str, Any], parameters: int) -> str:
    """The model card, from what the bundle knows of itself."""
    recipe, data = about["recipe"], about["data"]
    lines = [
        f"# {recipe['method']['name']} encoder for {about['domain']}",
        "",
        f"- {recipe['encoder']['name']}, {parameters:,} values, {recipe['max_steps']} steps of {recipe['batch_size']} items",
        f"- trained on {data['records']} records of {len(about['groups'])} groups ({data['items']} items); no labels were used",
        "- groups are stored as keyed hashes; the project key is not in this folder",
        "",
        "## What it may be fed",
        "",
    ]
    for name, spec in about["inputs"].items():
        channels = ", ".join(f"{c} [{u}]" if u else c for c, u in zip(spec["channels"], spec["units"], strict=True))
        step = f", step {' x '.join(f'{s:g}' for s in spec['spacing'])} {spec['unit']}" if spec["spacing"] else ""
        lines.append(f"- `{name}` ({spec['layout']}{step}): {channels}; normaliser: {spec['normaliser']['method']}")
    lines += [
        "",
        "## Use",
        "",
        "```python",
        "from unlabeled.core import load_bundle",
        "encoder = load_bundle('.')  # an nn.Module with .input_spec; raises where the weights do not fit",
        "```",
        "",
        "## Limits",
        "",
        "What it is worth on a task is for `study` and `evaluate` to say, on groups it has not seen.",
    ]
    return "\n".join(lines) + "\n"
