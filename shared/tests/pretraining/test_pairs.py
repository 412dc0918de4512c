"""Images with texts, from files to a bundle and back: what is normalised, what the bundle reads, where a text starts."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from unlabeled.core import pretraining, streams
from unlabeled.core.bundle import load_bundle, read_bundle
from unlabeled.core.contracts import Absent, Incompatible
from unlabeled.core.contracts.recipe import Recipe, absolute, validated
from unlabeled.core.evaluation.evaluate import embed
from unlabeled.core.pretraining import pretrain, pretraining_items

TOWER = {"width": 16, "depth": 1, "heads": 2}
TEXTS = ["a hill", "a river", "two hills", ""]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight images of two groups, synthetic, of another size each; one in four has no text."""
    site = tmp_path / "site"
    (site / "pairs_domain-0.dist-info").mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("pairs_domain.py"), site / "pairs_domain.py")
    (site / "pairs_domain-0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: pairs-domain\nVersion: 0\n")
    (site / "pairs_domain-0.dist-info/entry_points.txt").write_text(
        "[unlabeled.domains]\npairs = pairs_domain:domain\n"
    )
    (site / "key").write_text("0123456789abcdef" * 4)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("UNLABELED_KEY", str(site / "key"))
    for i in range(8):
        path = tmp_path / f"data/g{i % 2}/r{i}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw = streams.rng(0, "pair", i)
        np.save(path, (5 + 3 * draw.standard_normal((1, 8, 8 + 4 * (i % 2)))).astype(np.float32))
        if TEXTS[i % 4]:
            path.with_suffix(".txt").write_text(TEXTS[i % 4])
    return tmp_path


def recipe(folder: Path, inputs=("image", "text"), **changes) -> Recipe:
    values = {
        "domain": "pairs",
        "data": {"path": folder / "data", "normaliser": "standard", "options": {"inputs": inputs}},
        "method": {"name": "clip", "text_encoder": TOWER, "width": 8},
        "encoder": {"name": "tokens", **TOWER, "patch": [4, 4]},
        "trainer": {"loop": "plain", "accelerator": "cpu", "tensorboard": False, "threads": 1},
        "batch_size": 4,
        "max_steps": 2,
    }
    return validated(Recipe, {**values, **changes}, "test")


def words(folder: Path, **encoder) -> Path:
    """A bundle whose only input is the text."""
    asked = {"name": "tokens", **TOWER, "vocabulary": [257], **encoder}
    method = {"name": "masked_tokens", "mask_ratio": 0.3}
    return pretrain(recipe(folder, ("text",), method=method, encoder=asked), folder / "words")


def method_of(recipe: Recipe):
    items, _ = pretraining_items(recipe)
    return pretraining._method(recipe, items.corpus)


def test_images_are_normalised_and_ids_are_not(folder: Path) -> None:
    items, _ = pretraining_items(recipe(folder))
    image, text = items.corpus.specs["image"], items.corpus.specs["text"]
    assert image.normaliser.method == "standard" and image.axes == ("height", "width")
    assert text.normaliser.method == "none" and text.axes == ("token",) and text.layout == "packed"
    assert items.sample(0).inputs["text"].data[:, 0].tolist() == [1 + b for b in b"a hill"]
    assert abs(items.sample(0).inputs["image"].data.mean()) < 0.5


def test_windows_of_an_image_keep_its_text(folder: Path) -> None:
    cut = recipe(folder)
    items, _ = pretraining_items(cut.model_copy(update={"data": cut.data.model_copy(update={"window": (4.0, 4.0)})}))
    one, two = items.sample(0), items.sample(1)
    assert one.record == two.record and one.inputs["image"].shape == (4, 4)
    assert one.inputs["text"].shape == two.inputs["text"].shape == (6,)


