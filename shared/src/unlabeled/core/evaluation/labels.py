"""Labels: a CSV with the columns key and label, brought to the records of a corpus."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unlabeled.core.contracts import RequestError

UNLABELLED = -1


@dataclass(frozen=True)
class Labels:
    """classes, sorted by name; codes (R,) int64 per record of the corpus, -1 where a record has no label."""

    classes: tuple[str, ...]
    codes: NDArray[np.int64]

    @property
    def unlabelled(self) -> int:
        return int((self.codes == UNLABELLED).sum())

    def require(self, train: Collection[str], groups: Sequence[str], what: str) -> None:
        """Raises RequestError where a class has no labelled record among the groups `train`; groups: (R,) of the records."""
        there = set(self.codes[np.isin(np.array(groups), list(train))].tolist())
        missing = [name for code, name in enumerate(self.classes) if code not in there]
        if missing:
            raise RequestError(
                f"{what}: the class {missing[0]!r} has no labelled record left to train on, since all of its "
                f"{int((self.codes == self.classes.index(missing[0])).sum())} are in the groups left out; "
                "label it in more groups, drop it, or leave fewer groups out together"
            )


def read_labels(path: Path, keys: Sequence[str], elsewhere: Collection[str] = ()) -> Labels:
    """The labels of the records with these keys.

    A record without a line is unlabelled. Keys in `elsewhere`, and their parts KEY#n (quarantined, or of groups not used) are passed over.
    Raises RequestError, in one sentence, for a missing or unreadable file, missing columns, an empty label, one key with
    two labels, keys of no record, and fewer than two classes.
    """
    at = {key: i for i, key in enumerate(keys)}
    found: dict[str, tuple[str, int]] = {}
    unknown: list[str] = []
    for number, key, label in _lines(path):
        if not label:
            raise RequestError(
                f"{path}, line {number}: the label of {key!r} is empty; write one, or drop the line for an unlabelled record"
            )
        if key in found and found[key][0] != label:
            raise RequestError(
                f"{path}, line {number}: {key!r} is labelled {label!r} here and {found[key][0]!r} in line "
                f"{found[key][1]}; keep one"
            )
        found.setdefault(key, (label, number))
        if key not in at and key not in elsewhere and key.partition("#")[0] not in elsewhere:
            unknown.append(key)
    if unknown:
        named = ", ".join(repr(k) for k in unknown[:3]) + (", ..." if len(unknown) > 3 else "")
        close = difflib.get_close_matches(unknown[0], keys, n=1, cutoff=0.0)
        raise RequestError(
            f"{path}: {len(unknown)} of {len(found)} keys are no record of the data ({named}); "
            f"the key nearest to the first is {close[0]!r}"
        )
    used = {key: label for key, (label, _) in found.items() if key in at}
    classes = tuple(sorted(set(used.values())))
    if len(classes) < 2:
        raise RequestError(
            f"{path}: the {len(used)} labelled records have {len(classes)} class(es), and two are needed; add labels"
        )
    codes = np.full(len(keys), UNLABELLED, np.int64)
    for key, label in used.items():
        codes[at[key]] = classes.index(label)
    return Labels(classes, codes)


def _lines(path: Path) -> list[tuple[int, str, str]]:
    """(line number, key, label) of every line that is not blank."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            if "key" not in columns or "label" not in columns:
                raise RequestError(
                    f"{path}: the first line names the columns {', '.join(columns) or 'nothing'}; it must name key and label"
                )
            rows = [(reader.line_num, (r["key"] or "").strip(), (r["label"] or "").strip()) for r in reader]
    except FileNotFoundError:
        raise RequestError(f"{path}: no such file of labels; name a CSV with the columns key and label") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RequestError(f"{path} cannot be read as CSV in UTF-8 ({error}); save it again") from None
    return [(number, key, label) for number, key, label in rows if key or label]
