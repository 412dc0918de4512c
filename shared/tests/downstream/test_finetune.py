"""finetune, load_model, predict: on images whose labels the data tell."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from unlabeled.core import export, finetune, load_bundle, load_model, predict
from unlabeled.core.contracts import Absent, Incompatible, Leakage, RequestError, RunFailed, TooManyBad
from unlabeled.core.data.groups import hashed, project_key
from unlabeled.core.files import sha256

QUICK: dict[str, Any] = {"steps": 4, "looks": 2, "lr": 0.01, "accelerator": "cpu"}


@pytest.fixture(scope="module")
def classifier(field: Any, bundle: Path) -> Path:
    return finetune(bundle, field.data, field.labels("classes"), "classify", field.root / "classifier", **QUICK)


def test_a_separable_segmentation_is_learned(field: Any, bundle: Path, tmp_path: Path) -> None:
    """A cell's class is the sign of its own value: a linear map of its token. 200 steps reach a mean IoU above 0.8."""
    settings = {**QUICK, "steps": 200, "looks": 4, "batch_size": 32, "layer_decay": 0.8}
    out = finetune(bundle, field.data, field.labels("masks"), "segment", tmp_path / "m", **settings)
    about = load_model(out).about
    assert about.classes == ("1", "3") and about.head.metric == "miou"
    score = about.score["miou"]
    assert score.score.mean > 0.8
    # half of the cells are above 0: always saying one class is right on about half of it and never on the other
    assert score.baseline.mean < 0.4
    assert score.gain.low > 0.3
    found = predict(out, field.data, tmp_path / "p", formats=["parquet", "count"])
    assert (tmp_path / "p" / "count.txt").read_text() == str(len(found.records)) == "24"
    table = pq.read_table(tmp_path / "p" / "predictions.parquet").to_pylist()
    right = []
    for row in table:
        mask = np.load(tmp_path / "p" / row["file"], allow_pickle=False)
        image = np.load(field.data / f"{row['key']}.npy")
        assert mask.shape == image.shape and mask.dtype == np.int16
        right.append((mask == np.where(image > 0, 3, 1)).mean())
    assert np.mean(right) > 0.85
    assert json.loads((tmp_path / "p" / "predictions.json").read_text())["codes"] == {"1": 1, "3": 3}


def test_a_model_comes_back_with_equal_predictions(field: Any, classifier: Path, tmp_path: Path) -> None:
    a = predict(classifier, field.data, tmp_path / "a")
    copy = shutil.copytree(classifier, tmp_path / "moved")
    b = predict(copy, field.data, tmp_path / "b")
    assert a == b
    assert (tmp_path / "a/predictions.csv").read_bytes() == (tmp_path / "b/predictions.csv").read_bytes()
    rows = pq.read_table(tmp_path / "a/predictions.parquet").to_pylist()
    assert [r["key"] for r in rows] == [f"s{g}/r{i}" for g in range(6) for i in range(4)]
    for row in rows:
        p = [row["probability flat"], row["probability hilly"]]
        assert sum(p) == pytest.approx(1.0, abs=1e-9)
        assert row["prediction"] == ("flat", "hilly")[int(np.argmax(p))]
        assert row["group"] == hashed(row["key"].split("/")[0], project_key())


def test_several_labels_are_learned_written_and_read_again(field: Any, bundle: Path, tmp_path: Path) -> None:
    """Every other record is hilly, by its spread; half are high, by their mean; the labels of one record are unknown."""
    labels = tmp_path / "tags.csv"
    labels.write_text("".join(field.labels("tags").read_text().splitlines(keepends=True)[:-1]))
    settings = {**QUICK, "steps": 60, "looks": 3, "batch_size": 32}
    out = finetune(bundle, field.data, labels, "tag", tmp_path / "m", **settings)
    about = load_model(out).about
    assert about.classes == ("high", "hilly", "rare") and about.head.kind == "multilabel" and about.absent == ()
    assert about.n["train_records"] + about.n["validation_records"] == 23
    assert set(about.score) == {"macro_map", "micro_map", "macro_f1", "micro_f1"}
    score = about.score["macro_map"]
    # always the same probabilities rank nothing: average precision is the share of each label, a half or a quarter
    assert 0.2 < score.baseline.mean < 0.6 and score.gain.mean > 0.2
    found = predict(out, field.data, tmp_path / "p")
    rows = pq.read_table(tmp_path / "p" / "predictions.parquet").to_pylist()
    assert len(rows) == 24 and len(found.records) == 24
    for row in rows:
        likely = [name for name in about.classes if row[f"probability {name}"] > 0.5]
        assert row["labels"] == ";".join(likely)
        assert all(0 <= row[f"probability {name}"] <= 1 for name in about.classes)
    # what is predicted can be learned from
    again = finetune(bundle, field.data, tmp_path / "p" / "predictions.csv", "tag", tmp_path / "n", **QUICK)
    assert load_model(again).about.n["train_records"] + load_model(again).about.n["validation_records"] == 24


