"""Quality on unseen groups: by columns of the labels, of several bundles beside each other, and of pruned weights.

24 images of six groups; the bundle saw s0 and s1, so 16 records of four groups are tested on.
"""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from unlabeled.core.bundle import load_bundle
from unlabeled.core.cli.domain import build
from unlabeled.core.cli.shell import run
from unlabeled.core.contracts import Leakage, RequestError
from unlabeled.core.contracts.domain import domain
from unlabeled.core.contracts.recipe import read_recipe
from unlabeled.core.data.groups import hashed, project_key
from unlabeled.core.evaluation.evaluate import embed, evaluate
from unlabeled.core.evaluation.labels import read_column
from unlabeled.core.evaluation.ranking import rank
from unlabeled.core.measures.logme import logme
from unlabeled.core.measures.ped import ped
from unlabeled.core.measures.purity import purity
from unlabeled.core.measures.rank import rankme
from unlabeled.core.measures.spread import uniformity
from unlabeled.core.pretraining import pretrain


@pytest.fixture(scope="module")
def columns(field, tmp_path_factory) -> Path:
    """camera is one of a group; daytime changes within it: three of four records are by day; s5 has no camera."""
    path = tmp_path_factory.mktemp("columns") / "labels.csv"
    rows = ["key,label,camera,daytime"]
    for line in field.labels("classes").read_text().splitlines()[1:]:
        key, label = line.split(",")
        camera = {"s2": "old", "s3": "old", "s4": "new"}.get(key[:2], "")
        rows.append(f"{key},{label},{camera},{'night' if key.endswith('3') else 'day'}")
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def other(field, tmp_path_factory) -> Path:
    """Another bundle of the same data, of s0 alone."""
    recipe = read_recipe(field.recipe).model_copy(update={"seed": 1})
    data = recipe.data.model_copy(update={"groups": (hashed("s0", project_key()),)})
    return pretrain(recipe.model_copy(update={"data": data}), tmp_path_factory.mktemp("other") / "run")


def embedded(bundle: Path, field, to: Path) -> tuple[np.ndarray, np.ndarray]:
    """Keys and features of the items of the groups that neither bundle saw."""
    embed(bundle, field.data, to)
    table = pq.read_table(to)
    keys = np.array(table["key"].to_pylist())
    at = np.array([k[:2] not in ("s0", "s1") for k in keys])
    return keys[at], np.array(table["embedding"].to_pylist(), np.float32)[at]


def test_by_column(field, bundle, columns, tmp_path):
    found = evaluate(bundle, field.data, columns, by=["camera", "daytime"])
    keys, values = embedded(bundle, field, tmp_path / "e.parquet")
    told = dict(line.split(",")[:2] for line in columns.read_text().splitlines())
    # the class varies within a group: only windows of the own record are no neighbours. 16 records, 8 of each class
    record = np.unique(keys, return_inverse=True)[1]
    by_hand = purity(values, np.unique([told[k] for k in keys], return_inverse=True)[1], 10, record)
    assert found["purity"]["ours"]["purity"] == pytest.approx(by_hand.value)
    assert found["purity"]["ours"]["chance"] == pytest.approx(2 * 8 * 7 / (16 * 15))
    # a camera is one of a group: its windows are compared with those of other groups. Of old, old, new one pair in three
    camera = found["by"]["camera"]["purity"]
    at = np.array([k[:2] in ("s2", "s3", "s4") for k in keys])
    group = np.unique([k[:2] for k in keys[at]], return_inverse=True)[1]
    by_hand = purity(values[at], (group == 2).astype(int), 10, group)
    assert camera["ours"]["purity"] == pytest.approx(by_hand.value)
    assert camera["ours"]["chance"] == pytest.approx(1 / 3) and camera["ours"]["not_counted"] == "own group"
    assert set(camera) == {"ours", "random weights"}
    # 8 old and 4 new: under ten, and no score is told; 12 by day and 4 by night
    assert found["by"]["camera"]["scores"] == {} and found["by"]["camera"]["suppressed"] == ["new", "old"]
    daytime = found["by"]["daytime"]
    assert daytime["suppressed"] == ["night"] and daytime["scores"]["day"]["n"] == 12 and daytime["gap"] is None
    whole = evaluate(bundle, field.data, columns)
    assert whole["by"] == {} and "purity" not in whole and whole["scores"] == found["scores"]
    uniform = float(uniformity(torch.as_tensor(full(bundle, field, tmp_path))))
    assert whole["uniformity"]["ours"] == pytest.approx(uniform, abs=1e-5)
    json.dumps(found, allow_nan=False)


