"""Finetune and predict on wearables through the command line: what they write, what they refuse, what they leave behind."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from unlabeled.core.cli.domain import build
from unlabeled.core.cli.inspect import show
from unlabeled.core.cli.shell import run
from unlabeled.core.contracts.domain import domain
from unlabeled.core.downstream.options import Finetune

CHANNELS = ("acc_x", "acc_y", "acc_z")
RATE, SECONDS = 50.0, 12.0
QUICK = ("steps=40", "looks=4", "lr=0.01", "batch_size=32")


def recording(subject: int, kind: int, channels: int = 3) -> np.ndarray:
    """(T, C): gravity on z; the first half moves at 1 Hz, the second at 4 Hz, with a size that the kind decides."""
    rng = np.random.default_rng(10 * subject + kind)
    t = np.arange(round(SECONDS * RATE)) / RATE
    wave = np.sin(2 * np.pi * np.where(t < SECONDS / 2, 1.0, 4.0) * t) * (0.2 + 0.2 * kind)
    values = wave[:, None].repeat(channels, 1) + rng.normal(0, 0.02, (len(t), channels))
    values[:, 2] += 1.0
    return values


def write(path: Path, values: np.ndarray, channels: Any = CHANNELS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["time", *(f"{c} [g]" for c in channels)])
        out.writerows([[f"{i / RATE:.4f}", *row] for i, row in enumerate(np.round(values, 5).tolist())])


def sidecar(folder: Path) -> None:
    lines = [f"{p.name},{p.stem.split('-')[0]},right" for p in sorted(folder.glob("*-*.csv"))]
    (folder / "recordings.csv").write_text("\n".join(["file,subject,side", *lines]) + "\n")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six subjects, three recordings each; labels of three kinds; a recipe and its bundle."""
    root = tmp_path_factory.mktemp("wearables")
    kinds, sizes, moves = ["key,label"], ["key,value [g]"], ["key,start,stop,label"]
    for s in range(6):
        for k in range(3):
            name = f"s{s}-{k}"
            write(root / "data" / f"{name}.csv", recording(s, k))
            kinds.append(f"{name},kind{k}")
            sizes.append(f"{name},{0.2 + 0.2 * k:g}")
            moves += [f"{name},0,6,slow", f"{name},6,12,fast"]
    sidecar(root / "data")
    for name, rows in (("kinds", kinds), ("sizes", sizes), ("moves", moves)):
        (root / f"{name}.csv").write_text("\n".join(rows) + "\n")
    recipe = {
        "domain": "biosignal",
        "data": {"path": str(root / "data"), "window": [4.0], "stride": [2.0], "hold_out": 0.4},
        "method": {"name": "simclr", "projector": [16, 8]},
        "encoder": {"name": "convnet", "channels": [12, 12], "kernels": [9, 9], "strides": [2, 2]},
        "views": [{"name": "crop", "seconds": 3.2}],
        "trainer": {"loop": "plain", "threads": 1, "tensorboard": False, "accelerator": "cpu"},
        "batch_size": 8,
        "max_steps": 3,
    }
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert call("pretrain", root / "recipe.yaml", "-o", root / "run") == 0
    return root


@pytest.fixture(scope="module")
def model(root: Path) -> Path:
    assert call(*learn(root, "kinds", "classify"), "-o", root / "model", *QUICK) == 0
    return root / "model"


def learn(root: Path, labels: str, task: str) -> tuple[Any, ...]:
    return ("finetune", root / "run/bundle", root / "data", "--labels", root / f"{labels}.csv", "--task", task)


def call(*words: Any) -> int:
    return run(build(domain("biosignal")), [str(w) for w in words])


