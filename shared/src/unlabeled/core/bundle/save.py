"""Write a bundle: weights as safetensors, the contract as JSON, a model card."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from unlabeled.core.bundle.card import card
from unlabeled.core.bundle.fingerprint import fingerprint
from unlabeled.core.bundle.provenance import commit, versions
from unlabeled.core.contracts.recipe import Recipe
from unlabeled.core.data.corpus import contract
from unlabeled.core.data.groups import key_id, project_key
from unlabeled.core.files import folder_atomic, sha256, write_json
from unlabeled.core.nn.base import Encoder

FORMAT = 1
LOCAL = {"study": True, "start": True, "stages": True}  # they may hold paths of this machine


def save_bundle(
    path: Path,
    encoder: Encoder,
    recipe: Recipe,
    groups: Sequence[str],
    data: Mapping[str, Any],
    health: Mapping[str, Any],
    start: Mapping[str, str] | None = None,
) -> Path:
    """Write `encoder.safetensors`, `bundle.json` and `README.md` into `path`, whole or not at all.

    groups: keyed hashes of the groups seen. data: fingerprint and counts of what it was trained on.
    start: what the weights began from (a name, and a SHA-256), None: random. No path of this machine and no raw group
    goes into it.
    """
    with folder_atomic(path) as temp:
        about = put_encoder(temp, encoder, described(encoder, recipe, groups, data, health, start))
        size = sum(v.numel() for v in encoder.state_dict().values())
        (temp / "README.md").write_text(card(about, size), encoding="utf-8")
    return path


def described(
    encoder: Encoder,
    recipe: Recipe,
    groups: Sequence[str],
    data: Mapping[str, Any],
    health: Mapping[str, Any],
    start: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What `bundle.json` says but for the weights."""
    local: dict[str, Any] = {
        "data": {"path", "groups", "keep"},
        "trainer": {"loggers"},
        **LOCAL,
    }  # loggers may hold addresses
    settings = recipe.model_dump(mode="json", exclude=local)
    settings["method"] = {k: _name(v) for k, v in settings["method"].items()}
    return {
        "format": FORMAT,
        "domain": recipe.domain,
        "encoder": encoder.named or recipe.encoder.model_dump(mode="json"),
        "inputs": contract(encoder.specs),
        "recipe": settings,
        "groups": sorted(set(groups)),
        "key": key_id(project_key()),
        "data": dict(data),
        "health": dict(health),
        "start": dict(start or {"start": "random"}),
    }


def put_encoder(folder: Path, encoder: Encoder, about: Mapping[str, Any]) -> dict[str, Any]:
    """Write `encoder.safetensors`, and `bundle.json` with `about` and what is true of these weights; returns the latter."""
    weights = folder / "encoder.safetensors"
    save_file({k: v.detach().cpu().contiguous() for k, v in encoder.state_dict().items()}, weights)
    whole = {
        **about,
        "fingerprint": fingerprint(encoder),
        "sha256": sha256(weights),
        "versions": versions(),
        "commit": commit(),
    }
    write_json(folder / "bundle.json", whole)
    return whole


def _name(value: Any) -> Any:
    """Without the folder of a path of this machine (a teacher's weights, with their kind or not); else as it is."""
    return re.sub(r"(?<![^:=])/(.*/)?", "", value) if isinstance(value, str) else value
