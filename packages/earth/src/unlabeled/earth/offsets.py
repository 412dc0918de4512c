"""The offset in the digital numbers of Sentinel-2: what is known of it, and what follows.

Reflectance is (DN + add) / 10000. Since processing baseline 04.00 products carry DN that are 1000 too high on purpose (so that
dark pixels stay above 0) and `add` is -1000, given per band in the product's metadata (RADIO_ADD_OFFSET of L1C,
BOA_ADD_OFFSET of L2A); before, and where a provider took it out, it is 0. The date decides nothing: old acquisitions were
processed again. DN 0 is nodata, before any offset.
"""

from __future__ import annotations

import contextlib
import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from unlabeled.core.contracts import BadInput

RAW = -1000.0
FIRST = 4.0  # the processing baseline that introduced it
_BASELINE = ("s2:processing_baseline", "processing:version", "processing_baseline")
_APPLIED = ("earthsearch:boa_offset_applied", "boa_offset_applied")
# the numbers of bands in the product's metadata
_IDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")


@dataclass(frozen=True)
class Evidence:
    """What metadata say. offsets: DN to add, per band; applied: it was taken out of the numbers already."""

    baseline: float | None = None
    applied: bool | None = None
    offsets: Mapping[str, float] = field(default_factory=dict)
    quantification: float = 10_000.0
    where: str = ""

    def add(self, band: str) -> float | None:
        """DN to add, or None where this is not known.

        | baseline | applied | add   |
        |----------|---------|-------|
        | < 04.00  | any     | 0     |
        | >= 04.00 | yes     | 0     |
        | >= 04.00 | no      | -1000 |
        | unknown  | yes     | 0     |
        | >= 04.00, or none | unknown | None, and so for no baseline with applied = no |
        """
        if self.offsets:
            return self.offsets.get(band, 0.0)
        if self.applied or (self.baseline is not None and self.baseline < FIRST):
            return 0.0
        if self.baseline is not None and self.applied is False:
            return RAW
        return None


def add_offset(option: str, found: Evidence, band: str, name: str) -> float:
    """DN to add to `band`: as metadata say, or the option `s2_offset`.

    Raises BadInput where neither says it, or they contradict each other.
    """
    known = found.add(band)
    if option == "auto":
        if known is None:
            seen = (
                f"{found.where} names processing baseline {found.baseline:05.2f} and not whether the offset was taken out"
                if found.baseline is not None
                else "no metadata name its processing baseline"
            )
            raise BadInput(
                f"{name}: the offset of Sentinel-2's digital numbers is unknown ({seen}); set options.s2_offset to raw "
                "(baseline 04.00 or later, as ESA gives it), applied (the provider took it out) or none (older)"
            )
        return known
    said = RAW if option == "raw" else 0.0
    newer = option == "none" and found.baseline is not None and found.baseline >= FIRST
    if (known is not None and known != said) or newer:
        by = f"baseline {found.baseline:05.2f}" if found.baseline is not None else f"add {known:g}"
        raise BadInput(
            f"{name}: options.s2_offset says {option}, {found.where} says {by}; correct one of them "
            "(auto takes what the metadata say)"
        )
    return said


def of_tags(tags: Mapping[str, str], where: str = "its tags") -> Evidence:
    """Evidence of a raster's tags, or of a STAC item's properties."""
    plain = {}
    for key, value in tags.items():
        # GDAL splits `s2:processing_baseline=05.09` at its colon
        rest, equals, end = str(value).partition("=")
        plain[(f"{key}:{rest}" if equals else key).casefold()] = end if equals else rest
    baseline = next((plain[k] for k in _BASELINE if k in plain), None)
    applied = next((plain[k] for k in _APPLIED if k in plain), None)
    return Evidence(
        baseline=_number(baseline),
        applied=None if applied is None else applied.strip().casefold() in ("true", "1", "yes"),
        where=where,
    )


def of_file(tags: Mapping[str, str], path: Path) -> Evidence:
    """Evidence of a raster's tags and of the STAC item of its name, `scene.json` beside `scene.tif`."""
    item = path.with_suffix(".json")
    properties: Mapping[str, str] = {}
    if item.is_file():
        with contextlib.suppress(ValueError, KeyError, TypeError):  # some other JSON
            properties = dict(json.loads(item.read_text(encoding="utf-8"))["properties"])
    return of_tags({**properties, **tags}, item.name if properties else "its tags")


def with_tags(found: Evidence, band: str, add: float, name: str) -> Evidence:
    """Evidence with the offset that the file's own tag states for one band. Raises BadInput where it says otherwise."""
    known = found.add(band)
    if known is not None and known != add:
        raise BadInput(
            f"{name}: its offset tag adds {add:g} to the digital numbers of {band}, {found.where} {known:g}; correct one"
        )
    return replace(
        found, offsets={**found.offsets, band: add}, where=found.where if known is not None else "its offset tag"
    )


def of_product(path: Path, name: str) -> Evidence:
    """Evidence of a product's metadata file (MTD_MSIL1C.xml, MTD_MSIL2A.xml). Raises BadInput where it is broken."""
    try:
        texts = [(e.tag.rpartition("}")[2], e.get("band_id"), (e.text or "").strip()) for e in ET.parse(path).iter()]
    except ET.ParseError:
        raise BadInput(f"{name}: not readable as XML; fetch the product again") from None
    baseline = next((_number(text) for tag, _, text in texts if tag == "PROCESSING_BASELINE"), None)
    if baseline is None:
        raise BadInput(f"{name}: it names no PROCESSING_BASELINE; fetch the product again")
    offsets = {
        _IDS[int(band)]: number
        for tag, band, text in texts
        if tag in ("RADIO_ADD_OFFSET", "BOA_ADD_OFFSET") and band and band.isdigit() and int(band) < len(_IDS)
        if (number := _number(text)) is not None
    }
    per = (_number(t) for tag, _, t in texts if tag in ("QUANTIFICATION_VALUE", "BOA_QUANTIFICATION_VALUE"))
    return Evidence(
        baseline=baseline,
        applied=False,
        offsets=offsets,
        quantification=next((p for p in per if p), 10_000.0),
        where=path.name,
    )


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
