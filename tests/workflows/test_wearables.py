"""Wearables through the command line: what is refused, with which exit code and sentence, and what is left behind."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from unlabeled.core.bundle import load_bundle
from unlabeled.core.cli.domain import build
from unlabeled.core.cli.shell import run
from unlabeled.core.contracts.domain import domain

CHANNELS = ("acc_x", "acc_y", "acc_z", "gyro_x", "gyro_y", "gyro_z")
UNITS = ("g", "g", "g", "rad/s", "rad/s", "rad/s")
RATE = 50.0


def recording(seed: int, seconds: float = 12.0, rate: float = RATE) -> np.ndarray:
    """(T, 6): gravity on z, a movement whose pace depends on the seed, noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    pace = np.sin(2 * np.pi * (0.5 + seed % 3) * t)[:, None]
    values = np.concatenate([0.2 * pace.repeat(3, 1), pace.repeat(3, 1)], 1) + rng.normal(0, 0.05, (len(t), 6))
    values[:, 2] += 1.0
    return values


def write(
    path: Path, values: np.ndarray, rate: float = RATE, channels: Any = CHANNELS, units: Any = UNITS, times: Any = None
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    times = np.arange(len(values)) / rate if times is None else times
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["time", *(f"{c} [{u}]" if u else c for c, u in zip(channels, units, strict=True))])
        out.writerows([[f"{t:.4f}", *row] for t, row in zip(times, np.round(values, 5).tolist(), strict=True)])


