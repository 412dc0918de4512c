"""Pretrain: from a recipe to a run folder with a bundle."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unlabeled.core import ranks
from unlabeled.core.build import build_method
from unlabeled.core.bundle import save_bundle
from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.domain import domain
from unlabeled.core.contracts.recipe import Recipe, dump, read_recipe
from unlabeled.core.data.corpus import Corpus
from unlabeled.core.data.groups import codes, distinct, shuffled
from unlabeled.core.data.items import Items, cut
from unlabeled.core.data.loading import Loader
from unlabeled.core.data.plans import Uniform
from unlabeled.core.files import write_atomic
from unlabeled.core.nn.base import Encoder
from unlabeled.core.training.fit import fit

log = logging.getLogger(__name__)

OnProgress = Callable[[int, int, dict[str, Any]], None]


def pretrain(recipe: Recipe, run: Path, on_progress: OnProgress | None = None) -> Path:
    """Train on the folder of the recipe and write `run`: recipe, manifest, splits, metrics, checkpoints, bundle.

    A finished run returns at once; a run that was cut off goes on from its last checkpoint, exactly. Returns the
    bundle's folder. Raises RequestError where `run` holds another recipe or its data have changed.
    """
    bundle = run / "bundle"
    recipe = _absolute(recipe)
    resuming = _claim(run, recipe)
    if resuming and (bundle / "bundle.json").exists():
        log.info("%s is finished", run)
        return bundle
    items, held_out = pretraining_items(recipe)
    corpus = items.corpus
    print_of_data = fingerprint_of(corpus)
    if resuming and (run / "data.sha256").exists() and (run / "data.sha256").read_text() != print_of_data:
        raise RequestError(f"{recipe.data.path} changed since {run} began, so it cannot be resumed; start a new run")
    if ranks.leader():
        write_atomic(run / "data.sha256", print_of_data.encode())
        corpus.manifest.save(run / "manifest.parquet")
        splits = [{"group": g, "split": "pretrain"} for g in distinct(corpus.groups)]
        splits += [{"group": g, "split": "held out"} for g in held_out]
        write_atomic(run / "splits.parquet", lambda temp: pq.write_table(pa.Table.from_pylist(splits), temp))

    method = build_method(recipe, corpus.domain, corpus.specs)
    loader = Loader(
        items,
        corpus.specs,
        Uniform(len(items), recipe.batch_size),
        recipe.seed,
        groups=codes(corpus.groups),
        workers=recipe.trainer.workers,
    )
    result = fit(method, loader, recipe, run, resume=resuming, on_progress=on_progress)
    if not ranks.leader():
        return bundle
    encoder = method.encoder
    assert isinstance(encoder, Encoder)
    data = {"records": len(corpus), "items": len(items), "sha256": print_of_data}
    return save_bundle(bundle, encoder.cpu(), recipe, corpus.groups, data, health_of(asdict(result)))


def health_of(result: dict[str, Any]) -> dict[str, Any]:
    return {"steps": result["steps"], "last_loss": result["last_loss"], "failed_items": len(result["failures"])}


def pretraining_items(recipe: Recipe) -> tuple[Items, list[str]]:
    """The items of the groups to train on, normalised by constants of these groups only, and the groups held out."""
    corpus = Corpus.open(domain(recipe.domain), recipe.data)
    groups = shuffled(corpus.groups, recipe.seed, "hold out")
    out = groups[: round(recipe.data.hold_out * len(groups))]
    if out:
        corpus = corpus.only([g for g in groups if g not in out])
    corpus = corpus.normalised(recipe.data.normaliser)
    return cut(corpus, recipe.data.window, recipe.data.stride, recipe.data.min_valid), out


def fingerprint_of(corpus: Corpus) -> str:
    """One hash over the contents of every record used."""
    text = "\n".join(f"{r.key} {r.part} {r.sha256}" for r in corpus.rows)
    return hashlib.sha256(text.encode()).hexdigest()


def _absolute(recipe: Recipe) -> Recipe:
    data = recipe.data.model_copy(update={"path": recipe.data.path.expanduser().resolve()})
    return recipe.model_copy(update={"data": data})


def _claim(run: Path, recipe: Recipe) -> bool:
    """True where `run` already holds this recipe; otherwise make the folder and write the recipe into it."""
    saved = run / "recipe.yaml"
    if not ranks.leader():  # the first rank writes, and may not have begun
        return True
    if saved.exists():
        before, now = read_recipe(saved), recipe
        if _computed(before) != _computed(now):
            raise RequestError(
                f"{run} holds a run of another recipe; choose another folder or resume it with --resume {run}"
            )
        return True
    if run.exists() and any(run.iterdir()):
        raise RequestError(f"{run} is not empty and no run; choose another folder")
    run.mkdir(parents=True, exist_ok=True)
    write_atomic(saved, dump(recipe).encode())
    return False


def _computed(recipe: Recipe) -> dict[str, Any]:
    """What of a recipe decides the result: not how many workers load, nor how often it is saved or logged."""
    free = {"workers", "save_every", "keep", "log_every", "tensorboard", "loop"}
    return recipe.model_dump(mode="json", exclude={"trainer": free, "study": True})
