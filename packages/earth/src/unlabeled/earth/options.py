"""Options of the reader: the recipe's `data.options`."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from unlabeled.earth.sensors import SENSORS, SensorSpec, UnknownBand

BLOCKS = {"m": 10_240.0, "deg": 0.1, "px": 1024.0}


class ReaderOptions(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    sensor: str | None = Field(
        None,
        description=f"what took the images: {', '.join(SENSORS)}; none: band names are free, values are as in the file",
    )
    bands: tuple[str, ...] | None = Field(
        None, min_length=1, description="names of the wanted bands, in order; none: every band of the file"
    )
    names: tuple[str, ...] | None = Field(
        None, min_length=1, description="names of all bands of a file, in its order, where it describes none or others"
    )
    units: dict[str, str] = Field(
        default_factory=dict,
        description="unit of each band by name or pattern (`V*: dB`), where the file says none: 1 (reflectance), DN, dB, "
        "power, K or any other",
    )
    s2_offset: Literal["auto", "applied", "raw", "none"] = Field(
        "auto",
        description="the +1000 in the digital numbers of Sentinel-2 since processing baseline 04.00: raw: still in them; "
        "applied: taken out before; none: an older baseline, there never was one; auto: from the product's metadata",
    )
    nodata: float | Literal["none"] | None = Field(
        None, description="value of a missing pixel; none: nothing is; left out: as the file declares"
    )
    stack: str | None = Field(
        None,
        description="regular expression with the named group `band`, searched in the relative path: files that differ in it "
        "alone are the bands of one scene; other files are left out",
    )
    only: str | None = Field(
        None, description="regular expression searched in the relative path: files it does not find are left out"
    )
    crs: str | None = Field(None, description="CRS to bring every scene to, as EPSG:32633; none: each keeps its own")
    resolution: float | None = Field(
        None,
        gt=0,
        description="step of the grid to bring every scene to, in units of its CRS; none: each keeps its own",
    )
    resampling: Literal["nearest", "bilinear", "cubic", "average"] = Field(
        "bilinear", description="how values are brought to another grid"
    )
    allow_nogeo: bool = Field(
        False,
        description="read files without a CRS, in pixels; each is then a group of its own, if no pattern says better",
    )
    block: float | None = Field(
        None,
        gt=0,
        description="side of a block, in units of the CRS: scenes are cut into blocks, and a block is what no split divides; "
        f"none: {BLOCKS['m']:g} m, {BLOCKS['deg']:g} deg or {BLOCKS['px']:g} px",
    )
    group: Literal["block", "file"] = Field("block", description="what may not cross a split: ground, or whole files")
    group_pattern: str | None = Field(
        None, description="regular expression with one group, searched in the relative path, that gives the group"
    )
    source: str | None = Field(
        None, min_length=1, description="name of the sensor in the contract; none: the sensor, or `image`"
    )
    check_range: bool = Field(
        True, description="refuse values that contradict their unit; false where they are right all the same"
    )

    align_labels: Literal["exact", "nearest"] = Field(
        "exact",
        description="label rasters: exact: on the scene's own grid, or an error; nearest: each pixel takes the label under its "
        "centre",
    )

    @property
    def spec(self) -> SensorSpec | None:
        return SENSORS[self.sensor] if self.sensor else None

    @field_validator("sensor")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None and name not in SENSORS:
            raise ValueError(f"{name!r} is unknown (known: {', '.join(SENSORS)})")
        return name

    @field_validator("bands", "names")
    @classmethod
    def _once(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if names and len(set(names)) < len(names):
            raise ValueError("a band is named twice")
        return names

    @field_validator("group_pattern", "stack", "only")
    @classmethod
    def _pattern(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"not a regular expression ({error})") from None
        return pattern

    @field_validator("group_pattern")
    @classmethod
    def _one_group(cls, pattern: str | None) -> str | None:
        if pattern is not None and (groups := re.compile(pattern).groups) != 1:
            raise ValueError(f"the pattern has {groups} groups and needs one, as in '(tile[0-9]+)'")
        return pattern

    @field_validator("stack")
    @classmethod
    def _names_band(cls, pattern: str | None) -> str | None:
        if pattern is not None and "band" not in re.compile(pattern).groupindex:
            raise ValueError(r"the pattern needs the named group band, as in '_(?P<band>B\d+)\.tif$'")
        return pattern

    @field_validator("crs")
    @classmethod
    def _is_crs(cls, text: str | None) -> str | None:
        if text is not None:
            from rasterio.crs import CRS
            from rasterio.errors import CRSError

            try:
                CRS.from_user_input(text)
            except CRSError:
                raise ValueError(f"{text!r} is no CRS; write one as EPSG:32633") from None
        return text

    @model_validator(mode="after")
    def _of_the_sensor(self) -> ReaderOptions:
        """Bands that are asked for exist."""
        spec = self.spec
        if spec is None:
            return self
        try:
            for name in (*(self.bands or ()), *(self.names or ())):
                spec.band(name)
        except UnknownBand as error:
            raise ValueError(str(error)) from None
        return self
