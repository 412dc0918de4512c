"""From a recipe to modules: encoder, views, method."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from pydantic import BaseModel

from unlabeled.core.contracts import Domain, InputSpec, RequestError, load
from unlabeled.core.contracts.batch import Batch, BatchInput
from unlabeled.core.contracts.domain import methods
from unlabeled.core.contracts.recipe import Recipe, Term, View, called, nearest, validated
from unlabeled.core.methods.base import Method
from unlabeled.core.nn.base import Encoder
from unlabeled.core.streams import Draw, key
from unlabeled.core.terms.beside import beside

ENCODERS = {
    "tokens": "unlabeled.core.nn.encoder:TokenEncoder",
    "convnet": "unlabeled.core.nn.convnet:ConvNet",
    "timm": "unlabeled.core.nn.backbone:TimmBackbone",
    "unet": "unlabeled.core.nn.unet:UNet",
}


# views that any domain may use, beside its own
VIEWS = {"batch_styles": "unlabeled.core.views.batch_styles:batch_styles"}
# those that look at several items at once, and why micro-batches would change what they do
COUPLING = {"batch_styles": "the view batch_styles gives all items of a batch the style of one of them"}


@contextlib.contextmanager
def seeded(seed: int, name: str) -> Iterator[None]:
    """Initial weights made inside are a pure function of (seed, name); torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(seed, "init", name) >> 1)
        yield


def make_encoder(
    name: str, options: Mapping[str, Any], domain: Domain, specs: Mapping[str, InputSpec], seed: int
) -> Encoder:
    """An encoder of the core or of the domain, by name, with checked options."""
    known = {**ENCODERS, **domain.encoders}
    if name not in known:
        raise RequestError(f"encoder.name: {nearest(name, list(known))}")
    cls = load(known[name])
    with seeded(seed, "encoder"):
        encoder = cls(specs, validated(cls.Options, options, "encoder"))
    assert isinstance(encoder, Encoder)
    encoder.named = named(name, getattr(encoder, "options", None) or options)
    return encoder


def named(name: str, options: BaseModel | Mapping[str, Any]) -> dict[str, Any]:
    """What `make_encoder` needs to build an encoder again, as plain JSON."""
    return {"name": name, **(options.model_dump(mode="json") if isinstance(options, BaseModel) else options)}


def build_encoder(recipe: Recipe, domain: Domain, specs: Mapping[str, InputSpec], seed: int) -> Encoder:
    """The recipe's encoder with random weights of this seed."""
    return make_encoder(recipe.encoder.name, recipe.encoder.options, domain, specs, seed)


@dataclass(frozen=True)
class Chain:
    """Views in order, as one function of a batch and its draws. steps: (stream, input, function) each."""

    steps: tuple[tuple[str, str, Callable[..., BatchInput]], ...] = ()

    def __call__(self, batch: Batch, draw: Draw) -> Batch:
        for name, at, function in self.steps:
            batch = batch.with_inputs(**{at: function(batch.inputs[at], draw.within(name))})
        return batch

    def first(self, n: int) -> Chain:
        """The first n of them, with the same draws."""
        return Chain(self.steps[:n])

    def after(self, n: int) -> Chain:
        """The others, likewise."""
        return Chain(self.steps[n:])


def build_views(given: Sequence[View], domain: Domain, specs: Mapping[str, InputSpec], where: str = "views") -> Chain:
    """The views in order. Raises RequestError for a name or an option that is not there."""
    known = {**VIEWS, **domain.views}
    steps = []
    for number, view in enumerate(given):
        at = f"{where}.{number}"
        if view.name not in known:
            raise RequestError(f"{at}.name: {nearest(view.name, list(known))}")
        if view.input not in specs:
            raise RequestError(f"{at}.input: {nearest(view.input, list(specs))}")
        function = load(known[view.name])
        options = called(function, ("x", "draw", "spec"), view.options, at)
        steps.append((f"{number}-{view.name}", view.input, partial(function, spec=specs[view.input], **options)))
    return Chain(tuple(steps))


def _chosen(recipe: Recipe) -> tuple[type[Method], Any]:
    """The recipe's method and its options. Raises RequestError for a name or an option that is not there."""
    cards = {name: card for name, card in methods().items() if card.kind == "method"}
    if recipe.method.name not in cards:
        raise RequestError(f"method.name: {nearest(recipe.method.name, list(cards))}")
    cls = load(cards[recipe.method.name].target)
    return cls, validated(cls.Options, recipe.method.options, "method")


def encoded(recipe: Recipe, specs: Mapping[str, InputSpec]) -> Mapping[str, InputSpec]:
    """The inputs of the data that the recipe's encoder reads."""
    cls, options = _chosen(recipe)
    return cls.encodes(specs, options)


def build_method(
    recipe: Recipe, domain: Domain, specs: Mapping[str, InputSpec], encoder: Encoder | None = None
) -> Method:
    """The recipe's method with weights of the recipe's seed, around `encoder` or else the recipe's own."""
    cls, options = _chosen(recipe)
    views = build_views(recipe.views, domain, specs)
    if encoder is None:
        encoder = build_encoder(recipe, domain, cls.encodes(specs, options), recipe.seed)
    with seeded(recipe.seed, "method"):
        method = cls(encoder, specs, options, views)
    assert isinstance(method, Method)
    if recipe.local_views:
        method.local_views = build_views(recipe.local_views, domain, specs, "local_views")
    for view in (*recipe.views, *recipe.local_views):
        method.couples = method.couples or COUPLING.get(view.name, "")
    return with_terms(method, recipe.terms, recipe.seed) if recipe.terms else method


def with_terms(method: Method, terms: Sequence[Term], seed: int) -> Method:
    """The method with these terms beside its own loss, with weights of this seed. Raises RequestError for what does not fit."""
    cards = {name: card for name, card in methods().items() if card.kind == "term"}
    made = {}
    with seeded(seed, "terms"):
        for number, term in enumerate(terms):
            at = f"terms.{number}"
            if term.name not in cards:
                raise RequestError(f"{at}.name: {nearest(term.name, list(cards))}")
            if term.name in made:
                raise RequestError(f"{at}: {term.name} is there twice; give it one weight")
            cls = load(cards[term.name].target)
            made[term.name] = (term.weight, cls(method.encoder, validated(cls.Options, term.options, at)))
    return beside(method, made)