def sidecar(folder: Path) -> None:
    lines = [
        f"{p.relative_to(folder).as_posix()},{p.stem.split('-')[0]},right" for p in sorted(folder.rglob("*-*.csv"))
    ]
    (folder / "recordings.csv").write_text("\n".join(["file,subject,side", *lines]) + "\n")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six subjects, three recordings each of three paces, with labels."""
    folder = tmp_path_factory.mktemp("good")
    labels = ["key,label"]
    for s in range(6):
        for k in range(3):
            write(folder / f"s{s}-{k}.csv", recording(3 * s + k))
            labels.append(f"s{s}-{k},pace{k}")
    sidecar(folder)
    (folder / "labels.csv").write_text("\n".join(labels) + "\n")
    return folder


RECIPE: dict[str, Any] = {
    "domain": "biosignal",
    "method": {"name": "simclr", "projector": [16, 8]},
    "encoder": {"name": "convnet", "channels": [8, 8], "kernels": [9, 5], "strides": [2, 2]},
    "views": [{"name": "crop", "seconds": 3.2}],
    "trainer": {"loop": "plain", "threads": 1, "save_every": 2, "tensorboard": False},
    "batch_size": 8,
    "max_steps": 4,
    "evaluation": {"window": [3.2], "stride": [1.6]},
}


@pytest.fixture(scope="module")
def recipe(good: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    data = {"path": str(good), "window": [5.0], "stride": [2.5], "hold_out": 0.4}
    path.write_text(yaml.safe_dump({**RECIPE, "data": data}))
    return path


@pytest.fixture(scope="module")
def bundle(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("run") / "run"
    assert call("pretrain", recipe, "-o", to) == 0
    return to / "bundle"


def call(*words: Any) -> int:
    return run(build(domain("biosignal")), [str(w) for w in words])


def refused(capsys: Any, code: int, *words: Any) -> str:
    """The one sentence of a command that must end with `code`."""
    capsys.readouterr()
    assert call(*words) == code
    text = capsys.readouterr().err
    sentences = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(sentences) == 1, text
    assert "Traceback" not in text
    return sentences[0]


# what a bundle refuses, and what it converts


def changed(good: Path, to: Path, **changes: Any) -> Path:
    """The good files, written with another rate, other channels or other units."""
    factor = changes.pop("factor", np.ones(6))
    columns = changes.pop("columns", slice(None))
    rate = changes.get("rate", RATE)
    for s in range(2):
        for k in range(3):
            values = recording(3 * s + k, rate=rate) * factor
            write(to / f"s{s}-{k}.csv", values[:, columns], **changes)
    sidecar(to)
    shutil.copy(good / "labels.csv", to / "labels.csv")
    return to


REFUSED = {
    "a missing channel": (
        {"columns": [0, 1, 2, 3, 4], "channels": CHANNELS[:5], "units": UNITS[:5]},
        "gyro_z is missing",
    ),
    "another name": ({"channels": (*CHANNELS[:5], "mag_z")}, "channel gyro_z is missing"),
    "an unknown unit": ({"units": (*UNITS[:3], "rpm", "rpm", "rpm")}, "gyro_x is in rpm, the contract asks for rad/s"),
    "another rate": ({"rate": 32.0}, "32 Hz, the contract asks for 50 Hz"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bundle_refuses_other_input_with_code_5(
    case: str, good: Path, bundle: Path, tmp_path: Path, capsys: Any
) -> None:
    changes, sentence = REFUSED[case]
    folder = changed(good, tmp_path / "other", **changes)
    for words in (
        ("evaluate", bundle, folder, "--labels", folder / "labels.csv"),
        ("embed", bundle, folder, "-o", tmp_path / "e.parquet"),
    ):
        assert sentence in refused(capsys, 5, *words)
    assert not (tmp_path / "e.parquet").exists()


def test_a_bundle_refuses_a_sensor_its_normaliser_does_not_know(
    good: Path, bundle: Path, tmp_path: Path, capsys: Any
) -> None:
    text = refused(capsys, 5, "embed", bundle, good, "-o", tmp_path / "e.parquet", "-O", "source=ankle")
    assert "the normaliser has no constants for the source 'ankle' (known: 'wrist')" in text


def test_a_bundle_converts_order_and_units_and_says_so(good: Path, bundle: Path, tmp_path: Path, capsys: Any) -> None:
    """m/s^2 in another order gives the embeddings of g in the right order, to rounding."""
    order = [3, 4, 5, 0, 1, 2]
    folder = changed(
        good,
        tmp_path / "other",
        columns=order,
        channels=tuple(CHANNELS[i] for i in order),
        units=("rad/s",) * 3 + ("m/s^2",) * 3,
        factor=np.array([9.80665] * 3 + [1.0] * 3),
    )
    same = changed(good, tmp_path / "same")
    import pyarrow.parquet as pq

    for name, path in (("other", folder), ("same", same)):
        assert call("embed", bundle, path, "-o", tmp_path / f"{name}.parquet") == 0
    assert "acc_x from m/s^2 to g" in capsys.readouterr().err
    a, b = (np.array(pq.read_table(tmp_path / f"{n}.parquet")["embedding"].to_pylist()) for n in ("other", "same"))
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_a_bundle_resamples_only_when_asked(good: Path, bundle: Path, tmp_path: Path, capsys: Any) -> None:
    folder = changed(good, tmp_path / "other", rate=100.0)
    assert "allow it with --convert rate" in refused(capsys, 5, "embed", bundle, folder, "-o", tmp_path / "e.parquet")
    assert call("embed", bundle, folder, "-o", tmp_path / "e.parquet", "--convert", "rate") == 0
    assert "from 100 Hz to 50 Hz" in capsys.readouterr().err
    assert "--convert speed is unknown" in refused(
        capsys, 2, "embed", bundle, folder, "-o", tmp_path / "x", "--convert", "speed"
    )


@pytest.mark.parametrize("fault", ["truncated", "flipped", "no json", "other json", "pickle"])
def test_a_damaged_bundle_is_refused_and_runs_nothing(
    fault: str, bundle: Path, good: Path, tmp_path: Path, capsys: Any
) -> None:
    broken = tmp_path / "bundle"
    shutil.copytree(bundle, broken)
    weights, about = broken / "encoder.safetensors", broken / "bundle.json"
    canary = tmp_path / "canary"
    if fault == "truncated":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif fault == "flipped":
        content = bytearray(weights.read_bytes())
        content[-5] ^= 1
        weights.write_bytes(content)
    elif fault == "no json":
        about.write_text("{")
    elif fault == "other json":
        about.write_text('{"format": 1}')
    else:
        weights.write_bytes(b"cposix\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR.")
    sentence = refused(capsys, 5, "embed", broken, good, "-o", tmp_path / "e.parquet")
    assert "copy" in sentence
    assert not canary.exists() and not (tmp_path / "e.parquet").exists()


def test_a_partial_match_is_reported_and_refused(bundle: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from unlabeled.core.contracts import Incompatible
    from unlabeled.core.files import sha256

    broken = tmp_path / "bundle"
    shutil.copytree(bundle, broken)
    state = load_file(broken / "encoder.safetensors")
    gone = sorted(state)[0]
    state["stranger"] = state.pop(gone)
    save_file(state, broken / "encoder.safetensors")
    about = json.loads((broken / "bundle.json").read_text())
    (broken / "bundle.json").write_text(json.dumps({**about, "sha256": sha256(broken / "encoder.safetensors")}))
    with pytest.raises(
        Incompatible, match=f"{len(state) - 1} of {len(state)} tensors matched; missing: {gone}; unexpected: stranger"
    ):
        load_bundle(broken)
    report = load_bundle(broken, may_differ=[gone, "stranger"]).report
    assert report.missing == (gone,) and report.unexpected == ("stranger",)


def test_the_fingerprint_sees_other_weights_of_the_same_names(bundle: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from unlabeled.core.contracts import Incompatible
    from unlabeled.core.files import sha256

    broken = tmp_path / "bundle"
    shutil.copytree(bundle, broken)
    state = {k: v * 1.1 if v.is_floating_point() else v for k, v in load_file(broken / "encoder.safetensors").items()}
    save_file(state, broken / "encoder.safetensors")
    about = json.loads((broken / "bundle.json").read_text())
    (broken / "bundle.json").write_text(json.dumps({**about, "sha256": sha256(broken / "encoder.safetensors")}))
    with pytest.raises(Incompatible, match="the output differs from the one saved"):
        load_bundle(broken)


# what reading refuses or mends


def with_file(good: Path, to: Path, write_bad: Any) -> Path:
    shutil.copytree(good, to)
    write_bad(to / "s0-9.csv")
    sidecar(to)
    return to


def lines(*rows: str) -> Any:
    return lambda path: path.write_text("\n".join(rows) + "\n")


HEADER = "time," + ",".join(f"{c} [{u}]" for c, u in zip(CHANNELS, UNITS, strict=True))
UNREADABLE = {
    "0 rows": lines(HEADER),
    "no bytes": lines(),
    "a word in a number's place": lines(HEADER, "0.00,1,1,1,1,1,1", "0.02,1,one,1,1,1,1", "0.04,1,1,1,1,1,1"),
    "a web page": lines("<html>", "<body>not found</body>", "</html>"),
    "a channel less": lambda path: write(path, recording(0)[:, :5], channels=CHANNELS[:5], units=UNITS[:5]),
    "a channel of NaN": lambda path: write(path, np.where(np.arange(6) == 1, np.nan, recording(0))),
    "a flat line": lambda path: write(path, np.zeros((600, 6))),
    "g that are m/s^2": lambda path: write(path, recording(0) * 9.80665),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_bad_file_is_named_and_the_others_stay(case: str, good: Path, tmp_path: Path, capsys: Any) -> None:
    folder = with_file(good, tmp_path / "f", UNREADABLE[case])
    capsys.readouterr()
    assert call("inspect", folder, "--json") == 3
    found = json.loads(capsys.readouterr().out)
    assert found["records"] == 18
    [bad] = found["unreadable"]
    assert bad["file"] == "s0-9.csv" and "s0-9.csv" in bad["reason"] and "\n" not in bad["reason"]
    assert call("inspect", folder, "--max-bad", "0.1") == 0


def test_gaps_repeats_and_jumps_are_mended_and_flagged(good: Path, tmp_path: Path, capsys: Any) -> None:
    def nan_block(path: Path) -> None:
        values = recording(0)
        values[100:200] = np.nan
        write(path, values)

    def repeated(path: Path) -> None:
        times = np.arange(600) / RATE
        write(path, recording(0)[np.r_[:300, 299:599]], times=times[np.r_[:300, 299:599]])

    def jump(path: Path) -> None:
        times = np.arange(600) / RATE
        times[300:] -= 20.0
        write(path, recording(0), times=times)

    for name, bad in (("nan", nan_block), ("repeat", repeated), ("jump", jump)):
        folder = with_file(good, tmp_path / name, bad)
        capsys.readouterr()
        assert call("inspect", folder, "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert found["unreadable"] == [] and found["flags"], name
        assert found["records"] == (20 if name == "jump" else 19)


def test_folders_without_data(tmp_path: Path, capsys: Any, recipe: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no file that biosignal can read" in refused(capsys, 2, "inspect", tmp_path / "empty")
    assert "no such folder" in refused(capsys, 2, "inspect", tmp_path / "nowhere")
    assert "no file that biosignal" in refused(
        capsys, 2, "pretrain", recipe, f"data.path={tmp_path / 'empty'}", "-o", tmp_path / "run"
    )
    assert not (tmp_path / "run" / "bundle").exists()


def test_a_recording_shorter_than_a_window_is_named(good: Path, tmp_path: Path, capsys: Any, recipe: Path) -> None:
    folder = with_file(good, tmp_path / "f", lambda path: write(path, recording(0, seconds=2.0)))
    assert call("pretrain", recipe, f"data.path={folder}", "data.hold_out=0", "-o", tmp_path / "run") == 0
    assert "1 of 19 records give no window: s0-9" in capsys.readouterr().err
    text = refused(capsys, 2, "pretrain", recipe, "data.window=[60]", "-o", tmp_path / "none")
    assert "no record holds one window of 60 s" in text


def test_too_many_bad_files_stop_a_run(good: Path, tmp_path: Path, capsys: Any, recipe: Path) -> None:
    folder = with_file(good, tmp_path / "f", UNREADABLE["0 rows"])
    text = refused(capsys, 3, "pretrain", recipe, f"data.path={folder}", "-o", tmp_path / "run")
    assert "1 of 19 records cannot be used" in text and "s0-9.csv" in text
    # a refused request leaves nothing behind, so that the mended one may take the same folder
    assert not (tmp_path / "run").exists()
    assert call("pretrain", recipe, f"data.path={folder}", "data.max_bad_fraction=0.1", "-o", tmp_path / "run") == 0
    assert call("pretrain", recipe, f"data.path={folder}", "data.max_bad_fraction=0.1", "-o", tmp_path / "run") == 2


def test_outputs_may_not_lie_among_the_data(
    good: Path, bundle: Path, recipe: Path, tmp_path: Path, capsys: Any
) -> None:
    folder = shutil.copytree(good, tmp_path / "f")
    assert "lies inside the data folder" in refused(capsys, 2, "embed", bundle, folder, "-o", folder / "e.parquet")
    words = ("pretrain", recipe, f"data.path={folder}", "-o", folder / "run")
    assert "lies inside the data folder" in refused(capsys, 2, *words)
    assert "there is no folder" in refused(capsys, 2, "embed", bundle, folder, "-o", tmp_path / "no" / "e.parquet")
    assert not (folder / "run").exists()


def test_a_bundle_takes_the_folder_it_was_trained_on(good: Path, recipe: Path, tmp_path: Path, capsys: Any) -> None:
    """One file with a channel less is a bad file to the bundle too, and no reason to refuse the others."""
    folder = with_file(good, tmp_path / "f", UNREADABLE["a channel less"])
    loose = [f"data.path={folder}", "data.max_bad_fraction=0.1"]
    assert call("pretrain", recipe, *loose, "-o", tmp_path / "run") == 0
    labels = tmp_path / "l.csv"
    labels.write_text((folder / "labels.csv").read_text() + "s0-9,pace0\n")
    capsys.readouterr()
    assert call("evaluate", tmp_path / "run/bundle", folder, "--labels", labels, "--json") == 0
    assert json.loads(capsys.readouterr().out)["records"] == 18


def test_a_changed_sidecar_is_a_change_of_the_data(good: Path, recipe: Path, tmp_path: Path, capsys: Any) -> None:
    folder = shutil.copytree(good, tmp_path / "f")
    words = [f"data.path={folder}", "data.hold_out=0", "data.conversions=[{name: mirror}]"]
    assert call("pretrain", recipe, *words, "-o", tmp_path / "run") == 0
    shutil.rmtree(tmp_path / "run" / "bundle")
    table = (folder / "recordings.csv").read_text()
    (folder / "recordings.csv").write_text(table.replace("s0-0.csv,s0,right", "s0-0.csv,s0,left"))
    assert "changed since" in refused(capsys, 2, "pretrain", "--resume", tmp_path / "run")


def test_one_recording_under_two_subjects_is_leakage(good: Path, bundle: Path, tmp_path: Path, capsys: Any) -> None:
    folder = with_file(good, tmp_path / "f", lambda path: shutil.copy(good / "s1-0.csv", path))
    labels = folder / "labels.csv"
    assert "hold the same values under different groups" in refused(
        capsys, 4, "evaluate", bundle, folder, "--labels", labels
    )


def test_groups_hashed_with_another_key_are_not_taken_for_unseen(
    good: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("UNLABELED_KEY", str(tmp_path / "key"))
    words = ("evaluate", bundle, good, "--labels", good / "labels.csv")
    assert "made under another project key" in refused(capsys, 4, *words)
    capsys.readouterr()
    assert call(*words, "--allow-seen", "--json") == 0
    assert json.loads(capsys.readouterr().out)["seen_in_pretraining"] is None


def test_init_leaves_out_a_conversion_the_files_cannot_meet(good: Path, tmp_path: Path, capsys: Any) -> None:
    folder = shutil.copytree(good, tmp_path / "f")
    table = (folder / "recordings.csv").read_text()
    (folder / "recordings.csv").write_text(table.replace(",right", ",").replace(",side", ",side"))
    assert call("init", folder, "-o", tmp_path / "r.yaml") == 0
    assert "without the conversion mirror" in capsys.readouterr().err
    assert yaml.safe_load((tmp_path / "r.yaml").read_text())["data"]["conversions"] == []


@pytest.mark.parametrize(
    "words", [("pretrain", "."), ("inspect", "--max-bad", "2", "."), ("inspect", "-Orate=[1", ".")]
)
def test_mistakes_of_the_hand_are_usage_errors(words: tuple[str, ...], tmp_path: Path, capsys: Any) -> None:
    to = ("-o", tmp_path / "run") if words[0] == "pretrain" else ()
    capsys.readouterr()
    assert call(*words, *to) == 2
    assert "fault of the program" not in capsys.readouterr().err


# labels


LABELS = {
    "an unknown key": (lambda text: text + "s7-0,pace0\n", "1 of 19 keys are no record of the data ('s7-0')"),
    "two labels": (lambda text: text + "s0-0,pace1\n", "'s0-0' is labelled 'pace1' here and 'pace0' in line 2"),
    "an empty label": (lambda text: text.replace("s0-1,pace1", "s0-1,"), "the label of 's0-1' is empty"),
    "one class": (lambda text: "key,label\ns0-0,a\n", "have 1 class(es), and two are needed"),
    "other columns": (lambda text: "file,class\n", "it must name key and label"),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_that_cannot_be_used(case: str, good: Path, bundle: Path, tmp_path: Path, capsys: Any) -> None:
    change, sentence = LABELS[case]
    (tmp_path / "l.csv").write_text(change((good / "labels.csv").read_text()))
    assert sentence in refused(capsys, 2, "evaluate", bundle, good, "--labels", tmp_path / "l.csv")


def test_evaluate_counts_unlabelled_records_and_tests_unseen_groups(
    good: Path, bundle: Path, tmp_path: Path, capsys: Any
) -> None:
    text = (good / "labels.csv").read_text()
    (tmp_path / "l.csv").write_text(text.replace("s0-1,pace1\n", ""))
    capsys.readouterr()
    assert call("evaluate", bundle, good, "--labels", tmp_path / "l.csv", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["unlabelled"] == 1 and found["records"] == 17
    seen = set(json.loads((bundle / "bundle.json").read_text())["groups"])
    assert len(seen) == 4 and len(found["test_groups"]) == 2 and seen.isdisjoint(found["test_groups"])
    assert {"ours, linear probe", "ours, kNN", "random weights, linear probe", "hand+logreg"} <= set(found["scores"])
    # paces of 0.5, 1.5 and 2.5 Hz are told apart by hand features; a score of 1 is what they are worth
    assert found["scores"]["hand+logreg"]["score"] == 1.0


def test_testing_on_what_pretraining_saw_is_leakage(good: Path, recipe: Path, tmp_path: Path, capsys: Any) -> None:
    assert call("pretrain", recipe, "data.hold_out=0", "-o", tmp_path / "run") == 0
    words = ("evaluate", tmp_path / "run/bundle", good, "--labels", good / "labels.csv")
    assert "all 6 labelled groups" in refused(capsys, 4, *words)
    capsys.readouterr()
    assert call(*words, "--allow-seen", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["seen_in_pretraining"]) == 6


# the way in, and the way out


def test_init_writes_a_recipe_that_runs(good: Path, tmp_path: Path, capsys: Any) -> None:
    to = tmp_path / "recipe.yaml"
    for method in ("simclr", "mae"):
        to.unlink(missing_ok=True)
        assert call("init", good, "-o", to, "--method", method) == 0
        quick = ["max_steps=2", "trainer.loop=plain", "trainer.tensorboard=false", "trainer.threads=1"]
        assert call("pretrain", to, *quick, "-o", tmp_path / method) == 0
    assert "exists; choose another name" in refused(capsys, 2, "init", good, "-o", to)
    assert "'simcrl' is unknown, did you mean 'simclr'?" in refused(
        capsys, 2, "init", good, "-o", tmp_path / "b.yaml", "--method", "simcrl"
    )


def test_init_writes_a_recipe_for_any_method(good: Path, tmp_path: Path, capsys: Any) -> None:
    """From the shipped recipe of its family, with its options explained; what it still needs is said at once."""
    to = tmp_path / "gmml.yaml"
    assert call("init", good, "-o", to, "--method", "gmml") == 0
    assert "\n  mask_ratio: 0.5  # share of the valid tokens that is corrupted\n" in to.read_text()
    assert "\n    name: group  # many small rectangles, as GMML\n" in to.read_text()
    quick = ["max_steps=2", "trainer.loop=plain", "trainer.tensorboard=false", "trainer.threads=1"]
    assert call("pretrain", to, *quick, "-o", tmp_path / "run") == 0
    said = refused(capsys, 2, "pretrain", to, "method.mask=spanz", "-o", tmp_path / "other")
    assert said == "error: method: mask: 'spanz' is unknown, did you mean 'spans'?"
    for method, encoder, sentence in (
        ("maskalign", "tokens", "does not run yet: method: teacher is missing"),
        ("nepa", "tokens", "does not run yet: method nepa: predicts token by token; set encoder.causal to [1]"),
        ("byol", "convnet", ""),
    ):
        capsys.readouterr()
        assert call("init", good, "-o", tmp_path / f"{method}.yaml", "--method", method) == 0
        said = capsys.readouterr().err
        assert sentence in said and ("does not run yet" in said) == bool(sentence)
        assert yaml.safe_load((tmp_path / f"{method}.yaml").read_text())["encoder"]["name"] == encoder
    assert yaml.safe_load((tmp_path / "maskalign.yaml").read_text())["method"]["teacher"] is None


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("method.temprature=1", "'temprature' is unknown, did you mean 'temperature'?"),
        ("encoder.name=convent", "'convent' is unknown, did you mean 'convnet'?"),
        ("views=[{name: crop, second: 3}]", "second: 'second' is unknown, did you mean 'seconds'?"),
        ("method.name=simclear", "'simclear' is unknown, did you mean 'simclr'?"),
        ("data.options={rat: 50}", "data.options: rat: 'rat' is unknown, did you mean 'rate'?"),
        ("data.conversions=[{name: miror}]", "'miror' is unknown, did you mean 'mirror'?"),
        ("batch_size=100000", "items fill no batch; set batch_size to"),
        ("views=[{name: crop}]", "views.0: seconds is missing"),
        ("views=[{name: crop, seconds: long}]", "views.0: seconds: input should be a valid number"),
        ("views=[{name: cr", "is no value in YAML"),
        ("data.conversions=[{name: mirror, options: {too: left}}]", "too: 'too' is unknown, did you mean 'to'?"),
        ("data.conversions=[{name: mirror, options: {to: middle}}]", "data.conversions mirror: to: input should be"),
        ("data.hold_out=0.95", "data.hold_out 0.95 leaves none of 6 groups to train on"),
    ],
)
def test_faults_of_a_recipe_name_the_nearest_word(
    override: str, sentence: str, recipe: Path, tmp_path: Path, capsys: Any
) -> None:
    assert sentence in refused(capsys, 2, "pretrain", recipe, override, "-o", tmp_path / "run")
    assert not (tmp_path / "run" / "bundle").exists()


def test_an_interrupt_saves_and_the_resumed_run_is_the_uninterrupted_one(recipe: Path, tmp_path: Path) -> None:
    """A real Ctrl-C in a real process: exit code 130, nothing half-written, and after --resume the same bytes."""
    command = [str(Path(sys.executable).with_name("unlabeled-biosignal"))]
    long = ["max_steps=400", "trainer.save_every=1000"]
    running = subprocess.Popen(
        [*command, "pretrain", str(recipe), *long, "-o", str(tmp_path / "a")], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (tmp_path / "a" / "metrics.jsonl").exists():
        time.sleep(0.05)
    os.kill(running.pid, signal.SIGINT)
    _, text = running.communicate(timeout=120)
    assert running.returncode == 130, text
    assert "Traceback" not in text
    assert not (tmp_path / "a" / "bundle").exists()
    assert not list((tmp_path / "a").rglob("*.tmp"))
    assert call("pretrain", "--resume", tmp_path / "a") == 0
    assert call("pretrain", recipe, *long, "-o", tmp_path / "b") == 0
    same = [(tmp_path / run / "bundle" / "encoder.safetensors").read_bytes() for run in "ab"]
    assert same[0] == same[1]


def written(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` as bytes; a Parquet file also with its compression undone."""
    import pyarrow.parquet as pq

    found = {}
    for path in (p for p in folder.rglob("*") if p.is_file()):
        found[str(path.relative_to(folder))] = path.read_bytes()
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            found[f"{path.relative_to(folder)}, read"] = f"{table.schema} {table.to_pylist()}".encode()
    return found


