"""Corpus: the readable records of a folder under one contract."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from unlabeled.core.contracts import (
    BadInput,
    Constants,
    Domain,
    Input,
    InputSpec,
    Normaliser,
    RequestError,
    Sample,
    load,
)
from unlabeled.core.contracts.recipe import Data, nearest
from unlabeled.core.contracts.sample import UNIT_OF_IDS
from unlabeled.core.data.manifest import (
    Manifest,
    Parts,
    Progress,
    Row,
    Seeks,
    agreed,
    conform,
    convert,
    held_to,
    reader,
    scan,
)

log = logging.getLogger(__name__)

CACHE_BYTES = 2 << 30  # of records that are kept, where the reader reads whole files only
KEPT_BYTES = (
    32 << 20
)  # where it can seek: fewer are kept whole, of more each window is read alone, so that memory stays flat
MEASURED = ("none", "standard", "sensor")


class Corpus:
    """Records by position, read on demand, brought to the contract: converted, adapted, normalised.

    rows      one per readable record, in manifest order
    specs     the contract, per input name
    manifest  with what was quarantined
    """

    def __init__(self, domain: Domain, data: Data, manifest: Manifest, specs: Mapping[str, InputSpec]) -> None:
        self.domain, self.data, self.specs = domain, data, dict(specs)
        self.manifest = manifest
        self.rows: tuple[Row, ...] = manifest.ok
        self.reader = reader(domain, data)
        self._cache: OrderedDict[int, Sample] = OrderedDict()
        self._cached = 0

    @classmethod
    def open(
        cls, domain: Domain, data: Data, specs: Mapping[str, InputSpec] | None = None, progress: Progress | None = None
    ) -> Corpus:
        """Scan the folder; without `specs`, the contract is what most records fulfil, not yet normalised.

        Raises RequestError (nothing readable), TooManyBad, or Incompatible where the given contract fits no record.
        """
        manifest, made = scan(domain, data, progress)
        manifest.check(data.max_bad_fraction, str(data.path))
        if specs is None:
            manifest = held_to(manifest, agreed(domain, data, manifest))
            specs = agreed(domain, data, manifest)
        else:
            specs = {name: spec.model_copy(update={"convert": data.convert}) for name, spec in specs.items()}
            first = manifest.ok[0]
            manifest = held_to(manifest, specs)
            if not manifest.ok:  # not a bad file or two: other data than the contract is for
                conform(first, specs)
        manifest.check(data.max_bad_fraction, str(data.path))
        for row in manifest.ok:
            made.update(conform(row, specs))
        for line, count in sorted(made.items()):
            log.info("%s: %s, in %d records", data.path.name, line, count)
        corpus = cls(domain, data, manifest, specs)
        if data.keep is not None:
            corpus = corpus.curated(data.keep)
        return corpus.only(data.groups) if data.groups is not None else corpus

    def only(self, groups: Sequence[str]) -> Corpus:
        """The records of these groups (keyed hashes)."""
        wanted = set(groups)
        keep = Manifest(tuple(r for r in self.manifest if not r.ok or r.group in wanted))
        keep.check(1.0, f"{self.data.path}, groups {', '.join(groups[:3])}")
        return self._with(keep, self.specs)

    def curated(self, file: Path) -> Corpus:
        """The records that the manifest `file` of `curate` kept. Raises RequestError where it does not know one of them."""
        try:
            table = pq.read_table(file, columns=["key", "kept"]).to_pydict()
        except (OSError, pa.ArrowException) as error:
            raise RequestError(
                f"data.keep: {file} is no manifest of `curate` ({' '.join(str(error).split())})"
            ) from None
        kept = dict(zip(table["key"], table["kept"], strict=True))
        unknown = [r.key for r in self.rows if r.key not in kept]
        if unknown:
            raise RequestError(
                f"data.keep: {file} does not know {len(unknown)} of {len(self)} records of {self.data.path}, as {unknown[0]!r}; "
                "curate that folder again"
            )
        keep = Manifest(tuple(r for r in self.manifest if not r.ok or kept[r.key]))
        keep.check(1.0, f"{self.data.path}, kept by {file.name}")
        return self._with(keep, self.specs)

    def normalised(self, method: str | None = None, specs: Mapping[str, InputSpec] | None = None) -> Corpus:
        """The same records, normalised as `specs` say or by `method`: with constants measured on these records, or with the
        domain's fixed ones of this name. Raises RequestError for an unknown method.
        """
        if specs is None:
            assert method is not None
            if method not in (*MEASURED, *self.domain.normalisers):
                raise RequestError(f"data.normaliser: {nearest(method, [*MEASURED, *self.domain.normalisers])}")
            specs = {name: measure(self, name, method) for name in self.specs}
        return self._with(self.manifest, specs)

    def _with(self, manifest: Manifest, specs: Mapping[str, InputSpec]) -> Corpus:
        return Corpus(self.domain, self.data, manifest, specs)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def groups(self) -> list[str]:
        return [r.group for r in self.rows]

    @property
    def fingerprint(self) -> str:
        """One hash over keys, groups and contents of every record used."""
        text = "\n".join(f"{r.key} {r.part} {r.group} {r.sha256}" for r in self.rows)
        return hashlib.sha256(text.encode()).hexdigest()

    def record(self, i: int) -> Sample:
        """Record i under the contract. Raises BadInput where the file no longer gives it."""
        return self.stored(i).ready()

    def shape(self, i: int) -> tuple[int, ...]:
        """The grid of record i under the contract, without reading it where nothing is resampled."""
        name = next(iter(self.specs))
        if self._resampled(i):
            return self.record(i).inputs[name].shape
        return tuple(self.rows[i].inputs[name]["shape"])

    def whole(self, i: int) -> bool:
        """Known from the manifest that everything in record i is valid."""
        return all(self.rows[i].inputs[name].get("whole", False) for name in self.specs)

    def _resampled(self, i: int) -> bool:
        pairs = [(self.rows[i].inputs[name]["spacing"], spec.spacing) for name, spec in self.specs.items()]
        return any(have and want and not np.allclose(have, want, rtol=1e-3) for have, want in pairs)

    @cached_property
    def _streams(self) -> bool:
        """Windows are read alone: the reader can, and the records together are too large to be kept."""
        size = sum(4 * len(x["channels"]) * math.prod(x["shape"]) for r in self.rows for x in r.inputs.values())
        return isinstance(self.reader, Seeks) and size > KEPT_BYTES

    def window(self, i: int, region: tuple[slice, ...]) -> Sample:
        """The part of record i in `region`, as `stored`; one beyond the record's end stops there."""
        if self._streams and i not in self._cache and not self._resampled(i):
            assert isinstance(self.reader, Seeks)
            row = self.rows[i]
            inside = tuple(slice(s.start, min(s.stop, n)) for s, n in zip(region, self.shape(i), strict=True))
            with self._reading(row):
                return self.held(i, self.reader.window(self.file(row), row.part, inside))
        sample = self.stored(i)
        return sample.with_(inputs={name: _cut(x, region) for name, x in sample.inputs.items()})

    def stored(self, i: int) -> Sample:
        """The same, with small integers as the file has them (see `Normaliser.put_off`)."""
        if i in self._cache:
            self._cache.move_to_end(i)
            return self._cache[i]
        sample = self._read(i)
        size = sum(x.data.nbytes for x in sample.inputs.values())
        self._cache[i] = sample
        self._cached += size
        limit = KEPT_BYTES if isinstance(self.reader, Parts) else CACHE_BYTES
        while self._cached > limit and len(self._cache) > 1:
            _, old = self._cache.popitem(last=False)
            self._cached -= sum(x.data.nbytes for x in old.inputs.values())
        return sample

    def _read(self, i: int) -> Sample:
        row = self.rows[i]
        with self._reading(row):
            if isinstance(self.reader, Parts):
                return self.held(i, self.reader.part(self.file(row), row.part))
            samples = list(self.reader.read(self.file(row)))
        if row.part >= len(samples):
            raise BadInput(
                f"{row.file} changed since it was scanned: it holds {len(samples)} records, not {row.part + 1}"
            )
        return self.held(i, samples[row.part])

    def file(self, row: Row) -> Path:
        root = self.data.path
        return root if root.is_file() else root / row.file

    @contextlib.contextmanager
    def _reading(self, row: Row) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise BadInput(f"{row.file} can no longer be read: {error.strerror or error}") from None

    def held(self, i: int, sample: Sample) -> Sample:
        """What was read of record i, or of its file around it, brought to the contract."""
        row = self.rows[i]
        sample, _ = convert(self.domain, self.data, sample)
        inputs = {}
        for name, spec in self.specs.items():
            x, _ = spec.adapt(sample.inputs[name], row.file)
            inputs[name] = spec.normaliser.put_off(x)
        return sample.with_(inputs=inputs, key=row.key, group=row.group, index=i, record=i)