def test_classes_that_nobody_left_out_has_are_named(field: Any, bundle: Path, tmp_path: Path) -> None:
    lines = [
        f"s{g}/r{i},{'hilly' if i % 2 else ''}{';once' if (g, i) == (3, 1) else ''}" for g in range(6) for i in range(4)
    ]
    (tmp_path / "tags.csv").write_text("\n".join(["key,labels", *lines]))
    out = finetune(bundle, field.data, tmp_path / "tags.csv", "tag", tmp_path / "m", **QUICK)
    assert load_model(out).about.absent == ("once",)  # which must stay where it can be learned from
    assert (
        "No validation record has 1 of the 2 classes (once): means over classes leave them out."
        in (out / "README.md").read_text()
    )


def test_the_same_request_gives_the_same_bytes(field: Any, bundle: Path, classifier: Path, tmp_path: Path) -> None:
    torch.rand(3)  # the global stream is not what it depends on
    again = finetune(bundle, field.data, field.labels("classes"), "classify", tmp_path / "m", **QUICK)
    for name in ("encoder.safetensors", "head.safetensors", "model.json", "bundle.json"):
        assert (again / name).read_bytes() == (classifier / name).read_bytes(), name


def test_linear_mode_leaves_the_encoder_to_the_bit(field: Any, bundle: Path, tmp_path: Path) -> None:
    before = load_file(bundle / "encoder.safetensors")
    for mode, same in (("linear", True), ("full", False)):
        out = finetune(bundle, field.data, field.labels("values"), "regress", tmp_path / mode, mode=mode, **QUICK)
        after = load_file(out / "encoder.safetensors")
        assert after.keys() == before.keys()
        assert all(torch.equal(after[k], before[k]) for k in before) is same
        assert load_model(out).about.unit == "m"


def test_a_regression_begins_at_the_mean_of_the_training_records(field: Any, bundle: Path, tmp_path: Path) -> None:
    out = finetune(bundle, field.data, field.labels("values"), "regress", tmp_path / "m", validation=0, **QUICK)
    values = [float(line.split(",")[1]) for line in field.labels("values").read_text().splitlines()[1:]]
    model = load_model(out)
    assert float(model.offset) == pytest.approx(np.mean(values), abs=1e-6)
    assert float(model.scale) == pytest.approx(np.std(values), rel=1e-5)
    assert model.about.score == {} and model.about.best_step == 4
    assert "Nothing is known" in (out / "README.md").read_text()


def test_splits_are_of_groups_and_what_pretraining_saw_is_named(
    field: Any, bundle: Path, classifier: Path, tmp_path: Path
) -> None:
    about = load_model(classifier).about
    train, validation = set(about.groups["train"]), set(about.groups["validation"])
    # 6 groups, a quarter of which is 1.5, rounded to 2
    assert (len(train), len(validation)) == (4, 2) and not train & validation
    assert about.n["train_records"] == 16 and about.n["validation_records"] == 8
    seen = {hashed(name, project_key()) for name in ("s0", "s1")}
    # four groups were not seen, so that the score is of two of these
    assert about.seen_in_pretraining == () and not seen & validation
    many = finetune(bundle, field.data, field.labels("classes"), "classify", tmp_path / "m", validation=0.8, **QUICK)
    about_many = load_model(many).about
    assert len(about_many.groups["validation"]) == 5
    assert set(about_many.seen_in_pretraining) == seen & set(about_many.groups["validation"]) != set()
    # from now on its training groups are seen too, so that evaluate and finetune know
    assert load_bundle(classifier).bundle.groups == seen | train


