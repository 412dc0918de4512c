"""What a result was made with."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version


def versions(*more: str) -> dict[str, str]:
    """Of Python, of the core, and of what computes."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in ("unlabeled-core", "torch", "numpy", *more)},
    }


def commit() -> str | None:
    """The commit of the git repository of the working directory, with "-dirty" where it has changes; None outside one."""
    words = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None
