"""Synthetic scenes: their values have the distribution that is stated, and they are called synthetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from scipy.special import polygamma

from unlabeled.earth.options import ReaderOptions
from unlabeled.earth.read import Reader
from unlabeled.earth.synthetic import BACKSCATTER, CLASSES, LOOKS, OPTICAL, RADAR, SIZE, SPECTRA, sar, scenes


def opened(folder: Path, i: int) -> tuple[np.ndarray, np.ndarray]:
    with (
        rasterio.open(folder / "scenes" / f"{i:02d}.tif") as src,
        rasterio.open(folder / "labels" / f"{i:02d}.tif") as of,
    ):
        assert (src.transform, src.crs, src.shape) == (of.transform, of.crs, of.shape)
        return src.read(), of.read(1)


@pytest.fixture(scope="module")
def radar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sar(tmp_path_factory.mktemp("samples") / "sar")


@pytest.fixture(scope="module")
def optical(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes(tmp_path_factory.mktemp("samples") / "optical")


def test_speckle_has_its_looks(radar: Path) -> None:
    """Of gamma speckle, mean^2 / variance is L, and ln G has the variance psi'(L)."""
    power, classes = opened(radar, 0)
    for c in range(len(CLASSES)):
        inside = power[:, classes == c].astype(np.float64)
        assert inside.shape[1] > 2000
        # deviations of these estimates over n pixels are below 4 % for n > 2000
        np.testing.assert_allclose(inside.mean(1) ** 2 / inside.var(1), LOOKS, rtol=0.16)
        np.testing.assert_allclose(np.log(inside).var(1), polygamma(1, LOOKS), rtol=0.16)


def test_backscatter_of_the_classes(radar: Path) -> None:
    """Means of power are sigma nought times one gain for each scene."""
    gains = []
    for i in range(4):
        power, classes = opened(radar, i)
        mean = np.stack([power[:, classes == c].mean(1, dtype=np.float64) for c in range(len(CLASSES))])
        gain = 10 * np.log10(mean) - np.array(BACKSCATTER)
        # the mean of n > 2000 has the deviation 1 / sqrt(4.4 n) < 1.1 %, 0.05 dB
        assert np.ptp(gain) < 0.4
        gains.append(gain.mean())
    assert np.ptp(gains) > 0.2  # scenes differ by more than noise


def test_spectra_of_the_classes(optical: Path) -> None:
    numbers, classes = opened(optical, 1)
    reflectance = numbers * 2.75e-5 - 0.2  # USGS, Landsat Collection 2 Level 2
    mean = np.stack([reflectance[:, classes == c].mean(1) for c in range(len(CLASSES))])
    haze = mean - np.array(SPECTRA)
    bright = np.array(SPECTRA) > 0.09  # elsewhere reflectance below 0 was cut off
    assert np.ptp(haze[bright]) < 0.002 and numbers.min() > 0
    inside = reflectance[3][classes == CLASSES.index("field")]
    assert inside.std() == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize(("name", "sensor", "bands"), [("radar", "sentinel1", RADAR), ("optical", "landsat8-l2", None)])
def test_the_reader_knows_them(
    name: str, sensor: str, bands: tuple[str, ...] | None, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(name)
    reader = Reader(ReaderOptions(sensor=sensor), folder / "scenes")
    found = [s for path in reader.files(folder / "scenes") for s in reader.read(path)]
    assert len(found) == 4 and len({s.group for s in found}) == 4
    x = found[0].inputs["x"]
    assert x.data.shape[1:] == (SIZE, SIZE) and x.valid is None
    assert x.channels == (bands or tuple(b.removeprefix("SR_") for b in OPTICAL))
    assert set(x.units) == {"power" if bands else "1"}
    crs = {reader.place(path, 0).crs.to_epsg() for path in reader.files(folder / "scenes")}
    assert crs == {32632, 32633}


def test_they_are_seeded_and_called_synthetic(radar: Path, tmp_path: Path) -> None:
    again, other = sar(tmp_path / "again", scenes=1), sar(tmp_path / "other", scenes=1, seed=1)
    np.testing.assert_array_equal(opened(again, 0)[0], opened(radar, 0)[0])
    assert not np.array_equal(opened(other, 0)[0], opened(radar, 0)[0])
    assert not np.array_equal(opened(radar, 1)[1], opened(radar, 0)[1])
    assert (radar / "README.md").read_text().startswith("# Synthetic radar scenes\n\nSYNTHETIC")
