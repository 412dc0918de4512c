"""Files become Samples: values, validity, grids, blocks one by one."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from unlabeled.core.contracts import BadInput, InputSpec, Sample
from unlabeled.core.contracts.domain import domain
from unlabeled.core.contracts.recipe import Data
from unlabeled.core.data import corpus as corpus_module
from unlabeled.core.data.corpus import Corpus
from unlabeled.core.data.items import cut
from unlabeled.core.data.loading import Loader
from unlabeled.core.data.manifest import Seeks
from unlabeled.core.data.plans import Uniform
from unlabeled.earth import handles
from unlabeled.earth.options import ReaderOptions
from unlabeled.earth.read import Reader

from .data.scenes import (
    ZONE32,
    ZONE33,
    by_control_points,
    collar,
    dn,
    north_up,
    radar,
    raster,
    rotated,
    safe,
    south_up,
    truncated,
    with_alpha,
)


def read(folder: Path, **options: Any) -> list[Sample]:
    reader = Reader(ReaderOptions(**options), folder)
    return [s for f in reader.files(folder) for s in reader.read(f)]


def one(folder: Path, **options: Any) -> Sample:
    (sample,) = read(folder, **options)
    return sample


def test_a_file_is_a_sample(tmp_path):
    """uint16 becomes float32 unchanged, DN for want of a unit; key, group and grid are those of the file."""
    values = dn()
    raster(tmp_path / "a" / "scene.tif", values)
    sample = one(tmp_path)
    x = sample.inputs["x"]
    assert (sample.key, sample.index) == ("a/scene", 0)
    # centre (500150, 4999900): block floor(500150 / 10240) = 48, floor(4999900 / 10240) = 488
    assert sample.group == "EPSG:32633 10240 48 488"
    assert (x.channels, x.units, x.unit, x.spacing) == (("red", "green", "blue"), ("DN",) * 3, "m", (10.0, 10.0))
    assert (x.data.dtype, x.valid, x.source) == (np.float32, None, "image")
    np.testing.assert_array_equal(x.data, values)


@pytest.mark.parametrize(
    ("kind", "kept"),
    [
        ("uint8", "uint8"),
        ("int16", "int16"),
        ("int8", "float32"),
        ("uint16", "float32"),
        ("int32", "float32"),
        ("float64", "float32"),
    ],
)
def test_small_integers_stay(tmp_path, kind, kept):
    values = (dn() % 100).astype(kind)
    raster(tmp_path / "a.tif", values)
    x = one(tmp_path).inputs["x"]
    assert x.data.dtype == kept
    np.testing.assert_array_equal(x.data, values)


def test_bands_come_by_request(tmp_path):
    """Never in file order: the values follow their names."""
    values = dn()
    raster(tmp_path / "a.tif", values)
    x = one(tmp_path, bands=("blue", "red")).inputs["x"]
    assert x.channels == ("blue", "red")
    np.testing.assert_array_equal(x.data, values[[2, 0]])


def test_a_sensor_gives_canonical_names_and_order(tmp_path):
    values = dn(3)
    raster(tmp_path / "a.tif", values, ("swir1", "b01", "B8a"))
    x = one(tmp_path, sensor="sentinel2-l2a", s2_offset="none").inputs["x"]
    assert (x.channels, x.units, x.source) == (("B1", "B8A", "B11"), ("1",) * 3, "sentinel2-l2a")
    np.testing.assert_allclose(x.data, values[[1, 2, 0]] / 10_000, rtol=1e-6)


def test_bands_without_names_are_named_by_options(tmp_path):
    values = dn()
    raster(tmp_path / "a.tif", values, None)
    assert one(tmp_path, bands=("red", "green", "blue")).inputs["x"].channels == ("red", "green", "blue")
    x = one(tmp_path, names=("red", "green", "blue"), bands=("green",)).inputs["x"]
    np.testing.assert_array_equal(x.data, values[[1]])


# --- what is valid


def test_nodata_of_any_band_is_invalid(tmp_path):
    """The tag's value, NaN and infinity; 0 stands in the data there."""
    values = dn().astype(np.float32)
    values[0, 1, 2] = -9999
    values[1, 3, 4] = np.nan
    values[2, 5, 6] = -np.inf
    raster(tmp_path / "a.tif", values, nodata=-9999)
    x = one(tmp_path).inputs["x"]
    assert x.valid is not None and x.valid.shape == (1, 20, 30)
    assert {tuple(at) for at in np.argwhere(~x.valid[0]).tolist()} == {(1, 2), (3, 4), (5, 6)}
    assert np.isfinite(x.data).all() and (x.data[:, 1, 2] == 0).all()


