"""The methods' table is that of the classes, every method says where it deviates, and a method's file stays one idea."""

from __future__ import annotations

import ast
import io
import tokenize
from collections import defaultdict
from pathlib import Path

import pytest

from unlabeled.core.cli.methods import PARTS, about, document, imported, ours

ROOT = Path(__file__).parents[2]
CARDS = ours()
CORE = ROOT / "shared/src/unlabeled/core"
FILES = sorted([*CORE.glob("methods/*.py"), *ROOT.glob("packages/*/src/unlabeled/*/methods/*.py")])


def test_the_committed_table_is_that_of_the_classes() -> None:
    assert (ROOT / "METHODS.md").read_text() == document(), "run tools/methods"


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_every_method_says_what_it_is_made_of_and_where_it_deviates(card) -> None:
    found = about(card)
    assert found.text and found.parts and found.deviations
    assert all(help for _, help in found.options.values()), f"{card.name} has an option without a word"


def code_lines(source: str) -> int:
    """Lines that hold code: no blank ones, no comments, no docstrings."""
    strings = {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    used = {
        line
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in skipped
        for line in range(token.start[0], token.end[0] + 1)
    }
    return len(used - strings)


def test_lines_of_code_are_counted_as_a_reader_would() -> None:
    assert code_lines('"""Doc."""\n\n# why\nx = 1\n\n\ndef f():\n    """Say."""\n    return (\n        x\n    )\n') == 5


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_file_of_methods_is_long(file: Path) -> None:
    assert code_lines(file.read_text()) <= 150


def test_a_part_of_one_method_says_why_it_stands_alone() -> None:
    """A module of tokens, nn, targets or losses with one importer, which is a method, is that method's business.

    Unless its docstring says why it is not: a sentence with "stands alone".
    """
    users: dict[str, set[str]] = defaultdict(set)
    own = {card.target.partition(":")[0].removeprefix("unlabeled.").replace(".", "/") for card in CARDS}
    for file in [*CORE.rglob("*.py"), *ROOT.glob("packages/*/src/**/*.py")]:
        for name in imported(file.read_text()):
            users[name].add(file)
    wrong = []
    for part in PARTS:
        for file in sorted((CORE / part).rglob("*.py")):
            name = ".".join(file.relative_to(CORE).with_suffix("").parts).removesuffix(".__init__")
            only = users[name]
            docstring = " ".join((ast.get_docstring(ast.parse(file.read_text())) or "").split())
            if len(only) == 1 and only <= own and "stands alone" not in docstring.lower():
                wrong.append(f"{name} has no user but {min(only)}")
    assert not wrong, wrong
