"""Input size and normaliser: neighbours against brute force, resizing against closed forms, and the verb on small land."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import torchgeo.models
from numpy.random import default_rng
from sklearn.neighbors import KNeighborsClassifier

from unlabeled.core.build import make_encoder
from unlabeled.core.cli.domain import build
from unlabeled.core.cli.shell import run
from unlabeled.core.contracts import Input, InputSpec, Sample
from unlabeled.core.contracts.batch import Dense
from unlabeled.core.contracts.recipe import read_recipe
from unlabeled.core.data.items import Items
from unlabeled.core.testing.bundles import shaken
from unlabeled.earth import domain
from unlabeled.earth.baselines import Statistics
from unlabeled.earth.input_chips import Chips, labelled, majority
from unlabeled.earth.input_scores import predicted, scored
from unlabeled.earth.input_study import compare, embedded, resized

from .data import land, scenes

SPEC = InputSpec(channels=("a", "b"), units=("1", "1"), axes=("y", "x"), unit="m", spacing=(10.0, 10.0))


@pytest.fixture(autouse=True)
def key(tmp_path, monkeypatch):
    (tmp_path / "key").write_text("0123456789abcdef" * 4)
    monkeypatch.setenv("UNLABELED_KEY", str(tmp_path / "key"))


@pytest.fixture
def recipe(tmp_path):
    """A scene of 96 x 120 cells in blocks of 24, and what lies there: forest where it is high, water where it is low."""
    cover = land.cover(land.scene(tmp_path / "data" / "a.tif"))
    land.write(tmp_path / "labels.tif", cover, nodata=0)
    land.classes(tmp_path)
    (tmp_path / "recipe.yaml").write_text(land.RECIPE.format(data="data") + "study: {labels: labels.tif}\n")
    return tmp_path / "recipe.yaml"


# parts


def of(label, group, classes=3):
    """Chips that are only labels and groups, left out two groups together."""
    from types import SimpleNamespace

    from unlabeled.core.studies.folds import Fold

    names = [f"g{i}" for i in range(max(group) + 1)]
    corpus = SimpleNamespace(groups=names)
    items = Items(corpus, np.asarray(group, np.int32), np.zeros((len(group), 2), np.int32), (8, 8))
    made = tuple(
        Fold(tuple(n for n in names if n not in pair), pair) for pair in zip(names[::2], names[1::2], strict=True)
    )
    return Chips(items, np.asarray(label), tuple("abc"[:classes]), made, 0)


def test_neighbours_are_those_of_brute_force_and_of_scikit_learn():
    rng = default_rng(0)
    x, label, group = rng.standard_normal((60, 7)), rng.integers(0, 3, 60), rng.integers(0, 6, 60)
    chips = of(label, group)
    train = group < 4
    found = dict(predicted(x, chips, train, ~train, False, None))
    distance = ((x[~train][:, None] - x[train][None]) ** 2).sum(2)
    near = label[train][np.argsort(distance, 1)[:, :5]]
    votes = np.stack([(near == c).sum(1) for c in range(3)], 1)
    np.testing.assert_array_equal(found["kNN, Euclidean"], votes.argmax(1))  # of equal votes the first class
    for name, metric in (("kNN, Euclidean", "minkowski"), ("kNN, cosine", "cosine")):
        theirs = KNeighborsClassifier(5, metric=metric).fit(x[train], label[train]).predict(x[~train])
        np.testing.assert_array_equal(found[name], theirs)
    assert (found["kNN, Euclidean"] != found["kNN, cosine"]).any()


def test_scores_of_features_that_tell_the_class_and_of_those_that_tell_nothing():
    """One column a class: all heads are right. A constant: everything is of one class, so of 3 even classes 1/3 is right."""
    label, group = np.arange(60) % 3, np.repeat(np.arange(6), 10)
    for x, expected in ((np.eye(3)[label], 1.0), (np.ones((60, 4)), 1 / 3)):
        found = scored(of(label, group), [x] * 3, False)
        assert set(found) == {"kNN, Euclidean", "kNN, cosine", "linear probe"}
        for scores in found.values():
            assert abs(scores["accuracy"]["score"] - expected) < 0.04
            assert scores["accuracy"]["low"] <= scores["accuracy"]["score"] <= scores["accuracy"]["high"]


def test_image_statistics_know_no_arrangement():
    rng = default_rng(1)
    data = rng.standard_normal((2, 12, 12)).astype(np.float32)
    shuffled = rng.permutation(data.reshape(2, -1), axis=1).reshape(data.shape)
    both = [
        Sample({"x": Input(d, ("a", "b"), ("", ""), spacing=(1.0, 1.0))}, key="", group="") for d in (data, shuffled)
    ]
    a, b = Statistics().features(both)
    np.testing.assert_allclose(a, b, rtol=1e-6)
    assert not np.array_equal(data, shuffled)


def dense(values):
    return Dense(values, torch.ones_like(values[:, :1], dtype=torch.bool), torch.full((len(values), 2), 10.0))


def test_resizing():
    constant = resized(dense(torch.full((1, 2, 32, 32), 3.5)), 224)
    assert constant.values.shape == (1, 2, 224, 224) and bool((constant.values == 3.5).all())
    # half-pixel centres: cell i of twice as many lies at (i + 1/2) / 2 - 1/2 of the old ones, inside 0 ... 7
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    at = ((torch.arange(16) + 0.5) / 2 - 0.5).clamp(0, 7)
    torch.testing.assert_close(resized(dense(ramp), 16).values[0, 0, 0], at)
    own = dense(ramp)
    assert resized(own, None) is own and resized(own, 8) is own
    half = Dense(ramp, torch.arange(8).expand(1, 1, 8, 8) < 4, torch.ones(1, 2))
    found = resized(half, 16)
    assert bool((found.valid[0, 0, 0] == (torch.arange(16) < 8)).all()) and bool((found.values[..., 8:] == 0).all())


class Random:
    """Three items of noise."""

    def __len__(self):
        return 3

    def sample(self, i):
        data = default_rng(i).standard_normal((2, 32, 32)).astype(np.float32)
        x = Input(data, SPEC.channels, SPEC.units, unit="m", spacing=SPEC.spacing)
        return Sample({"x": x}, key=str(i), group="g", index=i, record=i)


@pytest.mark.parametrize(
    ("name", "options"),
    [("timm", {"model": "resnet18"}), ("tokens", {"width": 24, "depth": 1, "heads": 2, "patch": (8, 8)})],
)
def test_another_size_gives_other_features(name, options):
    """Guards against a resize that is silently left out."""
    encoder = shaken(make_encoder(name, options, domain, {"x": SPEC}, 0))
    own, same, larger = (embedded(encoder, Random(), size) for size in (None, 32, 64))
    np.testing.assert_array_equal(own, same)
    assert np.abs(own - larger).max() > 1e-2 * np.abs(own).max()


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([[0, 0], [0, 1]], 0),  # 3 of 4
        ([[0, 1], [1, 0]], -1),  # half is below 60 %
        ([[2, -1], [-1, -1]], 2),  # a quarter has a label, all of one class
        ([[2, -1, -1], [-1, -1, -1]], -1),  # a sixth
        ([[-1, -1]], -1),
    ],
)
def test_majority_of_a_chip(codes, expected):
    assert majority(np.array(codes)) == expected


# the verb


def test_chips_are_labelled_by_their_majority(recipe):
    """Every chip of 8 x 8 cells that does not overlap: its share of ground above 0, computed here, decides."""
    chips = labelled(read_recipe(recipe))
    ground = land.height(0, (96, 120))
    for i in range(len(chips.items)):
        place = chips.items.corpus.reader.place(
            chips.items.corpus.file(chips.items.corpus.rows[chips.items.record[i]]),
            chips.items.corpus.rows[chips.items.record[i]].part,
        )
        top = round((land.ORIGIN[1] - place.transform.f) / land.STEP) + chips.items.start[i, 0]
        left = round((place.transform.c - land.ORIGIN[0]) / land.STEP) + chips.items.start[i, 1]
        forest = (ground[top : top + 8, left : left + 8] > 0).mean()
        assert max(forest, 1 - forest) >= 0.6
        assert chips.classes[chips.label[i]] == ("forest" if forest > 0.5 else "water")
    assert chips.dropped > 0 and chips.size == (8, 8)
    corners = {(int(r), *s) for r, s in zip(chips.items.record, (chips.items.start // 8).tolist(), strict=True)}
    assert len(corners) == len(chips.label) and (chips.items.start % 8 == 0).all()


def test_the_verb_writes_what_it_says(recipe, tmp_path, capsys):
    words = [
        "inputs",
        str(recipe),
        "--sizes",
        "16",
        "--normalisers",
        "standard,none",
        "-o",
        str(tmp_path / "found.json"),
    ]
    assert run(build(domain), [*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((tmp_path / "found.json").read_text())
    rows = {(r["start"], r["normaliser"], r["cells"]): r["scores"] for r in found["rows"]}
    assert set(rows) == {("random", n, c) for n in ("standard", "none") for c in (8, 16)} | {
        ("statistics", "none", 8),
        ("mosaiks", "none", 8),
    }
    assert sum(found["per_class"].values()) == found["chips"] and found["folds"] == 5
    # the mean height of a chip is what its label was made from
    assert rows["statistics", "none", 8]["linear probe"]["macro_f1"]["score"] > 0.9
    assert rows["random", "standard", 8] != rows["random", "standard", 16]
    assert run(build(domain), words) == 2  # the file is there
    assert run(build(domain), words[:-2]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"macro-F1 of {found['chips']} chips that do not overlap" in shown


def test_chips_in_no_fold_take_no_part(recipe, tmp_path):
    """As the gap of the Landsat sample: named folds leave a record out, and its chips count nowhere."""
    every = labelled(read_recipe(recipe))
    rows = every.items.corpus.rows
    gap = int(every.items.record[0])
    lines = [f"{row.key},{'' if i == gap else 'ab'[i % 2]}" for i, row in enumerate(rows)]
    (tmp_path / "folds.csv").write_text("\n".join(["key,fold", *lines]) + "\n")
    chips = labelled(read_recipe(recipe, [f"study.folds={tmp_path / 'folds.csv'}"]))
    assert len(chips.folds) == 2 and gap not in chips.items.record
    assert len(chips.label) == len(every.label) - int((every.items.record == gap).sum())
    assert {len(c) for c in (chips.label, chips.group)} == {len(chips.items)}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--sizes", "16,x"], "is no list of cells"),
        (["--normalisers", "standart"], "standard"),
        (["study.labels=null"], "study.labels is missing"),
        (["--start", "nowhere"], "absent"),
        (["data.window=[240, 240]", "data.min_valid=0.999", "study.labels=none.tif"], "no such file of labels"),
    ],
)
def test_bad_requests(recipe, capsys, words, said):
    assert run(build(domain), ["inputs", str(recipe), *words]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_moco_under_standardisation_is_measured_and_marked(tmp_path):
    """The study feeds weights what the guard refuses elsewhere, and says so beside the score."""
    torch.manual_seed(0)
    weights = shaken(torchgeo.models.resnet18(in_chans=3, num_classes=0)).state_dict()
    torch.save(weights, tmp_path / "moco.pth")
    ground = land.height(0, (96, 120))
    numbers = np.stack([2000 + 100 * ground + 300 * b for b in range(3)]).clip(1, 9000).astype(np.uint16)
    scenes.raster(tmp_path / "data" / "a.tif", numbers, ("B4", "B3", "B2"), transform=land.transform())
    land.write(tmp_path / "labels.tif", land.cover(ground), crs=scenes.ZONE33)
    (tmp_path / "recipe.yaml").write_text(
        """
domain: earth
data:
  path: data
  options: {sensor: sentinel2-l1c, s2_offset: none, bands: [B4, B3, B2], block: 240}
  window: [120, 120]
method: {name: simclr}
encoder: {name: timm}
study: {labels: labels.tif}
"""
    )
    start = f"torchgeo:ResNet18_Weights.SENTINEL2_RGB_MOCO={tmp_path / 'moco.pth'}"
    found = compare(read_recipe(tmp_path / "recipe.yaml"), [start], (), ("div10000", "standard"))
    own, standard = (r for r in found["rows"] if r["start"].startswith("torchgeo:"))
    assert own["refused"] == "" and "set data.normaliser: div10000" in standard["refused"]
    assert own["pretraining_cells"] == 224 and own["cells"] == 12
    assert own["scores"] != standard["scores"]


def test_the_module_of_the_verb_is_light():
    code = "import sys, unlabeled.earth.inputs; assert not {'torch', 'lightning', 'sklearn'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
