"""Blocks and groups."""

import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS

from unlabeled.core.contracts import BadInput
from unlabeled.earth.blocks import blocks, centre, side
from unlabeled.earth.groups import zone
from unlabeled.earth.options import ReaderOptions
from unlabeled.earth.read import Reader
from unlabeled.earth.scene import Place

from .data.scenes import ZONE32, ZONE33, dn, north_up, raster


def place(west=500_000.0, north=5_000_000.0, height=300, width=400, step=10.0, crs=ZONE33):
    return Place(CRS.from_string(crs), north_up(west, north, step), height, width)


@pytest.mark.parametrize(("west", "north"), [(500_000, 5_000_000), (500_003, 4_999_991), (-1_234.5, 777.7)])
@pytest.mark.parametrize("width", [1000.0, 333.0])
def test_blocks_divide_a_scene(west, north, width):
    """Every cell lies in one block, and it is the block of its centre."""
    p = place(west, north)
    count = np.zeros((p.height, p.width), int)
    for b in blocks(p, width):
        count[b.rows, b.cols] += 1
        x = west + 10 * (np.arange(b.cols.start, b.cols.stop) + 0.5)
        y = north - 10 * (np.arange(b.rows.start, b.rows.stop) + 0.5)
        assert (np.floor(x / width) == b.x).all() and (np.floor(y / width) == b.y).all()
    assert (count == 1).all()


def test_scenes_of_the_same_ground_share_blocks():
    """A scene that begins elsewhere, and one of another resolution, cut the common ground alike."""
    whole = {(b.x, b.y): p.cut(b.rows, b.cols).bounds for p in [place()] for b in blocks(p, 500)}
    for other in (place(500_500, 4_999_500), place(height=150, width=200, step=20)):
        for b in blocks(other, 500):
            if (b.x, b.y) in whole:
                assert other.cut(b.rows, b.cols).bounds == whole[b.x, b.y]
    assert len(whole) == 6 * 8


def test_a_scene_of_at_most_two_blocks_is_one_record():
    assert len(blocks(place(height=200, width=200), 1000)) == 1
    assert len(blocks(place(height=200, width=201), 1000)) == 2 * 3
    chip = place(500_900, 5_000_000, 40, 40)  # centre 501100, 4999800
    (only,) = blocks(chip, 1000)
    assert (only.x, only.y) == (501, 4999) == centre(chip, 1000)


def test_a_border_on_a_cell_centre_is_met_by_both_sides_alike():
    """Centres at 0.5 + k with a block of 0.5: floating point must not move a border by a cell."""
    p = Place(CRS.from_string("EPSG:4326"), Affine(1e-4, 0, 15.0, 0, -1e-4, 45.0), 3000, 3000)
    found = blocks(p, 0.1)
    assert [(b.cols.start, b.cols.stop) for b in found[:3]] == [(0, 1000), (1000, 2000), (2000, 3000)]
    assert {(b.rows.start, b.rows.stop) for b in found} == {(0, 1000), (1000, 2000), (2000, 3000)}
    assert [b.x for b in found[:3]] == [150, 151, 152]


def test_the_side_of_a_block_has_a_unit():
    assert side(place(), None) == 10_240
    degrees = place(15, 45, 10, 10, 1e-4, "EPSG:4326")
    assert side(degrees, None) == 0.1
    feet = place(crs="EPSG:2264")
    assert side(feet, 1200) == pytest.approx(3937)  # a US survey foot is 1200 / 3937 m
    with pytest.raises(BadInput, match=r"options.block 5000 looks like metres, but EPSG:4326 is in degrees"):
        side(degrees, 5000)
    with pytest.raises(BadInput, match=r"options.block 0.001 looks like degrees, but EPSG:32633 is in metres"):
        side(place(), 0.001)


def test_zones_have_short_names():
    assert zone(place(crs=ZONE32)) == "EPSG:32632"
    own = CRS.from_proj4("+proj=laea +lat_0=50 +lon_0=12 +x_0=7 +y_0=9 +ellps=GRS80 +units=m")
    named = zone(Place(own, north_up(), 1, 1))
    assert named.startswith("crs ") and len(named) == 16


def groups(folder, **options):
    reader = Reader(ReaderOptions(**options), folder)
    return [s.group for f in reader.files(folder) for s in reader.read(f)]


def test_groups(tmp_path):
    """By ground: chips of one block share a group, whichever file they lie in; by file; by a pattern of the path."""
    raster(tmp_path / "s1_a.tif", dn(), transform=north_up(500_000))
    raster(tmp_path / "s1_b.tif", dn(seed=1), transform=north_up(501_000))
    raster(tmp_path / "s2_c.tif", dn(seed=2), transform=north_up(520_000))
    assert groups(tmp_path) == ["EPSG:32633 10240 48 488"] * 2 + ["EPSG:32633 10240 50 488"]
    assert groups(tmp_path, group="file") == ["s1_a", "s1_b", "s2_c"]
    assert groups(tmp_path, group_pattern=r"^(s\d)_") == ["s1", "s1", "s2"]
    with pytest.raises(BadInput, match=r"s2_c.tif: options.group_pattern finds no group"):
        groups(tmp_path, group_pattern=r"^(s1)_")
