"""What a page is made of. Texts are plain and escaped by the template; only `Markup` is taken as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import ClassVar

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup


class Block:
    kind: ClassVar[str]


@dataclass(frozen=True)
class Say(Block):
    """A paragraph; tone: "" or "quiet"."""

    kind: ClassVar[str] = "say"
    text: str
    tone: str = ""


@dataclass(frozen=True)
class Items(Block):
    kind: ClassVar[str] = "items"
    texts: Sequence[str]


@dataclass(frozen=True)
class Table(Block):
    """numbers: how many columns at the right hold numbers."""

    kind: ClassVar[str] = "table"
    head: Sequence[str]
    rows: Sequence[Sequence[str | Markup]]
    caption: str = ""
    numbers: int = 0


@dataclass(frozen=True)
class Figure(Block):
    kind: ClassVar[str] = "figure"
    picture: Markup
    caption: str
    wide: bool = False


@dataclass(frozen=True)
class Grid(Block):
    kind: ClassVar[str] = "grid"
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Cards(Block):
    """(question, answer in a word, what it rests on) each; the word's tone: good, bad, open or quiet."""

    kind: ClassVar[str] = "cards"
    cards: Sequence[tuple[str, str, str, str]]


@dataclass(frozen=True)
class Code(Block):
    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class More(Block):
    """Blocks that are folded away."""

    kind: ClassVar[str] = "more"
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Section:
    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        return "".join(c if c.isalnum() else "-" for c in self.title.lower())


@dataclass(frozen=True)
class Page:
    title: str
    about: str
    lead: Sequence[Block]
    sections: Sequence[Section] = field(default_factory=tuple)

    def html(self) -> str:
        folder = files("unlabeled.core.report")
        environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        template = environment.from_string((folder / "page.html.j2").read_text(encoding="utf-8"))
        style = Markup((folder / "page.css").read_text(encoding="utf-8"))
        return template.render(page=self, style=style) + "\n"
