"""Folds: which groups are left out together, by lot or by name."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from unlabeled.core.contracts import Leakage, RequestError
from unlabeled.core.data.corpus import Corpus
from unlabeled.core.data.groups import distinct
from unlabeled.core.data.groups import folds as lots
from unlabeled.core.evaluation.labels import known_keys, read_lines


@dataclass(frozen=True)
class Fold:
    """Keyed hashes of the groups to train on and of those left out; its name in the file of folds, "" where by lot."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    name: str = ""


def by_lot(groups: Sequence[str], labelled: Sequence[str], per_fold: int, seed: int) -> tuple[Fold, ...]:
    """Every labelled group is left out once; the others, of `groups`, are always trained on.

    Raises RequestError where the groups cannot be split.
    """
    return tuple(
        Fold(tuple(g for g in distinct(groups) if g not in test), test) for test in lots(labelled, per_fold, seed)
    )


def named(
    path: Path, corpus: Corpus, labelled: Collection[str], elsewhere: Collection[str], unit: str
) -> tuple[Fold, ...]:
    """The folds of a CSV with the columns key and fold, by name; each is left out once and the others are trained on.

    A record without a line, or with an empty fold, is in no fold: neither trained nor tested on. labelled: groups with a
    label. elsewhere: keys that are known and not used. unit: what is labelled, for messages.

    Raises Leakage where records of one group are not all in one fold or all in none, RequestError where the file cannot be
    used, names one key twice, or fewer than two folds, or a fold has no label.
    """
    found = _read(path, [r.key for r in corpus.rows], elsewhere)
    first: dict[str, str] = {}  # the first record of each group
    for row in corpus.rows:
        here, there = found.get(row.key, ""), found.get(first.setdefault(row.group, row.key), "")
        if here != there:
            said = [f"in {name!r}" if name else "in none" for name in (there, here)]
            raise Leakage(
                f"{path}: the records {first[row.group]!r} and {row.key!r} are of one group, but the first is {said[0]} and "
                f"the second {said[1]}; give all records of a group one fold"
            )
    of = {group: found.get(key, "") for group, key in first.items()}
    names = sorted(set(of.values()) - {""})
    if len(names) < 2:
        raise RequestError(
            f"{path}: the records of the data are in {len(names)} fold(s), and two are needed, since each is left out and "
            "the others are trained on; name another"
        )
    folds = []
    for name in names:
        test = tuple(g for g in of if of[g] == name)
        if not set(test) & set(labelled):
            raise RequestError(
                f"{path}: the fold {name!r} has no labelled {unit}, so nothing can be tested there; label one, or take its "
                "records out of every fold"
            )
        folds.append(Fold(tuple(g for g in of if of[g] not in ("", name)), test, name))
    return tuple(folds)


def forward(folds: Sequence[Fold]) -> tuple[Fold, ...]:
    """The same folds, but only those before are trained on: what comes later is not known yet. The first is not tested."""
    return tuple(
        Fold(tuple(g for f in folds[:i] for g in f.test), fold.test, fold.name) for i, fold in enumerate(folds) if i
    )


def _read(path: Path, keys: Sequence[str], elsewhere: Collection[str]) -> dict[str, str]:
    """Key -> fold."""
    if not path.exists():
        raise RequestError(
            f"{path}: no such file of folds (study.folds); name a CSV with the columns key and fold, or leave study.folds out "
            "to draw folds by lot"
        )
    found: dict[str, tuple[str, int]] = {}
    _, lines = read_lines(path, ("key", "fold"))
    for number, line in lines:
        key, fold = line["key"], line["fold"]
        if key in found and found[key][0] != fold:
            raise RequestError(
                f"{path}, line {number}: {key!r} is in the fold {fold!r} here and in {found[key][0]!r} in line "
                f"{found[key][1]}; keep one"
            )
        found.setdefault(key, (fold, number))
    known_keys(path, list(found), keys, elsewhere)
    return {key: fold for key, (fold, _) in found.items()}