def refused(capsys: Any, code: int, *words: Any) -> str:
    """The one sentence of a command that must end with `code`."""
    capsys.readouterr()
    assert call(*words) == code
    text = capsys.readouterr().err
    sentences = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(sentences) == 1 and "Traceback" not in text, text
    return sentences[0]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_class_for_each_recording(root: Path, model: Path, tmp_path: Path, capsys: Any) -> None:
    """Sizes 0.2, 0.4 and 0.6 g in noise of 0.02: every window tells its class; and the annotations span the recording."""
    about = json.loads((model / "model.json").read_text())
    assert about["score"]["macro_f1"]["score"]["mean"] > 0.9
    assert about["score"]["macro_f1"]["baseline"]["mean"] < 0.4
    assert "always the most frequent class" in (model / "README.md").read_text()
    formats = [w for f in ("csv", "annotations", "mne") for w in ("--format", f)]
    capsys.readouterr()
    assert call("predict", model, root / "data", "-o", tmp_path / "p", *formats) == 0
    assert "predictions of 18 records" in capsys.readouterr().out
    found = rows(tmp_path / "p/predictions.csv")
    assert np.mean([r["prediction"] == f"kind{r['key'][-1]}" for r in found]) > 0.9
    noted = rows(tmp_path / "p/annotations.csv")
    assert {(r["onset"], r["duration"]) for r in noted} == {("0.000000", "12.000000")}
    assert [(r["key"], r["description"]) for r in noted] == [(r["key"], r["prediction"]) for r in found]
    text = (tmp_path / "p/annotations/s0-0.txt").read_text()
    assert text == f"# MNE-Annotations\n# onset, duration, description\n0.000000,12.000000,{found[0]['prediction']}\n"
    assert not (tmp_path / "p/predictions.parquet").exists()


def test_a_value_for_each_recording(root: Path, tmp_path: Path, capsys: Any) -> None:
    capsys.readouterr()
    words = (*learn(root, "sizes", "regress"), "-o", tmp_path / "m", "--json")
    assert call(*words, "steps=120", "looks=4", "lr=0.01") == 0
    about = json.loads(capsys.readouterr().out)
    # always 0.4 for 0.2, 0.4 and 0.6 is wrong by 0.4 / 3 on average
    assert about["score"]["mae"]["baseline"]["mean"] == pytest.approx(0.4 / 3, abs=1e-6)
    assert about["score"]["mae"]["score"]["mean"] < 0.07
    assert about["unit"] == "g"
    assert call("predict", tmp_path / "m", root / "data", "-o", tmp_path / "p", "--format", "annotations") == 0
    assert all(r["description"].endswith(" g") for r in rows(tmp_path / "p/annotations.csv"))


def test_a_label_for_each_moment(root: Path, tmp_path: Path) -> None:
    words = (*learn(root, "moves", "segment"), "-o", tmp_path / "m")
    assert call(*words, "steps=120", "looks=4", "lr=0.01", "window=[3]", "stride=[1.5]") == 0
    about = json.loads((tmp_path / "m/model.json").read_text())
    assert about["score"]["macro_f1"]["score"]["mean"] > 0.8
    assert about["score"]["miou"]["baseline"]["mean"] == pytest.approx(0.25, abs=1e-9)  # half right of one class of two
    assert call("predict", tmp_path / "m", root / "data", "-o", tmp_path / "p", "--format", "csv") == 0
    found = rows(tmp_path / "p/segments.csv")
    for key in {r["key"] for r in found}:
        own = [r for r in found if r["key"] == key]
        # the segments tile the recording: 12 s, each beginning where the one before ends, with another label
        assert float(own[0]["start"]) == 0 and float(own[-1]["stop"]) == pytest.approx(12.0)
        for a, b in pairwise(own):
            assert a["stop"] == b["start"] and a["label"] != b["label"]
    slow = sum(max(0.0, min(6.0, float(r["stop"])) - float(r["start"])) for r in found if r["label"] == "slow")
    assert slow / (6.0 * 18) > 0.8


def test_a_recipe_does_without_a_bundle(root: Path, tmp_path: Path) -> None:
    words = ("finetune", root / "recipe.yaml", root / "data", "--labels", root / "kinds.csv", "--task", "classify")
    assert call(*words, "-o", tmp_path / "m", *QUICK, "mode=linear") == 0
    assert json.loads((tmp_path / "m/model.json").read_text())["start"] == {"start": "random"}
    assert call("predict", tmp_path / "m", root / "data", "-o", tmp_path / "p") == 0


LABEL_FAULTS = {
    "an unknown key": (
        "key,label\ns0-0,a\ns9-9,b\n",
        "1 of 2 keys are no record of the data ('s9-9'); the key nearest",
    ),
    "an empty label": ("key,label\ns0-0,a\ns1-0,\n", "line 3: the label of 's1-0' is empty"),
    "two labels": ("key,label\ns0-0,a\ns1-0,b\ns0-0,b\n", "line 4: 's0-0' is labelled 'b' here and 'a' in line 2"),
    "other columns": ("key,value\ns0-0,1\n", "it must name key and label"),
    "one class": ("key,label\ns0-0,a\ns1-0,a\n", "have 1 class(es), and two are needed"),
    "one group": ("key,label\ns0-0,a\ns0-1,b\n", "none of the 1 labelled groups can be left out"),
}


