"""Pretrain: from a recipe to a run folder with a bundle."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unlabeled.core.build import build_method, encoded
from unlabeled.core.bundle import read_bundle, save_bundle, start_encoder
from unlabeled.core.contracts import Absent, Incompatible, InputSpec, RequestError
from unlabeled.core.contracts.domain import domain
from unlabeled.core.contracts.recipe import Named, Recipe, absolute, dump, read_recipe
from unlabeled.core.contracts.stages import expanded, resolved
from unlabeled.core.curate.plans import build_plan, check_plan
from unlabeled.core.data.corpus import Corpus
from unlabeled.core.data.groups import codes, distinct, key_id, project_key, shuffled
from unlabeled.core.data.items import Items, cut
from unlabeled.core.data.loading import Loader
from unlabeled.core.files import free, outside, sha256, write_atomic, write_json
from unlabeled.core.launch import leader
from unlabeled.core.methods.base import Method, Taught, Worded
from unlabeled.core.nn.base import Encoder
from unlabeled.core.training import branch
from unlabeled.core.training.fit import device_kind, fit

log = logging.getLogger(__name__)

SEEN = "seen before"  # a group on which the weights were trained that this run begins from

OnProgress = Callable[[int, int, dict[str, Any]], None]
AtEnd = Callable[[Recipe, Method, Items], None]


def pretrain(recipe: Recipe, run: Path, on_progress: OnProgress | None = None, at_end: AtEnd | None = None) -> Path:
    """Train on the folder of the recipe and write `run`: recipe, manifest, splits, metrics, checkpoints, bundle.

    A finished run returns at once; a run that was cut off goes on from its last checkpoint, exactly. Returns the
    bundle's folder. Raises RequestError where `run` holds another recipe or its data have changed.

    at_end: called once on the first rank, with the trained method and its items, before the bundle is written.
    """
    recipe = absolute(recipe)
    outside(recipe.data.path, run)
    return _pretrain(recipe, run, {}, on_progress, at_end)


def _pretrain(
    recipe: Recipe,
    run: Path,
    before: Mapping[str, Path],
    on_progress: OnProgress | None,
    at_end: AtEnd | None = None,
) -> Path:
    """The stages of the recipe, then its own run. before: bundles of the stages that came before this one."""
    bundle = run / "bundle"
    stages = expanded(recipe, before)
    resuming = _resumes(run, recipe)
    if resuming and (bundle / "bundle.json").exists():
        log.info("%s is finished", run)
        return bundle
    items, held_out = pretraining_items(recipe)
    corpus = items.corpus
    check_plan(recipe, items)
    known = dict(before)
    for own in stages.values():  # a mistake in a later stage shall show before the first one is trained
        build_method(own, corpus.domain, corpus.specs)
    if stages:
        build_method(recipe, corpus.domain, corpus.specs)
    else:
        method = _method(resolved(recipe, known), corpus)
    device_kind(recipe.trainer)
    if recipe.branch is not None and not resuming:
        branch.origin(recipe)  # what is wrong with it shows before a folder is made
    if leader():  # only now, so that a request that is refused leaves no run behind
        seen = (frozenset() if stages else _seen_before(method)) | _seen_by_origin(recipe)
        _claim(run, recipe, corpus, held_out, seen)
    if stages:
        known |= _staged(stages, run, on_progress)
        method = _method(resolved(recipe, known), corpus)
    plan = build_plan(resolved(recipe, known), items, run)
    loader = Loader(items, corpus.specs, plan, recipe.seed, groups=codes(corpus.groups), workers=recipe.trainer.workers)
    start = _begun(method, run) if recipe.branch is None else _branched(recipe, method, run, loader)
    result = fit(method, loader, recipe, run, resume=resuming or recipe.branch is not None, on_progress=on_progress)
    if not leader():
        return bundle
    if at_end is not None:
        at_end(recipe, method, items)
    encoder = method.exported
    assert isinstance(encoder, Encoder)
    data: dict[str, Any] = {"records": len(corpus), "items": len(items), "sha256": corpus.fingerprint}
    if items.cells is not None:
        data["cells"] = items.cells
    if stages:
        data["stages"] = json.loads((run / "stages.json").read_text())
    groups = sorted({*corpus.groups, *_seen_before(method), *_seen_by_origin(recipe)})
    return save_bundle(bundle, encoder.cpu(), recipe, groups, data, health_of(asdict(result)), start)


def _method(recipe: Recipe, corpus: Corpus) -> Method:
    """The recipe's method, around the weights it names as its start, with its frozen teacher where it has one.

    Raises Incompatible where the recipe asks for another encoder than these weights are of.
    """
    method = build_method(recipe, corpus.domain, corpus.specs, _start(recipe, corpus))
    if isinstance(method, Taught) and recipe.method.options.get("teacher"):
        method.take_teacher(_other(recipe, corpus, "teacher", "teacher_options", corpus.specs))
    if isinstance(method, Worded) and recipe.method.options.get("text_start"):
        text = method.text_encoder.specs
        method.take_text(_other(recipe, corpus, "text_start", "text_encoder", text))
    return method


def _other(recipe: Recipe, corpus: Corpus, option: str, about: str, specs: Mapping[str, InputSpec]) -> Encoder:
    """An encoder beside the trained one that the method names (a frozen teacher, one of texts): any weights that a run may
    start from, for the contract `specs` of these data. about: the option that says what the weights leave open.
    """
    options = recipe.method.options
    asked = Named(name="tokens", **options.get(about, {}))
    try:
        made = start_encoder(options[option], corpus.domain, specs, asked, recipe.seed)
    except (Absent, Incompatible, RequestError) as error:
        raise type(error)(f"method.{option}: {str(error).removeprefix('start: ')}") from None
    wrong = [o for o in made.report.overruled if o.partition(":")[0] in asked.options] if made.report else []
    if wrong:
        raise Incompatible(f"method.{about}: {'; '.join(wrong)}; write what the weights of {option} have")
    return made


def _start(recipe: Recipe, corpus: Corpus) -> Encoder | None:
    if recipe.start is None:
        return None
    specs = encoded(recipe, corpus.specs)
    encoder = start_encoder(recipe.start, corpus.domain, specs, recipe.encoder, recipe.seed)
    if encoder.report is not None and encoder.report.overruled:
        raise Incompatible(
            f"encoder.{'; encoder.'.join(encoder.report.overruled)}: the weights of start are of another encoder than the "
            "recipe's; write under encoder what they have, or leave it out"
        )
    return encoder


def _seen_before(method: Method) -> frozenset[str]:
    """The groups that the weights a run begins from have seen, as far as our key can name them."""
    others = [method.teacher] if isinstance(method, Taught) else []
    others += [method.text_encoder] if isinstance(method, Worded) else []
    own = key_id(project_key())
    bundles = [e.bundle for e in (method.encoder, *others) if getattr(e, "bundle", None) is not None]
    return frozenset(g for bundle in bundles if bundle.about["key"] == own for g in bundle.groups)


def _seen_by_origin(recipe: Recipe) -> frozenset[str]:
    """The groups that the run which this one branches off from has seen, and those seen before it."""
    if recipe.branch is None:
        return frozenset()
    splits = pq.read_table(recipe.branch.run / "splits.parquet").to_pylist()
    return frozenset(s["group"] for s in splits if s["split"] in ("pretrain", SEEN))


def _begun(method: Method, run: Path) -> dict[str, str] | None:
    """What the weights are that a run begins from.

    Raises RequestError where a run goes on and they are others than before.
    """
    encoder = method.encoder
    assert isinstance(encoder, Encoder)
    if encoder.report is None:
        return None
    start, file = dict(encoder.report.start), run / "start.json"
    if file.exists() and json.loads(file.read_text()) != start:
        raise RequestError(f"{start['start']} holds other weights than those {run} began from; start a new run")
    if leader():
        write_json(file, start)
    return start


def _branched(recipe: Recipe, method: Method, run: Path, loader: Loader) -> dict[str, str]:
    """As `_begun`, of a run that branches off; where it has not begun yet, it gets its first checkpoint."""
    assert recipe.branch is not None
    parent, file = recipe.branch.run, run / "start.json"
    if leader() and not file.exists():
        path, step = branch.origin(recipe)
        same = (parent / "data.sha256").read_text() == (run / "data.sha256").read_text()
        branch.begin(recipe, method, run, same, loader.chosen())
        write_json(file, {"start": f"branch of {parent.name} after {step} steps", "sha256": sha256(path)})
    while not file.exists():  # the first rank may still be writing it
        time.sleep(0.1)
    return dict(json.loads(file.read_text()))


def _staged(stages: Mapping[str, Recipe], run: Path, on_progress: OnProgress | None) -> dict[str, Path]:
    """Do what is left of the stages; their bundles by name. Raises RequestError where a finished one was replaced."""
    done: dict[str, Path] = {}
    for name, own in stages.items():
        log.info("stage %s", name)
        done[name] = _pretrain(own, run / "stages" / name, done, on_progress)
        while not (done[name] / "bundle.json").exists():  # the first rank may still be writing it
            time.sleep(0.1)
    made = {name: read_bundle(bundle).about["sha256"] for name, bundle in done.items()}
    file = run / "stages.json"
    if file.exists() and json.loads(file.read_text()) != made:
        raise RequestError(f"the stages in {run} are not those it went on from; start a new run")
    if leader():
        write_json(file, made)
    return done


def health_of(result: dict[str, Any]) -> dict[str, Any]:
    """What the bundle says of the run that made it: counts, alarms, rollbacks, and values at the first and last look."""
    counts = {"steps": result["steps"], "last_loss": result["last_loss"], "failed_items": len(result["failures"])}
    return {**counts, **result["health"]}


def pretraining_items(recipe: Recipe) -> tuple[Items, list[str]]:
    """The items of the groups to train on, normalised by constants of these groups only, and the groups held out."""
    corpus = Corpus.open(domain(recipe.domain), recipe.data)
    groups = shuffled(corpus.groups, recipe.seed, "hold out")
    share = recipe.data.hold_out
    out = groups[: max(1, round(share * len(groups)))] if share else []
    if len(out) == len(groups):
        raise RequestError(f"data.hold_out {share:g} leaves none of {len(groups)} groups to train on; set it lower")
    if out:
        corpus = corpus.only([g for g in groups if g not in out])
    corpus = corpus.normalised(recipe.data.normaliser)
    return cut(corpus, recipe.data.window, recipe.data.stride, recipe.data.min_valid), out


def _resumes(run: Path, recipe: Recipe) -> bool:
    """True where `run` already holds this recipe. Raises RequestError where it holds anything else."""
    saved = run / "recipe.yaml"
    if not leader():  # the first rank writes, and may not have begun
        return True
    if saved.exists():
        if _computed(read_recipe(saved)) != _computed(recipe):
            raise RequestError(
                f"{run} holds a run of another recipe; choose another folder or resume it with --resume {run}"
            )
        return True
    free(run)
    return False


def _claim(run: Path, recipe: Recipe, corpus: Corpus, held_out: list[str], seen: frozenset[str]) -> None:
    """Write what a run is made of, the recipe last; or check that its data are still the same."""
    before = run / "data.sha256"
    if before.exists() and before.read_text() != corpus.fingerprint:
        raise RequestError(f"{recipe.data.path} changed since {run} began, so it cannot be resumed; start a new run")
    run.mkdir(parents=True, exist_ok=True)
    corpus.manifest.save(run / "manifest.parquet")
    splits = [{"group": g, "split": "pretrain"} for g in distinct(corpus.groups)]
    splits += [{"group": g, "split": "held out"} for g in held_out]
    splits += [{"group": g, "split": SEEN} for g in sorted(seen)]
    write_atomic(run / "splits.parquet", lambda temp: pq.write_table(pa.Table.from_pylist(splits), temp))
    write_atomic(before, corpus.fingerprint.encode())
    if not (run / "recipe.yaml").exists():
        write_atomic(run / "recipe.yaml", dump(recipe).encode())


def _computed(recipe: Recipe) -> dict[str, Any]:
    """What of a recipe decides the result: not how many workers load, nor how often it is saved or logged.

    How often, what an alarm does and how long a run bears bad steps decide where a run in trouble stops or goes back to;
    they are free, so that one which was stopped can go on under other limits. A sound run is the same whatever they are.
    """
    free = {
        "workers",
        "save_every",
        "keep",
        "keep_every",
        "log_every",
        "max_skipped",
        "rollbacks",
        "tensorboard",
        "loggers",
        "loop",
    }
    return recipe.model_dump(mode="json", exclude={"trainer": free, "health": True, "study": True})
