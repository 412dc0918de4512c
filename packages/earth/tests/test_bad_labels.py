"""Labels that do not fit, through the command line: exit code and one sentence that says how to mend it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
from affine import Affine
from shapely import LineString, Point, box

from unlabeled.core.cli.domain import build
from unlabeled.core.cli.shell import run
from unlabeled.earth import domain

from .data import land
from .data.scenes import truncated

Refused = Callable[..., str]
COVER = np.tile(np.array([[1, 4]], np.uint8), (40, 25))


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Fine-tunes a 40 x 50 scene on the labels; what is said, as one line."""
    monkeypatch.setenv("UNLABELED_KEY", str(tmp_path / "key"))
    (tmp_path / "key").write_text("0123456789abcdef" * 4)
    land.scene(tmp_path / "data/a.tif", shape=(40, 50))
    (tmp_path / "recipe.yaml").write_text(land.RECIPE.format(data="data"))

    def go(labels: Path, *more: str, code: int = 2) -> str:
        args = ["finetune", str(tmp_path / "recipe.yaml"), str(tmp_path / "data"), "--labels", str(labels), *more]
        assert run(build(domain), [*args, "--task", "segment", "-o", str(tmp_path / "model")]) == code
        assert not (tmp_path / "model").exists()
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert "Traceback" not in said
        return said

    return go


def raster(path: Path, codes: Any = COVER, at: Affine | None = None, **about: Any) -> Path:
    return land.write(path, np.asarray(codes), at, **about)


def polygons(
    path: Path, labels: list[Any], shapes: list[Any], crs: str | None = land.UTM33, column: str = "label"
) -> Path:
    geopandas.GeoDataFrame({column: labels}, geometry=shapes, crs=crs).to_parquet(path)
    return path


def square(x: float = 0, y: float = 0, side: float = 100) -> Any:
    west, north = land.ORIGIN
    return box(west + x, north - y - side, west + x + side, north - y)


def test_values_outside_of_the_classes_are_listed(tmp_path: Path, refused: Refused) -> None:
    codes = COVER.astype(np.int16)
    codes[:2, :3] = [[7, 9, 12], [7, 200, -3]]
    path = raster(tmp_path / "l/labels.tif", codes)
    land.classes(tmp_path / "l")
    said = refused(path)
    assert f"{path} holds values outside of the classes 1, 4: -3, 7, 9, 12, 200" in said
    assert "classes.csv" in said and "nodata" in said
    # without names, every code counts but those below 0
    (tmp_path / "l/classes.csv").unlink()
    assert "outside of the classes 0, 1, ...: -3" in refused(path)


def test_labels_are_integers_of_one_band(tmp_path: Path, refused: Refused) -> None:
    values = np.where(COVER == 1, 0.25, 1.5).astype(np.float32)
    assert "holds float32 (such as 0.25, 1.5), and a label is an integer" in refused(raster(tmp_path / "l.tif", values))
    assert "holds 2 bands" in refused(raster(tmp_path / "two.tif", np.stack([COVER, COVER])))
    (tmp_path / "broken.tif").write_bytes(b"II*\x00 and no more")
    assert f"{tmp_path / 'broken.tif'}: not a raster" in refused(tmp_path / "broken.tif")


@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_a_raster_cut_short_is_named(tmp_path: Path, refused: Refused, kind: str) -> None:
    cut = truncated(tmp_path / "cut.tif", 0.75, COVER[None].astype(kind), transform=land.transform())
    assert f"{cut}: it is cut short or damaged at row " in refused(cut)


def test_another_grid_is_named_with_how_far_off_it_is(tmp_path: Path, refused: Refused) -> None:
    west, north = land.ORIGIN
    off = raster(tmp_path / "off.tif", at=land.transform((west + 3.3, north + 20)))
    said = refused(off)
    # the record begins 3.3 m of 10 m to the left of the raster's cells, and 2 whole cells below
    assert f"{off} is off the grid of a.tif by -0.33 cells in x and 0 in y, cells of 10 x 10" in said
    assert "align_labels=nearest" in said
    coarse = raster(tmp_path / "coarse.tif", COVER[:20, :25], Affine(20, 0, west, 0, -20, north))
    assert "has cells of 20 x 20 and a.tif of 10 x 10" in refused(coarse)
    slow = raster(tmp_path / "slow.tif", at=Affine(10.01, 0, west, 0, -10.01, north))  # half a cell after 50 cells
    assert "has cells of 10.01 x 10.01 and a.tif of 10 x 10" in refused(slow)
    other = raster(tmp_path / "other.tif", crs="EPSG:32632")  # the numbers are equal, the ground is not
    assert f"{other} is in EPSG:32632 and a.tif in EPSG:32633" in refused(other)
    nowhere = raster(tmp_path / "nowhere.tif", crs=None)
    assert "is in no CRS and a.tif in EPSG:32633" in refused(nowhere, "-O", "align_labels=nearest")
    assert "align_labels: input should be 'exact' or 'nearest'" in refused(off, "-O", "align_labels=closest")
    # with the option the labels are taken where they lie: this ground is six degrees away
    assert "no labelled cell lies in any of the" in refused(other, "-O", "align_labels=nearest")


