"""Groups that pretraining has not seen: the only ones a score may be taken on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unlabeled.core.bundle import Bundle
from unlabeled.core.contracts import Leakage
from unlabeled.core.data.groups import key_id, project_key


def seen_groups(bundle: Bundle, labelled: Sequence[str], path: Path, allow_seen: bool) -> list[str] | None:
    """Which of the labelled groups of `path` this bundle's pretraining saw; None where nobody knows: it has another key.

    Raises Leakage where nobody knows and `allow_seen` is False.
    """
    if bundle.about["key"] == key_id(project_key()):
        return [g for g in labelled if g in bundle.groups]
    if allow_seen:
        return None
    raise Leakage(
        f"{bundle.path} was made under another project key, so its groups cannot be compared with those of {path}; "
        "name its key in UNLABELED_KEY, or say --allow-seen (the result then says that nobody knows)"
    )


def unseen(seen: Sequence[str] | None, labelled: Sequence[str], path: Path, allow_seen: bool) -> list[str]:
    """The groups to test on. Raises Leakage where all labelled groups were seen and `allow_seen` is False."""
    test = list(labelled) if allow_seen else [g for g in labelled if g not in (seen or ())]
    if not test:
        raise Leakage(
            f"all {len(labelled)} labelled groups of {path} were seen in pretraining; pretrain with data.hold_out or data.groups, "
            "give other groups, or say --allow-seen (the result then names it)"
        )
    return test
