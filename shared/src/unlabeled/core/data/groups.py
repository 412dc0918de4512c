"""Groups: what may not cross a split, stored only as keyed hashes."""

from __future__ import annotations

import contextlib
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
    """The secret that group hashes are keyed with; made on first use. Share it to compare groups between machines.

    Raises RequestError where it can be neither read nor made.
    """
    path = key_file()
    try:
        if not path.exists():
            _make(path)
        text = path.read_bytes().strip()
    except OSError as error:
        raise RequestError(
            f"the project key {path} can be neither read nor made ({error.strerror}); name a writable file in UNLABELED_KEY"
        ) from None
    if len(text) < 32:
        raise RequestError(f"{path} holds no project key (32 characters or more); remove it and a new one is made")
    return text


def _make(path: Path) -> None:
    """Of several processes that make it at once, the first one's key stays and all read that."""
    path.parent.mkdir(parents=True, exist_ok=True)
    own = path.with_name(f".{path.name}.{os.getpid()}.new")
    write_atomic(own, secrets.token_hex(32).encode(), mode=0o600)
    with contextlib.suppress(FileExistsError):
        os.link(own, path)
    own.unlink()


def key_id(secret: bytes) -> str:
    """Tells keys apart without telling them: the hash of a fixed word."""
    return hashed("unlabeled project key", secret)


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
