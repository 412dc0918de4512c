"""Init: a runnable recipe from the data themselves."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from unlabeled.core.contracts import Domain, MethodCard, RequestError, TooManyBad, load
from unlabeled.core.contracts.domain import methods
from unlabeled.core.contracts.recipe import Data, Recipe, dump, nearest, validated
from unlabeled.core.data.corpus import Corpus
from unlabeled.core.data.items import cut
from unlabeled.core.files import free_file, write_atomic

log = logging.getLogger(__name__)


def templates(domain: Domain) -> dict[str, dict[str, Any]]:
    """The domain's shipped recipes, by file name."""
    folder = files(domain.recipes)
    return {
        f.name: yaml.safe_load(f.read_text())
        for f in sorted(folder.iterdir(), key=lambda f: f.name)
        if f.name.endswith(".yaml")
    }


def write(domain: Domain, path: Path, to: Path, method: str, options: Mapping[str, Any]) -> Recipe:
    """Fit a shipped recipe to the folder and write it, with every field, reader's and method's option explained.

    The recipe is the first one of this method, or else of a method of its family, with the defaults of this one.
    Raises RequestError where `to` exists, there is no such method, or the folder gives no item.
    """
    free_file(to)
    cards = {name: card for name, card in methods().items() if card.kind == "method"}
    if method not in cards:
        raise RequestError(f"--method: {nearest(method, list(cards))}")
    values = dict(_template(domain, cards[method], cards))
    # the sample's own options and labels say nothing of the user's files
    values["data"] = {**values["data"], "path": str(path.resolve()), "options": dict(options)}
    values["study"] = {k: v for k, v in values.get("study", {}).items() if k not in ("labels", "folds")}
    recipe = validated(Recipe, values, "the shipped recipe")
    corpus, data = _opened(domain, recipe.data)
    recipe = recipe.model_copy(update={"data": data})
    try:
        items = len(cut(corpus, data.window, data.stride, data.min_valid))
        if items < recipe.batch_size:
            recipe = recipe.model_copy(update={"batch_size": max(2, items // 2)})
    except RequestError as error:  # the recipe is still the place to mend it in
        log.warning("the recipe does not run yet: %s", error)
    read = validated(load(domain.options), data.options, "data.options")
    write_atomic(to, dump(recipe, read, load(cards[method].target).Options).encode())
    _try(recipe, domain, corpus)
    return recipe


def _template(domain: Domain, wanted: MethodCard, cards: Mapping[str, MethodCard]) -> dict[str, Any]:
    """The first shipped recipe of the method, or the first of its family with the method put in place of that one's."""
    shipped = list(templates(domain).values())
    for values in shipped:
        if values["method"]["name"] == wanted.name:
            return values
    alike = [v for v in shipped if cards[v["method"]["name"]].family == wanted.family] or shipped
    return {**alike[0], "method": {"name": wanted.name}}


def _try(recipe: Recipe, domain: Domain, corpus: Corpus) -> None:
    """Say what keeps the method from this encoder, whose recipe was made for another method."""
    from unlabeled.core.build import build_method

    try:
        build_method(recipe, domain, corpus.specs)
    except RequestError as error:
        log.warning("the recipe does not run yet: %s", error)


def _opened(domain: Domain, data: Data) -> tuple[Corpus, Data]:
    """The folder with the template's conversions, or without them where its files cannot meet them."""
    try:
        return Corpus.open(domain, data), data
    except (RequestError, TooManyBad) as error:
        if not data.conversions:
            raise
        plain = data.model_copy(update={"conversions": ()})
        corpus = Corpus.open(domain, plain)
        log.warning("without the conversion %s: %s", ", ".join(c.name for c in data.conversions), error)
        return corpus, plain
