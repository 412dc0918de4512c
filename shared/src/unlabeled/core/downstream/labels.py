"""Labels of regression and segmentation, brought to the records of a corpus."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from unlabeled.core.contracts import RequestError
from unlabeled.core.evaluation.labels import UNLABELLED, Lines, known_keys, read_lines

Grid = NDArray[np.integer]


class Sliced(Protocol):
    """An array of integers, or what is read from a file where it is sliced."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, region: tuple[slice, ...], /) -> Any: ...


@dataclass(frozen=True)
class Values:
    """values (R,) float64 per record, NaN where it has none; their unit, "" where the file names none."""

    values: NDArray[np.float64]
    unit: str = ""


def read_values(path: Path, keys: Sequence[str], elsewhere: Collection[str] = ()) -> Values:
    """The column `value`, or `value [unit]`, of the records with these keys; a record without a line has none.

    Raises RequestError, in one sentence, for what `read_labels` does, a value that is no finite number, and fewer than two
    different ones.
    """
    columns, lines = read_lines(path, ("key", "value"))
    found: dict[str, tuple[float, int]] = {}
    for number, line in lines:
        key, value = line["key"], _number(path, number, line, "value")
        if key in found and found[key][0] != value:
            raise RequestError(
                f"{path}, line {number}: {key!r} has the value {value:g} here and {found[key][0]:g} in line "
                f"{found[key][1]}; keep one"
            )
        found.setdefault(key, (value, number))
    known_keys(path, list(found), keys, elsewhere)
    values = np.array([found[key][0] if key in found else np.nan for key in keys])
    if len(np.unique(values[~np.isnan(values)])) < 2:
        raise RequestError(
            f"{path}: the {int((~np.isnan(values)).sum())} records with a value have fewer than two different ones; "
            "add values"
        )
    return Values(values, columns["value"].partition(" [")[2].removesuffix("]"))


@dataclass(frozen=True)
class Cells:
    """A label for every cell of a record's grid.

    classes  names, in the order of `codes`; codes (K,): the number that stands for each in `masks`
    masks    per record integers of the grid's shape, negative where a cell has no label; None: no label at all
    """

    classes: tuple[str, ...]
    codes: NDArray[np.int64]
    masks: tuple[Sliced | None, ...]

    def of(self, record: int, region: tuple[slice, ...] = ()) -> NDArray[np.int64]:
        """Class numbers 0 ... K - 1 of a region (() is all) of a labelled record, -1 where there is no label."""
        mask = self.masks[record]
        assert mask is not None
        part = np.asarray(mask[region], np.int64)
        return np.where(part < 0, UNLABELLED, np.searchsorted(self.codes, part))

    def present(self, record: int) -> frozenset[int]:
        """Classes of a record; none where it has no label."""
        if self.masks[record] is None:
            return frozenset()
        return frozenset(np.unique(self.of(record)).tolist()) - {UNLABELLED}


def read_cells(
    path: Path,
    keys: Sequence[str],
    shapes: Sequence[tuple[int, ...]],
    spacing: Sequence[float] | None,
    elsewhere: Collection[str] = (),
) -> Cells:
    """Segments (key, start, stop, label) of records of one axis, or masks (key, file) of records of any number of axes.

    shapes: of the records' grids. start and stop count from the record's start in the unit of `spacing`; a cell belongs to
    the segment that holds its middle, and cells in none have no label. A mask is a .npy of integers beside the CSV, of
    exactly the record's shape; negative numbers are no label. No pickle is read.
    Raises RequestError, in one sentence, for what `read_labels` does and for segments and masks that do not fit.
    """
    one_axis = spacing is not None and len(spacing) == 1
    columns, lines = read_lines(path, *((("key", "start", "stop", "label"),) if one_axis else ()), ("key", "file"))
    known_keys(path, list(dict.fromkeys(line["key"] for _, line in lines)), keys, elsewhere)
    at = {key: i for i, key in enumerate(keys)}
    lines = [(number, line) for number, line in lines if line["key"] in at]
    if "file" in columns:
        cells = _masks(path, lines, at, shapes)
    else:
        assert spacing is not None
        cells = _segments(path, lines, at, [shape[0] for shape in shapes], spacing[0])
    if len(cells.classes) < 2:
        raise RequestError(
            f"{path}: the labelled cells have {len(cells.classes)} class(es), and two are needed; add labels"
        )
    return cells


