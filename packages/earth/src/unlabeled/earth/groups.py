"""What may not cross a split: a block of ground, a file, or what the path says."""

from __future__ import annotations

import hashlib
import re

from unlabeled.core.contracts import BadInput
from unlabeled.earth.blocks import Block
from unlabeled.earth.options import ReaderOptions
from unlabeled.earth.scene import Place


def group(name: str, key: str, place: Place, block: Block, side: float, options: ReaderOptions) -> str:
    """The group of one record. Raises BadInput where options.group_pattern finds none in the path."""
    if options.group_pattern is not None:
        found = re.search(options.group_pattern, name)
        if not found or not found[1]:
            raise BadInput(f"{name}: options.group_pattern finds no group in its path; correct the pattern or the path")
        return found[1]
    if options.group == "file" or place.crs is None:
        return key
    return f"{zone(place)} {side:g} {block.x} {block.y}"


def zone(place: Place) -> str:
    """A short name of the CRS: EPSG:32633, or a hash of one that has no code."""
    assert place.crs is not None
    authority = place.crs.to_authority()
    if authority:
        return ":".join(authority)
    return "crs " + hashlib.sha256(place.crs.to_wkt().encode()).hexdigest()[:12]