@pytest.mark.parametrize("case", LABEL_FAULTS)
def test_faults_of_labels_are_one_sentence(case: str, root: Path, tmp_path: Path, capsys: Any) -> None:
    text, sentence = LABEL_FAULTS[case]
    (tmp_path / "labels.csv").write_text(text)
    words = ("finetune", root / "run/bundle", root / "data", "--labels", tmp_path / "labels.csv", "--task", "classify")
    assert sentence in refused(capsys, 2, *words, "-o", tmp_path / "m")
    assert [p.name for p in tmp_path.iterdir()] == ["labels.csv"]


def test_mistakes_of_the_hand(root: Path, model: Path, tmp_path: Path, capsys: Any) -> None:
    words = (*learn(root, "kinds", "classify"), "-o", tmp_path / "m")
    assert "did you mean 'steps'" in refused(capsys, 2, *words, "stpes=3")
    assert "is not name=value" in refused(capsys, 2, *words, "steps")
    # names of arguments are no settings
    assert "'path' is unknown" in refused(capsys, 2, *words, "path=elsewhere")
    assert "'convert' is unknown" in refused(capsys, 2, *words, "convert=rate")
    assert "--task: 'clasify' is unknown" in refused(capsys, 2, *learn(root, "kinds", "clasify"), "-o", tmp_path / "m")
    assert "nowhere is absent here" in refused(capsys, 2, *words, f"start={tmp_path / 'nowhere'}")
    assert "is no model" in refused(capsys, 2, "predict", root / "run/bundle", root / "data", "-o", tmp_path / "p")
    assert "--format: 'excel' is unknown" in refused(
        capsys, 2, "predict", model, root / "data", "-o", tmp_path / "p", "--format", "excel"
    )
    assert "no such file of labels" in refused(capsys, 2, *learn(root, "none", "classify"), "-o", tmp_path / "m")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("kept")
    below = tmp_path / "file" / "m"
    for words in (learn(root, "kinds", "classify"), ("predict", model, root / "data")):
        said = refused(capsys, 2, *words, "-o", below)
        assert "file is a file; choose another folder" in said
        assert "fine-tuning" not in said  # before the work, not after it
    assert (tmp_path / "file").read_text() == "kept"
    assert "exists; choose another folder" in refused(capsys, 2, "predict", model, root / "data", "-o", model)


