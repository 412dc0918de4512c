"""Loggers by name: any of Lightning's, told by the run's log."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unlabeled.core.contracts import RequestError, load
from unlabeled.core.contracts.recipe import Named, nearest

LOGGERS = {
    "csv": "lightning.pytorch.loggers:CSVLogger",
    "tensorboard": "lightning.pytorch.loggers:TensorBoardLogger",
    "mlflow": "lightning.pytorch.loggers:MLFlowLogger",
    "wandb": "lightning.pytorch.loggers:WandbLogger",
}


def make_loggers(given: Sequence[Named], run: Path) -> list[Any]:
    """The recipe's loggers, which write into `run` where they write files and are not told another place.

    Raises RequestError for a name or an option that is not there, or a package that is missing.
    """
    return [_made(i, logger, run) for i, logger in enumerate(given)]


def _made(number: int, given: Named, run: Path) -> Any:
    where = f"trainer.loggers.{number}"
    target = given.name if ":" in given.name else LOGGERS.get(given.name)
    if target is None:
        raise RequestError(f"{where}.name: {nearest(given.name, list(LOGGERS))}, or give module:Class")
    try:
        cls = load(target)
        takes = inspect.signature(cls).parameters
        place = {"save_dir": str(run)} if "save_dir" in takes and given.name != "mlflow" else {}
        return cls(**{**place, **given.options})
    except ImportError as error:
        package = getattr(error, "name", None) or given.name
        raise RequestError(
            f"{where}: {given.name} needs the package {package}, which is not installed; install it"
        ) from None
    except (TypeError, AttributeError) as error:
        raise RequestError(f"{where}: {given.name} cannot be made with these options: {error}") from None
