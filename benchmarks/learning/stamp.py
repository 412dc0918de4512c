"""When, where and of what a result is."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from functools import cache
from pathlib import Path


def stamp() -> dict[str, str]:
    """Date, device and commit of now."""
    device = f"{os.cpu_count()} CPU cores, {platform.machine().replace('_', '-')}, no GPU"
    return {"date": time.strftime("%Y-%m-%d", time.gmtime()), "device": device, "commit": commit()}


@cache
def commit() -> str:
    """The commit of this working tree, with a mark where files differ from it; once, as modules are loaded once."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, check=False
        ).stdout.strip()

    found = git("rev-parse", "HEAD")
    return f"{found} with changes" if git("status", "--porcelain", "--untracked-files=no") else found
