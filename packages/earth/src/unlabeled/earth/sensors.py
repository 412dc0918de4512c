"""Sensors and their bands: canonical names, aliases, wavelengths, and how digital numbers become physical values."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from unlabeled.core.contracts import BadInput


@dataclass(frozen=True)
class Band:
    """wavelength: centre in micrometres (0 for radar); gsd: ground sampling distance in metres.

    value = DN * scale + offset, in `unit`, is the product's own rule; scale None: there is none, values stay as they are.
    """

    name: str
    wavelength: float
    gsd: float
    aliases: tuple[str, ...] = ()
    unit: str = "DN"
    scale: float | None = None
    offset: float = 0.0


@dataclass(frozen=True)
class SensorSpec:
    """units: those a file may declare ("1" is reflectance); () where the product fixes them. nodata: of integer files."""

    name: str
    bands: tuple[Band, ...]
    units: tuple[str, ...] = ()
    nodata: float | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(b.name for b in self.bands)

    def band(self, name: str, what: str = "bands") -> Band:
        """The band of this name or alias. Raises UnknownBand listing the known ones."""
        found = self._find(name)
        if found is None:
            raise UnknownBand(
                f"{what}: {self.name} has no band {name!r} (known: {', '.join(self.names)}); correct the name, or name the "
                "file's bands by options.names"
            )
        return found

    def knows(self, name: str) -> bool:
        return self._find(name) is not None

    def _find(self, name: str) -> Band | None:
        wanted = _plain(name)
        return next((b for b in self.bands if wanted in {_plain(n) for n in (b.name, *b.aliases)}), None)


class UnknownBand(BadInput):
    """A file's band that its sensor does not have."""


def _plain(name: str) -> str:
    """`B04`, `b4`, `B4, central wavelength 665 nm` -> `b4`; `SR_B4` keeps its prefix."""
    name = re.split(r"[,(]", name)[0].casefold()
    name = re.sub(r"[\s_\-]+", "", name)
    return re.sub(r"(?<=b)0+(?=\d)", "", name)


def _optical(rows: Iterable[tuple[str, float, float, str]], **rule: object) -> tuple[Band, ...]:
    return tuple(Band(n, w, g, tuple(a.split()), **rule) for n, w, g, a in rows)  # type: ignore[arg-type]


# ESA Sentinel-2 user guide: centres of Sentinel-2A
_S2 = (
    ("B1", 0.443, 60.0, "coastal aerosol"),
    ("B2", 0.490, 10.0, "blue"),
    ("B3", 0.560, 10.0, "green"),
    ("B4", 0.665, 10.0, "red"),
    ("B5", 0.705, 20.0, "rededge1 re1"),
    ("B6", 0.740, 20.0, "rededge2 re2"),
    ("B7", 0.783, 20.0, "rededge3 re3"),
    ("B8", 0.842, 10.0, "nir"),
    ("B8A", 0.865, 20.0, "nir08 narrownir nirnarrow"),
    ("B9", 0.945, 60.0, "nir09 watervapour watervapor"),
    ("B10", 1.375, 60.0, "cirrus"),
    ("B11", 1.610, 20.0, "swir1 swir16"),
    ("B12", 2.190, 20.0, "swir2 swir22"),
)
# USGS, Landsat band designations; numbers as 61 are those of GRASS and of the ETM+ archive
_TM = (
    ("B1", 0.485, 30.0, "blue 10 1"),
    ("B2", 0.560, 30.0, "green 20 2"),
    ("B3", 0.660, 30.0, "red 30 3"),
    ("B4", 0.830, 30.0, "nir 40 4"),
    ("B5", 1.650, 30.0, "swir1 50 5"),
    ("B6", 11.45, 120.0, "thermal 60 6"),
    ("B7", 2.215, 30.0, "swir2 70 7"),
)
_ETM = (
    ("B1", 0.483, 30.0, "blue 10 1"),
    ("B2", 0.560, 30.0, "green 20 2"),
    ("B3", 0.662, 30.0, "red 30 3"),
    ("B4", 0.835, 30.0, "nir 40 4"),
    ("B5", 1.648, 30.0, "swir1 50 5"),
    ("B6_VCID_1", 11.45, 60.0, "b61 61 thermal1 lwir1"),
    ("B6_VCID_2", 11.45, 60.0, "b62 62 thermal2 lwir2"),
    ("B7", 2.206, 30.0, "swir2 70 7"),
    ("B8", 0.710, 15.0, "pan 80 8"),
)
_OLI = (
    ("B1", 0.443, 30.0, "coastal"),
    ("B2", 0.482, 30.0, "blue"),
    ("B3", 0.561, 30.0, "green"),
    ("B4", 0.655, 30.0, "red"),
    ("B5", 0.865, 30.0, "nir nir08"),
    ("B6", 1.609, 30.0, "swir1 swir16"),
    ("B7", 2.201, 30.0, "swir2 swir22"),
    ("B8", 0.590, 15.0, "pan"),
    ("B9", 1.373, 30.0, "cirrus"),
    ("B10", 10.895, 100.0, "thermal1 lwir11"),
    ("B11", 12.005, 100.0, "thermal2 lwir12"),
)


def _level2(rows: tuple[tuple[str, float, float, str], ...], thermal: str) -> tuple[Band, ...]:
    """Landsat Collection 2 Level 2: reflectance 2.75e-5 DN - 0.2, surface temperature 0.00341802 DN + 149 K (USGS)."""
    bands = []
    for name, wavelength, gsd, aliases in rows:
        if name == thermal or name.startswith(f"{thermal}_VCID_1"):
            names = (f"ST_{thermal}", *aliases.split())
            bands.append(Band(thermal, wavelength, 30.0, names, "K", 0.00341802, 149.0))
        elif wavelength < 2.5 and gsd == 30 and wavelength != 1.373:
            bands.append(Band(name, wavelength, 30.0, (f"SR_{name}", *aliases.split()), "1", 2.75e-5, -0.2))
    return tuple(bands)


SENSORS: dict[str, SensorSpec] = {
    s.name: s
    for s in (
        # the offset of the digital numbers depends on the product: offsets.py
        SensorSpec("sentinel2-l1c", _optical(_S2, unit="1", scale=1e-4), nodata=0),
        SensorSpec("sentinel2-l2a", _optical([b for b in _S2 if b[0] != "B10"], unit="1", scale=1e-4), nodata=0),
        SensorSpec("sentinel1", (Band("VV", 0, 10.0), Band("VH", 0, 10.0)), units=("dB", "power")),
        SensorSpec("landsat5", _optical(_TM)),
        SensorSpec("landsat7", _optical(_ETM)),
        SensorSpec("landsat8", _optical(_OLI)),
        SensorSpec("landsat9", _optical(_OLI)),
        SensorSpec("landsat5-l2", _level2(_TM, "B6"), nodata=0),
        SensorSpec("landsat7-l2", _level2(_ETM, "B6"), nodata=0),
        SensorSpec("landsat8-l2", _level2(_OLI, "B10"), nodata=0),
        SensorSpec("landsat9-l2", _level2(_OLI, "B10"), nodata=0),
    )
}
SENTINEL2 = ("sentinel2-l1c", "sentinel2-l2a")
