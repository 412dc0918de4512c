"""What values give away: a wrong unit (refused) and nodata that nobody declared (flagged)."""

from __future__ import annotations

import numpy as np

from unlabeled.core.contracts import BadInput, Input
from unlabeled.earth.scene import Scene

COLLARS = (0.0, 255.0, 65535.0, -9999.0, -32768.0)
COLLAR_SHARE = 0.01  # of a record


def check_range(x: Input, name: str) -> None:
    """Raises BadInput where the valid values contradict the unit.

    dB of a natural surface lies in (-40, 5) and some of it below 0; linear power is positive, its median in (0, 5);
    reflectance above 2 is met on few pixels (glint, bright cloud), so that a median above it is none.
    """
    valid = np.ones(x.shape, bool) if x.valid is None else x.valid[0]
    for channel, unit, values in zip(x.channels, x.units, x.data, strict=True):
        if unit not in ("1", "dB", "power") or not (seen := values[valid]).size:
            continue
        low, median = float(seen.min()), float(np.median(seen))
        looks = ""
        if unit == "1" and median > 2:
            looks = "digital numbers"
        elif unit == "dB" and low >= 0:
            looks = "linear power" if median < 5 else "amplitude or uncalibrated numbers"
        elif unit == "dB" and not -40 < median < 5:
            looks = "no backscatter in dB"
        elif unit == "power" and median > 5:
            looks = "amplitude or uncalibrated numbers"
        if looks:
            said = {"1": "reflectance"}.get(unit, unit)
            raise BadInput(
                f"{name}: {channel} is said to be {said}, but its median of {median:.3g} (least {low:.3g}) looks like {looks}; "
                "correct options.units or the file, or set options.check_range: false"
            )


def flags(scene: Scene, x: Input) -> list[str]:
    """What a reader of the report should know of one record: bands or borders that look like nodata nobody declared."""
    found = []
    valid = np.ones(x.shape, bool) if x.valid is None else x.valid[0]
    undeclared = scene.numbers_are_values and not any(layer.nodata or layer.masked for layer in scene.layers)
    for value in COLLARS if undeclared else ():
        at = (x.data == value).all(0) & valid
        if at.mean() > COLLAR_SHARE and at[[0, 0, -1, -1], [0, -1, 0, -1]].any():
            found.append(
                f"{at.mean():.0%} of its pixels are {value:g} in every band, up to a corner: where that is nodata, say "
                f"options.nodata: {value:g}"
            )
    return found