def test_another_project_key_says_that_nobody_knows(
    field: Any, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = load_bundle(bundle).bundle.about
    (tmp_path / "key").write_text("f" * 64)
    monkeypatch.setenv("UNLABELED_KEY", str(tmp_path / "key"))
    out = finetune(bundle, field.data, field.labels("classes"), "classify", tmp_path / "m", **QUICK)
    assert load_model(out).about.seen_in_pretraining is None
    ours = load_bundle(out).bundle.about
    assert (ours["key"], ours["groups"]) == (theirs["key"], theirs["groups"])
    assert "nobody knows" in (out / "README.md").read_text()


def test_starts(field: Any, bundle: Path, tmp_path: Path) -> None:
    """A bundle's contract with random weights, and a recipe without any bundle; the groups seen are those trained on."""
    settings = {**QUICK, "steps": 1, "lr": 1e-9, "mode": "linear"}
    labels = field.labels("classes")
    random = finetune(bundle, field.data, labels, "classify", tmp_path / "a", start="random", **settings)
    fresh = finetune(field.recipe, field.data, labels, "classify", tmp_path / "b", **settings)
    own = load_file(bundle / "encoder.safetensors")
    a, b = (load_file(out / "encoder.safetensors") for out in (random, fresh))
    assert not torch.equal(a["project.x.weight"], own["project.x.weight"])
    assert all(torch.equal(a[k], b[k]) for k in own)  # random weights of one seed
    for out in (random, fresh):
        model = load_model(out)
        assert model.about.start == {"start": "random"} and model.about.seen_in_pretraining == ()
        assert model.encoder.bundle.groups == set(model.about.groups["train"])
    # the recipe's normaliser was measured on the training groups only
    inside = load_model(fresh).about.groups["train"]
    names = [f"s{g}" for g in range(6) if hashed(f"s{g}", project_key()) in inside]
    values = np.concatenate([np.load(f).ravel() for n in names for f in sorted((field.data / n).glob("*.npy"))])
    constants = load_bundle(fresh).input_spec.normaliser.constants[""]
    assert constants.offset[0] == pytest.approx(values.mean(), abs=1e-6)
    with pytest.raises(Absent, match=r"nowhere.safetensors is absent here"):
        finetune(bundle, field.data, labels, "classify", tmp_path / "c", start=str(tmp_path / "nowhere.safetensors"))
    weights = finetune(
        bundle, field.data, labels, "classify", tmp_path / "d", start=str(random / "encoder.safetensors"), **settings
    )
    expected = {"start": "file:encoder.safetensors", "sha256": sha256(random / "encoder.safetensors")}
    assert load_model(weights).about.seen_in_pretraining is None  # a bare file does not say
    assert load_model(weights).about.start == expected == load_bundle(weights).bundle.about["start"]
    assert str(tmp_path).encode() not in (weights / "model.json").read_bytes() + (weights / "bundle.json").read_bytes()


def test_faults_of_the_request(field: Any, bundle: Path, classifier: Path, tmp_path: Path) -> None:
    labels, data = field.labels("classes"), field.data
    for error, says, words, settings in (
        (RequestError, r"--task: 'clasify' is unknown, did you mean 'classify'", (labels, "clasify"), {}),
        (RequestError, r"finetune: step: 'step' is unknown, did you mean 'steps'", (labels, "classify"), {"step": 3}),
        (RequestError, r"mode: input should be 'full' or 'linear', got 'half'", (labels, "classify"), {"mode": "half"}),
        (RequestError, r"it must name key and value", (labels, "regress"), {}),
        (
            RequestError,
            r"leave views out for segmentation",
            (field.labels("masks"), "segment"),
            {"views": [{"name": "jitter"}]},
        ),
        (
            RequestError,
            r"finetune.views.0.name: 'jiter' is unknown",
            (labels, "classify"),
            {"views": [{"name": "jiter"}]},
        ),
        (RequestError, r"data.window has 1 sizes, the data have 2 axes", (labels, "classify"), {"window": [4.0]}),
        (RunFailed, r"learning rate 1e\+30 diverged", (labels, "classify"), {"lr": 1e30}),
    ):
        with pytest.raises(error, match=says) as caught:
            finetune(bundle, data, *words, tmp_path / "m", **{**QUICK, **settings})
        assert "\n" not in str(caught.value)
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(RequestError, match="is no bundle"):
        finetune(tmp_path / "none", data, labels, "classify", tmp_path / "m")
    with pytest.raises(RequestError, match="exists; choose another folder"):
        finetune(bundle, data, labels, "classify", classifier)
    with pytest.raises(RequestError, match="lies inside the data folder"):
        finetune(bundle, data, labels, "classify", data / "m")
    one = tmp_path / "one.csv"
    one.write_text("key,label\ns0/r0,flat\ns0/r1,hilly\ns1/r0,flat\n")
    with pytest.raises(RequestError, match=r"none of the 1 labelled groups can be left out"):
        one.write_text("key,label\ns0/r0,flat\ns0/r1,hilly\n")
        finetune(bundle, data, one, "classify", tmp_path / "m", **QUICK)


def test_one_image_under_two_groups_is_leakage(field: Any, bundle: Path, tmp_path: Path) -> None:
    data = shutil.copytree(field.data, tmp_path / "data")
    shutil.copy(data / "s0/r0.npy", data / "s1/r0.npy")
    with pytest.raises(Leakage, match="hold the same values under different groups"):
        finetune(bundle, data, field.labels("classes"), "classify", tmp_path / "m", **QUICK)


@pytest.mark.parametrize("name", ["encoder.safetensors", "head.safetensors", "bundle.json"])
def test_every_file_is_checked(name: str, classifier: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(classifier, tmp_path / "m")
    content = bytearray((broken / name).read_bytes())
    content[-5] ^= 1
    (broken / name).write_bytes(content)
    with pytest.raises(Incompatible, match=r"not the file model\.json was written with; copy the model again"):
        load_model(broken)
    (broken / name).unlink()
    with pytest.raises(Incompatible, match="is missing"):
        load_model(broken)


def test_a_model_is_strict_about_its_head(classifier: Path, bundle: Path, tmp_path: Path) -> None:
    def broken(change: Any) -> Path:
        shutil.rmtree(tmp_path / "m", ignore_errors=True)
        out = shutil.copytree(classifier, tmp_path / "m")
        state = load_file(out / "head.safetensors")
        change(state)
        save_file(state, out / "head.safetensors")
        about = json.loads((out / "model.json").read_text())
        about["sha256"]["head.safetensors"] = sha256(out / "head.safetensors")
        (out / "model.json").write_text(json.dumps(about))
        return out

    with pytest.raises(Incompatible, match=r"missing: head.linear.bias; unexpected: stranger"):
        load_model(broken(lambda s: s.update(stranger=s.pop("head.linear.bias"))))
    with pytest.raises(Incompatible, match=r"reshaped: norm.weight"):
        load_model(broken(lambda s: s.update({"norm.weight": torch.ones(3)})))
    with pytest.raises(Incompatible, match="the output differs from the one saved with them"):
        load_model(broken(lambda s: s.update({"head.linear.weight": s["head.linear.weight"] * 1.1})))
    with pytest.raises(RequestError, match=r"holds no model\.json; name the folder that `finetune` wrote"):
        load_model(bundle)
    out = broken(lambda s: None)
    for text, says in (
        ("{", "damaged"),
        ('{"format": 1}', "damaged"),
        ('{"format": 9}', "has format 9"),
        ("[]", "damaged"),
    ):
        (out / "model.json").write_text(text)
        with pytest.raises(Incompatible, match=says):
            load_model(out)


def test_an_export_says_that_it_has_no_head(classifier: Path, tmp_path: Path) -> None:
    assert any("head" in line for line in export(classifier, "torch", tmp_path / "out")["left_out"])


def test_what_cannot_be_predicted_is_named_and_counted(field: Any, classifier: Path, tmp_path: Path) -> None:
    data = shutil.copytree(field.data, tmp_path / "data")
    np.save(data / "s0" / "small.npy", np.zeros((5, 24), np.float32))  # 8 m are 16 cells
    (data / "s0" / "bad.npy").write_bytes(b"rubbish")
    with pytest.raises(TooManyBad, match=r"1 of 26 records cannot be used"):
        predict(classifier, data, tmp_path / "p")
    with pytest.raises(TooManyBad, match=r"2 of 26 records cannot be predicted, more than --max-bad 0.05"):
        predict(classifier, data, tmp_path / "p", max_bad=0.05)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data"]
    assert len(predict(classifier, data, tmp_path / "p", max_bad=0.1).records) == 24
    left_out = json.loads((tmp_path / "p" / "predictions.json").read_text())["left_out"]
    assert [(x["file"], x["reason"].split(";")[0]) for x in left_out] == [
        ("s0/bad.npy", "bad.npy is no array"),
        ("s0/small.npy", "s0/small holds no window of the size the model was trained on"),
    ]
    with pytest.raises(RequestError, match=r"--format: 'excel' is unknown, known: count, csv, parquet"):
        predict(classifier, data, tmp_path / "q", formats=["excel"], max_bad=0.1)
    with pytest.raises(RequestError, match="exists; choose another folder"):
        predict(classifier, field.data, tmp_path / "p")


def test_a_stop_at_any_time_leaves_nothing(field: Any, bundle: Path, classifier: Path, tmp_path: Path) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(bundle, field.data, field.labels("classes"), "classify", tmp_path / "m", on_progress=stop, **QUICK)
    with pytest.raises(KeyboardInterrupt):
        predict(classifier, field.data, tmp_path / "p", on_progress=stop)
    assert os.listdir(tmp_path) == []  # noqa: PTH208
