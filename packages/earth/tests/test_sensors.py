"""Band names of sensors."""

import pytest

from unlabeled.core.contracts import BadInput, RequestError
from unlabeled.core.contracts.recipe import validated
from unlabeled.earth.options import ReaderOptions
from unlabeled.earth.sensors import SENSORS, SENTINEL2, UnknownBand

L1C = SENSORS["sentinel2-l1c"]


def test_sentinel2_has_thirteen_bands_in_the_order_of_their_wavelengths():
    """B8A (0.865 um) stands between B8 (0.842) and B9 (0.945); Level 2A lacks the cirrus band alone."""
    assert L1C.names == ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")
    waves = [b.wavelength for b in L1C.bands]
    assert waves == sorted(waves)
    assert SENSORS["sentinel2-l2a"].names == tuple(n for n in L1C.names if n != "B10")
    assert [b.gsd for b in L1C.bands].count(10) == 4
    assert {SENSORS[n].nodata for n in SENTINEL2} == {0}


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("B04", "B4"),
        ("b4", "B4"),
        ("red", "B4"),
        ("B4, central wavelength 665 nm", "B4"),
        ("B04 (665 nm)", "B4"),
        ("b8a", "B8A"),
        ("B8a", "B8A"),
        ("B08A", "B8A"),
        ("nir08", "B8A"),
        ("NIR", "B8"),
        ("B10", "B10"),
        ("Water vapour", "B9"),
        ("SWIR-2", "B12"),
    ],
)
def test_aliases_lead_to_the_canonical_name(given, canonical):
    assert L1C.band(given).name == canonical


@pytest.mark.parametrize("sensor", SENSORS)
def test_every_name_and_alias_means_one_band(sensor):
    spec = SENSORS[sensor]
    for band in spec.bands:
        for name in (band.name, band.name.lower(), *band.aliases):
            assert spec.band(name) == band, name


def test_an_unknown_band_is_an_error_that_lists_the_known_ones():
    with pytest.raises(UnknownBand, match=r"sentinel1 has no band 'HH'.*known: VV, VH") as caught:
        SENSORS["sentinel1"].band("HH", "scene.tif")
    assert isinstance(caught.value, BadInput) and str(caught.value).startswith("scene.tif: ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sensor": "sentinel2"}, "sentinel2-l1c"),
        ({"sensor": "sentinel2-l2a", "bands": ["B10"]}, "has no band 'B10' .known: B1, B2"),
        ({"sensor": "sentinel1", "names": ["HH", "HV"]}, "known: VV, VH"),
        ({"bands": ["red", "red"]}, "named twice"),
        ({"stack": r"_(B\d+)\.tif"}, "named group band"),
        ({"group_pattern": "tile"}, "needs one"),
        ({"only": "("}, "not a regular expression"),
        ({"crs": "EPSG:1"}, "is no CRS"),
        ({"s2_offset": "yes"}, "s2_offset"),
    ],
)
def test_options_are_checked_before_any_file_is_read(options, message):
    with pytest.raises(RequestError, match=message):
        validated(ReaderOptions, options, "data.options")


def test_landsat_level_2_rules():
    """USGS Collection 2: reflectance bands share one rule, the thermal band is in kelvin; no pan and no cirrus band."""
    spec = SENSORS["landsat8-l2"]
    assert spec.names == ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B10")
    assert [(b.unit, b.scale, b.offset) for b in spec.bands] == [("1", 2.75e-5, -0.2)] * 7 + [("K", 0.00341802, 149.0)]
    assert SENSORS["landsat7-l2"].names == ("B1", "B2", "B3", "B4", "B5", "B6", "B7")
