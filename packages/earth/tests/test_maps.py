"""Maps of whole scenes: what a model says stands where the scene has it, in files that other programs read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from rasterio.warp import transform as warp_points

from unlabeled.core.cli.domain import build
from unlabeled.core.cli.shell import run
from unlabeled.core.contracts import BadInput, Head
from unlabeled.core.contracts.recipe import Data
from unlabeled.core.data.corpus import Corpus
from unlabeled.core.downstream.model import Model
from unlabeled.core.downstream.write import Predictions
from unlabeled.core.nn.base import Encoder, Features
from unlabeled.earth import domain
from unlabeled.earth.cog import colours
from unlabeled.earth.label_rasters import Raster, categories
from unlabeled.earth.maps import Tiling, segment
from unlabeled.earth.write import geojson, geoparquet

from .data import land


@pytest.fixture(autouse=True)
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("0123456789abcdef" * 4)
    monkeypatch.setenv("UNLABELED_KEY", str(tmp_path / "key"))


class Echo(Encoder):
    """A token is a cell with its first band's value."""

    stride = (1, 1)

    def __init__(self, specs: Any) -> None:
        super().__init__(specs, 1, 1)
        self.unused = torch.nn.Parameter(torch.zeros(()))

    def forward(self, inputs: Any) -> Features:
        (x,) = inputs.values()
        tokens = x.values[:, :1].flatten(2).transpose(1, 2)
        return Features(tokens, x.valid[:, 0].flatten(1), tokens[:, 0])


def echo(
    specs: Any, classes: tuple[str, ...] = ("low", "high"), window: Any = (80.0, 80.0), stride: Any = None
) -> Model:
    """Logits (0, v, 0, ...) of the first band's value v: class 1 where v > 0, of probability 1 / (1 + e^-v) of two."""
    model = Model(Echo(specs), "segmentation", len(classes))
    model.norm = torch.nn.Identity()  # type: ignore[assignment]
    with torch.no_grad():
        for p in model.head.parameters():
            p.zero_()
        model.head.linear.weight[1, 0] = 1  # type: ignore[union-attr,index]
    model.about = SimpleNamespace(
        classes=classes,
        window=window,
        stride=stride,
        head=Head("segment", "segmentation", "miou", ""),
        start={"start": "random"},
        sha256={"encoder.safetensors": "e" * 64, "head.safetensors": "f" * 64},
    )
    return model


def opened(root: Path, **options: Any) -> Corpus:
    return Corpus.open(domain, Data(path=root, options={"block": land.BLOCK, **options}))


def mapped(tmp_path: Path, corpus: Corpus, formats: tuple[str, ...] = (), **about: Any) -> Predictions:
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    model = echo(corpus.specs, **about)
    said: list[tuple[int, int]] = []
    records = tuple(segment(model, corpus, out, formats, lambda *at: said.append(at)))
    assert [done for done, _ in said] == list(range(1, said[-1][1] + 1))  # progress ends where it said it would
    return Predictions(model.about.head, model.about.classes, "", "m", records, corpus)


@pytest.mark.parametrize(
    ("window", "stride", "shape"),
    [
        ((80.0, 80.0), None, (96, 120)),
        ((170.0, 230.0), (90.0, 110.0), (61, 53)),
        ((80.0, 80.0), (80.0, 80.0), (96, 120)),
        ((640.0, 640.0), None, (30, 47)),  # the scene is smaller than a tile
        (None, None, (96, 120)),  # a model of whole records
    ],
)
def test_what_is_said_of_a_cell_stands_at_the_cell(tmp_path: Path, window: Any, stride: Any, shape: Any) -> None:
    ground = land.scene(tmp_path / "data/a.tif", shape=shape)
    with rasterio.open(tmp_path / "data/a.tif", "r+") as dst:
        holes = dst.read()
        holes[1, 3:9, 4:30] = -9999  # one band is enough
        holes[:, 20:29, 20:40] = np.nan
        dst.write(holes)
    found = mapped(tmp_path, opened(tmp_path / "data"), ("probabilities",), window=window, stride=stride)
    assert [r.mask for r in found.records] == ["maps/a.tif"] and found.records[0].extent == (
        shape[0] * 10,
        shape[1] * 10,
    )
    valid = np.ones(shape, bool)
    valid[-5:] = valid[3:9, 4:30] = valid[20:29, 20:40] = False
    with rasterio.open(tmp_path / "out/maps/a.tif") as src, rasterio.open(tmp_path / "data/a.tif") as scene:
        assert (src.crs, src.transform, src.shape) == (scene.crs, scene.transform, scene.shape)
        assert (src.dtypes, src.nodata, src.descriptions) == (("uint8",), 255, ("class",))
        assert (src.read(1) == np.where(valid, ground > 0, 255)).all()
        assert (src.read_masks(1) == np.where(valid, 255, 0)).all()
    with rasterio.open(tmp_path / "out/probabilities/a.tif") as src, rasterio.open(tmp_path / "data/a.tif") as scene:
        assert (src.crs, src.transform, src.shape) == (scene.crs, scene.transform, scene.shape)
        assert (src.dtypes, src.descriptions) == (("float32", "float32"), ("low", "high"))
        p = src.read()
        assert (np.isnan(p) == ~valid).all()
        np.testing.assert_allclose(p[1][valid], 1 / (1 + np.exp(-ground[valid])), atol=1e-6)
        np.testing.assert_allclose(p.sum(0)[valid], 1, atol=1e-6)


