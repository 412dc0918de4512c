"""Fixed normalisers: values at known digital numbers, equal in every unit, and no constants by guessing."""

import numpy as np
import pytest

from unlabeled.core.contracts import Input, InputSpec, Normaliser, RequestError
from unlabeled.earth import normalisers
from unlabeled.earth.normalisers import L1C, L1C_V11, L2A, S1, same

# level 2A of version 1.1, which we have no deviations of
L2A_V11 = dict(
    zip(
        L2A,
        (1793.2, 1924.9, 2184.6, 2340.9, 2671.4, 3240.1, 3468.4, 3563.2, 3627.7, 3711.1, 3416.7, 2849.6),
        strict=True,
    )
)


def spec(channels, unit="DN"):
    return InputSpec(channels=channels, units=(unit,) * len(channels), axes=("y", "x"), unit="m", spacing=(10.0, 10.0))


def applied(name, channels, unit, values, source="image"):
    """What a normaliser makes of one pixel."""
    made = spec(channels, unit)
    constants = getattr(normalisers, name)(made, source)
    data = np.asarray(values, np.float32).reshape(-1, 1, 1)
    x = Input(data, channels, (unit,) * len(channels), unit="m", spacing=(10.0, 10.0), source=source)
    return Normaliser(method=name, constants={source: constants}).apply(x).data.ravel()


def test_div10000():
    np.testing.assert_allclose(applied("div10000", ("B2", "B8"), "DN", [10_000, 2_500]), [1, 0.25], rtol=1e-6)
    np.testing.assert_allclose(applied("div10000", ("B2", "B8"), "1", [1, 0.25]), [1, 0.25], rtol=1e-6)


@pytest.mark.parametrize(("name", "table"), [("ssl4eo_s12", L1C), ("ssl4eo_s12_l2a", L2A)])
def test_zscores_of_mean_and_one_deviation_above(name, table):
    """(mean - mean) / s = 0 and (mean + s - mean) / s = 1, whether in digital numbers or in reflectance."""
    bands = tuple(table)
    mean, deviation = np.array(list(table.values())).T
    for unit, factor in (("DN", 1.0), ("1", 1e-4)):
        np.testing.assert_allclose(applied(name, bands, unit, mean * factor), 0, atol=1e-4)
        np.testing.assert_allclose(applied(name, bands, unit, (mean + deviation) * factor), 1, rtol=1e-4)


def test_bands_are_taken_by_name_and_alias():
    """The fourth band of the list is not the fourth of the table: (1390.8 + 850.3 - 1390.8) / 850.3 = 1 for blue."""
    np.testing.assert_allclose(applied("ssl4eo_s12", ("B08", "blue"), "DN", [2299.9, 2241.1]), [0, 1], atol=1e-4)


def test_version_1_1_is_version_1_0_plus_1000():
    """The two published tables: every band's mean moved by 1000 DN, within 30 at level 1C and 70 at level 2A."""
    assert all(abs(L1C_V11[b] - L1C[b][0] - 1000) < 30 for b in L1C)
    assert all(abs(L2A_V11[b] - L2A[b][0] - 1000) < 70 for b in L2A)
    raw = [L1C[b][0] + 1000 for b in L1C]
    moved = applied("ssl4eo_s12_v11", tuple(L1C), "DN", raw)
    assert np.abs(moved).max() < 0.04
    # the trap: the same values under version 1.0 lie 1000 / s too high, most of all B10 with its deviation of 51.2
    trapped = applied("ssl4eo_s12", tuple(L1C), "DN", raw)
    np.testing.assert_allclose(trapped, [1000 / L1C[b][1] for b in L1C], rtol=1e-4)
    with pytest.raises(RequestError, match="for reflectance name ssl4eo-s12"):
        normalisers.ssl4eo_s12_v11(spec(("B2",), "1"), "image")


def test_ssl4eo_s1_puts_two_deviations_on_zero_and_one():
    low, middle, high = ([m + k * d for m, d in S1.values()] for k in (-2, 0, 2))
    for values, expected in ((low, 0), (middle, 0.5), (high, 1)):
        np.testing.assert_allclose(applied("ssl4eo_s1", ("VV", "VH"), "dB", values), expected, atol=1e-6)
    with pytest.raises(RequestError, match="for values in dB, not in power"):
        normalisers.ssl4eo_s1(spec(("VV",), "power"), "sentinel1")


def test_imagenet_by_colour():
    """White is (1 - .485) / .229 = 2.2489, (1 - .456) / .224 = 2.4286, (1 - .406) / .225 = 2.64."""
    white = [2.2489, 2.4286, 2.64]
    np.testing.assert_allclose(applied("imagenet", ("red", "green", "blue"), "DN", [255] * 3), white, rtol=1e-4)
    np.testing.assert_allclose(applied("imagenet", ("B4", "B3", "B2"), "1", [1] * 3, "sentinel2-l2a"), white, rtol=1e-4)
    # in Landsat 7 the same names are other colours
    found = applied("imagenet", ("B3", "B2", "B1"), "DN", [255] * 3, "landsat7")
    np.testing.assert_allclose(found, white, rtol=1e-4)
    with pytest.raises(RequestError, match="not for 'B8' of 'sentinel2-l2a'"):
        normalisers.imagenet(spec(("B4", "B8"), "1"), "sentinel2-l2a")
    with pytest.raises(RequestError, match="landsat8 are not 8 bits"):
        normalisers.imagenet(spec(("B4",)), "landsat8")


def test_what_has_no_constants_is_refused():
    with pytest.raises(RequestError, match="not in the digital numbers of landsat7"):
        normalisers.div10000(spec(("B2",)), "landsat7")
    with pytest.raises(RequestError, match="no constants for the band 'ndvi'"):
        normalisers.div10000(spec(("B2", "ndvi")), "image")
    with pytest.raises(RequestError, match=r"no constants for the band 'B10' .known: B1, B2"):
        normalisers.ssl4eo_s12_l2a(spec(("B10",), "1"), "image")
    with pytest.raises(RequestError, match="not in K"):
        normalisers.div10000(spec(("B2",), "K"), "image")


def test_same_tells_subsets_from_conventions():
    """torchgeo's z-scores are of another subset (B10: 47.5 for 51.2); level 2A and version 1.1 are other conventions."""
    one = spec(("B2", "B10"))
    ours = normalisers.ssl4eo_s12(one, "image")
    theirs = ours.model_copy(update={"offset": (1397.6, 22.0), "scale": (854.3, 47.5)})
    assert same(theirs, ours)
    assert not same(normalisers.ssl4eo_s12_v11(one, "image"), ours)
    assert not same(normalisers.div10000(one, "image"), ours)
    blue = spec(("B2",))
    assert not same(normalisers.ssl4eo_s12_l2a(blue, "image"), normalisers.ssl4eo_s12(blue, "image"))