def test_no_raw_subject_and_no_key_in_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    """Names stand in recordings.csv and in a cell of a bad file, the key in a file of its own, and in no output."""
    people = ("Jane Doe", "Ola Nordmann", "Moritz Mustermann", "Erika Gabler", "Juan Perez", "Anna Svensson")
    cell = "Zelda Quimby 1951-03-02"
    data, out, key = tmp_path / "data", tmp_path / "out", tmp_path / "key"
    monkeypatch.setenv("UNLABELED_KEY", str(key))
    files, labels = ["file,subject,side"], ["key,label"]
    for i in range(18):
        write(data / f"r{i:02d}.csv", recording(i))
        files.append(f"r{i:02d}.csv,{people[i // 3]},right")
        labels.append(f"r{i:02d},pace{i % 3}")
    (data / "bad.csv").write_text(f"{HEADER},patient_name\n0.00,1,1,1,1,1,1,{cell}\n")
    (data / "recordings.csv").write_text("\n".join([*files, f"bad.csv,{people[0]},right"]) + "\n")
    (tmp_path / "labels.csv").write_text("\n".join(labels) + "\n")
    recipe = {**RECIPE, "trainer": {**RECIPE["trainer"], "tensorboard": True}}
    recipe["data"] = {"path": str(data), "window": [5.0], "stride": [2.5], "hold_out": 0.4, "max_bad_fraction": 0.1}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    out.mkdir()

    assert call("inspect", data, "--json") == 3
    assert call("inspect", data) == 3
    assert call("pretrain", tmp_path / "recipe.yaml", "data.max_bad_fraction=0", "-o", out / "none") == 3
    assert call("pretrain", tmp_path / "recipe.yaml", "-o", out / "run") == 0
    bundle = out / "run" / "bundle"
    assert call("evaluate", bundle, data, "--labels", tmp_path / "labels.csv", "--json") == 0
    assert call("embed", bundle, data, "-o", out / "e.parquet") == 0

    told = capfd.readouterr()
    found = {**written(out), "stdout": told.out.encode(), "stderr": told.err.encode()}
    # that the search sees what is there: the reason in the manifest, on both streams, and the path in the recipe
    reason = b"column 'patient_name' holds"
    for place in ("run/manifest.parquet, read", "stdout", "stderr"):
        assert reason in found[place].replace(b"\n", b" "), place
    assert str(data).encode() in found["run/recipe.yaml"]
    assert {"run/splits.parquet, read", "run/metrics.jsonl", "e.parquet, read"} <= set(found)
    assert any("tfevents" in place for place in found)

    secret = key.read_bytes().strip()
    assert len(secret) >= 32
    # whole names, and such parts as no weights spell by chance
    names = (*people, cell)
    words = [w.encode() for w in (*names, *(w for name in names for w in name.split() if len(w) > 5))]
    for place, content in found.items():
        assert [w for w in (*words, secret) if w.lower() in content.lower()] == [], place
        if place.startswith("run/bundle/"):
            assert str(tmp_path).encode() not in content, place

    # what stands there of a person is 16 hex digits, and not those of the name's plain hash, which anyone could make
    groups = json.loads((bundle / "bundle.json").read_text())["groups"]
    assert len(groups) == 4 and all(len(g) == 16 and int(g, 16) >= 0 for g in groups)
    assert {hashlib.sha256(name.encode()).hexdigest()[:16] for name in people}.isdisjoint(groups)