def _segments(path: Path, lines: Lines, at: dict[str, int], lengths: Sequence[int], step: float) -> Cells:
    classes = tuple(sorted({line["label"] for _, line in lines if line["label"]}))
    masks: list[Grid | None] = [None] * len(lengths)
    for number, line in lines:
        where, label = f"{path}, line {number}", line["label"]
        if not label:
            raise RequestError(f"{where}: the label is empty; write one, or drop the line")
        record = at[line["key"]]
        start, stop = (_number(path, number, line, name) for name in ("start", "stop"))
        end = lengths[record] * step
        if not start < stop or stop <= 0 or start >= end:
            raise RequestError(
                f"{where}: the segment from {start:g} to {stop:g} is empty or outside of {line['key']!r}, which goes "
                f"from 0 to {end:g}; correct it"
            )
        mask = masks[record]
        if mask is None:
            mask = masks[record] = np.full(lengths[record], UNLABELLED, np.int16)
        # the middle of cell i is at (i + 1/2) * step; the small part keeps a whole number of steps from rounding up
        part = mask[max(0, math.ceil(start / step - 0.5 - 1e-9)) : max(0, math.ceil(stop / step - 0.5 - 1e-9))]
        code = classes.index(label)
        other = part[(part != UNLABELLED) & (part != code)]
        if len(other):
            raise RequestError(
                f"{where}: {label!r} overlaps a segment of {line['key']!r} that is labelled {classes[other[0]]!r}; "
                "a cell has one label"
            )
        part[:] = code
    return Cells(classes, np.arange(len(classes)), tuple(masks))


def _masks(path: Path, lines: Lines, at: dict[str, int], shapes: Sequence[tuple[int, ...]]) -> Cells:
    masks: list[Grid | None] = [None] * len(shapes)
    used: set[int] = set()
    for number, line in lines:
        where, record = f"{path}, line {number}", at[line["key"]]
        if not line["file"]:
            raise RequestError(f"{where}: no file is named; name a .npy, or drop the line")
        if masks[record] is not None:
            raise RequestError(f"{where}: {line['key']!r} has a mask already; keep one")
        mask = _mask(path.parent / line["file"], f"{where}: {line['file']}")
        if mask.shape != shapes[record]:
            raise RequestError(
                f"{where}: {line['file']} has the shape {mask.shape} and {line['key']!r} {shapes[record]}; "
                "bring the mask to the record's grid"
            )
        masks[record] = mask
        used |= set(np.unique(mask).tolist())
    codes = sorted(code for code in used if code >= 0)
    return Cells(tuple(str(code) for code in codes), np.array(codes, np.int64), tuple(masks))


def _mask(file: Path, what: str) -> Grid:
    try:
        # of .npy alone; it reads no objects
        mask: Grid = np.lib.format.open_memmap(file, mode="r")  # type: ignore[no-untyped-call]
    except FileNotFoundError:
        raise RequestError(f"{what} is not there; name a .npy beside the CSV") from None
    except (OSError, ValueError, EOFError) as error:
        first = " ".join(str(error).split())[:80]
        raise RequestError(f"{what} cannot be read as .npy without pickle ({first}); save it as an array") from None
    if not np.issubdtype(mask.dtype, np.integer):
        raise RequestError(f"{what} holds {mask.dtype}; a mask holds integers, negative where there is no label")
    return mask


def _number(path: Path, number: int, line: dict[str, str], name: str) -> float:
    try:
        value = float(line[name])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise RequestError(
            f"{path}, line {number}: the {name} of {line['key']!r} is {line[name]!r}; write a finite number, or drop the line"
        )
    return value
