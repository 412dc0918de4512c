"""The rows, one file each. A field's rows (how its windows are read, how its maps are written) stand here too."""

from __future__ import annotations

import importlib
import pkgutil

from bench.row import Row


def names() -> list[str]:
    return sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(__path__))


def row(name: str) -> Row:
    found: Row = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").ROW
    return found
