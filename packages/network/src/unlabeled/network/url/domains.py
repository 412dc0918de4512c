"""Real domain names with labels: the sample `domains`. The lists come through the user's own npm and are never shipped."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from unlabeled.core.contracts import RequestError
from unlabeled.core.data.npm import fetch_npm
from unlabeled.core.files import folder_atomic
from unlabeled.network.url.urls import parse

PHISHING = (
    "eth-phishing-detect",
    "1.2.0",
    "eth-phishing-detect-1.2.0.tgz",
    "bce28fa76d324c29d3fc675d584d4bff523654f3a67447adea326657ee383258",
    "package/src/config.json",
)
TRACKERS = (
    "@ghostery/trackerdb",
    "1.0.945",
    "ghostery-trackerdb-1.0.945.tgz",
    "78d12d39f7e7cb119eaad5af065405cbac640386b2c5cc92aa4472378a58e4bb",
    "package/dist/trackerdb.json",
)
FOLDS = 5

README = """# Domain names with labels

Two tasks, a folder each: `domains.urls` (one name on each line, in an order that tells nothing), `labels.csv` (key, label)
and `folds.csv` (key, fold). Names are bare registered domains: all others of the sources are left out, so that no
sub-domain and no path tells the label. A key is the file's name and the number of the line.

## phishing: {phishing}

Source: `src/config.json` of the npm package eth-phishing-detect 1.2.0. Phishing is its blacklist, {blocked} names of {listed};
legitimate its own whitelist, {allowed} names. On both lists, and left out: {both}.
Licence: DBAD ("Don't be a dick public license" 1.1). The list is read from the package and is not part of this software.

Traps:
- The names were listed by people who protect users of cryptocurrencies: it is no picture of phishing at large.
- The whitelist holds names that look like a brand and are none of phishing, so that likeness alone is no answer. It is also
  shorter in letters, and has other suffixes: look at the baseline `lengths` first. Other benign names (software homepages,
  popular sites) would be told by their style alone.
- Phishing names come in families of one brand. Names whose longest run of letters begins with the same five are in one
  fold; a variant that changes one of these is not. A split by registered domain alone puts families on both sides.
- The list has no dates, so that no split by time can be made of it.

## category: {category}

Source: `dist/trackerdb.json` of the npm package @ghostery/trackerdb 1.0.945: domains of trackers by category.
Licence: CC-BY-NC-SA-4.0, Ghostery GmbH: attribution, no commercial use, share alike. It is not part of this software.

Traps:
- Domains of one organisation are in one fold ({organisations} organisations); those without one stand for themselves.
- Many names say nothing of their category. The classes are very unequal: use macro-F1.
"""


def domains(out: Path) -> Path:
    """Write two labelled lists of registered domains into `out`, once and whole: phishing/ and category/.

    Raises RequestError where `out` holds something else, or where npm does not give the packages.
    """
    if (out / "README.md").is_file():
        return out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RequestError(f"{out} holds something else; name a new folder for the sample")
    lists, trackers = (json.loads(fetch_npm(*source).read_text("utf-8")) for source in (PHISHING, TRACKERS))
    blocked, allowed = _bare(lists["blacklist"]), _bare(lists["whitelist"])
    both = blocked & allowed
    phishing = dict.fromkeys(blocked - both, "phishing") | dict.fromkeys(allowed - both, "legitimate")
    category, owner = _trackers(trackers)
    out.parent.mkdir(parents=True, exist_ok=True)
    with folder_atomic(out) as temp:
        _write(temp / "phishing", phishing, {name: family(name) for name in phishing})
        _write(temp / "category", category, owner)
        about = {
            "blocked": f"{len(blocked):,}",
            "listed": f"{len(lists['blacklist']):,}",
            "allowed": f"{len(allowed):,}",
            "both": len(both),
            "organisations": f"{len(set(owner.values()) - set(owner)):,}",
        }
        (temp / "README.md").write_text(
            README.format(phishing=_counts(phishing), category=_counts(category), **about), "utf-8"
        )
    return out


def family(name: str) -> str:
    """The first five letters of the longest run of letters in a registered domain's own label."""
    return max(re.findall(r"[a-z]+", name.partition(".")[0]), key=len, default=name)[:5]


def _bare(names: Iterable[str]) -> set[str]:
    """Those that are registered domains and nothing more."""
    found = (parse(name) for name in names)
    return {u.domain for u in found if u.parse_ok and u.domain and u.canonical == f"//{u.domain}/"}


def _trackers(database: dict[str, dict[str, dict[str, str]]]) -> tuple[dict[str, str], dict[str, str]]:
    """Category of every bare domain, and the organisation it belongs to, else itself."""
    patterns = database["patterns"]
    of = {name: patterns[i] for domain, i in database["domains"].items() for name in _bare([domain])}  # type: ignore[index]
    owner = {name: p["organization"] or name for name, p in of.items()}
    return {name: p["category"] for name, p in of.items()}, owner


def _write(folder: Path, labels: dict[str, str], together: dict[str, str]) -> None:
    folder.mkdir()
    names = sorted(labels, key=lambda name: hashlib.sha256(name.encode()).digest())
    (folder / "domains.urls").write_text("".join(f"{name}\n" for name in names))
    keys = [f"domains#{i}" for i in range(1, len(names) + 1)]
    _write_csv(folder / "labels.csv", "label", zip(keys, (labels[n] for n in names), strict=True))
    _write_csv(folder / "folds.csv", "fold", zip(keys, (_fold(together[n]) for n in names), strict=True))


def _fold(together: str) -> str:
    return str(int.from_bytes(hashlib.sha256(together.encode()).digest()[:8], "big") % FOLDS)


def _write_csv(path: Path, column: str, rows: Iterable[tuple[str, str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("key", column), *rows])


def _counts(labels: dict[str, str]) -> str:
    return ", ".join(f"{n:,} {label.replace('_', ' ')}" for label, n in Counter(labels.values()).most_common())
