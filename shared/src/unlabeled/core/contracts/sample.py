"""Input and Sample: what a reader gives. NumPy only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Layout = Literal["dense", "packed", "graph"]

# The unit of channels whose numbers are names, and have no mean: no normaliser changes them.
UNIT_OF_IDS = "id"
# The unit of coordinates that count the tokens of a text, whose only axis has this name whatever the domain's axes are.
AXIS_OF_TEXT = "token"


@dataclass(frozen=True)
class Input:
    """One measured thing.

    layout  `dense`: data (C, *S) on a regular grid; `packed`: data (L, C), a sequence or set of tokens;
            `graph`: data (N, C), nodes joined by `edges`.
    channels, units  C names and C units; a unit of "" is dimensionless.
    valid   dense: (1 | C, *S), packed and graph: (L,); False is nodata, gap or padding. None: all valid.
    spacing dense: size of one step along each axis of S, in `unit` (s, mm, m, px).
    coords  packed and graph: (L, d) position of each token in `unit`.
    edges   graph: (2, E) int64, source row above target row.
    source  the sensor or modality the normaliser's constants belong to.
    offset, scale  dense, per channel: data are the file's integers and `ready` makes (data - offset) / scale of them;
            None: data are what they are.
    """

    data: NDArray[Any]
    channels: tuple[str, ...]
    units: tuple[str, ...]
    layout: Layout = "dense"
    unit: str = "px"
    spacing: tuple[float, ...] | None = None
    valid: NDArray[np.bool_] | None = None
    coords: NDArray[np.float64] | None = None
    edges: NDArray[np.int64] | None = None
    source: str = ""
    offset: tuple[float, ...] | None = None
    scale: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        width = self.data.shape[0 if self.layout == "dense" else 1]
        if not len(self.channels) == len(self.units) == width:
            raise ValueError(f"{width} channels of data, {len(self.channels)} names, {len(self.units)} units")
        if self.layout == "dense":
            if self.spacing is None or len(self.spacing) != self.data.ndim - 1:
                raise ValueError(f"dense data of shape {self.data.shape} needs a spacing per axis, got {self.spacing}")
            if self.valid is not None and (
                self.valid.shape[1:] != self.data.shape[1:] or self.valid.shape[0] not in (1, width)
            ):
                raise ValueError(f"valid {self.valid.shape} does not fit data {self.data.shape}")
        elif self.valid is not None and self.valid.shape != self.data.shape[:1]:
            raise ValueError(f"valid {self.valid.shape} does not fit {self.data.shape[0]} tokens")
        if self.layout == "graph" and (self.edges is None or self.edges.shape[0] != 2):
            raise ValueError("a graph needs edges of shape (2, E)")

    @property
    def shape(self) -> tuple[int, ...]:
        """S for dense data, (L,) for tokens and nodes."""
        return self.data.shape[1:] if self.layout == "dense" else self.data.shape[:1]

    def with_(self, **changes: Any) -> Input:
        return replace(self, **changes)

    def ready(self) -> Input:
        """With float32 data, normalised where that was put off; invalid positions are then 0."""
        if self.offset is None or self.scale is None:
            return self
        per_channel = (-1, *[1] * (self.data.ndim - 1))
        offset, scale = (np.asarray(c, np.float32).reshape(per_channel) for c in (self.offset, self.scale))
        data = (self.data.astype(np.float32) - offset) / scale
        if self.valid is not None:
            data = np.where(self.valid, data, np.float32(0))
        return replace(self, data=np.ascontiguousarray(data, np.float32), offset=None, scale=None)


@dataclass(frozen=True)
class Sample:
    """What one record or one item holds.

    inputs  by name; the default name is "x".
    key     stable id, unique in its collection; shown to users, so it never holds a private identifier of a header.
    index   position in its collection (item id inside a batch).
    group   what may not cross a split (patient, subject, scene, host); raw here, hashed before it is written anywhere.
    record  position of the record this sample was cut from (its own index where nothing was cut).
    meta    side information (flags, body side); never private identifiers.
    """

    inputs: Mapping[str, Input]
    key: str
    group: str
    index: int = -1
    record: int = -1
    meta: Mapping[str, Any] = field(default_factory=dict)

    def with_(self, **changes: Any) -> Sample:
        return replace(self, **changes)

    def ready(self) -> Sample:
        """With every input normalised."""
        if all(x.offset is None for x in self.inputs.values()):
            return self
        return replace(self, inputs={name: x.ready() for name, x in self.inputs.items()})

    def map(self, **inputs: Input) -> Sample:
        """This sample with the named inputs replaced."""
        return replace(self, inputs={**self.inputs, **inputs})
