"""Stages of a recipe: what they inherit, and which names they may use."""

from pathlib import Path

import pytest

from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.recipe import Named, Recipe, Stage
from unlabeled.core.contracts.stages import expanded, resolved


def recipe(*stages, **changes):
    values = {
        "domain": "toy",
        "data": {"path": Path("files")},
        "method": {"name": "student", "teacher": "stage:first", "weight": 0.5},
        "encoder": {"name": "tokens", "width": 8},
        "max_steps": 50,
        "batch_size": 4,
    }
    return Recipe(**(values | {"stages": stages} | changes))


def test_a_stage_inherits_what_it_leaves_out():
    found = expanded(recipe(Stage(name="first", method=Named(name="mae"), max_steps=7, start="weights.pt")))
    assert list(found) == ["first"]
    first = found["first"]
    assert (first.method.name, first.max_steps, first.batch_size, first.start) == ("mae", 7, 4, "weights.pt")
    assert first.encoder.options == {"width": 8} and first.stages == ()


def test_a_stage_does_not_begin_from_a_stage_unless_it_says_so():
    whole = recipe(Stage(name="first", method=Named(name="mae")), start="stage:first")
    assert expanded(whole)["first"].start is None
    assert expanded(whole.model_copy(update={"start": "weights.pt"}))["first"].start == "weights.pt"


def test_names_become_folders():
    whole = recipe(Stage(name="first", method=Named(name="mae")), start="stage:first")
    done = resolved(whole, {"first": Path("run/stages/first/bundle")})
    assert done.method.options == {"teacher": "run/stages/first/bundle", "weight": 0.5}
    assert done.start == "run/stages/first/bundle"
    assert resolved(recipe(), {"first": Path("b")}).start is None


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (recipe(), "method.teacher: 'first' is unknown, no stage comes before"),
        (
            recipe(Stage(name="frist", method=Named(name="mae"))),
            "method.teacher: 'first' is unknown, did you mean 'frist'",
        ),
        (
            recipe(Stage(name="first", method=Named(name="mae"), start="stage:first")),
            "stages.0.start: 'first' is unknown, no stage comes before",
        ),
        (
            recipe(Stage(name="first", method=Named(name="mae")), Stage(name="first", method=Named(name="mae"))),
            "stages.1.name: 'first' is there twice",
        ),
    ],
)
def test_wrong_names_are_said(made, said):
    with pytest.raises(RequestError, match=said):
        expanded(made)
