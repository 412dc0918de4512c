"""Finetune: from a bundle (or a recipe) and labels to a model."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from unlabeled.core.build import build_views, seeded
from unlabeled.core.bundle import load_bundle, read_bundle, start_encoder
from unlabeled.core.bundle.save import described
from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.domain import domain
from unlabeled.core.contracts.recipe import Data, Evaluation, Named, Trainer, read_recipe, validated
from unlabeled.core.data.corpus import Corpus
from unlabeled.core.data.groups import key_id, project_key
from unlabeled.core.data.items import Items, covering, cut
from unlabeled.core.data.loading import Loader
from unlabeled.core.data.manifest import check_leaks
from unlabeled.core.downstream import label_augmentation
from unlabeled.core.downstream.infer import predictions
from unlabeled.core.downstream.kinds.base import METRICS, Task
from unlabeled.core.downstream.label_augmentation import LabelAugmentation
from unlabeled.core.downstream.layers import optimiser_groups
from unlabeled.core.downstream.loop import train
from unlabeled.core.downstream.model import Model
from unlabeled.core.downstream.options import Finetune
from unlabeled.core.downstream.save import Ends, Score, save_model
from unlabeled.core.downstream.tasks import make_task, split
from unlabeled.core.evaluation.evaluate import reading, under
from unlabeled.core.evaluation.guard import check_size
from unlabeled.core.files import free, outside
from unlabeled.core.measures.intervals import Tally, over_groups, paired
from unlabeled.core.nn.base import Encoder
from unlabeled.core.training.fit import device_kind

log = logging.getLogger(__name__)

OnProgress = Callable[[int, int, str], None]

CONSTANT = {
    "classification": "always the most frequent class of the training records",
    "multilabel": "always the share of the training records that have each label",
    "segmentation": "always the most frequent class of the training cells",
    "regression": "always the mean of the training records",
}


def finetune(
    bundle: str | Path,
    path: str | Path,
    labels: str | Path,
    task: str,
    out: str | Path,
    *,
    convert: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    on_progress: OnProgress | None = None,
    **settings: Any,
) -> Path:
    """Learn a task from labelled records and write the model `out`, a new folder, whole or not at all. Returns it.

    bundle    its folder; or a recipe, which begins from its own `start`, else from random weights
    labels    a CSV: key, label (classification); key, labels with ; between them (multilabel); key, value (regression);
              key, start, stop, label or key, file, or what the domain reads (segmentation)
    task      name of a head: classify, tag, segment, regress, or one of the domain's
    convert   conversions allowed beyond those of the bundle; options: of the reader
    settings  the fields of `Finetune`

    The best step is chosen on groups that are not trained on. Raises RequestError (labels, task, settings, no data), Absent
    (weights), Incompatible (files, weights), Leakage (one recording under two groups), TooManyBad, BadInput, RunFailed.
    """
    chosen = validated(Finetune, settings, "finetune")
    path, out = Path(path), Path(out)
    outside(path, out)
    free(out)
    kind = FromRecipe if Path(bundle).is_file() else FromBundle
    origin: Origin = kind(Path(bundle), path, chosen, convert, options or {})
    corpus = origin.corpus
    made = make_task(corpus.domain, task, Path(labels), corpus)
    check_leaks(corpus.manifest)
    if chosen.views and made.head.kind == "segmentation":
        raise RequestError("views may move cells away from their labels; leave views out for segmentation")
    items = cut(corpus, origin.evaluation.window, origin.evaluation.stride, corpus.data.min_valid)
    items = items.take(made.usable(items))
    records = np.unique(items.record).astype(np.int64)
    inside, left_out = split(made, records, corpus.groups, chosen.validation, chosen.seed, origin.seen)
    encoder = origin.encoder(inside)
    data = Labelled(made, replace(items, corpus=corpus.normalised(specs=encoder.specs)), inside, left_out)
    device = torch.device(device_kind(Trainer(accelerator=chosen.accelerator)))
    if chosen.label_augmentation:
        label_augmentation.check(made.head, encoder, items)
    with seeded(chosen.seed, "finetune"):
        model = _model(data.task, copy.deepcopy(encoder), chosen).to(device)
        validation = data.validation(origin.evaluation)
        best, failed = _fit(model, data, validation, chosen, on_progress)
    score = data.scores(model, validation)
    return save_model(
        out,
        model.cpu(),
        data.task.head,
        {**origin.about(encoder, data), **_seen(encoder, inside)},
        {
            "classes": data.task.classes,
            "unit": data.task.unit,
            "window": origin.evaluation.window,
            "stride": origin.evaluation.stride,
            "start": origin.start(encoder),
            "settings": chosen.model_dump(mode="json", exclude={"start", "accelerator"}),
            "best_step": best,
            "n": {**data.counts(validation), "failed_items": failed},
            "groups": {"train": inside, "validation": left_out},
            "key": key_id(project_key()),
            "seen_in_pretraining": _overlap(encoder, left_out),
            "baseline": CONSTANT[data.task.head.kind],
            "score": score,
            "absent": data.absent,
        },
    )


# what a model begins from


class Origin(Protocol):
    """The data under a contract, and the encoder that goes with it.

    corpus      of which a recipe's is not normalised before the training groups are known
    evaluation  the windows
    seen        groups that its weights were pretrained on, as far as our key can name them
    """

    corpus: Corpus
    evaluation: Evaluation
    seen: frozenset[str]

    def encoder(self, inside: Sequence[str]) -> Encoder:
        """The encoder to begin from; inside: the training groups."""
        ...

    def start(self, encoder: Encoder) -> dict[str, str]:
        """What its weights are: a name, without a path, and their SHA-256."""
        ...

    def about(self, encoder: Encoder, data: Labelled) -> dict[str, Any]:
        """What `bundle.json` says but for weights and groups."""
        ...


class FromBundle:
    """A bundle's contract, with its own weights or those of `settings.start`."""

    def __init__(
        self, bundle: Path, path: Path, settings: Finetune, convert: Sequence[str], options: Mapping[str, Any]
    ) -> None:
        self.loaded, self.settings = load_bundle(bundle), settings
        bad = {} if settings.max_bad_fraction is None else {"max_bad_fraction": settings.max_bad_fraction}
        self.corpus = under(self.loaded.bundle, path, convert, options, **bad)
        self.evaluation = _windows(settings, self.loaded.bundle.evaluation, self.corpus)
        if self.evaluation.window is None:  # a window is as large as in pretraining, or was named
            check_size(self.loaded.bundle, cut(self.corpus, None))
        self.seen = _known(settings.start or bundle)

    def encoder(self, inside: Sequence[str]) -> Encoder:
        if self.settings.start is None:
            return self.loaded
        named = Named(**self.loaded.bundle.about["encoder"])
        return start_encoder(self.settings.start, self.corpus.domain, self.loaded.specs, named, self.settings.seed)

    def start(self, encoder: Encoder) -> dict[str, str]:
        if encoder is self.loaded:
            return {"start": "the bundle's weights", "sha256": encoder.bundle.about["sha256"]}
        return _begun(encoder)

    def about(self, encoder: Encoder, data: Labelled) -> dict[str, Any]:
        about = dict(self.loaded.bundle.about)
        if encoder is not self.loaded:
            about["start"] = _begun(encoder)
        kept = self.corpus.data.model_dump(mode="json", include={"options", "convert"})
        recipe = {**about["recipe"], "data": {**about["recipe"]["data"], **kept}}
        return {**about, "encoder": encoder.named or about["encoder"], "recipe": recipe}


