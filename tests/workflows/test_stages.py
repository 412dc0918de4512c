"""Stages through the command line: self-distilled further pretraining, cut off, resumed, and told from another run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from unlabeled.core.bundle import load_bundle, read_bundle
from unlabeled.core.cli.domain import build
from unlabeled.core.cli.shell import run
from unlabeled.core.contracts.domain import domain

RECIPE: dict[str, Any] = {
    "domain": "biosignal",
    "data": {"window": [1.6]},
    "encoder": {"name": "tokens", "width": 16, "depth": 1, "heads": 2, "patch": [16]},
    "method": {
        "name": "self_distillation",
        "teacher": "stage:further",
        "decoder": {"width": 16, "depth": 1, "heads": 2},
    },
    "stages": [
        {"name": "first", "method": {"name": "mae", "decoder": {"width": 16, "depth": 1, "heads": 2}}, "max_steps": 4},
        {
            "name": "further",
            "method": {"name": "mae", "decoder": {"width": 16, "depth": 1, "heads": 2}},
            "start": "stage:first",
            "max_steps": 3,
            "seed": 1,
        },
    ],
    "start": "stage:first",
    "trainer": {"loop": "plain", "threads": 1, "save_every": 2, "tensorboard": False, "accelerator": "cpu"},
    "batch_size": 8,
    "max_steps": 5,
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four subjects, two recordings each, and the recipe of three pretrainings."""
    folder = tmp_path_factory.mktemp("stages")
    (folder / "files").mkdir()
    names = ["acc_x [g]", "acc_y [g]", "acc_z [g]"]
    lines = ["file,subject,side"]
    for s in range(4):
        for k in range(2):
            values = np.random.default_rng(2 * s + k).normal(0, 1, (400, 3)).round(4)
            rows = [",".join(map(str, [round(t / 50, 2), *row])) for t, row in enumerate(values.tolist())]
            (folder / "files" / f"s{s}-{k}.csv").write_text("\n".join([",".join(["time", *names]), *rows]) + "\n")
            lines.append(f"s{s}-{k}.csv,s{s},right")
    (folder / "files" / "recordings.csv").write_text("\n".join(lines) + "\n")
    values = RECIPE | {"data": RECIPE["data"] | {"path": str(folder / "files")}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    return folder / "recipe.yaml"


def call(*words: Any) -> int:
    return run(build(domain("biosignal")), [str(w) for w in words])


def test_three_pretrainings_by_one_recipe(recipe: Path, tmp_path: Path) -> None:
    assert call("pretrain", recipe, "-o", tmp_path / "run") == 0
    folders = [tmp_path / "run" / "stages" / "first", tmp_path / "run" / "stages" / "further", tmp_path / "run"]
    steps = [len((folder / "metrics.jsonl").read_text().splitlines()) for folder in folders]
    assert steps == [4, 3, 5]
    first, further, last = (read_bundle(folder / "bundle") for folder in folders)
    # every artefact is named by its hash where it was used
    assert json.loads((tmp_path / "run" / "stages.json").read_text()) == {
        "first": first.about["sha256"],
        "further": further.about["sha256"],
    }
    assert last.about["data"]["stages"]["further"] == further.about["sha256"]
    assert further.about["start"]["sha256"] == last.about["start"]["sha256"] == first.about["sha256"]
    assert len({b.about["sha256"] for b in (first, further, last)}) == 3
    assert load_bundle(tmp_path / "run" / "bundle").report.missing == ()
    # the student began where the teacher began, so that its distance to the teacher is not 0
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert line["parts"]["distance"] > 0
    # a finished run returns at once, and so does a resume of it
    assert call("pretrain", "--resume", tmp_path / "run") == 0


def test_a_run_that_was_cut_off_goes_on_in_the_stage_where_it_was(recipe: Path, tmp_path: Path) -> None:
    assert call("pretrain", recipe, "-o", tmp_path / "whole") == 0
    assert call("pretrain", recipe, "-o", tmp_path / "run") == 0
    # as if killed in the second stage, after its checkpoint of step 2
    further = tmp_path / "run" / "stages" / "further"
    for gone in (tmp_path / "run" / "bundle", tmp_path / "run" / "checkpoints", further / "bundle"):
        shutil.rmtree(gone)
    for gone in (tmp_path / "run" / "metrics.jsonl", tmp_path / "run" / "stages.json", tmp_path / "run" / "start.json"):
        gone.unlink()
    (further / "checkpoints" / "step-00000003.pt").unlink()
    assert call("pretrain", "--resume", tmp_path / "run") == 0
    hashes = [read_bundle(tmp_path / name / "bundle").about["sha256"] for name in ("run", "whole")]
    assert hashes[0] == hashes[1]


def test_a_stage_that_was_replaced_is_seen(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("pretrain", recipe, "-o", tmp_path / "run", "max_steps=2") == 0
    shutil.rmtree(tmp_path / "run" / "bundle")
    shutil.rmtree(tmp_path / "run" / "stages" / "further" / "bundle")
    shutil.copytree(
        tmp_path / "run" / "stages" / "first" / "bundle", tmp_path / "run" / "stages" / "further" / "bundle"
    )
    assert call("pretrain", "--resume", tmp_path / "run") == 2
    assert "not those it went on from; start a new run" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("method.teacher=stage:furthr", "method.teacher: 'furthr' is unknown, did you mean 'further'?"),
        ("method={name: self_distillation}", "teacher is missing"),
        ("start=stage:none", "start: 'none' is unknown"),
        ("method.teacher=nowhere", "nowhere is absent here"),
    ],
)
def test_wrong_names(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, said: str) -> None:
    assert call("pretrain", recipe, "-o", tmp_path / "run", change) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_mistake_in_the_last_stage_shows_before_the_first_is_trained(recipe: Path, tmp_path: Path) -> None:
    assert call("pretrain", recipe, "-o", tmp_path / "run", "method.decoder.width=0") == 2
    assert not (tmp_path / "run").exists()


def test_a_teacher_that_may_be_left_out(recipe: Path, tmp_path: Path) -> None:
    # BEiT codes patches, or the features of the first stage where the recipe names it
    assert call("pretrain", recipe, "-o", tmp_path / "without", "method={name: beit, size: 8}", "max_steps=2") == 0
    words = ["method={name: beit, size: 8, codebook: kmeans, teacher: 'stage:further'}", "max_steps=2"]
    assert call("pretrain", recipe, "-o", tmp_path / "taught", *words) == 0
    lines = {n: (tmp_path / n / "metrics.jsonl").read_text().splitlines() for n in ("without", "taught")}
    first = {n: json.loads(found[0])["parts"] for n, found in lines.items()}
    # by chance ln 8 = 2.08; other codes, other losses
    assert all(len(found) == 2 for found in lines.values()) and first["without"] != first["taught"]
    assert all(1.0 < loss < 4.0 for parts in first.values() for loss in parts.values())
