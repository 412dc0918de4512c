"""Pretraining that goes on from weights: what it begins with, what it says of them, and what it refuses."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch

from unlabeled.core import pretraining, streams
from unlabeled.core.build import build_encoder
from unlabeled.core.bundle import load_bundle, read_bundle
from unlabeled.core.contracts import Absent, Incompatible, RequestError
from unlabeled.core.contracts.batch import Batch, Dense
from unlabeled.core.contracts.domain import domain
from unlabeled.core.contracts.recipe import Named, Recipe, dump, read_recipe, validated
from unlabeled.core.methods.base import Context
from unlabeled.core.pretraining import pretrain, pretraining_items
from unlabeled.core.testing.bundles import PLAIN, spec

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


TOKENS = {"name": "tokens", "width": 16, "depth": 1, "heads": 2, "patch": [4]}
SMALL = {"width": 8, "depth": 1, "heads": 2}


def taught(path: Path, teacher: str, **options) -> Recipe:
    method = {"name": "mrmae", "teacher": teacher, "decoder": SMALL, **options}
    return recipe(path, method=method, encoder={**TOKENS, "width": 8})


def test_the_groups_of_a_teacher_count_and_its_folder_is_not_told(toy: Path, monkeypatch) -> None:
    first = pretrain(recipe(toy / "first", method={"name": "mae", "decoder": SMALL}, encoder=TOKENS), toy / "one")
    # relative to the folder where the command is given, as a start is
    monkeypatch.chdir(toy)
    second = pretrain(taught(toy / "second", "one/bundle"), toy / "two")
    about = read_bundle(second).about
    assert read_bundle(first).groups < read_bundle(second).groups and len(read_bundle(second).groups) == 4
    # the student is narrower than its teacher, and began from random weights
    assert about["encoder"]["width"] == 8 and about["start"] == {"start": "random"}
    assert about["recipe"]["method"]["teacher"] == "bundle"
    written = b"".join(p.read_bytes() for p in sorted(second.iterdir()))
    assert str(toy).encode() not in written
    # and a resumed run finds it wherever it is resumed
    shutil.rmtree(second)
    monkeypatch.chdir(toy.parent)
    assert pretrain(read_recipe(toy / "two/recipe.yaml"), toy / "two") == second


def test_a_teacher_from_a_weight_file(toy: Path) -> None:
    specs = pretraining_items(recipe(toy / "first"))[0].corpus.specs
    wide = build_encoder(recipe(toy / "first", encoder=TOKENS), domain("toy"), specs, 3)
    torch.save(wide.state_dict(), toy / "own.pt")
    options = {k: v for k, v in TOKENS.items() if k != "name"}
    made = pretrain(taught(toy / "first", str(toy / "own.pt"), teacher_options=options), toy / "one")
    assert read_bundle(made).about["recipe"]["method"]["teacher"] == "own.pt"
    state = torch.load(next((toy / "one/checkpoints").iterdir()), weights_only=True)["method"]
    for name, value in wide.state_dict().items():
        assert torch.equal(state[f"teacher.{name}"], value)


def test_a_teacher_that_is_not_there_or_does_not_fit(toy: Path) -> None:
    with pytest.raises(Absent, match=r"^method\.teacher: .*nowhere is absent here"):
        pretrain(taught(toy / "first", str(toy / "nowhere")), toy / "two")
    bundle = str(pretrain(recipe(toy / "first", method={"name": "mae", "decoder": SMALL}, encoder=TOKENS), toy / "one"))
    with pytest.raises(Incompatible, match=r"method\.teacher_options: heads: 2, not 4"):
        pretrain(taught(toy / "first", bundle, teacher_options={"heads": 4}), toy / "two")
    other = taught(toy / "first", bundle).model_copy(update={"encoder": Named(**{**TOKENS, "patch": [8]})})
    with pytest.raises(Incompatible, match=r"its patches are \{'x': \(4,\)\}, the student's \{'x': \(8,\)\}"):
        pretrain(other, toy / "two")
    assert not (toy / "two").exists()


@pytest.mark.parametrize("start", ["{}", "timm:{}"])
def test_a_vit_of_timms_teaches(tmp_path: Path, start: str) -> None:
    """A file of timm's ViT is a teacher for images, with a class token whose attention guides the mask."""
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=1, num_classes=0)
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    specs = {"scan": spec(2, ("red", "green", "blue"))}
    asked = validated(
        Recipe,
        {
            "domain": "plain",
            "data": {"path": tmp_path},
            "method": {"name": "maskalign", "teacher": start.format(tmp_path / "vit.pth")},
            "encoder": {"name": "tokens", "width": 16, "depth": 2, "heads": 2, "patch": [8, 8]},
        },
        "test",
    )
    method = pretraining._method(asked, SimpleNamespace(domain=PLAIN, specs=specs))
    assert method.teacher.options.cls and method.teacher.token_width == 192 and method.mixing.shape == (1, 2)
    images = torch.randn(4, 3, 32, 32)
    ids, whole = torch.arange(4), torch.ones(4, 1, 32, 32, dtype=torch.bool)
    batch = Batch({"scan": Dense(images, whole, torch.full((4, 2), 0.5))}, ids, ids, ids, torch.ones(4), {})
    ctx = Context(seed=0, step=0, epoch=0, max_steps=1)
    drawn = method.on_batch(batch, ctx)
    torch.testing.assert_close(
        method.teacher.encode(drawn.tokens).tokens, vit.eval().forward_features(images)[:, 1:], rtol=0, atol=1e-4
    )
    out = method.step(drawn, ctx)
    out["loss"].backward()
    # a target of variance 1 and a prediction near it in size
    assert 0.3 < out["loss"] < 3 and method.encoder.project["scan"].weight.grad.norm() > 0
