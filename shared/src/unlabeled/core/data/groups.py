"""Groups: what may not cross a split, stored only as keyed hashes."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from unlabeled.core.contracts import Leakage, RequestError
from unlabeled.core.files import write_atomic


def key_file() -> Path:
    """Where the project key lies: $UNLABELED_KEY, else the user's configuration folder; never in a run folder."""
    named = os.environ.get("UNLABELED_KEY")
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return Path(named) if named else config / "unlabeled" / "key"


def project_key() -> bytes:
    """The secret that group hashes are keyed with; made on first use. Share it to compare groups between machines."""
    path = key_file()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, secrets.token_hex(32).encode(), mode=0o600)
    text = path.read_bytes().strip()
    if len(text) < 32:
        raise RequestError(f"{path} holds no project key (32 characters or more); remove it and a new one is made")
    return text


def hashed(group: str, secret: bytes) -> str:
    """HMAC-SHA256 of a group's name, 16 hex digits."""
    return hmac.new(secret, group.encode(), hashlib.sha256).hexdigest()[:16]


def distinct(groups: Iterable[str]) -> list[str]:
    """Every group once, in the order of the records, which every machine shares; that of the keyed hashes it does not."""
    return list(dict.fromkeys(groups))


def shuffled(groups: Iterable[str], seed: int, name: str) -> list[str]:
    """Every group once, in an order that depends on the records and the seed alone."""
    from unlabeled.core.streams import rng  # here, since it needs torch and `inspect` does not

    ordered = distinct(groups)
    return [ordered[i] for i in rng(seed, "groups", name).permutation(len(ordered))]


def folds(groups: Iterable[str], per_fold: int, seed: int) -> list[tuple[str, ...]]:
    """Every group left out once, `per_fold` at a time, by lot; the last fold takes what remains."""
    order = shuffled(groups, seed, "folds")
    if len(order) <= per_fold:
        raise RequestError(
            f"{len(order)} groups cannot be split with {per_fold} left out; set study.groups_per_fold lower"
        )
    return [tuple(order[i : i + per_fold]) for i in range(0, len(order), per_fold)]


def check_disjoint(train: Collection[str], test: Collection[str], what: str) -> None:
    """Raises Leakage where a group stands on both sides."""
    shared = sorted(set(train) & set(test))
    if shared:
        named = ", ".join(shared[:3]) + (", ..." if len(shared) > 3 else "")
        raise Leakage(
            f"{what}: {len(shared)} of {len(set(test))} groups were also in training ({named}); leave them out of one side"
        )


def codes(groups: Sequence[str]) -> list[int]:
    """Small integers for groups, by first appearance."""
    index = {g: i for i, g in enumerate(distinct(groups))}
    return [index[g] for g in groups]