def test_nodata_of_the_option_replaces_the_files(tmp_path):
    values = dn().astype(np.int16)
    values[:, 0, 0], values[:, 0, 1] = 7, -9999
    raster(tmp_path / "a.tif", values, nodata=-9999)
    valid = one(tmp_path, nodata=7).inputs["x"].valid
    assert valid is not None and not valid[0, 0, 0] and valid[0, 0, 1]
    assert one(tmp_path, nodata="none").inputs["x"].valid is None


def test_masks_and_alpha_bands_say_what_is_valid(tmp_path):
    seen = np.ones((20, 30), bool)
    seen[4:9, 3:20] = False
    raster(tmp_path / "mask" / "a.tif", dn(), mask=seen)
    with_alpha(tmp_path / "alpha" / "a.tif", dn().astype(np.uint8), seen)
    for folder in ("mask", "alpha"):
        x = one(tmp_path / folder).inputs["x"]
        assert x.channels == ("red", "green", "blue")
        np.testing.assert_array_equal(x.valid, seen[None])


def test_radar_power_is_positive(tmp_path):
    """A power of 0 or below has no logarithm and was never measured."""
    path = radar(tmp_path / "a.tif", "power")
    with rasterio.open(path, "r+") as dst:
        values = dst.read()
        values[0, 0, 0], values[1, 0, 1] = 0, -0.1
        dst.write(values)
    valid = one(tmp_path, sensor="sentinel1", units={"V*": "power"}).inputs["x"].valid
    assert valid is not None and np.argwhere(~valid[0]).tolist() == [[0, 0], [0, 1]]


def test_an_undeclared_collar_is_flagged(tmp_path):
    """6 of 30 columns are 0 in every band and reach the corners: 20 %. Once declared they are invalid."""
    collar(tmp_path / "a.tif")
    (flag,) = one(tmp_path).meta["flags"]
    assert flag == "20% of its pixels are 0 in every band, up to a corner: where that is nodata, say options.nodata: 0"
    declared = one(tmp_path, nodata=0)
    assert declared.meta["flags"] == []
    assert declared.inputs["x"].valid is not None and declared.inputs["x"].valid.mean() == pytest.approx(0.8)


# --- scale and offset


def test_scale_and_offset_tags_are_applied_once(tmp_path):
    """3000 * 0.0001 - 0.1 = 0.2; nodata is told by the number before."""
    values = np.full((1, 4, 4), 3000, np.int16)
    values[0, 0, 0] = -9999
    raster(tmp_path / "a.tif", values, ("red",), scales=[1e-4], offsets=[-0.1], nodata=-9999, units=["reflectance"])
    x = one(tmp_path).inputs["x"]
    assert x.units == ("1",)
    assert x.valid is not None and x.valid.sum() == 15
    np.testing.assert_allclose(x.data[x.valid], 0.2, rtol=1e-6)


def test_landsat_level_2_has_its_own_rule(tmp_path):
    """USGS: 10000 * 0.0000275 - 0.2 = 0.075; 44000 * 0.00341802 + 149 = 299.39288 K; 0 is fill."""
    values = np.stack([np.full((4, 4), 10_000), np.full((4, 4), 44_000)]).astype(np.uint16)
    values[:, 0, 0] = 0
    raster(tmp_path / "a.tif", values, ("SR_B4", "ST_B10"))
    x = one(tmp_path, sensor="landsat8-l2").inputs["x"]
    assert (x.channels, x.units) == (("B4", "B10"), ("1", "K"))
    assert x.data[:, 1, 1] == pytest.approx([0.075, 299.39288], rel=1e-6)
    assert x.valid is not None and x.valid.sum() == 15


# --- grids


def test_south_up_files_are_turned(tmp_path):
    """The same place and the same values as the north-up file, exactly."""
    values = dn()
    raster(tmp_path / "north" / "a.tif", values)
    south_up(tmp_path / "south" / "a.tif", values[:, ::-1])
    north, south = one(tmp_path / "north"), one(tmp_path / "south")
    np.testing.assert_array_equal(north.inputs["x"].data, south.inputs["x"].data)
    assert south.meta["flags"] == ["turned north up"]
    assert north.group == south.group


