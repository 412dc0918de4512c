"""Labels of records that may have several at once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unlabeled.core.contracts import RequestError
from unlabeled.core.evaluation.labels import known_keys, read_lines

BETWEEN = ";"


@dataclass(frozen=True)
class Tags:
    """classes, sorted by name; truth (R, K) bool: which a record has; labelled (R,): whether anybody said, also of none."""

    classes: tuple[str, ...]
    truth: NDArray[np.bool_]
    labelled: NDArray[np.bool_]


def read_tags(path: Path, keys: Sequence[str], elsewhere: Collection[str] = ()) -> Tags:
    """The column `labels` of the records with these keys: names with `;` between them, in any order.

    An empty cell says that the record has none of the labels; a record without a line is unlabelled.
    Raises RequestError, in one sentence, for what `read_labels` does, an empty name among others, and no label at all.
    """
    _, lines = read_lines(path, ("key", "labels"))
    found: dict[str, tuple[frozenset[str], int]] = {}
    for number, line in lines:
        key, text = line["key"], line["labels"]
        names = frozenset(name.strip() for name in text.split(BETWEEN)) if text else frozenset()
        if "" in names:
            raise RequestError(
                f"{path}, line {number}: one of the labels of {key!r} is empty ({text!r}); write names with {BETWEEN} between "
                "them, or nothing where it has none"
            )
        if key in found and found[key][0] != names:
            raise RequestError(
                f"{path}, line {number}: {key!r} is labelled {_written(names)} here and {_written(found[key][0])} in line "
                f"{found[key][1]}; keep one"
            )
        found.setdefault(key, (names, number))
    known_keys(path, list(found), keys, elsewhere)
    labelled = np.array([key in found for key in keys], bool)
    classes = tuple(sorted({name for key in keys if key in found for name in found[key][0]}))
    if not classes:
        raise RequestError(f"{path}: none of the {int(labelled.sum())} labelled records has a label; add labels")
    truth = np.array([[key in found and name in found[key][0] for name in classes] for key in keys], bool)
    return Tags(classes, truth, labelled)


def _written(names: Collection[str]) -> str:
    return repr(BETWEEN.join(sorted(names)))