def _cut(x: Input, region: tuple[slice, ...]) -> Input:
    if x.layout != "dense":  # on no grid: a window of an image keeps the whole text
        return x
    at = (slice(None), *region)
    return x.with_(data=x.data[at], valid=None if x.valid is None else x.valid[at])


def measure(corpus: Corpus, name: str, method: str) -> InputSpec:
    """The contract of one input with a normaliser and a value range measured on the valid values of every record.

    standard: mean and deviation per channel and source. sensor: the root mean square over all channels of a sensor
    (channels that share the name before the last underscore), no offset, so that directions within a sensor keep
    their proportion and gravity stays. An input of ids is not normalised, whatever the method.
    """
    if set(corpus.specs[name].units) == {UNIT_OF_IDS}:
        method = "none"
    spec = corpus.specs[name].model_copy(update={"normaliser": Normaliser()})
    plain = corpus.normalised(specs={**corpus.specs, name: spec})
    moments: dict[str, NDArray[np.float64]] = {}
    low, high = np.inf, -np.inf
    for i in range(len(plain)):
        x = plain.record(i).inputs[name]
        values, valid = flat(x)
        counts = np.stack([valid.sum(1), (values * valid).sum(1), (values**2 * valid).sum(1)])
        moments[x.source] = moments.get(x.source, np.zeros_like(counts)) + counts
        if valid.any():
            low, high = min(low, float(values[valid].min())), max(high, float(values[valid].max()))
    constants = {}
    for source, (count, first, second) in moments.items():
        if method == "standard":
            offset = first / np.maximum(count, 1)
            scale = np.sqrt(np.maximum(second / np.maximum(count, 1) - offset**2, 0))
        elif method == "sensor":
            sensors = np.array([c.rpartition("_")[0] or c for c in spec.channels])
            same = sensors[:, None] == sensors[None, :]
            offset = np.zeros(spec.width)
            scale = np.sqrt(same @ second / np.maximum(same @ count, 1))
        elif method in corpus.domain.normalisers:
            constants[source] = load(corpus.domain.normalisers[method])(spec, source)
            continue
        else:
            return spec.model_copy(update={"value_range": (low, high)})
        scale = np.where(scale > 0, scale, 1.0)
        constants[source] = Constants(offset=tuple(offset.tolist()), scale=tuple(scale.tolist()))
    return spec.model_copy(
        update={"value_range": (low, high), "normaliser": Normaliser(method=method, constants=constants)}
    )


def flat(x: Input) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Values and validity as (C, everything else)."""
    if x.layout == "dense":
        values = x.data.astype(np.float64)
        valid = np.ones_like(values, bool) if x.valid is None else np.broadcast_to(x.valid, values.shape)
        return values.reshape(len(values), -1), valid.reshape(len(values), -1)
    values = x.data.astype(np.float64).T
    valid = np.ones_like(values, bool) if x.valid is None else np.broadcast_to(x.valid[None], values.shape)
    return values, valid


def contract(specs: Mapping[str, InputSpec]) -> dict[str, Any]:
    """The specs as plain JSON."""
    return {name: spec.model_dump(mode="json") for name, spec in specs.items()}
