"""Off-the-shelf starts: named without paths, absent ones kept, contaminated ones refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from unlabeled.core.build import build_encoder
from unlabeled.core.bundle import read_bundle
from unlabeled.core.contracts import Incompatible, Leakage, RequestError
from unlabeled.core.contracts.domain import domain
from unlabeled.core.contracts.recipe import Recipe, located
from unlabeled.core.data.corpus import Corpus
from unlabeled.core.pretraining import pretrain
from unlabeled.core.studies import study, text
from unlabeled.core.studies.starts import named, title


def starting(recipe: Recipe, *starts: str, **changes: Any) -> Recipe:
    return recipe.model_copy(update={"study": recipe.study.model_copy(update={"starts": starts, **changes})})


def elsewhere(recipe: Recipe, toy: Path, groups: list[int]) -> Recipe:
    """The recipe on some of the groups only."""
    corpus = Corpus.open(domain("toy"), recipe.data)
    mine = {r.group for r in corpus.rows if int(r.key[1]) in groups}
    data = recipe.data.model_copy(update={"groups": tuple(sorted(mine))})
    return recipe.model_copy(update={"data": data})


def test_names_hold_no_path(recipe: Recipe, tmp_path: Path) -> None:
    assert title("timm:vit_tiny_patch16_224.augreg_in21k") == "timm:vit_tiny_patch16_224.augreg_in21k"
    assert title("/home/jane/runs/a/bundle") == "a/bundle"
    assert title("/home/jane/w.safetensors") == "w.safetensors"
    assert title("dinov2:/home/jane/w.pth") == "dinov2:w.pth"
    with pytest.raises(RequestError, match=r"two are called 'w\.pth'"):
        named(starting(recipe, "/a/w.pth", "/b/w.pth"))


def test_relative_weights_lie_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").touch()
    assert located("runs/a/bundle", tmp_path) == str(tmp_path / "runs/a/bundle")
    assert located("dinov2:w.pth", tmp_path) == f"dinov2:{tmp_path / 'w.pth'}"
    assert located("/w.pth", tmp_path) == "/w.pth"
    # a file of timm's format, and the name of one of its models
    assert located("timm:w.safetensors", tmp_path) == f"timm:{tmp_path / 'w.safetensors'}"
    assert located("timm:hf-hub:org/name", tmp_path) == "timm:hf-hub:org/name"
    assert located("stage:one", tmp_path) == "stage:one"


@pytest.fixture(scope="module")
def out(recipe: Recipe, toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of four groups beside a bundle of the other two, the weights it begins from, and two absent files."""
    folder = tmp_path_factory.mktemp("shelf")
    bundle = pretrain(elsewhere(recipe, toy, [4, 5]), folder / "other")
    encoder = build_encoder(recipe, domain("toy"), read_bundle(bundle).specs, recipe.seed)
    save_file(encoder.state_dict(), folder / "same.safetensors")
    absent = [str(folder / "far" / name) for name in ("gone.safetensors", "away.pth")]
    asked = starting(
        elsewhere(recipe, toy, [0, 1, 2, 3]),
        str(bundle),
        str(folder / "same.safetensors"),
        *absent,
        seeds=1,
        budgets=(1, 1.0),
        lr_grid=(1e-2,),
    )
    study(asked, folder / "out")
    return folder / "out"