def test_a_map_is_a_cloud_optimized_geotiff_that_says_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Overviews: of each 2 x 2 cells three are high and one is low, so the most frequent is high and the mean high share 3/4."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    ground = np.ones((2, 600, 700), np.float32)
    ground[0, ::2, ::2] = -1
    land.write(tmp_path / "data/a.tif", ground, names=("height", "noise"))
    corpus = opened(tmp_path / "data", block=20_000).normalised("none")
    mapped(tmp_path, corpus, ("probabilities",), window=(2560.0, 2560.0))
    path = tmp_path / "out/maps/a.tif"
    with rasterio.open(path) as src:
        assert src.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG" and src.overviews(1) == [2]
        assert src.read(1).sum() == 600 * 700 * 3 / 4
        tags = src.tags()
        assert {k: src.colormap(1)[k] for k in (0, 1)} == colours({0: "low", 1: "high"})
    with rasterio.open(path, overview_level=0) as src:
        assert src.shape == (300, 350) and (src.read(1) == 1).all()
    with rasterio.open(tmp_path / "out/probabilities/a.tif") as src:
        assert src.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG" and src.overviews(1) == [2]
    with rasterio.open(tmp_path / "out/probabilities/a.tif", overview_level=0) as src:
        # the mean of sigmoid(1) three times and sigmoid(-1) = 1 - sigmoid(1) once
        s = 1 / (1 + np.exp(-1.0))
        np.testing.assert_allclose(src.read(2), (3 * s + 1 - s) / 4, atol=1e-6)
    assert tags["BANDS"] == "height,noise" and tags["CREATED"] == "2023-11-14T22:13:20+00:00"
    assert tags["WEIGHTS_SHA256"] == f"encoder {'e' * 64} head {'f' * 64}"
    assert json.loads(tags["NORMALISER"])["method"] == "none"
    assert tags["MODEL"].startswith("segment on earth") and tags["SOFTWARE"].startswith("unlabeled-earth ")
    # names: for GDAL, and for whoever takes this map as labels
    assert categories(path) == ["low", "high"] and Raster(path).names == {0: "low", 1: "high"}
    # and the same again is the same bytes
    before = path.read_bytes()
    mapped(tmp_path, corpus, (), window=(2560.0, 2560.0))
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == ["a.tif", "a.tif.aux.xml"]


def test_colours_differ(tmp_path: Path) -> None:
    found = colours({code: str(code) for code in range(0, 200, 10)})
    assert len(set(found.values())) == 20 and set(found) == set(range(0, 200, 10))


@pytest.mark.parametrize(("codes", "dtype", "nodata"), [((11, 254), "uint8", 255), ((11, 255), "uint16", 65535)])
def test_codes_of_labels_stay_what_they_were(tmp_path: Path, codes: Any, dtype: str, nodata: int) -> None:
    ground = land.scene(tmp_path / "data/a.tif", shape=(30, 30))
    mapped(tmp_path, opened(tmp_path / "data"), classes=tuple(map(str, codes)))
    with rasterio.open(tmp_path / "out/maps/a.tif") as src:
        assert src.dtypes == (dtype,) and src.nodata == nodata
        assert (src.read(1)[:-5] == np.where(ground > 0, codes[1], codes[0])[:-5]).all()
        assert src.tags(1) == {f"CLASS_{c}": str(c) for c in codes}


