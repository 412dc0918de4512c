"""Session: all of a run that is the same whichever loop drives it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from unlabeled.core import ranks
from unlabeled.core.contracts import RunFailed, TooManyBad
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.contracts.recipe import Recipe
from unlabeled.core.methods.base import Method
from unlabeled.core.training import checkpoint, exact
from unlabeled.core.training.interrupt import Interrupt
from unlabeled.core.training.log import Log
from unlabeled.core.training.step import Step

Progress = Callable[[int, int, dict[str, Any]], None]


class Batches(Protocol):
    """What a run draws from (`data.loading.Loader`)."""

    items_total: int
    failures: dict[int, tuple[int, str]]

    def batches(self, start: int, stop: int) -> Iterator[tuple[int, Batch]]: ...

    def sync(self) -> None: ...


class Session:
    """A loop calls `begin` once on the device, `advance` for each of `batches` while it returns True, then `close`.

    done    completed optimiser steps, the position of the run
    loss    0-d, of the last step
    state   what to go on from, or None for a new run
    """

    def __init__(
        self,
        method: Method,
        loader: Batches,
        recipe: Recipe,
        run: Path,
        state: checkpoint.State | None,
        interrupt: Interrupt,
        on_progress: Progress | None,
    ) -> None:
        self.method, self.loader, self.recipe, self.run = method, loader, recipe, run
        self.state, self.interrupt, self.on_progress = state, interrupt, on_progress
        self.step = Step(method, recipe)
        self.device = torch.device("cpu")
        self.done: int = state["step"] if state else 0
        if state:  # here and not in `begin`, since Lightning asks for a first batch before that
            loader.failures = dict(state["failures"])
        self.loss = torch.tensor(float("nan"))
        self._epoch: int | None = None
        self._log: Log | None = None

    def begin(self, device: torch.device) -> None:
        """Restore the state, once the method is on its device and the ranks have met."""
        self.device = device
        guard, leads = self.step.guard, ranks.rank() == 0
        if self.state:
            self._count_failures()  # the call that made them may have ended before it counted
            if leads and self.done < self.recipe.max_steps:
                exact.report(self.state, exact.conditions(device))
            try:
                self.method.load_state_dict(self.state["method"])
                self.step.optimiser.load_state_dict(self.state["optimiser"])
            except (RuntimeError, ValueError, KeyError) as error:
                reason = " ".join(str(error).split())
                raise RunFailed(f"the checkpoint in {self.run} was made by another recipe: {reason}") from None
            guard.counts, self.loss = self.state["skipped"], self.state["loss"]
            self.state = None
        guard.counts = guard.counts.to(device)
        self.method.train()
        if leads:
            self._log = Log(self.run, self.done, self.recipe.trainer.tensorboard)
        self.interrupt.arm()

    def batches(self) -> Iterator[tuple[int, Batch]]:
        """(epoch, batch) of the steps that are left; the time spent waiting for them goes to the log."""
        source = self.loader.batches(self.done, self.recipe.max_steps)
        while True:
            start = time.perf_counter()
            try:
                item = next(source)
            except StopIteration:
                return
            if self._log:
                self._log.waited(time.perf_counter() - start)
            yield item

    def advance(
        self, epoch: int, batch: Batch, backward: Callable[[Tensor], None], update: Callable[[], object]
    ) -> bool:
        """One optimiser step and what belongs after it; False where the run ends with it.

        Raises RunFailed, TooManyBad.
        """
        trainer, total = self.recipe.trainer, self.recipe.max_steps
        if self._epoch not in (None, epoch):
            self._count_failures()
        self._epoch = epoch
        out = self.step(self.done, epoch, batch, self.device, backward, update)
        self.loss = out["loss"]
        if self._log:
            self._log.add(self.done, epoch, out)
        self.done += 1
        last = self.done == total
        look = last or self.done % trainer.log_every == 0
        stop = last or self._interrupted(look)
        if look or stop:
            self._look(out)
        if last:
            self._count_failures()  # before the save: a state of the last step says that the run succeeded
        if stop or self.done % trainer.save_every == 0:
            self._save()
        return not stop

    def close(self) -> None:
        if self._log:
            self._log.close()

    def _interrupted(self, look: bool) -> bool:
        """Ranks hear a signal at different times, so that they agree on it, but only where they wait anyway."""
        if ranks.world() == 1:
            return self.interrupt.asked
        if look:
            self.interrupt.asked = bool(ranks.agree(torch.tensor(self.interrupt.asked, device=self.device)))
        return look and self.interrupt.asked

    def _look(self, out: dict[str, Any]) -> None:
        line = self._log.flush() if self._log else {}
        self.step.guard.check(self.done)
        if line and self.on_progress:
            self.on_progress(self.done, self.recipe.max_steps, line | {"embedding": out["embedding"]})

    def _save(self) -> None:
        self.loader.sync()
        if self._log:
            # first the lines, then the state: a restored step finds the lines of all steps before it
            self._log.flush(durable=True)
            state = {
                "step": self.done,
                "method": self.method.state_dict(),
                "optimiser": self.step.optimiser.state_dict(),
                "failures": self.loader.failures,
                "skipped": self.step.guard.counts,
                "loss": self.loss,
                "conditions": exact.conditions(self.device),
            }
            checkpoint.save(self.run / "checkpoints", state, self.recipe.trainer.keep)

    def _count_failures(self) -> None:
        self.loader.sync()
        failures, n = self.loader.failures, self.loader.items_total
        allowed = self.recipe.data.max_bad_fraction
        if len(failures) > allowed * n:
            item, (_, reason) = next(iter(failures.items()))
            raise TooManyBad(
                f"{len(failures)} of {n} items could not be read, more than data.max_bad_fraction {allowed:g} allows "
                f"(item {item}: {reason}); repair or remove them, or raise the fraction"
            )
