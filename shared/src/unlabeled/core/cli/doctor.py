"""Doctor: can this machine run the packages that are installed?"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from unlabeled.core.contracts import UnlabeledError
from unlabeled.core.contracts.domain import domains, load, methods
from unlabeled.core.data.groups import key_file, project_key


def examine() -> dict[str, Any]:
    """Versions and a list of checks, each {name, ok, found, mend}."""
    checks = [
        _python(),
        *(_package(name) for name in ("torch", "lightning", "numpy", "timm")),
        _torch(),
        _key(),
        _disk(),
    ]
    checks += [_parts(name, d) for name, d in domains().items()]
    checks += [_target(name, card.target) for name, card in methods().items() if card.kind == "method"]
    return {"python": platform.python_version(), "platform": platform.platform(terse=True), "checks": checks}


def _check(name: str, ok: bool, found: str, mend: str = "") -> dict[str, Any]:
    return {"name": name, "ok": ok, "found": found, "mend": mend}


def _python() -> dict[str, Any]:
    ok = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return _check("python", ok, platform.python_version(), "use Python 3.11 to 3.13")


def _package(name: str) -> dict[str, Any]:
    try:
        return _check(name, True, version(name))
    except PackageNotFoundError:
        return _check(name, False, "absent", f"pip install {name}")


def _torch() -> dict[str, Any]:
    try:
        torch = import_module("torch")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    except (ImportError, OSError, RuntimeError) as error:
        return _check("devices", False, f"{type(error).__name__}: {error}", "reinstall torch")
    names = ", ".join(torch.cuda.get_device_name(i) for i in range(count)) or "no GPU"
    return _check("devices", True, f"{names}; {os.cpu_count()} CPU cores, {torch.get_num_threads()} torch threads")


def _key() -> dict[str, Any]:
    try:
        project_key()
    except (UnlabeledError, OSError) as error:
        return _check("project key", False, str(error), "name a writable file in UNLABELED_KEY")
    return _check("project key", True, f"{key_file().name} is there")


def _disk() -> dict[str, Any]:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return _check("disk", free > 1, f"{free:.0f} GiB free here", "free some space")


def _parts(name: str, domain: Any) -> dict[str, Any]:
    targets = [
        domain.reader,
        domain.options,
        *domain.conversions.values(),
        *domain.views.values(),
        *domain.encoders.values(),
    ]
    for target in targets:
        fault = _target(target, target)
        if not fault["ok"]:
            return _check(f"domain {name}", False, fault["found"], f"pip install --force-reinstall unlabeled-{name}")
    return _check(f"domain {name}", True, f"{len(targets)} parts load")


def _target(name: str, target: str) -> dict[str, Any]:
    try:
        load(target)
    except (ImportError, AttributeError) as error:
        return _check(name, False, f"{target}: {error}", "reinstall the package it comes from")
    return _check(name, True, target)