@pytest.mark.parametrize(
    ("crs", "at", "block"),
    [
        ("EPSG:32633", land.transform(), 240),
        ("EPSG:32719", land.transform((300_000.0, 7_000_000.0)), 240),
        ("EPSG:4326", Affine(1e-4, 0, 12.3, 0, -1e-4, 45.6), 0.01),
        ("EPSG:3857", Affine(7.5, 0, 1_000_000, 0, -12.5, 6_000_000), 240),
    ],
)
def test_a_known_place_keeps_its_class(tmp_path: Path, crs: str, at: Affine, block: float) -> None:
    """From the longitude and latitude of pixel centres back through the map's own georeference."""
    ground = land.scene(tmp_path / "data/a.tif", shape=(60, 70), at=at, crs=crs)
    size = 8 * abs(at.a) if crs == "EPSG:4326" else 80.0
    mapped(tmp_path, opened(tmp_path / "data", block=block), window=(size, size))
    rows, cols = [0, 7, 33, 54], [69, 0, 12, 41]
    x, y = at @ (np.array(cols) + 0.5, np.array(rows) + 0.5)
    lon, lat = warp_points(crs, "EPSG:4326", list(x), list(y))
    with rasterio.open(tmp_path / "out/maps/a.tif") as src:
        back = warp_points("EPSG:4326", src.crs, lon, lat)
        said = [int(v[0]) for v in src.sample(zip(*back, strict=True))]
    assert said == (ground[rows, cols] > 0).astype(int).tolist()


def test_a_scene_without_a_place_has_no_map(tmp_path: Path) -> None:
    land.scene(tmp_path / "data/a.tif", crs=None, at=Affine(1, 0, 5, 0, -1, 5))
    corpus = opened(tmp_path / "data", allow_nogeo=True)
    with pytest.raises(BadInput, match=r"a\.tif has no CRS, so its map would lie nowhere"):
        mapped(tmp_path, corpus)
    assert list((tmp_path / "out").iterdir()) == []


def test_tiles_follow_the_windows_of_the_model(tmp_path: Path) -> None:
    land.scene(tmp_path / "data/a.tif")
    corpus = opened(tmp_path / "data")
    assert Tiling.of(echo(corpus.specs, window=(160.0, 320.0)), corpus) == Tiling((16, 32), (8, 16), 2)
    # a stride of 14 of 16 cells leaves a margin of one cell
    assert Tiling.of(echo(corpus.specs, window=(160.0, 160.0), stride=(140.0, 140.0)), corpus).halo == 1
    assert Tiling.of(echo(corpus.specs, window=(160.0, 160.0), stride=(400.0, 400.0)), corpus).step == (16, 16)
    largest = max(corpus.shape(i) for i in range(len(corpus)))
    assert Tiling.of(echo(corpus.specs, window=None), corpus).size == largest == (24, 24)


# vectors


def test_polygons_have_the_area_of_their_classes(tmp_path: Path) -> None:
    a = land.scene(tmp_path / "data/a.tif")[:-5] > 0
    b = land.scene(tmp_path / "data/b.tif", 1, at=land.transform((500_000.0, 5_280_000.0)))[:-5] > 0
    found = mapped(tmp_path, opened(tmp_path / "data"))
    geoparquet(echo(found.corpus.specs), found, tmp_path / "out")  # type: ignore[union-attr]
    frame = geopandas.read_parquet(tmp_path / "out/polygons.parquet")
    assert frame.crs == land.UTM33 and frame.geometry.is_valid.all()
    areas = frame.assign(area=frame.area).groupby(["key", "label"]).area.sum()
    for name, high in (("a", a), ("b", b)):
        assert areas[name, "high"] == high.sum() * 100 and areas[name, "low"] == (~high).sum() * 100
    assert set(zip(frame["label"], frame["code"], strict=True)) == {("low", 0), ("high", 1)}
    # another zone: one file in longitude and latitude, of the same polygons
    land.scene(tmp_path / "data/c.tif", 2, crs="EPSG:32634")
    found = mapped(tmp_path, opened(tmp_path / "data"))
    geoparquet(echo(found.corpus.specs), found, tmp_path / "out")  # type: ignore[union-attr]
    both = geopandas.read_parquet(tmp_path / "out/polygons.parquet")
    assert both.crs == "EPSG:4326" and len(both) > len(frame)
    back = both[both.key == "a"].to_crs(land.UTM33)
    assert back[back.label == "high"].area.sum() == pytest.approx(a.sum() * 100, rel=1e-4)