def test_files_placed_by_control_points(tmp_path):
    values = dn()
    path = by_control_points(tmp_path / "a.tif", values)
    reader = Reader(ReaderOptions(), tmp_path)
    x = reader.part(path, 0).inputs["x"]
    place = reader.place(path, 0)
    assert place.bounds == pytest.approx((500_000, 4_999_800, 500_300, 5_000_000), abs=1e-3)
    np.testing.assert_array_equal(x.data, values)


def test_control_points_and_a_target_grid(tmp_path):
    """Through the file's own grid to the one asked for: 20 x 30 cells of 10 m are 10 x 15 of 20 m, as of the file with a CRS."""
    values = dn().astype(np.float32)
    raster(tmp_path / "plain" / "a.tif", values)
    by_control_points(tmp_path / "points" / "a.tif", values)
    plain, points = (one(tmp_path / f, resolution=20).inputs["x"] for f in ("plain", "points"))
    assert plain.shape == points.shape == (10, 15) and plain.valid is None and points.valid is None
    np.testing.assert_allclose(points.data, plain.data, rtol=1e-3)
    wide = one(tmp_path / "points", crs="EPSG:32634", resolution=10).inputs["x"]
    assert wide.valid is not None and 0.5 < wide.valid.mean() < 1
    assert wide.data[:, wide.valid[0]].min() >= values.min()


@pytest.mark.parametrize("kind", ["mask", "alpha"])
def test_masks_and_alpha_bands_are_brought_along(tmp_path, kind):
    """On a grid of half the step each cell becomes four: what the mask hides stays hidden."""
    seen = np.ones((20, 30), bool)
    seen[4:9, 3:20] = False
    values = np.full((3, 20, 30), 100, np.uint8)
    if kind == "alpha":
        with_alpha(tmp_path / "a.tif", values, seen)
    else:
        raster(tmp_path / "a.tif", values, mask=seen)
    x = one(tmp_path, resolution=5, resampling="nearest").inputs["x"]
    assert x.valid is not None and x.channels == ("red", "green", "blue")
    np.testing.assert_array_equal(x.valid, seen.repeat(2, 0).repeat(2, 1)[None])
    with pytest.raises(BadInput, match="a mask and a nodata value"):
        one(tmp_path, resolution=5, nodata=7)


def test_a_damaged_file_spoils_no_other(tmp_path):
    """GDAL keeps the error of a failed read; rasterio would raise it at the next look at a good file."""
    bad, good = truncated(tmp_path / "bad.tif"), raster(tmp_path / "good.tif", dn())
    reader = Reader(ReaderOptions(), tmp_path)
    handles.opened(good, "good.tif")
    for _ in range(2):
        with pytest.raises(BadInput, match=r"^bad.tif: it is cut short or damaged"):
            list(reader.read(bad))
        assert handles.opened(good, "good.tif").colorinterp
        np.testing.assert_array_equal(Reader(ReaderOptions(), tmp_path).part(good, 0).inputs["x"].data, dn())
    with pytest.raises(BadInput, match=r"^bad.tif: it is cut short or damaged"):
        list(Reader(ReaderOptions(), tmp_path).read(bad))


def test_rotated_files_are_turned_and_their_corners_are_invalid(tmp_path):
    """A square of side a, turned by 30 degrees, covers 1 / (cos 30 + sin 30)^2 = 0.536 of the box around it."""
    rotated(tmp_path / "a.tif", np.full((1, 60, 60), 500, np.uint16), 30, names=("red",))
    x = one(tmp_path).inputs["x"]
    assert x.valid is not None
    assert x.valid.mean() == pytest.approx(1 / (np.cos(np.pi / 6) + 0.5) ** 2, abs=0.02)
    assert set(np.unique(x.data[x.valid])) == {500.0}


def test_a_target_grid_keeps_what_is_nodata_apart(tmp_path):
    """Left half -9999, right half 500: brought to another zone by bilinear weights, nothing lies between."""
    values = np.full((1, 40, 50), 500, np.int16)
    values[:, :, :25] = -9999
    raster(tmp_path / "a.tif", values, ("red",), nodata=-9999)
    sample = one(tmp_path, crs="EPSG:32634", resolution=10)
    x = sample.inputs["x"]
    assert x.valid is not None and set(np.unique(x.data[x.valid])) == {500}
    assert sample.meta["flags"] == ["brought from EPSG:32633 to EPSG:32634"]
    # 40 * 25 cells of 10 m are valid, and the border between the halves is drawn a cell of 10 m sharp
    assert x.valid.sum() == pytest.approx(1000, abs=50)
    assert sample.group.startswith("EPSG:32634 ")


