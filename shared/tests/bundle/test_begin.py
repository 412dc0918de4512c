"""Pretraining that goes on from weights: what it begins with, what it says of them, and what it refuses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from unlabeled.core import streams
from unlabeled.core.build import build_encoder
from unlabeled.core.bundle import load_bundle, read_bundle
from unlabeled.core.contracts import Incompatible, RequestError
from unlabeled.core.contracts.domain import domain
from unlabeled.core.contracts.recipe import Recipe, dump, read_recipe, validated
from unlabeled.core.pretraining import pretrain, pretraining_items

ENCODER = {"name": "convnet", "channels": [4, 6], "kernels": [3, 3], "strides": [2, 1]}


@pytest.fixture
def toy(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy domain of the studies' tests, and six records of three groups."""
    own = tmp_path / "site"
    (own / "toy_domain-0.dist-info").mkdir(parents=True)
    shutil.copy(Path(__file__).parents[1] / "studies/toy_domain.py", own / "toy_domain.py")
    (own / "toy_domain-0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: toy-domain\nVersion: 0\n")
    (own / "toy_domain-0.dist-info/entry_points.txt").write_text("[unlabeled.domains]\ntoy = toy_domain:domain\n")
    monkeypatch.syspath_prepend(str(own))
    for folder, groups in (("first", ("a", "b")), ("second", ("c", "d"))):
        for g in groups:
            (tmp_path / folder / g).mkdir(parents=True)
            for i in range(3):
                x = streams.rng(0, "begin", folder, g, i).standard_normal((2, 64)).astype(np.float32)
                np.save(tmp_path / folder / g / f"r{i}.npy", x)
    return tmp_path


def recipe(path: Path, **changes) -> Recipe:
    values = {
        "domain": "toy",
        "data": {"path": path, "normaliser": "standard", "window": [1.6]},
        "method": {"name": "simclr", "projector": [8, 4]},
        "encoder": ENCODER,
        "views": [{"name": "jitter"}],
        "trainer": {"loop": "plain", "accelerator": "cpu", "tensorboard": False, "threads": 1},
        "batch_size": 4,
        "max_steps": 2,
    }
    return validated(Recipe, {**values, **changes}, "test")


def still(**changes):
    """Steps too small to be seen: what a run ends with is what it began with."""
    return {"optimiser": {"lr": 1e-30, "weight_decay": 0.0}, **changes}


def same(a: torch.nn.Module, b: torch.nn.Module) -> None:
    """Weights to 1e-12: Adam's first steps are as long as the learning rate. Running moments move without one."""
    found, wanted = a.state_dict(), b.state_dict()
    for name in (n for n in wanted if "running" not in n):
        torch.testing.assert_close(found[name], wanted[name], rtol=0, atol=1e-12)


def test_it_begins_from_the_bundle(toy: Path) -> None:
    first = pretrain(recipe(toy / "first"), toy / "one")
    second = pretrain(recipe(toy / "second", **still(start=str(first), encoder={"name": "convnet"})), toy / "two")
    before, after = load_bundle(first), load_bundle(second)
    same(after, before)
    about = read_bundle(second).about
    assert about["start"] == {"start": "bundle bundle", "sha256": read_bundle(first).about["sha256"]}
    assert about["encoder"] == read_bundle(first).about["encoder"]
    # whoever tests this encoder must not test on what either run has seen
    assert read_bundle(first).groups < read_bundle(second).groups and len(read_bundle(second).groups) == 4
    # the normaliser is that of the new data
    assert after.input_spec.normaliser != before.input_spec.normaliser
    written = b"".join(p.read_bytes() for p in sorted(second.iterdir()))
    assert str(toy).encode() not in written


def test_without_a_start_it_is_random(toy: Path) -> None:
    made = pretrain(recipe(toy / "first", **still()), toy / "one")
    items, _ = pretraining_items(recipe(toy / "first"))
    random = build_encoder(recipe(toy / "first"), domain("toy"), items.corpus.specs, 0)
    same(load_bundle(made), random)
    assert read_bundle(made).about["start"] == {"start": "random"}
    again = pretrain(recipe(toy / "first", **still(start="random")), toy / "two")
    assert read_bundle(again).about["sha256"] == read_bundle(made).about["sha256"]
    assert not (toy / "two/start.json").exists()


def test_another_encoder_than_the_recipes_is_refused(toy: Path) -> None:
    first = pretrain(recipe(toy / "first"), toy / "one")
    asked = recipe(toy / "second", start=str(first), encoder={**ENCODER, "channels": [4, 8]})
    with pytest.raises(Incompatible, match=r"encoder\.channels: \[4, 6\], not \[4, 8\]") as error:
        pretrain(asked, toy / "two")
    assert "\n" not in str(error.value) and not (toy / "two").exists()


def test_a_run_goes_on_from_the_same_weights_only(toy: Path) -> None:
    first = pretrain(recipe(toy / "first"), toy / "one")
    asked = recipe(toy / "second", start=str(first))
    made = pretrain(asked, toy / "two")
    digest = read_bundle(made).about["sha256"]
    shutil.rmtree(made)
    assert read_bundle(pretrain(asked, toy / "two")).about["sha256"] == digest
    shutil.rmtree(made)
    shutil.rmtree(first)
    shutil.copytree(pretrain(recipe(toy / "first", seed=1), toy / "other"), first)
    with pytest.raises(RequestError, match="other weights than those"):
        pretrain(asked, toy / "two")


def test_paths_of_a_recipe_are_its_own(toy: Path, monkeypatch) -> None:
    """Relative to the recipe's file, absolute in the run, and names of timm's stay names."""
    file = toy / "recipes" / "r.yaml"
    file.parent.mkdir()
    values = {"one/bundle": toy / "recipes/one/bundle", "mae:w.pth": f"mae:{toy / 'recipes/w.pth'}"}
    for given, wanted in values.items():
        file.write_text(dump(recipe(toy / "first", start=given)))
        assert read_recipe(file).start == str(wanted)
    for given in ("timm:resnet18", "random", None):
        file.write_text(dump(recipe(toy / "first", start=given)))
        assert read_recipe(file).start == given


def test_what_is_written_of_a_start(toy: Path) -> None:
    encoder = build_encoder(
        recipe(toy / "first"), domain("toy"), pretraining_items(recipe(toy / "first"))[0].corpus.specs, 3
    )
    torch.save(encoder.state_dict(), toy / "own.pt")
    made = pretrain(recipe(toy / "first", **still(start=str(toy / "own.pt"))), toy / "one")
    about = json.loads((made / "bundle.json").read_text())
    assert about["start"]["start"] == "file:own.pt" and len(about["start"]["sha256"]) == 64
    assert "begun from file:own.pt (SHA-256" in (made / "README.md").read_text()
    same(load_bundle(made), encoder)
