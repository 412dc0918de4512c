"""Domain, MethodCard and Head: what a package declares, as `module:attr`, so that listing it imports nothing heavy."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Literal

from unlabeled.core.contracts.errors import RequestError


def load(target: str) -> Any:
    """The object that `module:attr` names."""
    module, _, attr = target.partition(":")
    return getattr(import_module(module), attr)


@dataclass(frozen=True)
class MethodCard:
    """One row of `unlabeled methods`; also used for what is no method, told apart by `kind`.

    term        a loss beside the method's own            finetuning  an option of fine-tuning
    curation    a step of `unlabeled curate`              measure     what tells the quality of features
    """

    name: str
    kind: Literal["method", "view", "term", "plan", "finetuning", "curation", "measure", "baseline"]
    family: str
    target: str
    summary: str
    paper: str = ""
    seeds: tuple[str, ...] = ()
    test: str = ""

    def row(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Head:
    """A downstream task: what is predicted and how it is scored."""

    name: str
    kind: Literal["classification", "multilabel", "segmentation", "regression"]
    metric: str
    summary: str


@dataclass(frozen=True)
class Domain:
    """What a package declares. The command line, the contract tests and the docs are made from it.

    reader       class made from (options, root) with `files(root) -> list[Path]` and `read(path) -> Iterable[Sample]`; where
                 a file has many records also `part`, and where they are large `window`, see `data.manifest.Parts`, `Seeks`
    options      pydantic model of the recipe's `data.options`
    conversions  name -> function (Sample, **options) -> (Sample, log line or None)
    encoders     name -> class, beside the core's `tokens` and `convnet`
    views        name -> function (DenseInput, draw, spec, **options) -> same
    methods      cards of the field's own methods
    baselines    cards; each target is a class with `fit(samples)` and, for studies of records, `features(samples) -> (N, P)`;
                 for studies of points, `cells(sample, at) -> (n, P)`, of the cells `at` (n, d) of one whole record; one with a
                 static method `suits(data: Data) -> bool` is left out where that is False
    recipes      package resource folder with *.yaml
    samples      name -> function that writes a folder of real files and returns its path
    heads        downstream tasks, beside the core's classify, tag, segment and regress or in their place
    cells        function (labels: Path, corpus) -> Cells or None: labels of every cell in the field's own formats; None
                 where the file is of none of them, so that the core reads it as a CSV
    mapper       function (model, corpus, out: Path, formats, update) that segments records too large for memory and yields
                 one `Record` for each map it wrote into the folder `out`
    writers      format -> function (model, predictions, out: Path) that writes predictions into the folder `out`
    normalisers  name -> function (spec, source) -> Constants, fixed ones beside the measured ones of `data.normaliser`
    starts       kind -> function (name, specs, encoder: Named) -> Encoder: weights of the field, named KIND:NAME
    exports      format -> function (whole, folder, size) -> Written, beside the core's of `bundle.export`
    verbs        name -> typer command of the field's own; its module imports nothing heavy
    demo         what `demo` runs: a function (out: Path) -> None
    formats      names of what the reader reads, as `.csv`, for the help
    """

    name: str
    title: str
    summary: str
    reader: str
    options: str
    axes: tuple[str, ...]
    conversions: dict[str, str] = field(default_factory=dict)
    encoders: dict[str, str] = field(default_factory=dict)
    views: dict[str, str] = field(default_factory=dict)
    methods: tuple[MethodCard, ...] = ()
    baselines: tuple[MethodCard, ...] = ()
    heads: tuple[Head, ...] = ()
    cells: str = ""
    mapper: str = ""
    writers: dict[str, str] = field(default_factory=dict)
    normalisers: dict[str, str] = field(default_factory=dict)
    starts: dict[str, str] = field(default_factory=dict)
    exports: dict[str, str] = field(default_factory=dict)
    recipes: str = ""
    samples: dict[str, str] = field(default_factory=dict)
    demo: str = ""
    verbs: dict[str, str] = field(default_factory=dict)
    formats: tuple[str, ...] = ()

    def row(self) -> dict[str, Any]:
        return asdict(self)


def domains() -> dict[str, Domain]:
    """Every installed domain, by name (entry point group `unlabeled.domains`)."""
    return {e.name: e.load() for e in sorted(entry_points(group="unlabeled.domains"), key=lambda e: e.name)}


def domain(name: str) -> Domain:
    found = {e.name: e for e in entry_points(group="unlabeled.domains")}
    if name not in found:
        raise RequestError(
            f"the domain {name!r} is not installed (installed: {', '.join(sorted(found)) or 'none'}); "
            f"pip install unlabeled-{name}"
        )
    loaded = found[name].load()
    assert isinstance(loaded, Domain)
    return loaded


def methods() -> dict[str, MethodCard]:
    """Every installed method, view, plan and baseline, by name: the group `unlabeled.methods` and what domains declare.

    An entry point names one card or a sequence of cards.
    """
    cards: list[MethodCard] = []
    for entry in entry_points(group="unlabeled.methods"):
        found = entry.load()
        cards += [found] if isinstance(found, MethodCard) else found
    for d in domains().values():
        cards += [*d.methods, *d.baselines]
    return {c.name: c for c in sorted(cards, key=lambda c: (c.kind, c.name))}