def test_other_mistakes_of_the_hand(root: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    """A file that is there is never replaced, and a request that is refused leaves nothing behind."""
    kept = tmp_path / "kept.csv"
    kept.write_text("key,label\n")
    bundle, data = root / "run/bundle", root / "data"
    assert "kept.csv exists" in refused(capsys, 2, "embed", bundle, data, "-o", kept)
    assert "exists; choose another name" in refused(capsys, 2, "embed", bundle, data, "-o", tmp_path)
    assert "there is no folder" in refused(capsys, 2, "init", data, "-o", tmp_path / "none" / "r.yaml")
    assert "none holds no run to go on with" in refused(capsys, 2, "pretrain", "--resume", tmp_path / "none")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    words = ("pretrain", root / "recipe.yaml", "-o", tmp_path / "run", "trainer.accelerator=gpu")
    assert "no CUDA device is visible" in refused(capsys, 2, *words)
    assert [p.name for p in tmp_path.iterdir()] == ["kept.csv"] and kept.read_text() == "key,label\n"


def test_another_domains_bundle_is_sent_to_its_own_command(
    root: Path, model: Path, tmp_path: Path, capsys: Any
) -> None:
    theirs = shutil.copytree(model, tmp_path / "theirs")
    about = json.loads((theirs / "bundle.json").read_text()) | {"domain": "vision"}
    (theirs / "bundle.json").write_text(json.dumps(about))
    labels = ("--labels", root / "kinds.csv")
    for words in (
        ("evaluate", theirs, root / "data", *labels),
        ("embed", theirs, root / "data", "-o", tmp_path / "e.parquet"),
        ("finetune", theirs, root / "data", *labels, "--task", "classify", "-o", tmp_path / "m"),
        ("predict", theirs, root / "data", "-o", tmp_path / "p"),
    ):
        assert "theirs is for vision; use unlabeled-vision" in refused(capsys, 5, *words)


def test_an_interrupted_run_says_how_to_go_on(root: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    def stop(recipe: Any, run: Path, on_progress: Any) -> None:
        run.mkdir()
        (run / "recipe.yaml").write_text("")
        raise KeyboardInterrupt

    monkeypatch.setattr("unlabeled.core.report.pretrain", stop)
    said = refused(capsys, 130, "pretrain", root / "recipe.yaml", "-o", tmp_path / "run")
    assert f"go on by pretrain --resume {tmp_path / 'run'}" in said


def test_what_the_machine_refuses_is_no_fault_of_the_program(
    root: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "e"))

    monkeypatch.setattr("unlabeled.core.evaluation.evaluate.embed", full)
    said = refused(capsys, 2, "embed", root / "run/bundle", root / "data", "-o", tmp_path / "e")
    assert f"{tmp_path / 'e'}: No space left on device" in said and "fault of the program" not in said


def test_help_names_every_setting_and_format(capsys: Any) -> None:
    assert call("finetune", "--help") == 0
    said = " ".join(capsys.readouterr().out.split())
    for name, field in Finetune.model_fields.items():
        assert field.description and f"{name}: {field.description.split()[0]}" in said, name
    assert call("inspect", "--help") == 0
    assert ".csv, .parquet" in " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_brackets_in_a_reason_are_shown(capsys: Any) -> None:
    bad = [{"file": "a[/b].csv", "reason": "acc_x [g] is not [m/s2]"}]
    show(
        {
            "path": ".",
            "records": 1,
            "unreadable": bad,
            "inputs": {},
            "groups": {"h": 1},
            "flags": {},
            "conversions": {},
            "leaks": [],
        }
    )
    said = capsys.readouterr().out
    assert "a[/b].csv" in said and "acc_x [g] is not [m/s2]" in said


def test_wrong_data(root: Path, model: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "empty").mkdir()
    wrong = tmp_path / "wrong"
    write(wrong / "s0-0.csv", recording(0, 0)[:, :2], CHANNELS[:2])
    sidecar(wrong)
    labels = ("--labels", root / "kinds.csv", "--task", "classify")
    for code, sentence, data in (
        (2, "no file that biosignal can read", tmp_path / "empty"),
        (2, "no such folder", tmp_path / "nowhere"),
        (5, "acc_z is missing", wrong),
    ):
        assert sentence in refused(capsys, code, "predict", model, data, "-o", tmp_path / "p")
        assert sentence in refused(capsys, code, "finetune", root / "run/bundle", data, *labels, "-o", tmp_path / "m")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "wrong"]


def test_unreadable_files_are_named_and_counted(root: Path, model: Path, tmp_path: Path, capsys: Any) -> None:
    data = tmp_path / "data"
    for k in range(3):
        write(data / f"s0-{k}.csv", recording(0, k))
    write(data / "s0-8.csv", recording(0, 0)[:100])  # 2 s, where a window is 4 s
    (data / "s0-9.csv").write_text("time,acc_x [g],acc_y [g],acc_z [g]\n")
    sidecar(data)
    text = refused(capsys, 3, "predict", model, data, "-o", tmp_path / "p")
    assert "1 of 5 records cannot be used" in text and "s0-9.csv" in text
    assert "2 of 5 records cannot be predicted" in refused(
        capsys, 3, "predict", model, data, "-o", tmp_path / "p", "--max-bad", "0.2"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["data"]
    capsys.readouterr()
    assert call("predict", model, data, "-o", tmp_path / "p", "--max-bad", "0.4") == 0
    said = capsys.readouterr().err
    assert "left out: s0-9.csv" in said and "left out: s0-8.csv" in said
    about = json.loads((tmp_path / "p/predictions.json").read_text())
    assert [x["file"] for x in about["left_out"]] == ["s0-9.csv", "s0-8.csv"] and about["records"] == 3


def test_an_interrupt_leaves_nothing(root: Path, tmp_path: Path) -> None:
    """A real Ctrl-C in a real process, while it trains: exit code 130 and an empty folder."""
    command = [str(Path(sys.executable).with_name("unlabeled-biosignal")), *map(str, learn(root, "kinds", "classify"))]
    running = subprocess.Popen(
        [*command, "steps=1000000", "looks=1", "-o", str(tmp_path / "m")], stderr=subprocess.PIPE, text=True
    )
    assert running.stderr is not None
    deadline = time.monotonic() + 120
    line = ""
    while time.monotonic() < deadline and not line.startswith("fine-tuning:"):
        line = running.stderr.readline()
    os.kill(running.pid, signal.SIGINT)
    _, text = running.communicate(timeout=60)
    assert running.returncode == 130 and "Traceback" not in text, text
    assert list(tmp_path.iterdir()) == []
