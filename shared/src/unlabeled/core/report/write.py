"""Write report.html, and pretrain and study so that they end with it: what the verbs and `unlabeled.core` call."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unlabeled.core import pretraining, studies
from unlabeled.core.contracts import RequestError, RunFailed, load
from unlabeled.core.contracts.recipe import Recipe
from unlabeled.core.data.items import Items
from unlabeled.core.downstream.labels import Cells
from unlabeled.core.evaluation.labels import UNLABELLED, read_lines
from unlabeled.core.evaluation.look import Look, embedded, flat, reconstructed, save, unlabelled
from unlabeled.core.files import without_folders, write_atomic
from unlabeled.core.launch import leader
from unlabeled.core.methods.base import Context, Method
from unlabeled.core.nn.base import Encoder
from unlabeled.core.report import run_page, study_page
from unlabeled.core.studies.units import of_points

log = logging.getLogger(__name__)


def write(folder: str | Path) -> Path:
    """Write `folder`/report.html from the files of a run or study folder, and return its path.

    Raises RequestError where the folder is neither, or holds an unfinished study.
    """
    folder = Path(folder)
    if (folder / "plan.json").is_file():
        page = study_page.page(folder)
    elif (folder / "recipe.yaml").is_file():
        page = run_page.page(folder)
    else:
        raise RequestError(f"{folder} is no run and no study: it holds neither recipe.yaml nor plan.json")
    write_atomic(folder / "report.html", page.html().encode())
    return folder / "report.html"


def pretrain(recipe: Recipe, run: str | Path, on_progress: pretraining.OnProgress | None = None) -> Path:
    """`pretraining.pretrain`, which see, and the report of the run."""
    run = Path(run)
    try:
        bundle = pretraining.pretrain(recipe, run, on_progress, partial(look, run))
    except RunFailed:
        _reported(run)  # it shows what went wrong
        raise
    _reported(run)
    return bundle


def study(
    recipe: Recipe, out: str | Path, on_progress: studies.run.OnProgress | None = None, real: str = ""
) -> dict[str, Any]:
    """`studies.study`, which see, and the report of the study."""
    found = studies.study(recipe, Path(out), on_progress, real)
    _reported(Path(out))
    return found


def _reported(folder: Path) -> None:
    if leader():
        _softly("the report was not written", write, folder)


def look(run: Path, recipe: Recipe, method: Method, items: Items) -> None:
    """Keep what the report will draw of the method, in `run`/look.npz. What fails is said there, and hides nothing else."""
    missing: dict[str, str] = {}

    def tried(what: str, made: Callable[[], Any], otherwise: Any) -> Any:
        made_it, found = _softly(f"the report goes without {what}", made)
        if made_it:
            return found
        missing[what] = without_folders(str(found))
        return otherwise

    training = method.training
    method.eval()
    with torch.inference_mode():
        nothing = (np.zeros((0, 2)), np.zeros(2)), np.zeros(0, np.int64)
        (points, share), at = tried("map", partial(_map, method, items), nothing)
        if hasattr(method, "reconstruct"):
            context = Context(recipe.seed, recipe.max_steps, 0, recipe.max_steps)
            pictures = tried("pictures", partial(reconstructed, method, items, context), {})
        else:
            pictures, missing["pictures"] = {}, f"{recipe.method.name} predicts no patches"
    method.train(training)
    shown = items.take(at)
    classes, label, by = (), unlabelled(len(shown)), ""
    if recipe.study.labels is not None:
        classes, label, by = tried("labels", partial(_labels, recipe, shown), (classes, label, by))
    made = Look(points, share, np.array(items.corpus.groups)[shown.record], label, classes, pictures, missing, by)
    _softly("the report goes without a map", save, run / "look.npz", made)


def _map(method: Method, items: Items) -> Any:
    encoder = method.exported
    assert isinstance(encoder, Encoder)
    values, at = embedded(encoder, items)
    return flat(values), at


def _labels(recipe: Recipe, items: Items) -> tuple[tuple[str, ...], NDArray[np.int64], str]:
    """Classes, the code of each item and what it is. Labels of records that are held out are as good as none here.

    Of labelled cells it is that of most in the item. Nothing is drawn of cells in a CSV, which names the records held out too.
    """
    file, corpus = recipe.study.labels, items.corpus
    assert file is not None
    if of_points(recipe):
        cells: Cells | None = load(corpus.domain.cells)(file, corpus) if corpus.domain.cells else None
        if cells is None:
            return (), unlabelled(len(items)), ""
        most = [_most(cells, int(record), items.region(i)) for i, record in enumerate(items.record)]
        return cells.classes, np.array(most, np.int64), "the label that most labelled cells of an item have"
    told = {line["key"]: line["label"] for _, line in read_lines(file, ("key", "label"))[1]}
    of = [told.get(corpus.rows[record].key) for record in items.record]
    classes = tuple(sorted({name for name in of if name is not None}))
    return classes, np.array([UNLABELLED if name is None else classes.index(name) for name in of], np.int64), "label"


def _most(cells: Cells, record: int, region: tuple[slice, ...]) -> int:
    if cells.masks[record] is None:
        return UNLABELLED
    codes = cells.of(record, region)
    there = codes[codes != UNLABELLED]
    return int(np.bincount(there).argmax()) if there.size else UNLABELLED


def _softly(otherwise: str, call: Callable[..., Any], *given: Any) -> tuple[bool, Any]:
    """(True, what `call` gives), or (False, why not): a finished run does not fail for its page."""
    try:
        return True, call(*given)
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        log.warning("%s: %s", otherwise, reason)
        return False, reason
