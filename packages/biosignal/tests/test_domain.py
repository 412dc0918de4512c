"""What the package declares is there: parts by name, recipes that fit the contract, a README that runs."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

from unlabeled.biosignal import domain
from unlabeled.biosignal.formats import FORMATS
from unlabeled.core.build import build_encoder, build_views
from unlabeled.core.contracts import InputSpec, Normaliser, load
from unlabeled.core.contracts.domain import domain as installed
from unlabeled.core.contracts.domain import methods
from unlabeled.core.contracts.recipe import Recipe, validated

RECIPES = {f.name: f for f in files(domain.recipes).iterdir() if f.name.endswith(".yaml")}


def test_the_formats_of_the_help_are_those_of_the_reader() -> None:
    assert domain.formats == tuple(FORMATS)


def test_it_is_installed_and_every_part_loads() -> None:
    assert installed("biosignal") is domain
    targets = [
        domain.reader,
        domain.options,
        *domain.conversions.values(),
        *domain.views.values(),
        *domain.samples.values(),
    ]
    for target in (*targets, *(c.target for c in domain.baselines)):
        assert callable(load(target)), target
    assert load(domain.reader)(load(domain.options)()).files(Path(__file__).parent / "nowhere") == []
    assert {c.name for c in domain.baselines} <= set(methods())
    for name, target in domain.views.items():
        assert list(inspect.signature(load(target)).parameters)[:3] == ["x", "draw", "spec"], name


def test_listing_it_is_light() -> None:
    code = "import sys, unlabeled.biosignal; print(sorted({'torch', 'lightning', 'pyarrow', 'sklearn'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipe_is_valid_and_builds(name: str) -> None:
    recipe = validated(Recipe, yaml.safe_load(RECIPES[name].read_text()), name)
    assert recipe.domain == "biosignal"
    assert name == f"{recipe.method.name}-watch.yaml"
    assert all(c.name in domain.conversions for c in recipe.data.conversions)
    spec = InputSpec(
        channels=("acc_x", "acc_y", "acc_z", "gyro_x", "gyro_y", "gyro_z"),
        units=("g",) * 3 + ("rad/s",) * 3,
        spacing=(0.02,),
        normaliser=Normaliser(method="sensor"),
    )
    build_views(recipe.views, domain, {"x": spec})
    encoder = build_encoder(recipe, domain, {"x": spec}, 0)
    # ConvNet: mean and max of 128 channels; tokens: the mean over a width of 96
    assert encoder.width == {"simclr-watch.yaml": 256, "mae-watch.yaml": 96}[name]


def test_both_recipes_are_shipped() -> None:
    assert sorted(RECIPES) == ["mae-watch.yaml", "simclr-watch.yaml"]