class FromRecipe:
    """A recipe's data and encoder, under constants of the training groups only."""

    def __init__(
        self, recipe: Path, path: Path, settings: Finetune, convert: Sequence[str], options: Mapping[str, Any]
    ) -> None:
        self.recipe, self.settings = read_recipe(recipe), settings
        changes = {
            "path": path,
            "groups": None,
            "keep": None,
            "hold_out": 0.0,
            **reading(self.recipe.data, convert, options),
        }
        if settings.max_bad_fraction is not None:
            changes["max_bad_fraction"] = settings.max_bad_fraction
        data = Data(**{**self.recipe.data.model_dump(), **changes})
        self.recipe = self.recipe.model_copy(update={"data": data})
        self.corpus = Corpus.open(domain(self.recipe.domain), self.recipe.data)
        self.evaluation = _windows(settings, self.recipe.evaluation, self.corpus)
        self.seen = _known(settings.start or self.recipe.start)

    def encoder(self, inside: Sequence[str]) -> Encoder:
        specs = self.corpus.only(inside).normalised(self.recipe.data.normaliser).specs
        start = self.settings.start or self.recipe.start or "random"
        return start_encoder(start, self.corpus.domain, specs, self.recipe.encoder, self.settings.seed)

    def start(self, encoder: Encoder) -> dict[str, str]:
        return _begun(encoder)

    def about(self, encoder: Encoder, data: Labelled) -> dict[str, Any]:
        counts = {"records": len(data.inside_records), "items": len(data.train), "sha256": self.corpus.fingerprint}
        return described(encoder, self.recipe, (), counts, {}, _begun(encoder))


