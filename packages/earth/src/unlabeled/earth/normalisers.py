"""Fixed normalisers, by name under `data.normaliser`: the same constants whatever the data, as published weights saw them.

Each is a function (spec, source) -> Constants of x -> (x - offset) / scale in the spec's own units, so that digital
numbers and reflectance (unit "1") come to the same values. They raise RequestError for bands or units without constants.

SSL4EO-S12 comes in two radiometric conventions. Version 1.0 has no offset, version 1.1 carries the +1000 of processing
baseline 04.00 in every optical band: fed as they are, its digital numbers lie 0.1 reflectance too high for weights of
version 1.0. Where the reader took the offset out (sensor: sentinel2-*), values are reflectance and the question is settled;
for bare digital numbers nothing but the name of the normaliser says which convention they have.
"""

from __future__ import annotations

import numpy as np

from unlabeled.core.contracts import Constants, InputSpec, RequestError
from unlabeled.earth.sensors import SENSORS, SensorSpec

FULL = 10_000.0  # digital numbers of reflectance 1, Sentinel-2

# SSL4EO-S12 (Wang et al. 2023), means and deviations over 50,000 locations, in digital numbers and in dB
L1C = {
    "B1": (1605.6, 786.8),
    "B2": (1390.8, 850.3),
    "B3": (1314.9, 875.1),
    "B4": (1363.5, 1138.8),
    "B5": (1549.4, 1122.2),
    "B6": (2091.7, 1161.6),
    "B7": (2371.7, 1274.4),
    "B8": (2299.9, 1248.4),
    "B8A": (2560.3, 1345.5),
    "B9": (830.1, 577.3),
    "B10": (22.1, 51.2),
    "B11": (2177.1, 1336.1),
    "B12": (1524.1, 1136.5),
}
L2A = {
    "B1": (752.4, 1108.0),
    "B2": (884.3, 1155.2),
    "B3": (1144.2, 1183.6),
    "B4": (1297.5, 1368.1),
    "B5": (1624.9, 1370.3),
    "B6": (2194.6, 1355.6),
    "B7": (2422.2, 1416.5),
    "B8": (2517.8, 1474.8),
    "B8A": (2581.6, 1439.3),
    "B9": (2645.5, 1582.3),
    "B11": (2368.5, 1455.5),
    "B12": (1805.1, 1343.5),
}
S1 = {"VV": (-12.548, 5.257), "VH": (-20.192, 5.912)}
# the means of version 1.1; its deviations are those of version 1.0
L1C_V11 = dict(
    zip(
        L1C,
        (2607.3, 2393.1, 2320.2, 2374.0, 2562.5, 3110.1, 3392.8, 3321.2, 3583.8, 1838.7, 1021.8, 3205.1, 2545.8),
        strict=True,
    )
)
IMAGENET = {"red": (0.485, 0.229), "green": (0.456, 0.224), "blue": (0.406, 0.225)}
EIGHT_BIT = ("landsat5", "landsat7")  # whose digital numbers end at 255; of a source we do not know we assume it


def div10000(spec: InputSpec, source: str) -> Constants:
    """Sentinel-2 digital numbers over 10,000, without any offset (SSL4EO-S12, SeCo); reflectance stays as it is."""
    scale = _per_reflectance(spec, source, "div10000")
    return Constants(offset=(0.0,) * spec.width, scale=tuple(FULL * s for s in scale))


def ssl4eo_s12(spec: InputSpec, source: str) -> Constants:
    """z-scores of SSL4EO-S12 version 1.0, level 1C (top of atmosphere, 13 bands)."""
    return _zscore(spec, source, "ssl4eo-s12", L1C)


def ssl4eo_s12_l2a(spec: InputSpec, source: str) -> Constants:
    """The same, level 2A (surface, 12 bands, no B10)."""
    return _zscore(spec, source, "ssl4eo-s12-l2a", L2A)


def ssl4eo_s12_v11(spec: InputSpec, source: str) -> Constants:
    """z-scores of SSL4EO-S12 version 1.1, level 1C, whose digital numbers still hold the +1000. Not for reflectance."""
    if set(spec.units) != {"DN"}:
        raise RequestError(
            "data.normaliser ssl4eo-s12-v1.1 is for digital numbers that still hold the offset of +1000; for reflectance "
            "name ssl4eo-s12"
        )
    raw = {band: (mean, L1C[band][1]) for band, mean in L1C_V11.items()}
    return _zscore(spec, source, "ssl4eo-s12-v1.1", raw)


