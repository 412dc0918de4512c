"""Bad input, through the command line in process: exit code and sentence of every row of the table for reading.

| row of the table                                   | where it is tested |
|----------------------------------------------------|--------------------|
| empty folder, a path that is not there             | here               |
| truncated or corrupt file                          | here (inspect, pretrain) |
| no CRS                                             | here               |
| mixed CRS or resolution                            | here, test_read.py (zones) |
| geographic CRS with metres, and the reverse        | here               |
| undeclared constant collar                         | here, test_read.py |
| chip without a valid pixel                         | here               |
| NaN and infinite pixels                            | here, test_read.py |
| wrong band count, order or name                    | here, test_sensors.py |
| 8-bit picture where reflectance is meant           | here               |
| Sentinel-2 of unknown baseline                     | here, test_offsets.py |
| Sentinel-1 linear as dB, dB as linear, amplitude   | here               |
| raster smaller than the window                     | here, test_read.py |
| duplicate scene under two groups                   | here               |
| antimeridian, pole                                 | no footprint is made, so there is nothing to split |
| network time-out                                   | GDAL tries again (handles.ENV); then it is a file that cannot be read |
| labels: values, floats, grids, polygons            | test_labels.py     |
| missing dates                                      | seasons are no part of reading |
| a class without positives                          | the core's tests of measures |
| predict: a bad file, no CRS, other bands; resume   | tests of maps and writing, the core's tests |
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from unlabeled.core.cli.domain import build
from unlabeled.core.cli.shell import run
from unlabeled.core.contracts.domain import domain

from .data.scenes import (
    S2_L2A,
    ZONE32,
    collar,
    dn,
    north_up,
    radar,
    raster,
    true_colour,
    truncated,
)

S2 = {"sensor": "sentinel2-l2a", "s2_offset": "none"}
S1 = {"sensor": "sentinel1", "units": {"V*": "dB"}}
RGB = ("B4", "B3", "B2")


def good(folder: Path, names: tuple[str, ...] = ("red", "green", "blue"), **about: Any) -> None:
    """Four chips of four blocks, 20 x 30 cells."""
    for i in range(4):
        raster(folder / f"good{i}.tif", dn(3, seed=i), names, transform=north_up(500_000 + 20_000 * i), **about)


def earth(*args: Any) -> int:
    return run(build(domain("earth")), [str(a) for a in args])


def flags_of(options: dict[str, Any]) -> list[str]:
    return [f"-O{key}={json.dumps(value)}" for key, value in options.items()]


def inspected(folder: Path, capsys: Any, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = earth("inspect", folder, "--json", *flags_of(options or {}))
    return code, json.loads(capsys.readouterr().out)


def recipe(folder: Path, options: dict[str, Any] | None = None, **data: Any) -> Path:
    """A run of two steps on small windows."""
    values = {
        "domain": "earth",
        "data": {"path": str(folder), "window": [80, 80], "options": options or {}, "normaliser": "standard", **data},
        "method": {"name": "mae", "mask_ratio": 0.5, "decoder": {"width": 16, "depth": 1, "heads": 2}},
        "encoder": {"name": "tokens", "width": 16, "depth": 1, "heads": 2, "patch": [4, 4]},
        "batch_size": 4,
        "max_steps": 2,
        "trainer": {"loop": "plain", "threads": 1, "save_every": 2, "tensorboard": False, "accelerator": "cpu"},
    }
    path = folder.parent / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def pretrained(folder: Path, capsys: Any, options: dict[str, Any] | None = None, **data: Any) -> tuple[int, str]:
    to = folder.parent / "run"
    code = earth("pretrain", recipe(folder, options, **data), "-o", to)
    assert (to / "bundle").exists() == (code == 0)
    return code, capsys.readouterr().err


def rubbish(path: Path) -> None:
    path.write_bytes(b"II*\0rubbish")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def nogeo(path: Path) -> None:
    raster(path, dn(), crs=None)


def one_valid_band_less(path: Path) -> None:
    values = dn().astype(np.float32)
    values[1] = np.nan
    raster(path, values)


def complex_values(path: Path) -> None:
    raster(path, dn().astype(np.complex64))


def undescribed(path: Path) -> None:
    raster(path, dn(4), None)


def twice(path: Path) -> None:
    raster(path, dn(), ("red", "green", "red"))


def two_bands(path: Path) -> None:
    raster(path, dn(2), ("red", "green"))


def unknown_band(path: Path) -> None:
    raster(path, dn(), ("B4", "B3", "NDVI"))


def contradicting_tags(path: Path) -> None:
    raster(path, dn(), RGB, scales=[1e-3] * 3, offsets=[0.0] * 3)


def undeclared_floats(path: Path) -> None:
    raster(path, dn().astype(np.float32), RGB)


def linear(path: Path) -> None:
    radar(path, "power")


def amplitude(path: Path) -> None:
    radar(path, "amplitude")


def coarse(path: Path) -> None:
    raster(path, dn(), transform=north_up(580_000, step=20))


# what, options, who writes the bad file, names of the good files, sentence
ROWS: list[tuple[str, dict[str, Any], Any, tuple[str, ...], str]] = [
    ("corrupt", {}, rubbish, (), "bad.tif: not a raster that GDAL can read, or cut short; fetch it again or remove it"),
    ("no bytes", {}, empty, (), "bad.tif: not a raster that GDAL can read"),
    (
        "truncated",
        {},
        truncated,
        (),
        "bad.tif: it is cut short or damaged at row 0, column 0; fetch it again or remove it",
    ),
    (
        "no CRS",
        {},
        nogeo,
        (),
        "bad.tif: it has no CRS; write one into the file, or read it in pixels by options.allow_nogeo: true",
    ),
    ("all nodata", {}, one_valid_band_less, (), "bad.tif: it has no valid pixel; remove it, or correct options.nodata"),
    ("complex", {}, complex_values, (), "bad.tif: its values are complex; write their power or amplitude"),
    (
        "no names",
        {},
        undescribed,
        (),
        "bad.tif: it has 4 bands without names; name each of the 4, in order, by options.names",
    ),
    (
        "wrong count",
        {"bands": ["red", "green", "blue"]},
        undescribed,
        (),
        "bad.tif: it has 4 bands without names, and options.bands 3; name each of the 4",
    ),
    ("named twice", {}, twice, (), "bad.tif: band red is there twice; remove one"),
    (
        "missing band",
        {"bands": ["red", "green", "blue"]},
        two_bands,
        (),
        "bad.tif: band blue is missing (found red, green); correct options.bands or options.names",
    ),
    ("unknown band", S2, unknown_band, RGB, "bad.tif: sentinel2-l2a has no band 'NDVI' (known: B1, B2, B3, B4"),
    (
        "picture",
        S2,
        true_colour,
        RGB,
        "bad.tif: its numbers are uint8 (max 255), which looks like a true-colour image (TCI)",
    ),
    ("tags against the rule", S2, contradicting_tags, RGB, "bad.tif: by its tags B2 is DN * 0.001 + 0, by the rule"),
    ("floats of no unit", S2, undeclared_floats, RGB, "bad.tif: B2 holds float32 numbers in no stated unit"),
    ("another step", {}, coarse, (), "bad.tif: 20 x 20 m, the contract asks for 10 x 10 m"),
]


@pytest.mark.parametrize(("what", "options", "write", "names", "sentence"), ROWS, ids=[r[0] for r in ROWS])
def test_a_bad_file_is_named_with_its_reason(tmp_path, capsys, what, options, write, names, sentence):
    """inspect: exit 3, the file alone is unreadable, and the others are still read."""
    folder = tmp_path / "files"
    good(folder, names or ("red", "green", "blue"))
    write(folder / "bad.tif")
    code, found = inspected(folder, capsys, options)
    assert code == 3
    (bad,) = found["unreadable"]
    assert bad["file"] == "bad.tif"
    assert bad["reason"].startswith(sentence)
    assert str(tmp_path) not in bad["reason"] and "\n" not in bad["reason"]
    assert found["records"] == 4


RADAR_ROWS = [
    ({"V*": "dB"}, "power", "VV is said to be dB, but its median of 0.07", "looks like linear power"),
    ({"V*": "dB"}, "amplitude", "VV is said to be dB", "looks like amplitude or uncalibrated numbers"),
    ({"V*": "power"}, "amplitude", "VV is said to be power", "looks like amplitude or uncalibrated numbers"),
    ({"V*": "power"}, "dB", "bad.tif: it has no valid pixel", ""),
    ({"V*": "K"}, "dB", "bad.tif: VV is in K, sentinel1 needs dB or power", ""),
    ({}, "dB", "bad.tif: VV is in no stated unit, sentinel1 needs dB or power; say options.units", ""),
]


@pytest.mark.parametrize(("units", "kind", "first", "second"), RADAR_ROWS)
def test_radar_of_another_unit_than_declared(tmp_path, capsys, units, kind, first, second):
    """The only file is bad, so nothing is readable: exit 2, with the file's reason."""
    radar(tmp_path / "files" / "bad.tif", kind)
    assert earth("inspect", tmp_path / "files", *flags_of({"sensor": "sentinel1", "units": units})) == 2
    said = capsys.readouterr().err
    assert first in said and second in said