def _known(start: str | Path | None) -> frozenset[str]:
    """The groups of the bundle in this folder; none where it is no bundle, or under another key."""
    if start is None or not (Path(start) / "bundle.json").is_file():
        return frozenset()
    bundle = read_bundle(Path(start))
    return bundle.groups if bundle.about["key"] == key_id(project_key()) else frozenset()


def _begun(encoder: Encoder) -> dict[str, str]:
    return {"start": "random"} if encoder.report is None else dict(encoder.report.start)


def _windows(settings: Finetune, evaluation: Evaluation, corpus: Corpus) -> Evaluation:
    """The settings' windows, else those of the evaluation, else those of the data."""
    if settings.window is not None:
        return evaluation.model_copy(update={"window": settings.window, "stride": settings.stride})
    if evaluation.window is not None:
        return evaluation.model_copy(update={"stride": settings.stride or evaluation.stride})
    stride = settings.stride or evaluation.stride or corpus.data.stride
    return evaluation.model_copy(update={"window": corpus.data.window, "stride": stride})


def _seen(encoder: Encoder, inside: Sequence[str]) -> dict[str, Any]:
    """`groups` and `key` of `bundle.json`: from now on the groups trained on are seen too."""
    key, before = key_id(project_key()), encoder.bundle
    if before is not None and before.about["key"] != key:
        # hashed with two keys nobody could tell groups apart; under the other key, everyone is told that nobody knows
        return {"groups": sorted(before.groups), "key": before.about["key"]}
    return {"groups": sorted({*inside, *(before.groups if before is not None else ())}), "key": key}


def _overlap(encoder: Encoder, groups: Sequence[str]) -> list[str] | None:
    """Which of these groups the pretraining saw; None where nobody knows: another key, or weights without a bundle."""
    if encoder.bundle is None:
        return [] if encoder.report is None else None
    if encoder.bundle.about["key"] != key_id(project_key()):
        return None
    return [g for g in groups if g in encoder.bundle.groups]


# labelled data, and what a model is worth on it