def test_what_names_the_group_is_looked_for_among_its_records(field, bundle, columns, tmp_path):
    path = tmp_path / "labels.csv"
    rows = columns.read_text().splitlines()
    path.write_text("\n".join([f"{rows[0]},who", *(f"{row},{row[:2]}" for row in rows[1:])]) + "\n")
    by = evaluate(bundle, field.data, path, by=["who"])["by"]["who"]
    assert by["suppressed"] == ["s2", "s3", "s4", "s5"]  # s0 and s1 are not tested on
    found = by["purity"]["ours"]
    # four groups of four records: a second record is of the same group in 3 of 15 cases
    assert found["not_counted"] == "own record" and found["chance"] == pytest.approx(3 / 15)


def full(bundle: Path, field, to: Path) -> np.ndarray:
    embed(bundle, field.data, to / "all.parquet")
    return np.array(pq.read_table(to / "all.parquet")["embedding"].to_pylist(), np.float32)


def test_the_score_of_all_records_as_one_subgroup_is_the_score(field, bundle, columns, tmp_path):
    path = tmp_path / "labels.csv"
    rows = [line.rsplit(",", 2)[0] for line in columns.read_text().splitlines()]
    part = ["part", *("a" if i % 4 < 3 else "b" for i in range(24))]
    path.write_text(
        "\n".join(f"{row},all,{p}" for row, p in zip(rows, part, strict=True)).replace("label,all", "label,whole")
    )
    found = evaluate(bundle, field.data, path, by=["whole", "part"])
    score, own = found["scores"]["ours, linear probe"], found["by"]["whole"]["scores"]["all"]
    assert own == {"n": 16, **{k: score[k] for k in ("score", "low", "high")}}
    assert found["by"]["whole"]["purity"]["ours"] == {
        "purity": 1.0,
        "chance": 1.0,
        "ratio": 1.0,
        "items": found["by"]["whole"]["purity"]["ours"]["items"],
        "not_counted": "own group",
    }
    assert found["by"]["part"]["scores"]["a"]["n"] == 12


def test_columns_that_are_not_there(field, bundle, columns, tmp_path):
    with pytest.raises(RequestError, match="must name key and scanner"):
        evaluate(bundle, field.data, columns, by=["scanner"])
    with pytest.raises(RequestError, match="name another column"):
        evaluate(bundle, field.data, columns, by=["label"])
    (tmp_path / "l.csv").write_text("key,label,sex\na,x,f\na,x,m\nb,y,\n")
    with pytest.raises(RequestError, match=r"line 3: 'a' has 'm' as sex here and 'f' before"):
        read_column(tmp_path / "l.csv", "sex", ["a", "b"])
    (tmp_path / "l.csv").write_text("key,label,sex\na,x,\nb,y,\n")
    with pytest.raises(RequestError, match="the column sex is empty for every record"):
        read_column(tmp_path / "l.csv", "sex", ["a", "b"])
    (tmp_path / "l.csv").write_text("key,label,sex\na,x,m\nb,y,\nc,x,f\n")
    found = read_column(tmp_path / "l.csv", "sex", ["c", "b", "a"])
    assert found.classes == ("f", "m") and found.codes.tolist() == [0, -1, 1]