def test_radar_as_declared_is_read(tmp_path, capsys):
    for unit in ("dB", "power"):
        radar(tmp_path / unit / "a.tif", unit)
        code, found = inspected(tmp_path / unit, capsys, {"sensor": "sentinel1", "units": {"*": unit}})
        assert code == 0 and found["inputs"]["x"]["units"] == [unit, unit]
    # what contradicts its unit is read on demand
    radar(tmp_path / "odd" / "a.tif", "amplitude")
    options = {"sensor": "sentinel1", "units": {"*": "power"}, "check_range": False}
    assert inspected(tmp_path / "odd", capsys, options)[0] == 0


DEGREES = {"crs": "EPSG:4326", "transform": north_up(15, 45, 1e-4)}
ALONE: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("metres in degrees", {"resolution": 10}, DEGREES, "looks like metres, but EPSG:4326 is in degrees; give degrees"),
    ("block in degrees", {"block": 5000}, DEGREES, "options.block 5000 looks like metres"),
    ("degrees in metres", {"resolution": 1e-4}, {}, "looks like degrees, but EPSG:32633 is in metres; give metres"),
    (
        "no step to keep",
        {"crs": "EPSG:4326"},
        {},
        "from m to deg its step cannot be kept; set options.resolution in units of EPSG:4326",
    ),
    (
        "unknown baseline",
        {"sensor": "sentinel2-l2a"},
        {"names": RGB},
        "the offset of Sentinel-2's digital numbers is unknown",
    ),
    (
        "no sensor",
        {},
        {"names": ("B4", "B8", "B8A")},
        "band B8A is one of Sentinel-2, whose numbers need its rule; set options.sensor",
    ),
    ("reflectance that is none", {}, {"units": ["reflectance"] * 3}, "said to be reflectance, but its median of"),
    (
        "other unit",
        {"units": {"red": "K"}},
        {"units": ["DN"] * 3},
        "red is in DN by the file and in K by options.units; correct one",
    ),
]