class Labelled:
    """Labelled items, in training and validation groups.

    task   with what it takes from the training records' labels
    train  the items trained on
    """

    def __init__(self, task: Task, items: Items, inside: Sequence[str], left_out: Sequence[str]) -> None:
        self.items, self.inside, self.left_out = items, list(inside), list(left_out)
        records, group = np.unique(items.record).astype(np.int64), np.array(items.corpus.groups)
        self.inside_records = records[np.isin(group[records], self.inside)]
        self.outside_records = records[np.isin(group[records], self.left_out)]
        self.task = task.fitted(self.inside_records)
        self.train = items.take(np.isin(items.record, self.inside_records))
        self.group = np.array([self.left_out.index(g) if g in self.left_out else -1 for g in items.corpus.groups])

    def validation(self, windows: Evaluation) -> Items:
        """Every window that votes for, or blends into, the prediction of a record left out; as `predict` cuts them."""
        items = predicted_items(self.items.corpus, self.task.head.kind, windows)
        return items.take(np.isin(items.record, self.outside_records))

    def decided(self, model: Model, items: Items) -> list[tuple[int, Any]]:
        """(record, decision) of every record that could be read."""
        failed: dict[int, str] = {}
        found = [(r, self.task.decide(p)) for r, p in predictions(model, items, failed)]
        for reason in failed.values():
            log.warning("left out of the score: %s", reason)
        return found

    @property
    def absent(self) -> list[str]:
        """Classes that no record left out has: there is nothing to find of them."""
        there = set().union(*(self.task.present(r) for r in self.outside_records.tolist()))
        return [name for code, name in enumerate(self.task.classes) if code not in there]

    def tally(self, decided: Iterable[tuple[int, Any]]) -> Tally:
        return self.task.tally(decided, self.group, len(self.left_out))

    def scores(self, model: Model, items: Items) -> dict[str, Score]:
        """By metric, with 95 % intervals over the groups left out; nothing where there are none."""
        if not self.left_out:
            return {}
        decided, constant = self.decided(model, items), self.task.constant(self.inside_records)
        ours, baseline = self.tally(decided), self.tally((r, constant(r)) for r, _ in decided)
        return {
            name: Score(
                score=Ends.of(over_groups(of, ours, seed=0)),
                baseline=Ends.of(over_groups(of, baseline, seed=0)),
                gain=Ends.of(paired(of, ours, baseline, seed=0)),
            )
            for name, of in METRICS[self.task.head.kind].items()
        }

    def counts(self, validation: Items) -> dict[str, int]:
        return {
            "train_records": len(self.inside_records),
            "train_groups": len(self.inside),
            "train_items": len(self.train),
            "validation_records": len(self.outside_records),
            "validation_groups": len(self.left_out),
            "validation_items": len(validation),
        }


def _model(task: Task, encoder: Encoder, chosen: Finetune) -> Model:
    if chosen.label_augmentation:
        return LabelAugmentation(encoder, task.head.kind, task.outputs)
    return task.model(encoder)


def predicted_items(corpus: Corpus, kind: str, windows: Evaluation) -> Items:
    """The windows that a prediction is made from: for segmentation they hold every cell, and overlap by half."""
    if kind != "segmentation":
        return cut(corpus, windows.window, windows.stride, corpus.data.min_valid)
    window = windows.window
    return covering(corpus, window, windows.stride or (window and tuple(w / 2 for w in window)))


def _fit(
    model: Model, data: Labelled, validation: Items, chosen: Finetune, on_progress: OnProgress | None
) -> tuple[int, int]:
    """Train in place and go back to the best step; its number, and how many items failed."""
    full = chosen.mode == "full"
    if not full:
        model.freeze()
    specs = model.encoder.specs
    groups = optimiser_groups(
        model, chosen.lr, chosen.head_lr, chosen.layer_decay if full else 1.0, chosen.weight_decay
    )
    loader = Loader(data.train, specs, data.task.plan(data.train, chosen.batch_size), chosen.seed)
    every = -(-chosen.steps // chosen.looks)
    best = chosen.steps, -math.inf, dict[str, torch.Tensor]()
    note = ""

    def look(done: int) -> None:
        nonlocal best, note
        if data.left_out and (done % every == 0 or done == chosen.steps):
            value = data.task.value(data.tally(data.decided(model, validation)))
            note = f"{data.task.head.metric} {abs(value):.3f}"
            if not value <= best[1]:  # also where it is not defined: then the last step stays
                best = done, value, {k: v.detach().clone() for k, v in model.state_dict().items()}
        if on_progress is not None:
            on_progress(done, chosen.steps, note)

    train(
        model,
        loader,
        data.task.target(data.train),
        label_augmentation.joint_loss if chosen.label_augmentation else data.task.loss,
        groups,
        steps=chosen.steps,
        warmup=round(chosen.warmup * chosen.steps),
        seed=chosen.seed,
        views=build_views(chosen.views, data.items.corpus.domain, specs, "finetune.views") if chosen.views else None,
        max_bad=data.items.corpus.data.max_bad_fraction,
        after=look,
    )
    if best[2]:
        model.load_state_dict(best[2])
    for _, reason in loader.failures.values():
        log.warning("left out of the training: %s", reason)
    return best[0], len(loader.failures)