def test_what_crosses_the_antimeridian_is_cut_there(tmp_path: Path) -> None:
    """A scene of zone 1 whose middle lies on 180 degrees: two parts, each at its end of the world."""
    (x,), (y,) = warp_points("EPSG:4326", "EPSG:32701", [180.0], [-17.0])
    land.scene(tmp_path / "data/a.tif", shape=(40, 60), at=land.transform((x - 300, y + 200)), crs="EPSG:32701")
    corpus = opened(tmp_path / "data", block=5_000)
    found = Predictions(Head("regress", "regression", "mae", ""), (), "t", "m", _values(corpus), corpus)
    geojson(echo(corpus.specs), found, tmp_path)
    (shape,) = geopandas.read_file(tmp_path / "footprints.geojson").geometry
    parts = sorted(shape.geoms, key=lambda part: part.bounds[0])
    assert [(p.bounds[0], p.bounds[2]) for p in parts] == [
        (-180.0, pytest.approx(-179.997, abs=1e-3)),
        (pytest.approx(179.997, abs=1e-3), 180.0),
    ]


def _values(corpus: Corpus) -> Any:
    from unlabeled.core.downstream.write import Record

    return tuple(Record(row.key, row.group, (), 1.5) for row in corpus.rows)


# the command line


Verb = Callable[..., str]


@pytest.fixture
def verb(capsys: pytest.CaptureFixture[str]) -> Verb:
    """Runs a verb; what it said last."""

    def go(*args: object, code: int = 0) -> str:
        assert run(build(domain), [str(a) for a in args]) == code, capsys.readouterr().err
        said = capsys.readouterr()
        return (said.err if code else said.out).strip().splitlines()[-1]

    return go