def test_equal_numbers_in_another_crs_are_not_equal_ground(tmp_path: Path, refused: Refused) -> None:
    at = Affine(28.5, 0, 630_000, 0, -28.5, 228_500)
    land.scene(tmp_path / "data/a.tif", at=at, crs="EPSG:32119", shape=(40, 50))
    said = refused(raster(tmp_path / "labels.tif", at=at, crs="EPSG:3358"), "-O", "block=684")
    assert "is in EPSG:3358 and a.tif in EPSG:32119" in said and "align_labels=nearest" in said


def test_classes_are_two_or_more_and_named_once(tmp_path: Path, refused: Refused) -> None:
    path = raster(tmp_path / "l/labels.tif")
    for text, wanted in (
        ("code,name\n1,water\n4,water\n", "line 3: 4 or 'water' is there twice"),
        ("code,name\none,water\n", "line 2: write a code"),
        ("code\n1\n", "it must name code and name"),
    ):
        (tmp_path / "l/classes.csv").write_text(text)
        assert wanted in refused(path)
    assert "have 1 class, and two are needed" in refused(raster(tmp_path / "one.tif", np.ones_like(COVER)))
    assert "no labelled cell" in refused(raster(tmp_path / "none.tif", np.zeros_like(COVER), nodata=0))
    far = raster(tmp_path / "far.tif", at=land.transform((600_000.0, 5_000_000.0)))
    assert "no labelled cell lies in any of the" in refused(far)


def test_a_folder_needs_rasters_named_as_scenes(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "l").mkdir()
    assert "holds no raster of labels" in refused(tmp_path / "l")
    raster(tmp_path / "l/b.tif")
    assert "no raster has the name of a scene; 'b' is nearest to the scene 'a'" in refused(tmp_path / "l")
    assert "no such file of labels" in refused(tmp_path / "absent.tif")
    assert "no such file of labels" in refused(tmp_path / "absent.csv")


def test_polygons(tmp_path: Path, refused: Refused) -> None:
    path = tmp_path / "labels.parquet"
    two = [square(), square(200)]
    assert "have no column `label` (columns: kind)" in refused(polygons(path, ["a", "b"], two, column="kind"))
    assert "names no CRS" in refused(polygons(path, ["a", "b"], two, crs=None))
    assert "the label of feature 2 is empty" in refused(polygons(path, ["a", None], two))
    assert "holds no polygon with an area" in refused(polygons(path, [], []))
    assert "holds no polygon with an area" in refused(polygons(path, ["a", "b"], [None, None]))
    flat = [LineString([(0, 0), (1, 1)]).buffer(0), *[box(0, 0, 0, 5)]]
    assert "holds no polygon with an area" in refused(polygons(path, ["a", "b"], flat))
    assert "holds a Point, and labels are polygons" in refused(polygons(path, ["a", "b"], [Point(0, 0), square()]))
    # a quarter of either square lies under the other: 50 x 50 of 100 x 100 m
    said = refused(polygons(path, ["a", "b"], [square(), square(50, 50)]))
    assert "25% of a polygon lies under both 'a' and 'b'" in said
    far = [square(1e5, 0), square(2e5, 0)]
    assert "no labelled cell lies in any of the" in refused(polygons(path, ["a", "b"], far))
    (tmp_path / "broken.geojson").write_text("{")
    assert "cannot be read as a file of polygons" in refused(tmp_path / "broken.geojson")


def test_points(tmp_path: Path, refused: Refused) -> None:
    path = tmp_path / "labels.csv"
    west, north = land.ORIGIN
    for lines, wanted in (
        (f"{west + 1},{north - 1},a\n{west + 8},{north - 8},b", "line 3: 'b' lies in the cell that line 2 labels 'a'"),
        (f"{west + 1},north,a", "line 2: 'north' is no position"),
        (f"{west + 1},inf,a", "line 2: 'inf' is no position"),
        (f"{west + 1},{north - 1},", "line 2: the label is empty"),
        ("1,1,a\n2,2,b", "no labelled cell lies in any of the"),
        ("", "no labelled cell lies in any of the"),
    ):
        path.write_text(f"x,y,label\n{lines}\n")
        assert wanted in refused(path), lines
    path.write_text("x,y,label,crs\n1,1,a,EPSG:999999\n")
    assert "'EPSG:999999' is no CRS" in refused(path)
    land.scene(tmp_path / "data/b.tif", 1, (40, 50), crs="EPSG:32634")
    path.write_text("x,y,label\n1,1,a\n")
    assert "the scenes have 2 CRSs; say in a column crs" in refused(path)


def test_scenes_without_a_place_have_labels_on_their_grid_alone(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "data/a.tif").unlink()
    land.scene(tmp_path / "data/a.tif", shape=(40, 50), crs=None, at=Affine(1, 0, 5, 0, -1, 5))
    allow = ("-O", "allow_nogeo=true", "-O", "block=24", "window=[8,8]", "stride=[4,4]")
    path = polygons(tmp_path / "labels.parquet", ["a", "b"], [square(), square(200)])
    assert "needs scenes with a CRS" in refused(path, *allow)
    assert "is in EPSG:32633 and a.tif in no CRS" in refused(
        raster(tmp_path / "l.tif", at=Affine(1, 0, 5, 0, -1, 5)), *allow
    )