def test_the_bundle_reads_images_alone(folder: Path) -> None:
    bundle = pretrain(recipe(folder), folder / "run")
    about = json.loads((bundle / "bundle.json").read_text())
    assert list(about["inputs"]) == ["image"] and list(load_bundle(bundle).specs) == ["image"]
    assert not any("text" in name for name in load_bundle(bundle).state_dict())
    # on data with texts, and on data without, which say the same
    options = [None, {"inputs": ["image"]}]
    rows = []
    for i, given in enumerate(options):
        assert embed(bundle, folder / "data", folder / f"e{i}.parquet", options=given) == 8
        rows.append(pq.read_table(folder / f"e{i}.parquet")["embedding"].to_pylist())
    assert rows[0] == rows[1] and np.std(rows[0]) > 0
    # and on data with texts alone it says what is missing
    with pytest.raises(Incompatible, match="the input 'image' is missing") as error:
        embed(bundle, folder / "data", folder / "e.parquet", options={"inputs": ["text"]})
    assert "\n" not in str(error.value)


def test_it_begins_from_a_bundle_of_images(folder: Path) -> None:
    images = {"method": {"name": "simclr", "projector": [8, 4]}}
    first = pretrain(recipe(folder, ("image",), **images), folder / "images")
    method = method_of(recipe(folder, start=str(first)))
    wanted = load_bundle(first).state_dict()
    assert all(torch.equal(v, wanted[n]) for n, v in method.encoder.state_dict().items())
    # one that reads the text too is another encoder
    both = pretrain(
        recipe(folder, **images, encoder={"name": "tokens", **TOWER, "patch": {"image": [4, 4]}}), folder / "both"
    )
    with pytest.raises(Incompatible, match="reads the inputs image, text, the data have image"):
        method_of(recipe(folder, start=str(both)))


def test_the_text_begins_from_a_bundle(folder: Path) -> None:
    first = words(folder)
    given = {"name": "clip", "text_encoder": TOWER, "width": 8, "text_start": str(first)}
    wanted = load_bundle(first).state_dict()
    for frozen in (True, False):
        method = method_of(recipe(folder, method={**given, "freeze_text": frozen}))
        assert all(torch.equal(v, wanted[n]) for n, v in method.text_encoder.state_dict().items())
        assert all(p.requires_grad != frozen for p in method.text_encoder.parameters())
    # sizes that the recipe leaves open are those of the weights, here the depth
    open_depth = {k: v for k, v in given.items() if k != "text_encoder"} | {"text_encoder": {"width": 16, "heads": 2}}
    assert len(method_of(recipe(folder, method=open_depth)).text_encoder.transformer.blocks) == 1
    made = pretrain(recipe(folder, method={**given, "freeze_text": True}), folder / "run")
    assert read_bundle(made).about["recipe"]["method"]["text_start"] == "bundle"
    # as a file of tensors
    save_file(wanted, folder / "words.safetensors")
    whole = TOWER | {"vocabulary": [257]}
    method = method_of(
        recipe(folder, method={**given, "text_start": str(folder / "words.safetensors"), "text_encoder": whole})
    )
    assert all(torch.equal(v, wanted[n]) for n, v in method.text_encoder.state_dict().items())


def test_paths_of_texts_weights_are_the_recipes_own(folder: Path, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    given = recipe(folder, method={"name": "clip", "text_start": "words/bundle"})
    assert absolute(given).method.options["text_start"] == str(folder / "words/bundle")


def test_wrong_weights_of_a_text_are_refused(folder: Path) -> None:
    first = words(folder, width=32)
    given = {"name": "clip", "text_encoder": TOWER, "width": 8, "text_start": str(first)}
    with pytest.raises(
        Incompatible, match=r"method\.text_encoder: width: 32, not 16; write what the weights of text_st"
    ):
        method_of(recipe(folder, method=given))
    with pytest.raises(Incompatible, match=r"method\.text_start: these weights are of another encoder"):
        method_of(recipe(folder, method={**given, "text_encoder": {"depth": 1}}))
    with pytest.raises(Absent, match=r"method\.text_start: .* is absent here"):
        method_of(recipe(folder, method={**given, "text_start": str(folder / "nowhere")}))
