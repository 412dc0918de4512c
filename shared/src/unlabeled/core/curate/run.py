"""`unlabeled curate`: steps one after the other, and the manifest of what is kept and why. Changes nothing of the source."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from unlabeled.core.contracts import Domain, Incompatible, RequestError, TooManyBad, load
from unlabeled.core.contracts.domain import domain as find
from unlabeled.core.contracts.domain import methods
from unlabeled.core.contracts.recipe import Data, nearest, validated
from unlabeled.core.curate.base import Decision
from unlabeled.core.curate.collection import Collection
from unlabeled.core.curate.pictures import read_folder
from unlabeled.core.curate.records import read_records
from unlabeled.core.data.corpus import Corpus
from unlabeled.core.data.manifest import Progress
from unlabeled.core.files import folder_atomic, free, outside, write_json

READING = "reading"  # the step that a manifest names where an item could not be read
DEFAULT = ("duplicates",)


def steps() -> dict[str, str]:
    """The installed steps: name -> `module:attr`."""
    return {c.name: c.target for c in methods().values() if c.kind == "curation" and c.family == "curate"}


def curate(
    path: str | Path,
    out: str | Path,
    names: Sequence[str] = DEFAULT,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    domain: str | None = None,
    options: Mapping[str, Any] | None = None,
    bundle: str | Path | None = None,
    embeddings: str | Path | None = None,
    max_bad: float = 0.01,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run the steps `names` in order, each on what is still kept, and write `out`: manifest.parquet and curation.json.

    settings    step -> its options
    domain      reads the folder as this domain's records, with the reader's `options`; None: as pictures, or as the bundle says
    bundle      embeds the items; embeddings: file of `embed`, whose rows of one key are averaged

    Returns what is in curation.json. Raises RequestError (wrong step or option, nothing to read, `out` exists or lies in
    `path`), TooManyBad (more than `max_bad` cannot be read).
    """
    path, out = Path(path), Path(out)
    names = list(names) or list(DEFAULT)
    made = _made(names, settings or {})
    if bundle is not None and embeddings is not None:
        raise RequestError("--bundle and --embeddings both give embeddings; leave one out")
    outside(path, out)
    free(out)
    start = time.perf_counter()
    collection = _read(path, domain, options or {}, bundle, max_bad, progress)
    bad = len(collection.failed)
    if bad > max_bad * (bad + len(collection)):
        raise TooManyBad(
            f"{path}: {bad} of {bad + len(collection)} items cannot be read, more than --max-bad {max_bad:g} allows; the first: "
            f"{next(iter(collection.failed.values()))}; with a larger --max-bad the manifest names all"
        )
    if embeddings is not None:
        collection = collection.with_(_embeddings(Path(embeddings), collection.keys))
    said: list[dict[str, Any]] = [
        {"name": READING, "in": bad + len(collection), "out": len(collection), "seconds": time.perf_counter() - start}
    ]
    kept = np.ones(len(collection), np.bool_)
    decided: dict[int, tuple[str, Decision]] = {}
    for name, step in made.items():
        start, before = time.perf_counter(), int(kept.sum())
        for decision in step.run(collection, kept.copy()):
            assert kept[decision.item], f"{name} drops item {decision.item}, which is gone"
            kept[decision.item] = False
            decided[decision.item] = name, decision
        about = {"name": name, "options": step.options.model_dump(mode="json"), "in": before, "out": int(kept.sum())}
        said.append({**about, "seconds": time.perf_counter() - start})
    report = {
        "data": path.resolve().name,
        "domain": domain,
        "items": len(collection),
        "kept": int(kept.sum()),
        "failed": bad,
        "ignored": len(collection.ignored),
        "steps": said,
        "versions": {name: version(name) for name in ("unlabeled-core", "numpy", "pillow")},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with folder_atomic(out) as folder:
        pq.write_table(_table(collection, kept, decided), folder / "manifest.parquet")
        write_json(folder / "curation.json", report)
    return report


def _made(names: Sequence[str], settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    known = steps()
    for name in [*names, *settings]:
        if name not in known:
            raise RequestError(f"curate: {nearest(name, list(known))}")
    for name in settings:
        if name not in names:
            raise RequestError(f"curate: {name} has a setting, but is not among the steps; name it too")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise RequestError(f"curate: the step {twice[0]} is named twice; leave one out")
    classes = {name: load(known[name]) for name in names}
    return {name: c(validated(c.Options, settings.get(name, {}), name)) for name, c in classes.items()}


def _read(
    path: Path,
    domain: str | None,
    options: Mapping[str, Any],
    bundle: str | Path | None,
    max_bad: float,
    progress: Progress | None,
) -> Collection:
    if not path.exists():
        raise RequestError(f"{path}: no such folder")
    if bundle is not None:
        return _with_bundle(path, domain, options, Path(bundle), progress)
    if domain is None:
        if options:
            raise RequestError("--option is for the reader of a domain; name it with --domain")
        return read_folder(path, progress)
    known: Domain = find(domain)
    return read_records(Corpus.open(known, Data(path=path, options=dict(options), max_bad_fraction=max_bad)), progress)


def _with_bundle(
    path: Path, domain: str | None, options: Mapping[str, Any], bundle: Path, progress: Progress | None
) -> Collection:
    """The records that a bundle's domain reads, each with the mean of its items' embeddings."""
    from unlabeled.core.bundle import load_bundle
    from unlabeled.core.bundle.load import read_bundle
    from unlabeled.core.evaluation.embed import embed
    from unlabeled.core.evaluation.evaluate import opened

    own = read_bundle(bundle).about["domain"]
    if domain not in (None, own):
        raise Incompatible(f"{bundle} is for {own}, not for {domain}")
    encoder = load_bundle(bundle)
    items = opened(encoder, path, (), options)
    collection = read_records(items.corpus, progress)
    found = embed(encoder, items, encoder.specs)
    keys = [items.corpus.rows[r].key for r in found.record]
    return collection.with_(_averaged(keys, found.values, collection.keys, bundle))


def _embeddings(file: Path, keys: Sequence[str]) -> NDArray[np.float32]:
    if not file.is_file():
        raise RequestError(f"{file}: no such file; write it by `embed BUNDLE PATH -o {file.name}`")
    try:
        table = pq.read_table(file, columns=["key", "embedding"])
        values = np.array(table["embedding"].to_pylist(), np.float32)
    except (pa.ArrowInvalid, pa.ArrowKeyError, ValueError, KeyError) as error:
        raise RequestError(f"{file} holds no columns key and embedding as `embed` writes them ({error})") from None
    return _averaged(table["key"].to_pylist(), values, keys, file)


def _averaged(
    names: Sequence[str], values: NDArray[np.float32], keys: Sequence[str], source: Path
) -> NDArray[np.float32]:
    """(N, D) for each of `keys` the mean of the rows that `names` gives it."""
    place = {key: i for i, key in enumerate(keys)}
    at = np.array([place.get(name, -1) for name in names], np.int64)
    values, at = values[at >= 0], at[at >= 0]
    number = np.bincount(at, minlength=len(keys))
    if not number.all():
        first = keys[int(np.flatnonzero(number == 0)[0])]
        raise RequestError(
            f"{source} gives {int((number == 0).sum())} of {len(keys)} items no embedding, as {first!r}; embed them too"
        )
    sums = np.zeros((len(keys), values.shape[1]), np.float64)
    np.add.at(sums, at, values)
    return (sums / number[:, None]).astype(np.float32)


def _table(collection: Collection, kept: NDArray[np.bool_], decided: Mapping[int, tuple[str, Decision]]) -> pa.Table:
    """One row per item, then one per item that could not be read."""
    empty = ("", Decision(-1, ""))
    found = [decided.get(i, empty) for i in range(len(collection))]
    failed = collection.failed
    blank = [""] * len(failed)
    return pa.table(
        {
            "key": [*collection.keys, *failed],
            "group": [*collection.groups, *blank],
            "sha256": [*(row.tobytes().hex() for row in collection.sha256), *blank],
            "kept": [*kept.tolist(), *(False for _ in failed)],
            "step": [*(step for step, _ in found), *(READING for _ in failed)],
            "reason": [*(d.reason for _, d in found), *failed.values()],
            "like": pa.array(
                [*(None if d.like is None else collection.keys[d.like] for _, d in found), *(None for _ in failed)],
                pa.string(),
            ),
            "score": pa.array([*(d.score for _, d in found), *(None for _ in failed)], pa.float64()),
        }
    )


def show(report: Mapping[str, Any]) -> str:
    """The summary in words."""
    lines = []
    for step in report["steps"]:
        gone = step["in"] - step["out"]
        what = "cannot be read" if step["name"] == READING else "dropped"
        lines.append(f"{step['name']}: {gone} of {step['in']} {what}, {step['seconds']:.1f} s")
    if report["ignored"]:
        lines.append(f"{report['ignored']} files that are no pictures were left alone")
    return "\n".join([*lines, f"kept: {report['kept']} of {report['items'] + report['failed']}"])