def test_without_nodata_what_is_not_covered_is_invalid(tmp_path):
    raster(tmp_path / "a.tif", np.full((1, 40, 50), 500, np.float32), ("red",))
    x = one(tmp_path, crs="EPSG:32634", resolution=10).inputs["x"]
    assert x.valid is not None and 0.5 < x.valid.mean() < 1
    np.testing.assert_allclose(x.data[x.valid], 500, rtol=1e-6)


def test_a_coarser_grid_is_snapped_to_multiples_of_its_step(tmp_path):
    """From 10 m at x 500000 to 40 m: 500000 = 12500 * 40. 30 columns are 300 m: 8 cells; a mean of 4 x 4 cells."""
    values = dn(1).astype(np.float32)
    path = raster(tmp_path / "a.tif", values, ("red",))
    reader = Reader(ReaderOptions(resolution=40, resampling="average"), tmp_path)
    x = reader.part(path, 0).inputs["x"]
    assert reader.place(path, 0).bounds == (500_000, 4_999_800, 500_320, 5_000_000)
    assert x.spacing == (40.0, 40.0)
    np.testing.assert_allclose(x.data[0, :, :7], values[0, :, :28].reshape(5, 4, 7, 4).mean((1, 3)), rtol=1e-5)


def test_a_window_of_a_warped_scene_is_that_part_of_it(tmp_path):
    """Bit for bit, whatever was read before."""
    rng = np.random.default_rng(1)
    path = raster(tmp_path / "a.tif", rng.normal(size=(2, 300, 400)).astype(np.float32), ("a", "b"))
    for options in ({}, {"crs": "EPSG:32634", "resolution": 10.0}):
        reader = Reader(ReaderOptions(block=900, **options), tmp_path)
        samples = list(reader.read(path))
        assert len(samples) > 9
        sample = samples[5]
        fresh = Reader(ReaderOptions(block=900, **options), tmp_path)
        region = (slice(10, 42), slice(20, 52))
        window = fresh.window(path, sample.index, region)
        x, y = sample.inputs["x"], window.inputs["x"]
        np.testing.assert_array_equal(y.data, x.data[:, 10:42, 20:52])
        if x.valid is not None and y.valid is not None:
            np.testing.assert_array_equal(y.valid, x.valid[:, 10:42, 20:52])
        assert (window.key, window.group) == (sample.key, sample.group)


def test_zones_stay_apart_without_a_target_grid(tmp_path):
    """Two UTM zones with one step agree on one contract; the zone stands in the group."""
    raster(tmp_path / "a.tif", dn(), crs=ZONE33)
    raster(tmp_path / "b.tif", dn(seed=1), crs=ZONE32)
    corpus = Corpus.open(domain("earth"), Data(path=tmp_path))
    assert len(corpus) == 2 and len(set(corpus.groups)) == 2
    assert corpus.specs["x"].spacing == (10.0, 10.0)
    assert {s.group.split()[0] for s in read(tmp_path)} == {ZONE32, ZONE33}


def test_a_geographic_grid_is_in_degrees(tmp_path):
    raster(tmp_path / "a.tif", dn(), crs="EPSG:4326", transform=from_origin(15.0, 45.0, 1e-4, 1e-4))
    sample = one(tmp_path)
    x = sample.inputs["x"]
    assert (x.unit, x.spacing) == ("deg", (1e-4, 1e-4))
    # centre 15.0015, 44.999 in blocks of 0.1 degree
    assert sample.group == "EPSG:4326 0.1 150 449"


def test_feet_become_metres(tmp_path):
    """EPSG:2264 is in US survey feet of 1200 / 3937 m."""
    raster(tmp_path / "a.tif", dn(), crs="EPSG:2264", transform=from_origin(2_000_000, 700_000, 10, 10))
    x = one(tmp_path).inputs["x"]
    assert x.unit == "m" and x.spacing == pytest.approx((12000 / 3937,) * 2, rel=1e-9)


def test_without_a_crs_pixels_are_read_on_request(tmp_path):
    values = dn()
    raster(tmp_path / "a.tif", values, crs=None)
    with pytest.raises(BadInput, match=r"a.tif: it has no CRS.*allow_nogeo: true"):
        one(tmp_path)
    sample = one(tmp_path, allow_nogeo=True)
    x = sample.inputs["x"]
    assert (x.unit, x.spacing, sample.group) == ("px", (1.0, 1.0), "a")
    np.testing.assert_array_equal(x.data, values)


