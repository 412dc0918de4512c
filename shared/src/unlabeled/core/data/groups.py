"""Groups: what may not cross a split, stored only as keyed hashes."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Collection, Sequence
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


def folds(groups: Collection[str], per_fold: int) -> list[tuple[str, ...]]:
    """Every group left out once, `per_fold` at a time; the last fold takes what remains.

    The order is that of the keyed hashes, which is random with respect to the data.
    """
    ordered = sorted(set(groups))
    if len(ordered) <= per_fold:
        raise RequestError(
            f"{len(ordered)} groups cannot be split with {per_fold} left out; set study.groups_per_fold lower"
        )
    return [tuple(ordered[i : i + per_fold]) for i in range(0, len(ordered), per_fold)]


def check_disjoint(train: Collection[str], test: Collection[str], what: str) -> None:
    """Raises Leakage where a group stands on both sides."""
    shared = sorted(set(train) & set(test))
    if shared:
        named = ", ".join(shared[:3]) + (", ..." if len(shared) > 3 else "")
        raise Leakage(
            f"{what}: {len(shared)} of {len(set(test))} groups were also in training ({named}); leave them out of one side"
        )


def codes(groups: Sequence[str]) -> list[int]:
    """Small integers for groups, by sorted name."""
    index = {g: i for i, g in enumerate(sorted(set(groups)))}
    return [index[g] for g in groups]
