"""Jobs: one start with one seed, from nothing to its predictions on the test images, kept in one JSON file.

A start is `mae`, ...: pretrained by our `fit`; `lightly mae`, ...: by the peer; `random tokens`, `random convnet`: the
weights that pretraining of this seed began from; `pixels`: no encoder at all.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from learning import digits, peers, stamp
from learning.budget import Budget
from unlabeled.core.build import build_method, make_encoder
from unlabeled.core.contracts import RequestError, RunFailed
from unlabeled.core.data.loading import Loader
from unlabeled.core.data.plans import Uniform
from unlabeled.core.evaluation.embed import embed
from unlabeled.core.evaluation.probe import probe
from unlabeled.core.files import write_json
from unlabeled.core.measures.rank import rankme
from unlabeled.core.methods.base import Taught
from unlabeled.core.training.fit import fit

PIXELS, RANDOM, PEER = "pixels", "random", "lightly"


def starts(budget: Budget, methods: list[str], peer: bool) -> list[str]:
    """The baselines of these methods, then they, then the peer's runs of them."""
    asked = {budget.methods[m].encoder for m in methods}
    random = [f"{RANDOM} {name}" for name in budget.families if name in asked]
    return [PIXELS, *random, *methods, *(f"{PEER} {m}" for m in budget.peers if peer and m in methods)]


def seeds_of(budget: Budget, start: str) -> tuple[int, ...]:
    return budget.seeds[:1] if start == PIXELS else budget.seeds


def file_of(out: Path, start: str, seed: int) -> Path:
    return out / f"{start.replace(' ', '-')}-seed-{seed}.json"


def settings(budget: Budget, start: str, seed: int, validate: bool) -> dict[str, Any]:
    """All that decides the result of a job."""
    kind, _, name = start.rpartition(" ")
    about: dict[str, Any] = {"data": budget.data.model_dump(mode="json"), "validate": validate, "seed": seed}
    if kind == RANDOM:
        about["encoder"] = budget.families[name].encoder
    elif start != PIXELS:
        about["recipe"] = budget.values(name, seed)
        if teacher := budget.methods[name].teacher:
            about["teacher"] = budget.values(teacher, seed)
    return json.loads(json.dumps(about))  # type: ignore[no-any-return]


def run(budget: Budget, start: str, seed: int, out: Path, validate: bool = False) -> bool:
    """Do the job, unless its file is there. Returns whether it was done now.

    Raises RequestError where the file there came of other settings. A run that fails is a result too, and kept.
    """
    file, wanted = file_of(out, start, seed), settings(budget, start, seed, validate)
    if file.exists():
        if json.loads(file.read_text())["settings"] != wanted:
            raise RequestError(f"{file} came of another budget; choose another folder, or remove it")
        return False
    part = digits.split(budget.data.test_forms, budget.data.validation_forms, budget.data.seed, validate)
    found: dict[str, Any] = {"start": start, "seed": seed, "settings": wanted, "commit": stamp.commit()}
    began = time.process_time()
    try:
        features, loss = _features(budget, start, seed, part)
        found |= {"loss": loss, "cpu_seconds": round(time.process_time() - began, 1)}
        found |= read_out(budget, features, part)
        found["rankme"] = round(rankme(torch.from_numpy(features[part.pool])).item(), 4)
    except RunFailed as error:
        found |= {"failed": str(error), "cpu_seconds": round(time.process_time() - began, 1)}
    write_json(file, found)
    return True


def _features(budget: Budget, start: str, seed: int, part: digits.Split) -> tuple[NDArray[np.float32], float | None]:
    """Pooled features of all images (N, P), and the last loss."""
    everything = np.arange(digits.IMAGES)
    if start == PIXELS:
        return (load_digits().data / digits.WHITE).astype(np.float32), None
    torch.set_num_threads(1)
    kind, _, name = start.rpartition(" ")
    family = budget.families[name if kind == RANDOM else budget.methods[name].encoder].encoder
    # ids are the grey levels as they are
    scale = 1.0 if "vocabulary" in family else digits.scale_of(part.pool)
    loss: float | None = None
    if kind == RANDOM:
        options = {"name": name, **family}
        encoder: Any = make_encoder(options.pop("name"), options, digits.DOMAIN, digits.SPECS, seed)
    elif kind == PEER:
        recipe = budget.recipe(name, seed)
        encoder, loss = peers.train(recipe, _loader(budget, part, scale, seed))
    else:
        encoder, loss = _trained(budget, name, seed, _loader(budget, part, scale, seed))
    images: Any = digits.Digits(everything, scale)
    return embed(encoder, images, digits.SPECS).values, loss


def _loader(budget: Budget, part: digits.Split, scale: float, seed: int) -> Loader:
    source = digits.Digits(part.pool, scale)
    return Loader(source, digits.SPECS, Uniform(len(source), budget.batch), seed)


def _trained(budget: Budget, name: str, seed: int, loader: Loader) -> tuple[Any, float | None]:
    """The encoder that `fit` trained, and the last loss; where the method has a teacher, that is trained first."""
    recipe = budget.recipe(name, seed)
    method = build_method(recipe, digits.DOMAIN, digits.SPECS)
    if teacher := budget.methods[name].teacher:
        assert isinstance(method, Taught)
        method.take_teacher(_trained(budget, teacher, seed, loader)[0])
    with tempfile.TemporaryDirectory() as folder:
        loss = fit(method, loader, recipe, Path(folder) / "run", resume=False).last_loss
    return method.exported, loss


def read_out(budget: Budget, features: NDArray[np.float32], part: digits.Split) -> dict[str, Any]:
    """Predictions of the test images for each label draw, one digit a character, and the head's regularisation."""
    labels = load_digits().target.astype(np.int64)
    d = budget.data
    predictions, choices = [], []
    for drawn in digits.label_draws(labels, part.pool, d.labels_per_class, d.draws, d.seed):
        done = probe(features[drawn], labels[drawn], drawn, features[part.test], digits.CLASSES)
        predictions.append("".join(map(str, done.scores.argmax(1))))
        choices.append(done.choice)
    return {"predictions": predictions, "choices": choices}