@pytest.mark.parametrize(("what", "options", "about", "sentence"), ALONE, ids=[r[0] for r in ALONE])
def test_a_request_that_fits_no_file(tmp_path, capsys, what, options, about, sentence):
    """Every file is refused: exit 2 with the first reason, from inspect and from pretrain."""
    raster(tmp_path / "files" / "a.tif", dn(), **about)
    assert earth("inspect", tmp_path / "files", *flags_of(options)) == 2
    assert sentence in capsys.readouterr().err
    code, said = pretrained(tmp_path / "files", capsys, options)
    assert code == 2 and sentence in said


def test_decibels_are_not_averaged(tmp_path, capsys):
    """The mean of 0 and -20 dB is -10; of their power it is -2.97 dB."""
    radar(tmp_path / "files" / "a.tif", "dB")
    options = {**S1, "resolution": 40}
    assert earth("inspect", tmp_path / "files", *flags_of(options)) == 2
    assert "VV is in dB, and a mean of dB is none of power; give power" in capsys.readouterr().err
    assert inspected(tmp_path / "files", capsys, {**options, "resampling": "nearest"})[0] == 0


def test_bands_of_one_scene_in_two_zones(tmp_path, capsys):
    raster(tmp_path / "files" / "a_B1.tif", dn(1), None)
    raster(tmp_path / "files" / "a_B2.tif", dn(1), None)
    raster(tmp_path / "files" / "a_B3.tif", dn(1), None, crs=ZONE32)
    options = {"stack": r"_(?P<band>B\d)\.tif$"}
    assert earth("inspect", tmp_path / "files", *flags_of(options)) == 2
    assert "its bands lie in several CRS, EPSG:32633 (2), EPSG:32632 (1); set options.crs" in capsys.readouterr().err


def test_scenes_of_two_steps_are_counted(tmp_path, capsys):
    """Without a target grid the smaller part is left out by name; with one all are read."""
    folder = tmp_path / "files"
    good(folder)
    for i in range(2):
        raster(folder / f"coarse{i}.tif", dn(seed=9 + i), transform=north_up(600_000 + 20_000 * i, step=20))
    code, said = pretrained(folder, capsys)
    assert code == 3
    assert "2 of 6 records cannot be used" in said and "coarse0.tif: 20 x 20 m, the contract asks for 10 x 10 m" in said
    code, found = inspected(folder, capsys, {"resolution": 10})
    assert (code, found["records"]) == (0, 6)
    assert found["flags"] == {"resampled from 20 to 10 m": 2}


