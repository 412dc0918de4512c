"""Labels of cells: rasters, polygons and points, on the grids of records, against what is written down directly."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.warp import transform as warp_points
from shapely import Point, Polygon, box

from unlabeled.core.cli.domain import build
from unlabeled.core.cli.shell import run
from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.recipe import Data
from unlabeled.core.data.corpus import Corpus
from unlabeled.core.downstream.labels import Cells
from unlabeled.core.downstream.tasks import make_task
from unlabeled.earth import domain
from unlabeled.earth.label_rasters import Nearest, Raster
from unlabeled.earth.labels import cells
from unlabeled.earth.scene import Place

from .data import land
from .data.scenes import truncated


@pytest.fixture(autouse=True)
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("0123456789abcdef" * 4)
    monkeypatch.setenv("UNLABELED_KEY", str(tmp_path / "key"))


def corpus(root: Path, **options: Any) -> Corpus:
    return Corpus.open(domain, Data(path=root, options={"block": land.BLOCK, **options}))


def found(labels: Path, data: Corpus) -> Cells:
    made = cells(labels, data)
    assert made is not None
    return made


def whole(made: Cells, data: Corpus, shape: tuple[int, int], origin: tuple[float, float] = land.ORIGIN) -> Any:
    """Class names of a scene's cells put together from its records, "" where there is none."""
    out = np.full(shape, "", object)
    names = np.array([*made.classes, ""], object)
    for i, row in enumerate(data.rows):
        place = data.reader.place(data.file(row), row.part)
        top, left = (
            round((origin[1] - place.transform.f) / land.STEP),
            round((place.transform.c - origin[0]) / land.STEP),
        )
        if made.masks[i] is not None:
            out[top : top + place.height, left : left + place.width] = names[made.of(i)]
    return out


def named(codes: Any, names: dict[int, str] = land.CLASSES) -> Any:
    return np.vectorize(lambda code: names.get(int(code), ""), otypes=[object])(codes)


def test_a_raster_on_the_grid_gives_each_record_its_own_cells(tmp_path: Path) -> None:
    cover = land.cover(land.scene(tmp_path / "data/a.tif"))
    cover[10:20, 5:40] = 0
    land.write(tmp_path / "labels.tif", cover, nodata=0)
    land.classes(tmp_path)
    data = corpus(tmp_path / "data")
    made = found(tmp_path / "labels.tif", data)
    assert len(data) > 8 and made.classes == ("water", "forest") and made.codes.tolist() == [1, 4]
    assert (whole(made, data, cover.shape) == named(cover)).all()
    # and a region is that part of the record, also where it ends beyond it, and every n-th cell
    mask = made.masks[3]
    assert mask is not None and not isinstance(mask, np.ndarray)
    everything = mask[()]
    for region in (
        (slice(2, 9), slice(3, 7)),
        (slice(20, 40), slice(0, 99)),
        (slice(0, None, 5), slice(None, None, 4)),
    ):
        assert (mask[region] == everything[region]).all()


def test_a_raster_may_be_larger_or_smaller_than_the_scene(tmp_path: Path) -> None:
    cover = land.cover(land.scene(tmp_path / "data/a.tif"))
    data = corpus(tmp_path / "data")
    larger = np.full((140, 160), 4, np.uint8)
    larger[17 : 17 + 96, 21 : 21 + 120] = cover
    at = land.transform((land.ORIGIN[0] - 210, land.ORIGIN[1] + 170))
    land.write(tmp_path / "large/labels.tif", larger, at)
    land.classes(tmp_path / "large")
    assert (whole(found(tmp_path / "large/labels.tif", data), data, cover.shape) == named(cover)).all()
    land.write(
        tmp_path / "small.tif", cover[30:60, 50:80], land.transform((land.ORIGIN[0] + 500, land.ORIGIN[1] - 300))
    )
    made = found(tmp_path / "small.tif", data)
    expected = np.zeros_like(cover)
    expected[30:60, 50:80] = cover[30:60, 50:80]
    assert made.classes == ("1", "4")  # no names are known
    assert (whole(made, data, cover.shape) == named(expected, {1: "1", 4: "4"})).all()
    assert any(m is None for m in made.masks)  # records that it does not reach