# --- scenes of several files


def test_a_file_per_band_is_one_scene(tmp_path):
    """Landsat-7 of GRASS: the numbers 10 to 62 are bands; a 15 m band is the grid the 30 m bands are brought to."""
    red, pan = dn(1, 20, 20), dn(1, 40, 40, seed=1)
    for number in ("10", "30", "61"):
        raster(tmp_path / f"lsat7_2000_{number}.tif", red, None, transform=north_up(step=30))
    raster(tmp_path / "lsat7_2000_80.tif", pan, None, transform=north_up(step=15))
    raster(tmp_path / "elevation.tif", red, None)
    options: dict[str, Any] = {"sensor": "landsat7", "stack": r"lsat7_2000_(?P<band>\d+)\.tif$"}
    whole = one(tmp_path, **options, resampling="nearest")
    x = whole.inputs["x"]
    assert (whole.key, x.channels, x.spacing) == ("lsat7_2000", ("B1", "B3", "B6_VCID_1", "B8"), (15.0, 15.0))
    np.testing.assert_array_equal(x.data[3], pan[0])
    np.testing.assert_array_equal(x.data[1], red[0].repeat(2, 0).repeat(2, 1))
    assert whole.meta["flags"] == ["resampled from 30 to 15 m"]
    # without the fine band nothing is resampled
    some = one(tmp_path, **options, bands=("B3", "B1"))
    assert some.inputs["x"].shape == (20, 20) and some.meta["flags"] == []


def test_a_folder_per_scene(tmp_path):
    """SSL4EO's tree: <place>/<acquisition>/<BAND>.tif."""
    for place, seed in (("0000001/20200101", 0), ("0000002/20200101", 1)):
        for band in ("B2", "B8A"):
            raster(tmp_path / place / f"{band}.tif", dn(1, seed=seed), None)
    samples = read(
        tmp_path,
        sensor="sentinel2-l1c",
        s2_offset="none",
        stack=r"/(?P<band>B\w+)\.tif$",
        group_pattern=r"^(\d{7})/",
    )
    assert [(s.key, s.group) for s in samples] == [("0000001/20200101", "0000001"), ("0000002/20200101", "0000002")]
    assert samples[0].inputs["x"].channels == ("B2", "B8A")


def test_a_safe_product_is_one_scene(tmp_path):
    """Baseline 05.09 states -1000 per band: (DN - 1000) / 10000, DN 0 is nodata before; the finest file of each band."""
    written = safe(tmp_path / "S2A_MSIL2A_X.SAFE")
    reader = Reader(ReaderOptions(resampling="nearest"), tmp_path)
    (path,) = reader.files(tmp_path)
    assert path.name == "MTD_MSIL2A.xml"
    (sample,) = reader.read(path)
    x = sample.inputs["x"]
    assert (sample.key, x.channels, x.source) == ("S2A_MSIL2A_X", ("B2", "B4", "B8A"), "sentinel2-l2a")
    b8a = written["B8A"][0].repeat(2, 0).repeat(2, 1)
    expected = (np.stack([written["B02"][0], written["B04"][0], b8a]).astype(float) - 1000) / 10_000
    assert x.valid is not None and x.valid.sum() == 12 * 12 - 4  # the corner of B8A covers 2 x 2 cells
    np.testing.assert_allclose(x.data[:, x.valid[0]], expected[:, x.valid[0]], rtol=1e-5, atol=1e-6)
    # the product itself as the path
    assert [p.name for p in Reader().files(path.parent)] == ["MTD_MSIL2A.xml"]


# --- blocks, workers, handles


