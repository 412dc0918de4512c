"""fit: train a method to the end of its recipe, from the start or from where an earlier call was stopped."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.recipe import Recipe, Trainer
from unlabeled.core.launch import leader
from unlabeled.core.methods.base import Method
from unlabeled.core.training import checkpoint, layout
from unlabeled.core.training.branch import kept_for_good
from unlabeled.core.training.compiling import compile_blocks
from unlabeled.core.training.interrupt import Interrupt
from unlabeled.core.training.lock import locked
from unlabeled.core.training.loggers import make_loggers
from unlabeled.core.training.memory import keep_freed
from unlabeled.core.training.session import Batches, Progress, Session


@dataclass(frozen=True)
class FitResult:
    """What came of a call.

    steps         completed in all
    failures      item -> (epoch in which it failed, reason)
    last_loss     of the last step, or None where it is not finite
    resumed_from  the step, or None
    health        how the run went (see Session.health_summary)
    """

    steps: int
    failures: dict[int, tuple[int, str]]
    last_loss: float | None
    resumed_from: int | None
    health: dict[str, Any]


@contextlib.contextmanager
def reproducible(trainer: Trainer, kind: str) -> Iterator[None]:
    """Thread count, deterministic algorithms (on the CPU) and torch's random state, put back afterwards.

    On the CPU freed memory stays with the process from then on.
    """
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory
    torch.set_num_threads(trainer.threads or threads)
    if kind == "cpu":
        keep_freed()
        torch.use_deterministic_algorithms(True)
        # torch would also write NaN into every new tensor, a pass over memory before each result; ours read none unwritten
        memory.fill_uninitialized_memory = False
    try:
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if kind == "cuda" else []):
            yield
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=warn_only)
        memory.fill_uninitialized_memory = fill
        torch.set_num_threads(threads)


def device_kind(trainer: Trainer) -> str:
    """ "cpu" or "cuda"."""
    there = torch.cuda.is_available()
    if trainer.accelerator == "gpu" and not there:
        raise RequestError("trainer.accelerator is gpu and no CUDA device is visible; set it to auto or cpu")
    return "cuda" if there and trainer.accelerator != "cpu" else "cpu"


def fit(
    method: Method,
    loader: Batches,
    recipe: Recipe,
    run: Path,
    *,
    resume: bool,
    on_progress: Progress | None = None,
) -> FitResult:
    """Train `method`, in place, to `recipe.max_steps` completed steps, writing metrics and checkpoints into `run`.

    Resumed on the CPU with the same thread count, weights and losses equal those of an uninterrupted run to the bit,
    whichever loop did which part; the log says whether a resume is exact. SIGINT, SIGTERM or SIGUSR1 lets the step
    finish, saves, and raises KeyboardInterrupt.

    on_progress(done, max_steps, line) is called every `log_every` steps on rank 0 with the last line of metrics.jsonl
    and "embedding", the last step's (B, D) tensor; what it raises ends the run.

    Raises RequestError (the run exists and `resume` is False, another process trains in it, or the recipe asks for what
    the method or the machine has not), RunFailed (a health alarm whose action is stop, non-finite steps, broken
    checkpoints, no memory), TooManyBad (failed items above data.max_bad_fraction, looked at between epochs, at the
    end and on resume).
    """
    kind = device_kind(recipe.trainer)
    folder = run / "checkpoints"
    if not resume and checkpoint.saved(folder):
        raise RequestError(
            f"{run} holds a run already; resume it with `pretrain --resume {run}` or name another folder"
        )
    with locked(run), reproducible(recipe.trainer, kind), Interrupt() as interrupt:
        state = checkpoint.newest(folder)
        checkpoint.prune(folder, recipe.trainer.keep, kept_for_good(recipe))
        start = state["step"] if state else 0
        if kind == "cpu":
            layout.channels_last(method)  # before DDP lays out its buckets after the weights
        loggers = make_loggers(recipe.trainer.loggers, run) if leader() else []
        session = Session(method, loader, recipe, run, state, interrupt, on_progress, loggers)
        if recipe.trainer.compile:
            compile_blocks(method)
        if start >= recipe.max_steps:
            session.begin(torch.device("cpu"))
            session.close()
        elif recipe.trainer.loop == "plain":
            from unlabeled.core.training.plain import drive

            drive(session, kind)
        else:
            from unlabeled.core.training.lightning import drive

            drive(session, kind)
        if interrupt.asked:
            raise KeyboardInterrupt
    loss = float(session.loss)
    return FitResult(
        session.done,
        session.loader.failures,
        loss if math.isfinite(loss) else None,
        start if state else None,
        session.health_summary(),
    )
