"""`python -m unlabeled.core.testing.train JOB`: train a toy in a process of its own, to be killed, or as several ranks.

JOB is JSON: run, method ("Denoiser" or "Distiller"), and optionally steps, workers, resume, dropout, trainer {...}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from unlabeled.core.testing import toys
from unlabeled.core.training.fit import FitResult, fit


def train(job: dict[str, Any]) -> FitResult:
    kind = getattr(toys, job["method"])
    method = kind(kind.Options(dropout=job.get("dropout", 0.1)), journal=job.get("journal") and Path(job["journal"]))
    return fit(
        method,
        toys.loader(workers=job.get("workers", 0)),
        toys.recipe(job.get("steps", 20), **job.get("trainer", {})),
        Path(job["run"]),
        resume=job.get("resume", False),
    )


if __name__ == "__main__":
    train(json.loads(sys.argv[1]))
