"""Captures: what was not finite in a skipped step, in RUN/captures/step-XXXXXXXX.pt.

Nothing is copied while training goes well: a step's batch is a pure function of its position, so it is read again where
a look finds that a step was skipped. Kept until that look are only what the step computed anyway: its terms, the norm of
every gradient and which embeddings are finite.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from unlabeled.core import ranks
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.files import write_atomic
from unlabeled.core.training.guard import Guard

log = logging.getLogger(__name__)

KEPT = 3


@dataclass(frozen=True)
class Trace:
    """What is kept of a step until the next look; tensors on the device."""

    step: int
    epoch: int
    bad: Tensor
    saw: Tensor
    finite: Tensor
    loss: Tensor
    parts: dict[str, Tensor]
    names: list[str]
    norms: Tensor


def not_finite(batch: Batch) -> dict[str, Tensor]:
    """Input name -> the tensor of valid values that are not finite, by input; empty where all is well."""
    found = {}
    for name, x in batch.inputs.items():
        valid = x.valid if x.valid.ndim == x.values.ndim else x.valid[:, None]
        wrong = ~x.values.isfinite() & valid
        if wrong.any():
            found[name] = wrong
    return found


def plain(batch: Batch) -> dict[str, dict[str, Tensor]]:
    """The inputs as dictionaries of tensors, which load without our classes."""
    return {
        name: {f.name: v for f in dataclasses.fields(x) if isinstance(v := getattr(x, f.name), Tensor)}
        for name, x in batch.inputs.items()
    }


class Captures:
    """Keeps the traces of the steps since the last look, and writes the first bad step of a row at the look.

    A capture holds `step`, `epoch`, `rank`, `first` (what was not finite first, in the order of the computation),
    `found` (all that was not: `input x`, `embedding`, `part NAME`, `loss`, `gradient NAME`), `rows` (the batch's rows
    whose input or embedding was not), `index` (item ids), `weight` and `inputs`. Tensors, numbers and strings: it loads
    with `weights_only=True`. It holds the data of its items, and no key, group or path. The newest three are kept.

    fetch  (step) -> this rank's batch of that step
    """

    def __init__(self, run: Path, fetch: Callable[[int], Batch]) -> None:
        self.folder, self.fetch = run / "captures", fetch
        self._traces: list[Trace] = []
        self._last = -2  # the last bad step of earlier looks: a row is captured once, at its start

    def keep(self, step: int, epoch: int, out: dict[str, Any], guard: Guard) -> None:
        finite = out["embedding"].isfinite().flatten(1).all(1) | (out["weight"] == 0)
        trace = Trace(
            step, epoch, out["skipped"], guard.saw, finite, out["loss"], out["parts"], guard.names, guard.norms
        )
        self._traces.append(trace)

    def forget(self) -> None:
        """The run has gone back: the steps to come are new ones."""
        self._traces, self._last = [], -2

    def look(self) -> None:
        """Waits for the device; where a step was skipped, all ranks find out which of them met it, and that one writes."""
        traces, self._traces = self._traces, []
        if not traces:
            return
        bad = [t for t, flag in zip(traces, torch.stack([t.bad for t in traces]).tolist(), strict=True) if flag]
        begins = [
            t for t, before in zip(bad, [self._last, *(t.step for t in bad)], strict=False) if t.step > before + 1
        ]
        if bad:
            self._last = bad[-1].step
        for trace in begins[-KEPT:]:
            self._capture(trace)

    def _capture(self, trace: Trace) -> None:
        batch = self.fetch(trace.step)
        wrong = not_finite(batch)
        # a loss is global, so that a value of one rank is met by all: the one that holds it stands nearest to the cause
        near = 0 if not trace.saw else 3 if wrong else 2 if not trace.finite.all() else 1
        if ranks.rank() != _nearest(near):
            return
        rows = ~trace.finite.cpu()
        for name, x in wrong.items():
            if x.shape[0] == batch.size and batch.inputs[name].valid.ndim > 1:  # rows of packed inputs are tokens
                rows |= x.flatten(1).any(1)
        found = [f"input {name}" for name in wrong]
        found += [] if trace.finite.all() else ["embedding"]
        found += [f"part {name}" for name, term in trace.parts.items() if not term.isfinite()]
        found += [] if trace.loss.isfinite() else ["loss"]
        gradients = zip(trace.names, trace.norms.isfinite().tolist(), strict=True)
        found += [f"gradient {name}" for name, finite in gradients if not finite]
        state = {
            "step": trace.step,
            "epoch": trace.epoch,
            "rank": ranks.rank(),
            "first": found[0] if found else "gradient norm",
            "found": found,
            "rows": rows.nonzero().flatten(),
            "index": batch.index,
            "weight": batch.weight,
            "inputs": plain(batch),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{trace.step:08d}.pt"
        write_atomic(path, lambda temp: torch.save(state, temp))
        for old in sorted(self.folder.glob("step-????????.pt"))[:-KEPT]:
            old.unlink(missing_ok=True)
        log.warning("step %d was skipped: %s is not finite; its batch is in %s", trace.step, state["first"], path)


def _nearest(near: int) -> int:
    """The first rank among those nearest to the cause."""
    if ranks.world() == 1:
        return 0
    all_of: list[int] = [0] * ranks.world()
    dist.all_gather_object(all_of, near)
    return all_of.index(max(all_of))