@pytest.mark.parametrize("verb", ["inspect", "pretrain"])
def test_nothing_to_read(tmp_path, capsys, verb):
    """Exit 2: a path that is not there, an empty folder, a folder of other files."""
    other = tmp_path / "other"
    for folder, sentence in ((tmp_path / "none", "no such folder"), (other, "no file that earth can read")):
        if folder == other:
            other.mkdir()
            (other / "notes.txt").write_text("x")
        code = earth("inspect", folder) if verb == "inspect" else pretrained(folder, capsys)[0]
        if verb == "inspect":
            assert sentence in capsys.readouterr().err
        assert code == 2


@pytest.mark.parametrize("write", [rubbish, truncated, nogeo], ids=lambda f: f.__name__)
def test_pretrain_stops_above_the_stated_share(tmp_path, capsys, write):
    """1 of 5 is more than 1 %: exit 3 and no bundle. With 30 % allowed it is left out, and the run goes on."""
    folder = tmp_path / "files"
    good(folder)
    write(folder / "bad.tif")
    code, said = pretrained(folder, capsys)
    assert code == 3 and "1 of 5 records cannot be used" in said and "bad.tif: it" in said.replace("not a raster", "it")
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    code, said = pretrained(folder, capsys, max_bad_fraction=0.3)
    assert code == 0, said


def test_a_collar_that_nobody_declared_is_flagged(tmp_path, capsys):
    folder = tmp_path / "files"
    collar(folder / "a.tif", value=-9999)
    code, found = inspected(folder, capsys)
    assert code == 0
    (flag,) = found["flags"]
    assert flag.startswith("20% of its pixels are -9999 in every band") and flag.endswith("say options.nodata: -9999")
    assert inspected(folder, capsys, {"nodata": -9999})[1]["flags"] == {}


def test_broken_pixels_are_no_values(tmp_path, capsys):
    """NaN and infinity in a run: the loss stays finite, since they are masked and filled."""
    folder = tmp_path / "files"
    for i in range(4):
        values = dn(seed=i).astype(np.float32)
        values[0, 2:5, 3:9], values[1, 7, 7] = np.nan, np.inf
        raster(folder / f"{i}.tif", values, transform=north_up(500_000 + 20_000 * i))
    assert pretrained(folder, capsys)[0] == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2 and all(np.isfinite(line["loss"]) for line in lines)


def test_a_raster_smaller_than_the_window_gives_none_and_says_so(tmp_path, capsys):
    """5 x 7 cells hold no window of 8 x 8: the others are trained on, and a folder of such files is a wrong request."""
    folder = tmp_path / "files"
    good(folder)
    raster(folder / "small.tif", dn(3, 5, 7, seed=7))
    code, said = pretrained(folder, capsys)
    assert code == 0 and "1 of 5 records give no window: small" in said
    alone = tmp_path / "alone" / "files"
    raster(alone / "small.tif", dn(3, 5, 7))
    code, said = pretrained(alone, capsys)
    assert code == 2 and "no record holds one window of 80 x 80 m" in said


def test_one_scene_under_two_groups_is_leakage(tmp_path, capsys):
    """A copy under another group: inspect lists it, and tuning on labels refuses with exit 4."""
    folder = tmp_path / "files"
    good(folder)
    shutil.copy(folder / "good0.tif", folder / "copy.tif")
    _, found = inspected(folder, capsys, {"group": "file"})
    assert [sorted(leak["files"]) for leak in found["leaks"]] == [["copy.tif", "good0.tif"]]
    labels = tmp_path / "labels.csv"
    labels.write_text("key,label\n" + "".join(f"good{i},{'ab'[i % 2]}\n" for i in range(4)) + "copy,a\n")
    start = recipe(folder, {"group": "file"})
    code = earth("finetune", start, folder, "--labels", labels, "--task", "classify", "-o", tmp_path / "model")
    assert code == 4 and "hold the same values under different groups" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
    # on the ground both lie in one block, so no split can part them
    assert inspected(folder, capsys)[1]["leaks"] == []


def test_a_sensor_with_all_its_bands_is_read(tmp_path, capsys):
    """The good case beside the bad ones: twelve bands of Level 2A as reflectance."""
    raster(tmp_path / "files" / "a.tif", dn(12), S2_L2A)
    code, found = inspected(tmp_path / "files", capsys, S2)
    assert code == 0
    assert tuple(found["inputs"]["x"]["channels"]) == S2_L2A and set(found["inputs"]["x"]["units"]) == {"1"}
