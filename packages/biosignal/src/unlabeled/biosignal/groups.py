"""Who a recording belongs to: subjects, and what `recordings.csv` says of a file."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from unlabeled.biosignal.options import ReaderOptions
from unlabeled.core.contracts import BadInput, RequestError

SIDECAR = "recordings.csv"
_COLUMNS = ("file", "subject", "side", "source")
_SIDES = {"left": "left", "l": "left", "right": "right", "r": "right"}


@dataclass(frozen=True)
class About:
    """What is known of a recording beside its values; "" where nothing is."""

    subject: str = ""
    side: str = ""
    source: str = ""


def sidecar(root: Path) -> dict[str, About]:
    """What `recordings.csv` in `root` says, by file; empty where there is none.

    Raises RequestError where it is not a CSV with the columns file and subject (side, source optional).
    """
    path = root / SIDECAR
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise RequestError(f"{SIDECAR} is not a CSV in UTF-8 ({error}); save it again as one") from None
    columns = set(rows[0]) if rows else set()
    # a table without a header has people's names for columns, so other columns are counted, not named
    missing = [c for c in _COLUMNS[:2] if c not in columns]
    others = len(columns - set(_COLUMNS))
    if missing or others:
        fault = f"has no column {' and no column '.join(missing)}" if missing else f"has {others} unknown column(s)"
        raise RequestError(f"{SIDECAR} {fault}; its header needs file and subject, and may have side and source")
    found: dict[str, About] = {}
    for line, row in enumerate(rows, start=2):
        file_name = (row["file"] or "").strip().removeprefix("./")
        if not file_name or file_name in found:
            fault = "its file stands there twice" if file_name else "no file is named"
            raise RequestError(f"{SIDECAR}, line {line}: {fault}; correct the line or remove it")
        found[file_name] = About(*((row.get(c) or "").strip() for c in _COLUMNS[1:]))
    return found


def subject(name: str, inside: str, beside: About | None, options: ReaderOptions) -> str:
    """The subject of the file `name`: from inside it, from recordings.csv, from its path, in this order.

    Raises BadInput where none says it, or two say different things.
    """
    outside = beside.subject if beside else ""
    if inside and outside and inside != outside:
        raise BadInput(f"{name}: the file and {SIDECAR} name different subjects; correct one of them")
    known = inside or outside
    if not known and options.subject_pattern:
        found = re.search(options.subject_pattern, name)
        if not found or not found[1]:
            raise BadInput(
                f"{name}: options.subject_pattern finds no subject in this path; widen the pattern or name it in {SIDECAR}"
            )
        known = found[1]
    if not known and options.one_file_one_subject:
        known = name
    if not known:
        raise BadInput(
            f"{name}: no subject is known, and a split needs one; name it in {SIDECAR} or by options.subject_pattern, "
            "or say options.one_file_one_subject: true"
        )
    return known


def side(name: str, text: str) -> str | None:
    """`left`, `right` or None. Raises BadInput for any other word."""
    if not text:
        return None
    if text.lower() not in _SIDES:
        raise BadInput(f"{name}: the side is neither left nor right; write one of them, or leave it empty")
    return _SIDES[text.lower()]