@pytest.fixture(scope="module")
def land_cover(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two scenes with their land cover, and a model of it."""
    root = tmp_path_factory.mktemp("land")
    (root / "key").write_text("0123456789abcdef" * 4)
    (root / "recipe.yaml").write_text(land.RECIPE.format(data="data"))
    for seed, name in enumerate(("a", "sub/b")):
        at = land.transform((land.ORIGIN[0] + 20_000 * seed, land.ORIGIN[1]))
        land.write(root / f"labels/{name}.tif", land.cover(land.scene(root / f"data/{name}.tif", seed, at=at)), at)
        land.classes((root / f"labels/{name}.tif").parent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLABELED_KEY", str(root / "key"))
        args = ["finetune", root / "recipe.yaml", root / "data", "steps=120", "looks=2", "accelerator=cpu", "lr=0.005"]
        args += ["--labels", root / "labels", "--task", "segment", "-o", root / "model"]
        assert run(build(domain), [str(a) for a in args]) == 0
    return root


def test_from_land_cover_to_maps(land_cover: Path, tmp_path: Path, verb: Verb) -> None:
    """A new scene is mapped right nearly everywhere, in all formats; what is there is not written over."""
    ground = land.scene(tmp_path / "new/scene.tif", seed=7)
    formats = [
        x for name in ("csv", "cog", "probabilities", "geoparquet", "gpkg", "geojson") for x in ("--format", name)
    ]
    out = tmp_path / "out"
    assert verb("predict", land_cover / "model", tmp_path / "new", "-o", out, *formats).endswith(
        "predictions of 1 records"
    )
    assert (out / "predictions.csv").read_text().splitlines() == ["key,group,file", "scene,,maps/scene.tif"]
    assert json.loads((out / "predictions.json").read_text())["codes"] == {"water": 0, "forest": 1}
    with rasterio.open(out / "maps/scene.tif") as src:
        code = src.read(1)
    assert (code[-5:] == 255).all()
    assert (code[:-5] == (ground[:-5] > 0)).mean() > 0.85
    with rasterio.open(out / "probabilities/scene.tif") as src:
        assert (src.read().argmax(0)[:-5] == code[:-5]).all()
    shapes = [geopandas.read_parquet(out / "polygons.parquet"), geopandas.read_file(out / "polygons.gpkg")]
    for frame in (*shapes, geopandas.read_file(out / "polygons.geojson").to_crs(land.UTM33)):
        forest = frame[frame.label == "forest"].area.sum()
        assert forest == pytest.approx((code == 1).sum() * 100, rel=1e-3)
    said = verb("predict", land_cover / "model", tmp_path / "new", "-o", out, code=2)
    assert f"{out} exists; choose another folder" in said


def test_a_scene_without_a_place_or_cut_short_is_named(land_cover: Path, tmp_path: Path, verb: Verb) -> None:
    model, data, out = land_cover / "model", tmp_path / "new", tmp_path / "out"
    land.scene(data / "good.tif", seed=7)
    land.scene(data / "nowhere.tif", seed=8, crs=None, at=Affine(1, 0, 5, 0, -1, 5))
    said = verb("predict", model, data, "-o", out, "--format", "cog", code=3)
    assert "nowhere.tif" in said and "CRS" in said and not out.exists()
    (data / "nowhere.tif").unlink()
    broken = land.scene(data / "short.tif", seed=9) is not None and data / "short.tif"
    broken.write_bytes(broken.read_bytes()[:20_000])
    said = verb("predict", model, data, "-o", out, "--format", "cog", code=3)
    assert "short.tif" in said and not out.exists()
    # where that is allowed, the rest is mapped, and it is said what is missing
    verb("predict", model, data, "-o", out, "--format", "cog", "--max-bad", "0.5")
    left = json.loads((out / "predictions.json").read_text())["left_out"]
    assert [x["file"] for x in left] == ["short.tif"]
    assert [p.name for p in sorted((out / "maps").glob("*.tif"))] == ["good.tif"]


def test_a_scene_on_another_grid_is_refused(land_cover: Path, tmp_path: Path, verb: Verb) -> None:
    model, data, out = land_cover / "model", tmp_path / "new", tmp_path / "out"
    ground = land.scene(data / "a.tif", at=land.transform(step=20.0))
    assert "20 x 20 m, the contract asks for 10 x 10 m" in verb("predict", model, data, "-o", out, code=5)
    said = verb("predict", model, data, "-o", out, "--convert", "rate", code=5)
    assert "a.tif has cells of 20 x 20 m and the model asks for 10 x 10" in said and "resolution" in said
    # the reader brings it there, and the map is on that grid
    verb("predict", model, data, "-o", out, "-O", "resolution=10")
    with rasterio.open(out / "maps/a.tif") as src:
        assert src.res == (10, 10) and src.shape == (2 * ground.shape[0], 2 * ground.shape[1])


def test_a_classifier_has_footprints_and_no_maps(land_cover: Path, tmp_path: Path, verb: Verb) -> None:
    data = land_cover / "data"
    keys = {row.key: row for row in opened(data).rows}
    lines = [f"{key},{'even' if i % 2 else 'odd'}" for i, key in enumerate(keys)]
    (tmp_path / "labels.csv").write_text("key,label\n" + "\n".join(lines) + "\n")
    args = ("steps=2", "looks=1", "accelerator=cpu", "--labels", tmp_path / "labels.csv", "--task", "classify")
    verb("finetune", land_cover / "recipe.yaml", data, *args, "-o", tmp_path / "model")
    verb("predict", tmp_path / "model", data, "-o", tmp_path / "out", "--format", "geoparquet", "--format", "geojson")
    frame = geopandas.read_parquet(tmp_path / "out/footprints.parquet")
    corpus = opened(data)
    for key, shape in zip(frame["key"], frame.geometry, strict=True):
        row = keys[key]
        assert shape.bounds == corpus.reader.place(corpus.file(row), row.part).bounds
    assert set(frame["prediction"]) <= {"even", "odd"} and len(frame) > 20
    np.testing.assert_allclose(frame["probability even"] + frame["probability odd"], 1, atol=1e-9)
    degrees = geopandas.read_file(tmp_path / "out/footprints.geojson")
    assert degrees.total_bounds == pytest.approx(frame.to_crs("EPSG:4326").total_bounds, abs=1e-6)
    said = verb("predict", tmp_path / "model", data, "-o", tmp_path / "none", "--format", "cog", code=2)
    assert "makes no maps" in said and not (tmp_path / "none").exists()
