"""Which of a run's processes this one is, told from its launcher's variables, before the ranks have met. No torch."""

from __future__ import annotations

import os


def leader() -> bool:
    """Whether this process may write what a run writes once.

    torchrun names RANK, SLURM's srun SLURM_PROCID of SLURM_NTASKS, Lightning's launcher LOCAL_RANK and NODE_RANK.
    """
    if "RANK" in os.environ:
        return _number("RANK") == 0
    if _number("SLURM_NTASKS", 1) > 1 and "SLURM_PROCID" in os.environ:
        return _number("SLURM_PROCID") == 0
    return _number("LOCAL_RANK") == 0 and _number("NODE_RANK") == 0


def _number(name: str, default: int = 0) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdigit() else default