def ssl4eo_s1(spec: InputSpec, source: str) -> Constants:
    """Sentinel-1 in dB: mean - 2 deviations -> 0, mean + 2 deviations -> 1, as SSL4EO-S12 encodes it (without its clip)."""
    name = "ssl4eo-s1"
    _only(spec, {"dB"}, name)
    found = [_of(S1, SENSORS["sentinel1"], channel, name) for channel in spec.channels]
    return Constants(offset=tuple(m - 2 * d for m, d in found), scale=tuple(4 * d for _, d in found))


def imagenet(spec: InputSpec, source: str) -> Constants:
    """z-scores of ImageNet for red, green and blue: of values from 0 to 1 (unit "1"), or of 8-bit digital numbers."""
    name = "imagenet"
    _only(spec, {"1", "DN"}, name)
    if "DN" in spec.units and source in SENSORS and source not in EIGHT_BIT:
        raise RequestError(f"data.normaliser {name}: the digital numbers of {source} are not 8 bits; name another one")
    found = [_colour(channel, source) for channel in spec.channels]
    full = [255.0 if unit == "DN" else 1.0 for unit in spec.units]
    return Constants(
        offset=tuple(f * m for (m, _), f in zip(found, full, strict=True)),
        scale=tuple(f * d for (_, d), f in zip(found, full, strict=True)),
    )


def same(a: Constants, b: Constants, within: float = 0.1) -> bool:
    """Whether two normalisers give the same values but for `within` of what `b` scales to 1.

    Published constants of one data set differ from subset to subset by up to 7 % (B10); another convention by far more.
    """
    offset, scale = np.array(b.offset), np.array(b.scale)
    moved = np.abs(np.array(a.offset) - offset) / scale
    return bool((moved <= within).all() and (np.abs(np.array(a.scale) / scale - 1) <= within).all())


def _zscore(spec: InputSpec, source: str, name: str, table: dict[str, tuple[float, float]]) -> Constants:
    factor = _per_reflectance(spec, source, name)
    found = [_of(table, SENSORS["sentinel2-l1c"], channel, name) for channel in spec.channels]
    return Constants(
        offset=tuple(m * f for (m, _), f in zip(found, factor, strict=True)),
        scale=tuple(d * f for (_, d), f in zip(found, factor, strict=True)),
    )


def _per_reflectance(spec: InputSpec, source: str, name: str) -> tuple[float, ...]:
    """What a Sentinel-2 digital number is worth in the unit of each channel."""
    _only(spec, {"1", "DN"}, name)
    if "DN" in spec.units:
        if source in SENSORS and not source.startswith("sentinel2"):
            raise RequestError(
                f"data.normaliser {name}: 10,000 is reflectance 1 in Sentinel-2, not in the digital numbers of {source}; "
                "name another one"
            )
        for channel in spec.channels:
            _of(L1C, SENSORS["sentinel2-l1c"], channel, name)
    return tuple(1.0 if unit == "DN" else 1 / FULL for unit in spec.units)


def _only(spec: InputSpec, units: set[str], name: str) -> None:
    other = sorted(set(spec.units) - units)
    if other:
        raise RequestError(
            f"data.normaliser {name} is for values in {' or '.join(sorted(units))}, not in {other[0] or 'no unit'}; "
            "say the unit under data.options.units, or name another one"
        )


def _of(table: dict[str, tuple[float, float]], sensor: SensorSpec, channel: str, name: str) -> tuple[float, float]:
    band = sensor.band(channel).name if sensor.knows(channel) else channel
    if band not in table:
        raise RequestError(
            f"data.normaliser {name} has no constants for the band {channel!r} (known: {', '.join(table)}); name these bands "
            "under data.options.bands, or another normaliser"
        )
    return table[band]


def _colour(channel: str, source: str) -> tuple[float, float]:
    """The constants of what is red, green or blue by its own name or by its sensor's."""
    sensor = SENSORS.get(source)
    names = {channel.casefold()}
    if sensor is not None and sensor.knows(channel):
        names |= set(sensor.band(channel).aliases)
    for colour, constants in IMAGENET.items():
        if names & {colour, colour[0]}:
            return constants
    raise RequestError(
        f"data.normaliser imagenet has constants for red, green and blue, not for {channel!r} of {source!r}; name these bands "
        "under data.options.bands, or another normaliser"
    )
