"""No method without its tests: a contract, a stored curve, and an oracle beside them."""

import ast
import json
from pathlib import Path

import pytest

from unlabeled.core.cards import CARDS
from unlabeled.core.contracts import load

ROOT = Path(__file__).parents[3]
METHODS = [card for card in CARDS if card.kind == "method"]


@pytest.mark.parametrize("card", METHODS, ids=lambda card: card.name)
def test_every_method_has_its_row(card):
    tree = ast.parse((ROOT / card.test).read_text())
    contracts = [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        and any(
            isinstance(line, ast.Assign)
            and ast.unparse(line.targets[0]) == "name"
            and ast.literal_eval(line.value) == card.name
            for line in node.body
        )
    ]
    assert contracts, f"{card.test} holds no MethodContract of {card.name}"
    for contract in contracts:
        curve = Path(__file__).parent / "curves" / f"{contract.name.removeprefix('Test')}.json"
        losses = json.loads(curve.read_text())
        assert len(losses) == 20 and len(set(losses)) > 10
    # the oracle: tests of the method itself, beside those of the contract
    assert [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]


def test_every_curve_is_of_a_test():
    names = {path.stem for path in (Path(__file__).parent / "curves").glob("*.json")}
    text = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert all(f"class Test{name}(" in text for name in names)


def test_every_card_names_a_paper_and_a_file():
    assert len({card.name for card in METHODS}) == len(METHODS)
    for card in METHODS:
        assert (
            "arXiv" in card.paper
            and card.summary
            and card.family
            in {
                "predict what is hidden",
                "agree across views",
            }
        )


@pytest.mark.parametrize("card", [card for card in CARDS if card.kind != "method"], ids=lambda card: card.name)
def test_what_is_no_method_has_its_oracles_too(card):
    tree = ast.parse((ROOT / card.test).read_text())
    # a number, a bound or a library's answer
    assert sum(isinstance(node, ast.FunctionDef) and node.name.startswith("test_") for node in tree.body) >= 2
    assert card.paper and card.summary and load(card.target).__doc__