def test_blocks_are_read_one_by_one(tmp_path):
    """A scene of 24 MB in 100 blocks: reading holds a few blocks, never the scene."""
    values = np.broadcast_to(np.arange(2000, dtype=np.float32) + 1, (3, 1000, 2000))
    path = raster(tmp_path / "a.tif", values, tiled=True, blockxsize=128, blockysize=128)
    reader = Reader(ReaderOptions(block=1000), tmp_path)
    assert isinstance(reader, Seeks)
    tracemalloc.start()
    shapes = [s.inputs["x"].shape for s in reader.read(path)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(shapes) == 10 * 20
    assert peak < 4 << 20


def test_blocks_without_values_are_no_records(tmp_path):
    """The west half of a scene is nodata: those blocks are left out, the others keep their number and are found again."""
    values = dn(1, 40, 80).astype(np.int16)
    values[:, :, :40] = -1
    path = raster(tmp_path / "a.tif", values, ("red",), nodata=-1)
    reader = Reader(ReaderOptions(block=200), tmp_path)
    samples = list(reader.read(path))
    assert [s.index for s in samples] == [2, 3, 6, 7]
    for sample in samples:
        np.testing.assert_array_equal(reader.part(path, sample.index).inputs["x"].data, sample.inputs["x"].data)
    corpus = Corpus.open(domain("earth"), Data(path=tmp_path, options={"block": 200}))
    assert [row.part for row in corpus.rows] == [2, 3, 6, 7]
    np.testing.assert_array_equal(corpus.record(3).inputs["x"].data, values[:, 20:, 60:])


def _items(folder: Path) -> Any:
    corpus = Corpus.open(domain("earth"), Data(path=folder, options={"block": 320})).normalised("standard")
    return cut(corpus, (160.0, 160.0), None, 0.5)


@pytest.mark.parametrize("streamed", [False, True])
def test_workers_read_what_one_process_reads(tmp_path, monkeypatch, streamed):
    """Two loader workers, forked after this process opened the files, give the same bytes as none."""
    if streamed:
        monkeypatch.setattr(corpus_module, "CACHE_BYTES", 0)
    for i in range(3):
        raster(tmp_path / f"{i}.tif", dn(3, 96, 96, seed=i), transform=north_up(512_000 + 3200 * i), nodata=1001)
    items = _items(tmp_path)
    assert len(items) == 3 * 36
    assert len(handles._OPEN[os.getpid()]) >= 3
    batches = [
        [
            b
            for _, b in Loader(_items(tmp_path), items.corpus.specs, Uniform(len(items), 8), seed=0, workers=w).batches(
                0, 6
            )
        ]
        for w in (0, 2)
    ]
    for alone, shared in zip(*batches, strict=True):
        assert not alone.failed and not shared.failed
        assert alone.inputs["x"].values.numpy().tobytes() == shared.inputs["x"].values.numpy().tobytes()
        assert alone.inputs["x"].valid.numpy().tobytes() == shared.inputs["x"].valid.numpy().tobytes()
        assert alone.index.tolist() == shared.index.tolist()


def test_a_reader_travels_without_its_handles(tmp_path):
    path = raster(tmp_path / "a.tif", dn())
    reader = Reader(ReaderOptions(), tmp_path)
    here = reader.part(path, 0)
    there = pickle.loads(pickle.dumps(reader)).part(path, 0)
    np.testing.assert_array_equal(here.inputs["x"].data, there.inputs["x"].data)


def test_at_most_128_files_are_open(tmp_path):
    values = dn(1, 4, 4)
    paths = [raster(tmp_path / f"{i:03}.tif", values, ("red",)) for i in range(handles.LIMIT + 5)]
    reader = Reader(ReaderOptions(), tmp_path)
    for path in paths:
        reader.part(path, 0)
    assert len(handles._OPEN[os.getpid()]) == handles.LIMIT
    np.testing.assert_array_equal(reader.part(paths[0], 0).inputs["x"].data, values)


def test_a_file_smaller_than_the_window_is_one_record(tmp_path):
    """No window fits, and without a window the record itself is the item: never zero records, never two."""
    raster(tmp_path / "a.tif", dn(3, 5, 7))
    corpus = Corpus.open(domain("earth"), Data(path=tmp_path))
    assert corpus.shape(0) == (5, 7)
    items = cut(corpus, None, None, 0.5)
    assert len(items) == 1 and items.sample(0).inputs["x"].shape == (5, 7)
    assert isinstance(corpus.specs["x"], InputSpec)


def test_only_and_hidden_files(tmp_path):
    for name in ("images/a.tif", "images/b.TIF", ".trash/c.tif", "labels/a.tif", "notes.txt"):
        raster(tmp_path / name, dn()) if name != "notes.txt" else (tmp_path / name).write_text("x")
    names = [p.relative_to(tmp_path).as_posix() for p in Reader(ReaderOptions(only="^images/")).files(tmp_path)]
    assert names == ["images/a.tif", "images/b.TIF"]
    assert len(Reader().files(tmp_path)) == 3


def test_reading_imports_no_torch():
    """`inspect` is as quick to start as GDAL."""
    code = (
        "import sys, unlabeled.earth.read, unlabeled.earth.groups; assert not {'torch', 'lightning'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
