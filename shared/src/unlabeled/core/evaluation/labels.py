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

Lines = list[tuple[int, dict[str, str]]]


@dataclass(frozen=True)
class Labels:
    """classes, sorted by name; codes (R,) int64 per record of the corpus, -1 where a record has no label."""

    classes: tuple[str, ...]
    codes: NDArray[np.int64]

    @property
    def unlabelled(self) -> int:
        return int((self.codes == UNLABELLED).sum())

    def require(self, train: Collection[str], groups: Sequence[str], what: str, unit: str = "record") -> None:
        """Raises RequestError where a class has no labelled record among the groups `train`; groups: (R,) of the records.

        unit: what is labelled, for the message.
        """
        there = set(self.codes[np.isin(np.array(groups), list(train))].tolist())
        missing = [name for code, name in enumerate(self.classes) if code not in there]
        if missing:
            raise RequestError(
                f"{what}: the class {missing[0]!r} has no labelled {unit} left to train on, since all of its "
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
    _, lines = read_lines(path, ("key", "label"))
    for number, line in lines:
        key, label = line["key"], line["label"]
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
    known_keys(path, list(found), keys, elsewhere)
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


def read_column(path: Path, column: str, keys: Sequence[str], elsewhere: Collection[str] = ()) -> Labels:
    """Another column of the labels, such as scanner, site or sex; a record where it is empty has none.

    Raises RequestError for a missing column, one key with two values, keys of no record, and no value at all.
    """
    if column in ("key", "label"):
        raise RequestError(f"--by {column}: name another column of {path}, as scanner, site or sex")
    found: dict[str, str] = {}
    for number, line in read_lines(path, ("key", column))[1]:
        key, value = line["key"], line[column]
        if found.setdefault(key, value) != value:
            raise RequestError(
                f"{path}, line {number}: {key!r} has {value!r} as {column} here and {found[key]!r} before; keep one"
            )
    known_keys(path, list(found), keys, elsewhere)
    values = tuple(sorted({found[k] for k in keys if found.get(k)}))
    if not values:
        raise RequestError(
            f"{path}: the column {column} is empty for every record; fill it, or leave --by {column} out"
        )
    codes = [values.index(found[k]) if found.get(k) else UNLABELLED for k in keys]
    return Labels(values, np.array(codes, np.int64))


def known_keys(path: Path, found: Sequence[str], keys: Sequence[str], elsewhere: Collection[str] = ()) -> None:
    """Raises RequestError where a found key is none of `keys`, and neither it nor what its part KEY#n is of is elsewhere."""
    known = {*keys, *elsewhere}
    unknown = [key for key in found if key not in known and key.partition("#")[0] not in elsewhere]
    if unknown:
        named = ", ".join(repr(k) for k in unknown[:3]) + (", ..." if len(unknown) > 3 else "")
        close = difflib.get_close_matches(unknown[0], keys, n=1, cutoff=0.0)
        raise RequestError(
            f"{path}: {len(unknown)} of {len(found)} keys are no record of the data ({named}); "
            f"the key nearest to the first is {close[0]!r}"
        )


def read_lines(path: Path, *needed: Sequence[str]) -> tuple[dict[str, str], Lines]:
    """The first of the sets of columns `needed` that the file has, and (line number, column -> text) of its lines.

    A unit may follow a name, as in `value [bpm]`: the columns are given as name -> as written. Blank lines are passed over.
    Raises RequestError where the file cannot be read or has none of these sets.
    """
    choices = " or ".join(_listed(names) for names in needed)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = {c.partition(" [")[0]: c for c in reader.fieldnames or []}
            there = [names for names in needed if set(names) <= columns.keys()]
            if not there:
                named = ", ".join(columns.values()) or "nothing"
                raise RequestError(f"{path}: the first line names the columns {named}; it must name {choices}")
            columns = {name: columns[name] for name in there[0]}
            lines = [(reader.line_num, {name: (row[c] or "").strip() for name, c in columns.items()}) for row in reader]
    except FileNotFoundError:
        raise RequestError(f"{path}: no such file of labels; name a CSV with the columns {choices}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RequestError(f"{path} cannot be read as CSV in UTF-8 ({error}); save it again") from None
    return columns, [(number, row) for number, row in lines if any(row.values())]


def _listed(names: Sequence[str]) -> str:
    """`key, start and label`."""
    return " and ".join([", ".join(names[:-1]), names[-1]])
