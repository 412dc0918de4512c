"""Session: all of a run that is the same whichever loop drives it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from unlabeled.core import ranks
from unlabeled.core.contracts import RunFailed, TooManyBad
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.contracts.recipe import Recipe
from unlabeled.core.files import write_json
from unlabeled.core.methods.base import Method
from unlabeled.core.training import checkpoint, exact, layout, rollback
from unlabeled.core.training.branch import kept_for_good
from unlabeled.core.training.capture import Captures
from unlabeled.core.training.health import Monitor, Trouble
from unlabeled.core.training.interrupt import Interrupt
from unlabeled.core.training.log import Log
from unlabeled.core.training.prefetch import prefetched
from unlabeled.core.training.step import Step
from unlabeled.core.training.throughput import Flops, Meter, out_of_memory

log = logging.getLogger(__name__)

Progress = Callable[[int, int, dict[str, Any]], None]
Backward = Callable[[Tensor], None]

SEVERITY = ("warn", "roll back", "stop")


class Batches(Protocol):
    """What a run draws from (`data.loading.Loader`)."""

    items_total: int
    failures: dict[int, tuple[int, str]]

    def batches(self, start: int, stop: int) -> Iterator[tuple[int, Batch]]: ...

    def at(self, step: int) -> Batch: ...

    def sync(self) -> None: ...

    def renew(self, step: int, method: Method) -> None: ...

    def chosen(self) -> list[str]: ...

    def choose_again(self, state: list[str]) -> None: ...


@dataclass(frozen=True)
class Decision:
    """What all ranks do about a trouble: go back to the checkpoint of step `to`, or stop."""

    cause: str
    reason: str
    to: int | None


class Session:
    """A loop calls `begin` once on the device, `advance` for each of `batches` while it returns True, then `close`.

    done       completed optimiser steps, the position of the run
    loss       0-d, of the last step
    state      what to go on from, or None for a new run
    skips      batches of the plan that were left out (see rollback)
    rollbacks  cause, step (where it was seen), to (where the run went back to), reason
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
        loggers: list[Any] | None = None,
    ) -> None:
        self.method, self.loader, self.recipe, self.run = method, loader, recipe, run
        self.state, self.interrupt, self.on_progress = state, interrupt, on_progress
        self.loggers = loggers or []
        method.sized(loader.items_total)
        self.step = Step(method, recipe)
        self.device = torch.device("cpu")
        self.done: int = state["step"] if state else 0
        if state:  # here and not in `begin`, since Lightning asks for a first batch before that
            loader.failures = dict(state["failures"])
            loader.choose_again(state.get("plan", []))
        self.loss = torch.tensor(float("nan"))
        self.skips: list[rollback.Skip] = []
        self.rollbacks: list[dict[str, Any]] = []
        self.flops: int | None = None
        self.meter: Meter | None = None
        self._epoch: int | None = None
        self._log: Log | None = None
        trainer, prototypes = recipe.trainer, getattr(method.options, "prototypes", 0)
        size, every = recipe.batch_size, trainer.log_every
        self.health = Monitor(recipe.health, every, size, recipe.max_steps, prototypes, method.floor)
        self.kept_for_good = kept_for_good(recipe)
        self._captures = Captures(run, lambda step: loader.at(rollback.position(step, self.skips)))

    def begin(self, device: torch.device) -> None:
        """Restore the state, once the method is on its device and the ranks have met."""
        self.device = device
        leads = ranks.rank() == 0
        if self.state:
            self._count_failures()  # the call that made them may have ended before it counted
            if leads and self.done < self.recipe.max_steps:
                exact.report(self.state, exact.conditions(device))
            self._restore(self.state)
            self.state = None
        self.step.guard.counts = self.step.guard.counts.to(device)
        self.method.train()
        self.meter = Meter(self.recipe, device)
        if leads:
            self._log = Log(self.run, self.done, self.recipe.trainer.tensorboard, self.loggers)
        self.interrupt.arm()

    def _restore(self, state: checkpoint.State) -> None:
        """Raises RunFailed where the state is of another recipe, or of a version that kept less."""
        lacks = {"skips", "rollbacks", "health", "flops", "plan"} - set(state)
        if lacks:
            raise RunFailed(
                f"the checkpoint in {self.run} is of an older version and lacks {', '.join(sorted(lacks))}; go on with that "
                "version, or start a new run"
            )
        try:
            own = self.method.state_dict()
            self.method.load_state_dict({t: own[t] for t in self.method.tables} | state["method"])
            self.step.optimiser.load_state_dict(state["optimiser"])
            layout.follow(self.step.optimiser)
        except (RuntimeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise RunFailed(f"the checkpoint in {self.run} was made by another recipe: {reason}") from None
        self.loader.failures = dict(state["failures"])
        self.loader.choose_again(state["plan"])
        self.step.guard.counts, self.loss = state["skipped"].to(self.device), state["loss"]
        self.done = state["step"]
        self.skips = [(at, n) for at, n in state["skips"]]
        self.rollbacks = [dict(r) for r in state["rollbacks"]]
        self.flops = state["flops"]
        self.health.restore(state["health"], self.device)

    def batches(self) -> Iterator[tuple[int, Batch]]:
        """(epoch, batch) of the steps that are left; the time spent waiting for them goes to the log."""
        while self.done < self.recipe.max_steps:
            turn, source = len(self.rollbacks), prefetched(self._planned(), self.device)
            while len(self.rollbacks) == turn:
                start, cpu = time.perf_counter(), time.process_time()
                item = next(source, None)
                if item is None:
                    break
                waited = time.perf_counter() - start
                if self._log:
                    self._log.waited(waited)
                if self.meter:
                    self.meter.waited(waited, time.process_time() - cpu)
                yield item

    def _planned(self) -> Iterator[tuple[int, Batch]]:
        for start, stop in rollback.ranges(self.done, self.recipe.max_steps, self.skips):
            yield from self.loader.batches(start, stop)

    def advance(self, epoch: int, batch: Batch, backward: Backward, update: Callable[[], object]) -> bool:
        """One optimiser step and what belongs after it; False where the run ends with it.

        Raises RunFailed, TooManyBad.
        """
        trainer, total = self.recipe.trainer, self.recipe.max_steps
        if self._epoch not in (None, epoch):
            self._count_failures()
        self._epoch = epoch
        out = self._computed(epoch, batch, backward, update)
        self.loss = out["loss"]
        self._captures.keep(self.done, epoch, out, self.step.guard)
        self.health.keep(self.done, out)
        if self._log:
            self._log.add(self.done, epoch, out)
        self.done += 1
        last = self.done == total
        if not last:  # before a save, so that a state at the end of an epoch holds what the next one is made of
            self.loader.renew(rollback.position(self.done, self.skips), self.method)
        look = last or self.done % trainer.log_every == 0
        interrupted = self._interrupted(look)
        if look:
            decision = self._look(out)
            if decision is not None:
                self._act(decision)
                return not interrupted
        elif interrupted and self._log:
            self._log.flush()
        if last:
            self._count_failures()  # before the save: a state of the last step says that the run succeeded
        if last or interrupted or self.done % trainer.save_every == 0 or self.kept_for_good(self.done):
            self._save()
        return not (last or interrupted)

    def close(self) -> None:
        """At the end, whatever it is: files are closed, and how the run went is written."""
        if self._log:
            self._log.close()
            self._log.finish()
            path = self.run / "summary.json"
            if self.meter and (self.meter.steps or not path.exists()):  # a run that was done already keeps its rates
                made = self.summary()
                write_json(path, made)
                if made["advice"]:
                    log.info("%s", made["advice"])

    def health_summary(self) -> dict[str, Any]:
        return {
            "skipped": int(self.step.guard.counts[0]),
            "skips": [list(skip) for skip in self.skips],
            "rollbacks": self.rollbacks,
            "alarms": self.health.alarms,
            "health": self.health.known(self.health.values),
            "start": self.health.known(self.health.start),
        }

    def summary(self) -> dict[str, Any]:
        """What RUN/summary.json holds.

        steps, ranks, device    completed steps, processes, the device's kind
        seconds, samples_per_s, tokens_per_s, flops, mfu, wait, advice
                                of the last call (see throughput.Meter); flops: of one step on one rank
        skipped                 steps that were not finite and changed nothing
        skips                   [step, n]: from this step on, n batches of the plan were left out
        rollbacks               cause, step (where it was seen), to (the step gone back to), reason
        alarms                  step, cause, action, reason (see health)
        health, start           values at the last and at the first look: spread, cosine, rank, loss, gradient and the
                                method's vital signs; what is not known is left out
        """
        assert self.meter is not None
        return {
            "steps": self.done,
            "ranks": ranks.world(),
            "device": self.device.type,
            **self.meter.summary(self.flops),
            **self.health_summary(),
        }

    def _computed(self, epoch: int, batch: Batch, backward: Backward, update: Callable[[], object]) -> dict[str, Any]:
        """The step; the first of a run also counts its operations, once."""
        assert self.meter is not None
        self.meter.step(batch)
        try:
            if self.flops is not None or self.recipe.trainer.compile:  # compiled code runs no single operations
                return self.step(self.done, epoch, batch, self.device, backward, update)
            with Flops() as counted:
                out = self.step(self.done, epoch, batch, self.device, backward, update)
        except torch.OutOfMemoryError:
            raise RunFailed(out_of_memory(self.done, self.recipe, self.method.couples)) from None
        self.flops = counted.total
        return out

    def _interrupted(self, look: bool) -> bool:
        """Ranks hear a signal at different times, so that they agree on it, but only where they wait anyway."""
        if ranks.world() == 1:
            return self.interrupt.asked
        if look:
            self.interrupt.asked = bool(ranks.agree(torch.tensor(self.interrupt.asked, device=self.device)))
        return look and self.interrupt.asked

    def _look(self, out: dict[str, Any]) -> Decision | None:
        """What is known so far, written; and what to do about it, the same on every rank."""
        assert self.meter is not None
        self._captures.look()
        troubles = [*self._not_finite(), *self.health.look(self.done, out)]
        speed = self.meter.lap(self.flops)
        line = self._log.flush({"health": self.health.values, "speed": speed}) if self._log else {}
        if line and self.on_progress:
            self.on_progress(self.done, self.recipe.max_steps, line | {"embedding": out["embedding"]})
        decision = [self._decided(troubles)]
        if ranks.world() > 1:  # the first rank decides, since machines may differ in the last digit of a limit
            dist.broadcast_object_list(decision, src=0)
        return decision[0]

    def _not_finite(self) -> list[Trouble]:
        longest, trainer = int(self.step.guard.counts[2]), self.recipe.trainer
        if longest <= trainer.max_skipped:
            return []
        reason = (
            f"{longest} steps in a row up to step {self.done} had a loss or gradient that is not finite (the batch of "
            "the first is in the run's folder captures); lower optimiser.lr, set optimiser.clip, or look for extreme "
            "values in the data with `inspect`"
        )
        return [Trouble("not finite", "roll back", self.done - longest, reason)]

    def _decided(self, troubles: list[Trouble]) -> Decision | None:
        for trouble in troubles:
            log.warning("%s", trouble.reason)
        worst = max(troubles, key=lambda t: SEVERITY.index(t.action), default=None)
        if worst is None or worst.action == "warn":
            return None
        allowed = self.recipe.trainer.rollbacks if worst.cause == "not finite" else 1
        before = sum(r["cause"] == worst.cause for r in self.rollbacks)
        folder = self.run / "checkpoints"
        saved = list(map(checkpoint.step_of, checkpoint.saved(folder)))
        steps = [s for s in saved if s <= worst.before]
        if worst.cause == "not finite":
            steps = steps or saved  # bad steps change nothing, so that one saved among them is sound
        if worst.action == "stop" or before >= allowed or not steps:
            return Decision(worst.cause, worst.reason, None)
        return Decision(worst.cause, worst.reason, steps[0])

    def _act(self, decision: Decision) -> None:
        """Go back, or raise RunFailed after a save."""
        if decision.to is not None:
            self._go_back(decision.cause, decision.to, decision.reason)
            return
        if decision.cause != "not finite" and self.done < self.recipe.max_steps:
            self._save()
        raise RunFailed(decision.reason)

    def _go_back(self, cause: str, to: int, reason: str) -> None:
        """To the checkpoint of step `to`, without the data seen since."""
        folder, seen = self.run / "checkpoints", self.done
        skips, past = rollback.leave_out(self.skips, to, seen), self.rollbacks
        self._restore(checkpoint.read(checkpoint.path_of(folder, to)))
        self.skips = skips
        self.loader.renew(rollback.position(to, skips), self.method)
        self.rollbacks = [*past, {"cause": cause, "step": seen, "to": to, "reason": reason}]
        self.step.guard.counts[1:] = 0  # the row is what the run went back for
        self._epoch = None
        self._captures.forget()
        if self._log:
            self._log.close()
            self._log = Log(self.run, to, self.recipe.trainer.tensorboard, self.loggers)
            log.warning("going back from step %d to step %d, without the data in between", seen, to)
        ranks.agree(torch.tensor(False, device=self.device))  # every rank has read the state
        if self._log:
            for path in checkpoint.saved(folder):
                if checkpoint.step_of(path) > to:
                    path.unlink()
        self._save()  # the same state with the data left out, so that a resume leaves them out too

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
                "skips": self.skips,
                "rollbacks": self.rollbacks,
                "health": self.health.state(),
                "flops": self.flops,
                "plan": self.loader.chosen(),
                "conditions": exact.conditions(self.device),
            }
            checkpoint.save(self.run / "checkpoints", state, self.recipe.trainer.keep, self.kept_for_good)

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