def test_rank_is_of_the_same_unseen_records_for_every_bundle(field, bundle, other, tmp_path):
    found = rank([bundle, other], field.data, field.labels("classes"))
    assert (found["records"], found["test_groups"], found["classes"]) == (16, 4, ["flat", "hilly"])
    rows = {row["name"]: row for row in found["rows"]}
    assert set(rows) == {f"{b}{end}" for b in (bundle, other) for end in ("", ", random weights")}
    told = dict(line.split(",") for line in field.labels("classes").read_text().splitlines())
    for path in (bundle, other):
        keys, values = embedded(path, field, tmp_path / f"{path.parent.parent.name}.parquet")
        names = sorted(set(keys))
        means = np.stack([values[keys == name].mean(0, dtype=np.float64) for name in names])
        code = np.unique([told[name] for name in names], return_inverse=True)[1]
        row = rows[str(path)]
        assert row["logme"] == pytest.approx(logme(means, code)) and row["ped"] == pytest.approx(ped(means, code))
        assert row["rank"] == pytest.approx(float(rankme(torch.as_tensor(values))), abs=0.006)
        assert row["uniformity"] == pytest.approx(float(uniformity(torch.as_tensor(values))), abs=1e-5)
    scores = [row["logme"] for row in found["rows"]]
    assert scores == sorted(scores, reverse=True) and "minus_best" not in found["rows"][0]
    for row in found["rows"][1:]:
        assert row["minus_best"] == pytest.approx(row["logme"] - scores[0]) and row["low"] <= row["high"]
    # the order in which they are named is none of the result
    again = rank([other, bundle], field.data, field.labels("classes"))
    assert all(rows[r["name"]] == pytest.approx(r) for r in again["rows"])
    with pytest.raises(RequestError, match="named twice"):
        rank([bundle, bundle], field.data, field.labels("classes"))


def test_rank_refuses_what_was_seen(field, bundle, other, tmp_path):
    few = tmp_path / "few.csv"
    few.write_text("".join(f"{line}\n" for line in field.labels("classes").read_text().splitlines()[:9]))  # s0 and s1
    with pytest.raises(Leakage, match="all 2 labelled groups"):
        rank([bundle, other], field.data, few)
    # what one of them has seen, none is tested on: s1 is left for the other one alone
    assert rank([other], field.data, few)["test_groups"] == 1
    found = rank([bundle, other], field.data, few, allow_seen=True)
    assert found["test_groups"] == 2 and len(found["seen_in_pretraining"]) == 2


def test_command_lines(field, bundle, other, columns, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    app = build(domain("field"))
    words = ["evaluate", str(bundle), str(field.data), "--labels", str(columns), "--by", "camera", "--by", "daytime"]
    assert run(app, words) == 0
    text = capsys.readouterr().out
    assert "neighbours of the same label: ours 0." in text and "neighbours of the same camera: ours " in text
    assert "daytime day: " in text and "on 12 records" in text
    assert (
        "camera: under 10 records, so not shown: new, old" in text and "uniformity (less is more even): ours -" in text
    )
    assert run(app, ["rank", str(bundle), str(other), str(field.data), "--labels", str(columns)]) == 0
    text = capsys.readouterr().out
    assert str(bundle) in text and "16 labelled records, 4 groups, 2 classes" in text and "LogME" in text
    words = ["export", str(bundle), "--to", "torch", "-o", str(tmp_path / "out"), "--sparsity", "--on", str(field.data)]
    assert run(app, words) == 0
    found = json.loads((tmp_path / "out/sparsity.json").read_text())
    assert found["items"] == 64 and found["curve"][0]["cosine"] == pytest.approx(1)
    weights = load_bundle(bundle)
    assert found["weights"] == sum(m.weight.numel() for m in weights.modules() if isinstance(m, torch.nn.Linear))
