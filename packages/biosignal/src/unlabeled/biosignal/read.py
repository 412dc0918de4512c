"""Files -> Samples: CSV, Parquet and NPZ recordings of worn sensors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unlabeled.biosignal import formats, groups
from unlabeled.biosignal.formats import Table
from unlabeled.biosignal.options import ReaderOptions
from unlabeled.biosignal.timing import MAX_RATE, Part, regular
from unlabeled.biosignal.triplets import triplets
from unlabeled.core.contracts import BadInput, Input, Sample
from unlabeled.core.contracts.spec import unit_factor

SIDECARS = (groups.SIDECAR, "labels.csv")
# Median norm in g of a worn accelerometer. At rest it is 1; hard exercise has been seen at 2.5, and 9.8 (m/s^2 said to
# be g), 0.1 (the reverse) and 64 (raw counts of 1/64 g) lie far outside.
GATE = (0.5, 3.0)
_SCALES = {"g": 1.0, "m/s^2": 9.80665, "mg": 1000.0, "counts of 1/64 g": 64.0}


class Reader:
    """Reads recordings of evenly sampled channels.

    One recording becomes one Sample with the input `x`: (C, T) float32, spacing (1 / rate,) in s, `valid` (C, T) where
    something is missing. Its key is the path relative to the folder given to `files`, without the ending; several
    recordings of a file get #1, #2, ..., and #1.1, #1.2 where the clock splits one of several.
    """

    def __init__(self, options: ReaderOptions | None = None, root: Path | None = None) -> None:
        self.options = options or ReaderOptions()
        self._root = root.parent if root and root.is_file() else root
        self._sidecars: dict[Path, dict[str, groups.About]] = {}

    def files(self, root: Path) -> list[Path]:
        """Every readable file below `root`, sorted, without sidecars and hidden files. Keys are relative to `root`.

        Where `root` is itself a file: that file, or nothing where its ending is none of CSV, Parquet and NPZ.
        """
        if root.is_file():
            self._root = root.parent
            return [root] if root.suffix.lower() in formats.FORMATS else []
        self._root = root
        return sorted(
            p
            for p in root.rglob("*")
            if p.suffix.lower() in formats.FORMATS
            and p.name not in SIDECARS
            and not any(part.startswith(".") for part in p.relative_to(root).parts)
            and p.is_file()
        )

    def read(self, path: Path) -> list[Sample]:
        """The recordings of one file.

        Raises BadInput in one sentence that names the file, the fault and the mend; RequestError for a broken
        recordings.csv.
        """
        root = self._root_of(path)
        name = path.relative_to(root).as_posix()
        if root not in self._sidecars:
            self._sidecars[root] = groups.sidecar(root)
        about = self._sidecars[root].get(name)
        table = formats.load(path, name, self.options)
        recordings = list(_recordings(table, name))
        samples = []
        for n, (rows, words) in enumerate(recordings, start=1):
            subject = groups.subject(name, words.get("subject", ""), about, self.options)
            side = groups.side(name, words.get("side", "") or (about.side if about else ""))
            source = table.source or (about.source if about else "") or self.options.source
            parts = self._parts(table, rows, name)
            self._check(table, parts, name)
            for m, part in enumerate(parts, start=1):
                number = ".".join(str(i) for i, of in ((n, recordings), (m, parts)) if len(of) > 1)
                samples.append(
                    Sample(
                        inputs={"x": _input(table, part, source)},
                        key=path.relative_to(root).with_suffix("").as_posix() + (f"#{number}" if number else ""),
                        group=subject,
                        meta={"flags": [*part.flags, *_flags(table, part)], "side": side},
                    )
                )
        return samples

    def _root_of(self, path: Path) -> Path:
        """The folder given to `files`; without one, the nearest folder above the file that tells its subject."""
        if self._root and path.is_relative_to(self._root):
            return self._root
        pattern = self.options.subject_pattern
        for folder in path.parents:
            if (folder / groups.SIDECAR).is_file():
                return folder
            if pattern and re.search(pattern, path.relative_to(folder).as_posix()):
                return folder
        return path.parent

    def _parts(self, table: Table, rows: NDArray[np.intp], name: str) -> list[Part]:
        """The rows of one recording on a regular grid."""
        rate, own = self.options.rate, table.rate
        if own is not None and not 0 < own <= MAX_RATE:
            raise BadInput(f"{name}: its rate is {own:g} Hz, outside 0 to {MAX_RATE:g} Hz; correct it in the file")
        if rate is not None and own is not None and abs(own / rate - 1) > 0.01:
            raise BadInput(f"{name}: its rate is {own:g} Hz, options.rate says {rate:g} Hz; correct one of them")
        rate = rate or own
        values = table.values[:, rows].copy()
        values[~(np.abs(values) <= np.finfo(np.float32).max)] = np.nan
        if table.time is not None:
            return regular(table.time[rows], values, rate, self.options.max_gap, name)
        if rate is None:
            raise BadInput(
                f"{name}: there is no time column and no rate; add a column `time` in seconds or give options.rate"
            )
        return [Part(values, 1 / rate)]

    def _check(self, table: Table, parts: list[Part], name: str) -> None:
        """Raises BadInput for a channel without values, for a dead recording and for a wrong unit of acceleration."""
        values = np.concatenate([p.values for p in parts], axis=1)
        seen = ~np.isnan(values)
        empty = [c for c, some in zip(table.channels, seen.any(1), strict=True) if not some]
        if empty:
            raise BadInput(
                f"{name}: channel {', '.join(empty)} holds no finite value; leave it out by options.channels"
            )
        if (np.nanmax(values, 1) == np.nanmin(values, 1)).all():
            raise BadInput(f"{name}: {', '.join(table.channels)} never change; the sensor was off, remove the file")
        for triplet, at in triplets(table.channels).items():
            units = sorted({table.units[i] for i in at})
            if len(units) > 1:
                raise BadInput(
                    f"{name}: {triplet} mixes the units {', '.join(u or 'none' for u in units)}; convert them to one"
                )
            if units == [""]:
                raise BadInput(
                    f"{name}: {triplet} has no unit; write it into the header, as in `{triplet}_x [g]`, or give options.units"
                )
        if self.options.unit_gate:
            for triplet, at in triplets(table.channels, "acc").items():
                _gate(np.linalg.norm(values[list(at)], axis=0), table.units[at[0]], triplet, name)


def _recordings(table: Table, name: str) -> Iterator[tuple[NDArray[np.intp], dict[str, str]]]:
    """The rows of each recording in order of appearance, and its subject and side."""
    n = table.values.shape[1]
    labels = np.broadcast_to(table.words.get("recording", np.array([""])), n)
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    for label in np.argsort(first):
        rows = np.flatnonzero(inverse == label)
        words: dict[str, str] = {}
        what: str
        for what in ("subject", "side"):
            if what in table.words:
                found = np.unique(np.broadcast_to(table.words[what], n)[rows])
                if len(found) > 1:
                    raise BadInput(
                        f"{name}: the column {what!r} changes within a recording; tell recordings apart by a column `recording`"
                    )
                words[what] = str(found[0]).strip()
        yield rows, words


def _gate(norm: NDArray[np.float64], unit: str, triplet: str, name: str) -> None:
    factor = 1.0 if unit == "g" else unit_factor(unit, "g")
    norm = norm[~np.isnan(norm)]
    if factor is None or not len(norm):
        return
    median = float(np.median(norm))
    if GATE[0] <= median * factor <= GATE[1]:
        return
    like = next((u for u, s in _SCALES.items() if GATE[0] <= median / s <= GATE[1]), None)
    looks = f"looks like {like}" if like else "fits no known unit"
    raise BadInput(
        f"{name}: {triplet} is said to be in {unit}, but its median norm of {median:.3g} {looks} (a worn sensor measures about "
        "1 g); correct the unit, or set options.unit_gate: false where gravity was removed"
    )


def _input(table: Table, part: Part, source: str) -> Input:
    valid = ~np.isnan(part.values)
    return Input(
        data=np.where(valid, part.values, 0).astype(np.float32),
        channels=table.channels,
        units=table.units,
        unit="s",
        spacing=(part.step,),
        valid=None if valid.all() else valid,
        source=source,
    )


def _flags(table: Table, part: Part) -> list[str]:
    flags = []
    for channel, row in zip(table.channels, part.values, strict=True):
        missing = float(np.isnan(row).mean())
        if missing > 0.1:
            flags.append(f"{channel}: {missing:.0%} missing")
        if missing < 1 and np.nanmax(row) == np.nanmin(row):
            flags.append(f"{channel}: flat")
    return flags