@pytest.fixture
def report(out: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((out / "study.json").read_text())
    return read


def test_every_start_is_scored_alike(report: dict[str, Any]) -> None:
    for start in ("ours", "random weights", "other/bundle", "same.safetensors"):
        for how in (", frozen", ", fine-tuned", " + stats"):
            scores = report["scores"][start + how]
            assert set(scores) == {"1 per class", "all"}
            assert all(0 <= s["low"] <= s["mean"] <= s["high"] <= 1 for s in scores.values())
    pairs = {(d["a"], d["b"]) for d in report["differences"]}
    for how in (", frozen", ", fine-tuned", " + stats"):
        assert ("ours" + how, "other/bundle" + how) in pairs
    assert {r["start"] for r in report["learning_rates"]} == {
        "ours",
        "random weights",
        "other/bundle",
        "same.safetensors",
    }


def test_weights_from_a_file_are_those_weights(report: dict[str, Any]) -> None:
    # the file holds the random weights of the study's only seed, so both rows are one
    for how in (", frozen", " + stats", ", fine-tuned"):
        assert report["scores"]["same.safetensors" + how] == report["scores"]["random weights" + how]


def test_what_is_absent_stands_there_with_its_reason(report: dict[str, Any], out: Path) -> None:
    about = report["off_the_shelf"]
    assert set(about) == {"other/bundle", "same.safetensors", "gone.safetensors", "away.pth"}
    assert "gone.safetensors is absent here" in about["gone.safetensors"]["absent"]
    assert len(about["other/bundle"]["sha256"]) == 64 and about["other/bundle"]["adapted"]
    shown = text(report)
    assert any(line.split() == ["gone.safetensors", "absent", "here", "absent", "here"] for line in shown.splitlines())
    assert "away.pth is absent here: " in shown
    # no path of this machine in anything that the study wrote
    for file in [*out.glob("*.json"), *out.glob("jobs/*.json")]:
        assert str(out.parent) not in file.read_text(), file


def test_the_best_of_them_stands_beside_the_verdict(report: dict[str, Any]) -> None:
    found = report["verdict"]["against_off_the_shelf"]
    here = ("other/bundle, frozen", "same.safetensors, frozen")
    assert found["b"] == max(here, key=lambda name: report["scores"][name]["1 per class"]["mean"])
    assert found["fine_tuned"]["b"] == found["b"].replace("frozen", "fine-tuned")
    assert "beside the verdict, against off-the-shelf weights: " in text(report)


def test_a_bundle_that_saw_a_tested_group_is_leakage(recipe: Recipe, toy: Path, out: Path, tmp_path: Path) -> None:
    bundle = out.parent / "other" / "bundle"
    for asked in (starting(recipe, str(bundle)), recipe.model_copy(update={"start": str(bundle)})):
        with pytest.raises(Leakage, match="other/bundle, against the groups the study tests on: 2 of 6 groups"):
            study(asked, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_bundle_of_another_key_may_have_seen_anything(
    recipe: Recipe, toy: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNLABELED_KEY", str(tmp_path / "key"))
    (tmp_path / "key").write_text("f" * 64)
    with pytest.raises(Leakage, match="made under another project key"):
        study(starting(recipe, str(out.parent / "other" / "bundle")), tmp_path / "a")


def test_what_does_not_fit_ends_the_study_before_it_begins(recipe: Recipe, tmp_path: Path) -> None:
    import torch

    save_file({"strange": torch.zeros(2)}, tmp_path / "w.safetensors")
    with pytest.raises(Incompatible, match=r"study\.starts, w\.safetensors: "):
        study(starting(recipe, str(tmp_path / "w.safetensors")), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_weights_that_change_under_way_are_noticed(recipe: Recipe, toy: Path, out: Path, tmp_path: Path) -> None:
    from unlabeled.core.studies.starts import encoders, examined

    corpus = Corpus.open(domain("toy"), recipe.data)
    weights = tmp_path / "w.safetensors"
    for seed in (1, 2):
        state = build_encoder(recipe, domain("toy"), corpus.specs, seed).state_dict()
        save_file(state, weights)
        if seed == 1:
            about = examined(starting(recipe, str(weights)), corpus.specs)
            assert list(encoders(starting(recipe, str(weights)), about, corpus.specs, 0)) == ["w.safetensors"]
    with pytest.raises(RequestError, match=r"w\.safetensors changed since the study was planned"):
        encoders(starting(recipe, str(weights)), about, corpus.specs, 0)
