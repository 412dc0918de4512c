"""Branches of a run through the command line: exact on the same data, without a new warm-up on others."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from unlabeled.core.bundle import read_bundle
from unlabeled.core.cli.domain import build
from unlabeled.core.cli.shell import run
from unlabeled.core.contracts.domain import domain
from unlabeled.core.contracts.recipe import read_recipe
from unlabeled.core.pretraining import pretrain
from unlabeled.core.testing import toys
from unlabeled.core.training import checkpoint

# the trunk is 8 steps long; a teacher and a weight decay that move over a run move after it
RECIPE: dict[str, Any] = {
    "domain": "biosignal",
    "data": {"window": [1.6]},
    "encoder": {"name": "convnet", "channels": [8, 8], "kernels": [5, 3], "strides": [4, 2]},
    "method": {"name": "byol", "projector": [16, 8], "predictor": 16, "teacher": {"momentum": 0.9}},
    "views": [{"name": "jitter", "amount": 0.1}],
    "optimiser": {"weight_decay": 0.01, "weight_decay_final": 0.1},
    "schedule": {"name": "infinite", "warmup": 2, "cooldown": 2, "decay": 4, "constant": 0.5},
    "trainer": {
        "loop": "plain", "threads": 1, "save_every": 3, "keep": 1, "keep_every": 4, "log_every": 1,
        "tensorboard": False, "accelerator": "cpu",
    },
    "batch_size": 8,
    "max_steps": 12,
}  # fmt: skip


def write(folder: Path, first: int, subjects: int) -> Path:
    """Recordings of some subjects, two each."""
    folder.mkdir()
    names = ["acc_x [g]", "acc_y [g]", "acc_z [g]"]
    lines = ["file,subject,side"]
    for s in range(first, first + subjects):
        for k in range(2):
            values = np.random.default_rng(2 * s + k).normal(0, 1, (400, 3)).round(4)
            rows = [",".join(map(str, [round(t / 50, 2), *row])) for t, row in enumerate(values.tolist())]
            (folder / f"s{s}-{k}.csv").write_text("\n".join([",".join(["time", *names]), *rows]) + "\n")
            lines.append(f"s{s}-{k}.csv,s{s},right")
    (folder / "recordings.csv").write_text("\n".join(lines) + "\n")
    return folder


def call(*words: Any) -> int:
    return run(build(domain("biosignal")), [str(w) for w in words])


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 12 steps, with checkpoints of its steps 4, 8 and 12, and other data beside it."""
    folder = tmp_path_factory.mktemp("branch")
    write(folder / "others", 10, 3)
    values = RECIPE | {"data": RECIPE["data"] | {"path": str(write(folder / "files", 0, 4))}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    assert call("pretrain", folder / "recipe.yaml", "-o", folder / "trunk") == 0
    return folder


def test_the_trunks_checkpoints_stay(trunk: Path) -> None:
    saved = [checkpoint.step_of(p) for p in checkpoint.saved(trunk / "trunk" / "checkpoints")]
    assert saved == [12, 8, 4]
    rates = [line["lr"] for line in toys.lines(trunk / "trunk")]
    # up over 2 steps to .001, down over 2 to a half of it, level, then by the same factor a step to a hundredth
    assert rates[:4] == pytest.approx([5e-4, 1e-3, 7.5e-4, 5e-4])
    assert rates[4:8] == pytest.approx([5e-4] * 4)
    assert rates[8:] == pytest.approx([5e-4 * 0.02 ** (k / 4) for k in (1, 2, 3, 4)])


def test_a_branch_is_the_run_that_had_been_as_long_from_the_start(trunk: Path, tmp_path: Path) -> None:
    assert call("pretrain", trunk / "recipe.yaml", "-o", tmp_path / "short", "max_steps=8") == 0
    assert call("pretrain", "--branch", f"{trunk / 'trunk'}@4", "max_steps=8", "-o", tmp_path / "branch") == 0
    short, branch = (toys.lines(tmp_path / name) for name in ("short", "branch"))
    assert [line["step"] for line in branch] == [4, 5, 6, 7] and branch == short[4:]
    states = [checkpoint.newest(tmp_path / name / "checkpoints") for name in ("short", "branch")]
    assert states[0] is not None and states[1] is not None
    assert toys.identical(states[0]["method"], states[1]["method"])
    assert toys.identical(states[0]["optimiser"], states[1]["optimiser"])
    about = [read_bundle(tmp_path / name / "bundle").about for name in ("short", "branch")]
    assert about[0]["sha256"] == about[1]["sha256"]
    assert about[1]["start"]["start"] == "branch of trunk after 4 steps" and about[0]["start"] == {"start": "random"}


@pytest.mark.parametrize("stop", [5, 7])
def test_a_branch_that_was_cut_off_goes_on_exactly(trunk: Path, tmp_path: Path, stop: int) -> None:
    overrides = [f"branch.run={trunk / 'trunk'}", "branch.step=4", "max_steps=8"]
    recipe = read_recipe(trunk / "recipe.yaml", overrides)
    assert pretrain(recipe, tmp_path / "whole").is_dir()

    def cut(done: int, total: int, line: dict[str, Any]) -> None:
        if done == stop:
            raise RuntimeError("cut off")

    with pytest.raises(RuntimeError, match="cut off"):
        pretrain(recipe, tmp_path / "cut", cut)
    assert call("pretrain", "--resume", tmp_path / "cut") == 0
    assert toys.lines(tmp_path / "cut") == toys.lines(tmp_path / "whole")
    shas = {read_bundle(tmp_path / name / "bundle").about["sha256"] for name in ("cut", "whole")}
    assert len(shas) == 1


def test_on_other_data_it_goes_on_without_a_new_warm_up(trunk: Path, tmp_path: Path) -> None:
    more = [f"data.path={trunk / 'others'}", "max_steps=14"]
    assert call("pretrain", "--branch", trunk / "trunk", *more, "-o", tmp_path / "branch") == 0
    lines = toys.lines(tmp_path / "branch")
    # from the last step before the decay on; level for 2 steps more, then 4 of its own decay
    assert [line["step"] for line in lines] == list(range(8, 14))
    assert [line["lr"] for line in lines[:2]] == pytest.approx([5e-4] * 2) and lines[-1]["lr"] == pytest.approx(1e-5)
    # what was seen before is named: 4 subjects of the trunk and 3 others
    bundle, before = (read_bundle(p) for p in (tmp_path / "branch" / "bundle", trunk / "trunk" / "bundle"))
    assert len(bundle.groups) == 7 and before.groups < bundle.groups
    # and a branch of the branch knows of them too
    assert call("pretrain", "--branch", tmp_path / "branch", "max_steps=15", "-o", tmp_path / "again") == 0
    assert read_bundle(tmp_path / "again" / "bundle").groups == bundle.groups


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["branch.step=6"], "branch.step: .* has no checkpoint of step 6 before its decay, but of 4, 8"),
        (["branch.step=12"], "no checkpoint of step 12 before its decay"),
        (
            ["max_steps=9"],
            "a run of 9 steps begins its decay after 5, and branches off after 8; set max_steps to 12 or",
        ),
        (["plan={name: pruned}"], "branch: what the plan pruned chose belongs to the run that chose it"),
        (["method.predictor=8"], "method: a branch goes on with what its origin had"),
        (["optimiser.lr=0.1"], "optimiser: a branch goes on"),
        (["schedule.warmup=1"], "schedule: a branch goes on"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_folder_is_made(
    trunk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    words = ["pretrain", "--branch", trunk / "trunk", *more, "-o", tmp_path / "branch"]
    assert call(*words) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert re.search(said, error), error
    assert not (tmp_path / "branch").exists()


def test_a_cosine_does_not_branch(trunk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cosine = ["schedule.name=cosine", "max_steps=2"]
    assert call("pretrain", trunk / "recipe.yaml", *cosine, "-o", tmp_path / "cosine") == 0
    assert call("pretrain", "--branch", tmp_path / "cosine", "-o", tmp_path / "branch") == 2
    assert "depends on the length of the run at every step" in " ".join(capsys.readouterr().err.split())
    assert call("pretrain", "--branch", tmp_path / "nothing", "-o", tmp_path / "branch") == 2
    assert "holds no run to branch off from" in " ".join(capsys.readouterr().err.split())
    assert json.loads((tmp_path / "cosine" / "summary.json").read_text())["steps"] == 2
