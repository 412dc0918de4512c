"""One method in full: its paper, what it is made of, its options with their defaults, and where it deviates from the paper.

All of it is read off the class, so that `unlabeled methods NAME` and the generated table cannot say what is not so.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from unlabeled.core.contracts import MethodCard, load
from unlabeled.core.contracts.domain import methods

PARTS = ("tokens", "nn", "targets", "losses")
# what tensors and modules are made of, in every method alike
COMMON = {"tokens.tokens", "tokens.patches", "tokens.packed", "nn.base", "nn.encoder", "nn.maps", "nn.transformer"}
COMMON |= {"losses.rows", "methods", "methods.base"}
DEVIATIONS = "Deviations:"
HEAD = """# The methods

Written by `tools/methods` from the classes; do not edit. `unlabeled methods NAME` says what an option does; what each method learns,
good or bad, is in `benchmarks/methods.md`. Parts are modules of `unlabeled.core`. Deviations are from the paper or the authors' code.

"""


@dataclass(frozen=True)
class About:
    """text: what the class says of itself; parts: its modules, without `unlabeled.core.`; options by name: default, help."""

    card: MethodCard
    text: str
    parts: tuple[str, ...]
    options: Mapping[str, tuple[str, str]]
    deviations: str


def about(card: MethodCard) -> About:
    """Imports the method, and so torch."""
    cls = load(card.target)
    paragraphs = inspect.cleandoc(cls.__doc__ or "").split("\n\n")
    last = [" ".join(p.removeprefix(DEVIATIONS).split()) for p in paragraphs if p.startswith(DEVIATIONS)]
    text = "\n\n".join(" ".join(p.split()) for p in paragraphs if not p.startswith(DEVIATIONS))
    return About(card, text, tuple(parts(cls)), options(cls), "".join(last))


def parts(cls: type) -> list[str]:
    """The modules of tokens, nn, targets, losses and methods that the class's file imports, and those of its bases' files."""
    found: dict[str, None] = {}
    for base in cls.__mro__:
        if ".methods." in base.__module__ and not base.__module__.endswith("methods.base"):
            found |= dict.fromkeys(imported(inspect.getsource(sys.modules[base.__module__])))
    return [p for p in sorted(found) if p not in COMMON]


def imported(source: str) -> Iterable[str]:
    """The core's part modules that a file imports, without `unlabeled.core.`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("unlabeled.core."):
            name = (node.module or "").removeprefix("unlabeled.core.")
            if name.split(".")[0] in (*PARTS, "methods"):
                yield name


def options(cls: Any) -> dict[str, tuple[str, str]]:
    """Default and help of every option; those of a part are named `part.option`."""
    return dict(_options(cls.Options, ""))


def _options(model: type[BaseModel], before: str) -> Iterable[tuple[str, tuple[str, str]]]:
    for name, field in model.model_fields.items():
        help = field.description or ""
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        if field.is_required():
            yield f"{before}{name}", ("required", help)
        elif isinstance(default, BaseModel):
            changed = default.model_dump(mode="json")
            yield f"{before}{name}", (json.dumps(changed), help)
        else:
            yield f"{before}{name}", (json.dumps(default), help)


def page(found: About) -> str:
    """As plain text."""
    card = found.card
    lines = [f"{card.name}: {card.summary}", card.paper, "", found.text, ""]
    lines += [f"parts: {', '.join(found.parts)}", f"deviations: {found.deviations or 'none are named'}", "", "options:"]
    width = max(map(len, found.options), default=0)
    lines += [f"  {name:{width}}  {help} [{default}]" for name, (default, help) in found.options.items()]
    if card.seeds:
        lines += ["", f"seeds: {', '.join(card.seeds)}"]
    return "\n".join([*lines, f"class: {card.target}", f"test: {card.test}"])


def other(card: MethodCard) -> str:
    """What a view, plan, measure or baseline says of itself: its docstring; where it has none, that of its file."""
    target = load(card.target)
    own = target.__doc__ if inspect.isroutine(target) or inspect.isclass(target) else None
    text = own or sys.modules[card.target.partition(":")[0]].__doc__ or ""
    return inspect.cleandoc(text)


def page_of_other(card: MethodCard, text: str) -> str:
    """As plain text."""
    lines = [f"{card.name} ({card.kind}): {card.summary}", *([card.paper] if card.paper else []), "", text, ""]
    lines += [f"seeds: {', '.join(card.seeds)}"] if card.seeds else []
    return "\n".join([*lines, f"target: {card.target}", f"test: {card.test}"])


def ours() -> list[MethodCard]:
    """The cards of the core's methods and of the packages', not those of third parties."""
    return [card for card in methods().values() if card.kind == "method" and card.target.startswith("unlabeled.")]


def document() -> str:
    """Our installed methods as a Markdown page: method, paper, parts, defaults, deviations."""
    rows = ["| method | paper | parts | defaults | deviations |", "|---|---|---|---|---|"]
    for one in map(about, ours()):
        defaults = ", ".join(f"`{name}: {default}`" for name, (default, _) in one.options.items())
        cells = (f"`{one.card.name}`", one.card.paper, ", ".join(one.parts), defaults, one.deviations)
        rows.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(document())