def test_a_folder_holds_a_raster_for_each_scene(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    there = land.transform((500_000.0, 5_280_000.0))
    a = land.cover(land.scene(tmp_path / "data/a.tif"))
    b = land.cover(land.scene(tmp_path / "data/sub/b.tif", 1, (40, 30), there))
    land.scene(tmp_path / "data/c.tif", 2, (30, 30), land.transform((520_000.0, 5_280_000.0)))
    land.write(tmp_path / "labels/a.tif", a)
    land.write(tmp_path / "labels/sub/b.tif", b, there)
    land.write(tmp_path / "labels/nobody.tif", b, there)
    land.classes(tmp_path / "labels")
    land.classes(tmp_path / "labels/sub")
    data = corpus(tmp_path / "data")
    made = found(tmp_path / "labels", data)
    assert "1 of 3 rasters have the name of no scene" in caplog.text
    for row, mask in zip(data.rows, made.masks, strict=True):
        assert (mask is None) == (row.file == "c.tif")
    (i,) = (i for i, row in enumerate(data.rows) if row.file == "sub/b.tif")
    assert (np.array(made.classes)[made.of(i)] == named(b)).all()
    before = made.of(i)
    flat = found(_moved(tmp_path / "labels/sub/b.tif", tmp_path / "flat/b.tif"), data)  # the name alone is enough
    assert (np.array(flat.classes)[flat.of(i)] == np.where(before == 1, "4", "1")).all()


def _moved(path: Path, to: Path) -> Path:
    to.parent.mkdir()
    path.rename(to)
    return to.parent


def test_names_come_from_tags_or_category_names(tmp_path: Path) -> None:
    cover = land.cover(land.scene(tmp_path / "data/a.tif"))
    tagged = land.write(tmp_path / "tagged.tif", cover)
    with rasterio.open(tagged, "r+") as dst:
        dst.update_tags(1, CLASS_1="lake", CLASS_4="wood", CLASSIFIER="x")
    assert Raster(tagged).names == {1: "lake", 4: "wood"}
    sided = land.write(tmp_path / "sided.tif", cover)
    listed = "".join(f"<Category>{name}</Category>" for name in ("", "lake", "", "", "wood &amp; heath"))
    (tmp_path / "sided.tif.aux.xml").write_text(
        f'<PAMDataset><PAMRasterBand band="1"><CategoryNames>{listed}</CategoryNames></PAMRasterBand></PAMDataset>'
    )
    made = found(sided, corpus(tmp_path / "data"))
    assert made.classes == ("lake", "wood & heath")


def test_another_crs_over_equal_numbers_is_taken_when_asked_for(tmp_path: Path) -> None:
    """EPSG:3358 and EPSG:32119 are North Carolina in NAD83(HARN) and NAD83, less than a metre apart: the same cells."""
    at = Affine(28.5, 0, 630_000, 0, -28.5, 228_500)
    ground = land.scene(tmp_path / "data/a.tif", at=at, crs="EPSG:32119", shape=(40, 50))
    land.write(tmp_path / "labels.tif", land.cover(ground), at, "EPSG:3358")
    data = corpus(tmp_path / "data", align_labels="nearest", block=5_000)
    made = found(tmp_path / "labels.tif", data)
    assert isinstance(made.masks[0], Nearest)
    assert (made.of(0) == (ground > 0)).all()


def test_the_nearest_label_is_the_one_under_the_centre(tmp_path: Path) -> None:
    """Against the label at each cell's centre, one point after the other, by rasterio."""
    land.scene(tmp_path / "data/a.tif", shape=(40, 50))
    # in longitude and latitude, of other cells, ending inside the scene on two sides
    west, north = 14.7385, 47.6725
    codes = (np.arange(30 * 40).reshape(30, 40) % 7).astype(np.uint8)
    codes[5:9] = 99
    step = 0.00013
    path = land.write(tmp_path / "labels.tif", codes, Affine(step, 0, west, 0, -step, north), "EPSG:4326", nodata=99)
    data = corpus(tmp_path / "data", align_labels="nearest", block=5_000)
    made = found(path, data)
    got = np.array([int(c) for c in made.classes])[made.of(0)]
    got[made.of(0) < 0] = -1
    y, x = np.mgrid[:40, :50] + 0.5
    x, y = land.transform() @ (x, y)
    lon, lat = (np.array(v).reshape(40, 50) for v in warp_points(land.UTM33, "EPSG:4326", x.ravel(), y.ravel()))
    rows, cols = np.floor((north - lat) / step).astype(int), np.floor((lon - west) / step).astype(int)
    inside = (rows >= 0) & (rows < 30) & (cols >= 0) & (cols < 40)
    expected = np.where(inside, codes[rows.clip(0, 29), cols.clip(0, 39)].astype(int), -1)
    expected[expected == 99] = -1
    assert 0.1 < (expected >= 0).mean() < 0.9
    assert (got == expected).mean() > 0.999  # a centre on a border may fall to either side
    part = made.masks[0][5:25, 10:30]  # type: ignore[index]
    assert (part == np.where(made.of(0) < 0, -1, got)[5:25, 10:30]).all()


def test_polygons_label_the_cells_whose_centres_they_hold(tmp_path: Path) -> None:
    land.scene(tmp_path / "data/a.tif", shape=(40, 50))
    west, north = land.ORIGIN
    lake = Polygon([(west + 33, north - 41), (west + 307, north - 60), (west + 151, north - 297)])
    wood = box(west + 310, north - 390, west + 480, north - 100)
    frame = geopandas.GeoDataFrame({"label": ["lake", "wood"]}, geometry=[lake, wood], crs=land.UTM33)
    data = corpus(tmp_path / "data", block=5_000)
    y, x = np.mgrid[:40, :50] + 0.5
    centres = [Point(p) for p in zip(*(v.ravel() for v in land.transform() @ (x, y)), strict=True)]
    expected = np.array([0 if lake.contains(p) else 1 if wood.contains(p) else -1 for p in centres]).reshape(40, 50)
    frame.to_file(tmp_path / "labels.gpkg")
    frame.to_parquet(tmp_path / "labels.parquet")
    frame.to_file(tmp_path / "labels.shp")
    for name in ("gpkg", "parquet", "shp"):
        made = found(tmp_path / f"labels.{name}", data)
        assert made.classes == ("lake", "wood")
        assert (made.of(0) == expected).all()
        assert (made.masks[0][7:31, 20:45] == expected[7:31, 20:45]).all()  # type: ignore[index]
    # from longitude and latitude, with the seven digits that GeoJSON keeps: a centimetre
    frame.to_crs("EPSG:4326").to_file(tmp_path / "labels.geojson")
    assert (found(tmp_path / "labels.geojson", data).of(0) == expected).all()


def test_a_bow_tie_becomes_two_triangles(tmp_path: Path) -> None:
    """The polygon (0,0) (20,20) (20,0) (0,20) crosses itself at (10, 10); what is left and right of there is inside."""
    land.scene(tmp_path / "data/a.tif", shape=(20, 20))
    west, north = land.ORIGIN
    tie = Polygon([(west, north), (west + 200, north - 200), (west + 200, north), (west, north - 200)])
    rest = box(west + 60, north - 40, west + 140, north)
    assert not tie.is_valid
    frame = geopandas.GeoDataFrame({"label": ["tie", "top"]}, geometry=[tie, rest], crs=land.UTM33)
    frame.to_file(tmp_path / "labels.gpkg")
    got = found(tmp_path / "labels.gpkg", corpus(tmp_path / "data", block=5_000))
    y, x = np.mgrid[:20, :20] + 0.5
    assert got.classes == ("tie", "top")
    tied = np.abs(x - 10) > np.abs(y - 10)
    top = (x > 6) & (x < 14) & (y < 4)
    sure = np.abs(np.abs(x - 10) - np.abs(y - 10)) > 0.1  # centres on the diagonals may fall to either side
    assert (got.of(0) == np.where(top, 1, np.where(tied, 0, -1)))[sure].all()


def test_points_label_the_cells_they_lie_in(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    land.scene(tmp_path / "data/a.tif")
    west, north = land.ORIGIN
    cells_of = {(3, 7): "lake", (40, 100): "wood", (70, 0): "lake"}
    lines = [f"{west + (c + 0.9) * 10},{north - (r + 0.1) * 10},{name}" for (r, c), name in cells_of.items()]
    (tmp_path / "own.csv").write_text("x,y,label\n" + "\n".join([*lines, f"{west - 5},{north - 5},wood"]) + "\n")
    data = corpus(tmp_path / "data")
    expected = np.full((96, 120), "", object)
    for at, name in cells_of.items():
        expected[at] = name
    assert (whole(found(tmp_path / "own.csv", data), data, (96, 120)) == expected).all()
    assert "1 of 4 points lie outside of every scene" in caplog.text
    # the same places in longitude and latitude, the last one still in the scenes' own CRS
    xs, ys = zip(*(line.split(",")[:2] for line in lines), strict=True)
    lon, lat = warp_points(land.UTM33, "EPSG:4326", [*map(float, xs)], [*map(float, ys)])
    degrees = [f"{a:.9f},{b:.9f},{n},EPSG:4326" for a, b, n in zip(lon, lat, cells_of.values(), strict=True)]
    (tmp_path / "far.csv").write_text("x,y,label,crs\n" + "\n".join([*degrees[:2], lines[2] + ","]) + "\n")
    assert (whole(found(tmp_path / "far.csv", data), data, (96, 120)) == expected).all()


def test_a_csv_of_masks_is_left_to_the_core(tmp_path: Path) -> None:
    cover = land.cover(land.scene(tmp_path / "data/a.tif", shape=(20, 20)))
    np.save(tmp_path / "a.npy", cover.astype(np.int16))
    (tmp_path / "labels.csv").write_text("key,file\na,a.npy\n")
    data = corpus(tmp_path / "data", block=5_000)
    assert cells(tmp_path / "labels.csv", data) is None
    task: Any = make_task(domain, "segment", tmp_path / "labels.csv", data)
    assert task.classes == ("1", "4") and (task.cells.of(0) == (cover == 4)).all()


def test_a_large_raster_is_never_read_whole(tmp_path: Path) -> None:
    """Of 5000 x 5000 labels (25 MB) a scene of 96 x 120 needs 12 kB; int64 and what is read around it: below 2 MB."""
    import tracemalloc

    land.scene(tmp_path / "data/a.tif")
    at = land.transform((land.ORIGIN[0] - 20_000, land.ORIGIN[1] + 20_000))
    codes = np.tile(np.array([[1, 4]], np.uint8), (5000, 2500))
    path = land.write(
        tmp_path / "labels.tif", codes, at, tiled=True, blockxsize=256, blockysize=256, compress="deflate"
    )
    del codes
    data = corpus(tmp_path / "data")
    tracemalloc.start()
    made = found(path, data)
    assert [len(np.unique(made.of(i))) for i in range(len(data))] == [2] * len(data)
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


def test_place_and_raster_of_one_grid_agree_to_a_hundredth_of_a_cell(tmp_path: Path) -> None:
    codes = np.ones((30, 30), np.uint8)
    path = land.write(tmp_path / "labels.tif", codes, land.transform((land.ORIGIN[0] + 0.05, land.ORIGIN[1])))
    place = Place(CRS.from_string(land.UTM33), land.transform(), 20, 20)
    assert Raster(path).on(place, "a.tif", nearest=False).shape == (20, 20)


def test_a_raster_cut_short_is_named_and_spoils_no_other(tmp_path: Path) -> None:
    """GDAL's strips are 8 KiB, here 16 rows, of which about half are in the file: the first can be read, the last cannot."""
    codes = np.random.default_rng(0).integers(0, 9, (512, 512)).astype(np.uint8)
    good = Raster(land.write(tmp_path / "good.tif", codes))
    bad = Raster(truncated(tmp_path / "bad.tif", values=codes[None]))
    rows, cols = slice(496, 512), slice(100, 200)
    said = re.escape(f"{bad.path}: it is cut short or damaged at row 496, column 100; fetch it again or remove it")
    for _ in range(2):
        with pytest.raises(RequestError, match=f"^{said}$"):
            bad.read(rows, cols)
        assert good.src.colorinterp  # GDAL keeps the error of a failed read, which rasterio would raise here
        assert (good.read(rows, cols) == codes[rows, cols]).all()
        assert (bad.read(slice(0, 16), cols) == codes[:16, cols]).all()


def test_the_help_says_what_labels_may_be(capsys: pytest.CaptureFixture[str]) -> None:
    for made, says in ((domain, True), (replace(domain, cells=""), False)):
        assert run(build(made), ["finetune", "--help"]) == 0
        said = " ".join(capsys.readouterr().out.replace("│", " ").split())
        assert ("for segmentation also the files that the package's README names" in said) is says
