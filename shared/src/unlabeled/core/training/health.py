"""Health: a run that collapses raises an alarm, and the alarm acts.

What is watched is label-free and cheap: the embeddings of the last steps before a look, the vital signs that a method
tells, the loss and the gradient norm. A step only keeps references, and the ranks' embeddings are gathered in the few
steps before a look; values are read where the log waits for the device anyway.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.core import ranks
from unlabeled.core.contracts.recipe import Action, Alarm, Health
from unlabeled.core.measures.rank import rankme

ROWS = 256  # embeddings in a look: enough for a rank of a few tens, and a decomposition of milliseconds
FEWEST = 32  # below, neither spread nor rank says much


@dataclass(frozen=True)
class Trouble:
    """An alarm that was raised, or steps that were not finite.

    before  number of steps after which all was still well: where to go back to, at the latest
    """

    cause: str
    action: Action
    before: int
    reason: str


def measure(z: Tensor) -> dict[str, float]:
    """Spread, mean cosine and effective rank of embeddings (N, D), N > 1.

    spread  mean deviation over items of the coordinates of z / |z|, times sqrt(D): 1 where directions are uniform, 0
            where all are equal (Chen and He 2021, SimSiam, section 4.1)
    cosine  mean over pairs of different items. It tells the same in another unit, since the variances of unit vectors
            sum to 1 - cosine, so that no alarm stands on it
    rank    Garrido et al. 2023 (RankMe)
    """
    n, d = z.shape
    unit = F.normalize(z, dim=1)
    return {
        "spread": (unit.std(0).mean() * math.sqrt(d)).item(),
        "cosine": ((unit.sum(0).square().sum() - unit.square().sum()) / (n * (n - 1))).item(),
        "rank": rankme(z).item(),
    }


@dataclass(frozen=True)
class Limit:
    """value: what is looked at. what, advice: halves of a sentence. to: what the limit is a share of. most: not least."""

    value: str
    what: str
    advice: str
    to: Literal["start", "reach", "one"] = "start"
    most: bool = False


# by cause, a field of the recipe's section
LIMITS = {
    "spread": Limit(
        "spread",
        "the spread of the embeddings",
        "the encoder maps all items to one point; lower optimiser.lr, or choose a method or options that keep them apart",
    ),
    "rank": Limit(
        "rank",
        "the effective rank of the embeddings",
        "few directions are left; lower optimiser.lr or the weight decay, or use stronger views",
    ),
    "loss": Limit(
        "loss",
        "the loss",
        "the task has become trivial, by a collapse or because the input gives its target away; look at the method's "
        "terms against collapse, the views and the mask",
    ),
    "target_std": Limit(
        "target_std",
        "the deviation of the targets",
        "the teacher says the same of every item; raise the teacher's momentum or lower optimiser.lr",
        to="one",
    ),
    "prototype_use": Limit(
        "prototype_use",
        "the share of prototypes in use",
        "few prototypes take all items; look at the centring and at the teacher's temperature",
        to="reach",
    ),
    "teacher_gap": Limit(
        "teacher_gap",
        "the distance of the teacher to the student",
        "the teacher no longer follows; lower optimiser.lr or the teacher's momentum",
        to="one",
        most=True,
    ),
    "gradient_vanishes": Limit(
        "gradient",
        "the gradient norm",
        "hardly anything is learned any more; look at the loss and at the learning rate",
    ),
    "gradient_explodes": Limit(
        "gradient",
        "the gradient norm",
        "steps may soon be too long; lower optimiser.lr or set optimiser.clip",
        most=True,
    ),
}


class Monitor:
    """Keeps what the next look needs, and judges it there.

    prototypes  how many the method has, to know how many of them a batch can use; 0 where it has none
    floor       the least that the method's loss can be: its alarm looks at what is above
    values      of the last look, on the first rank
    start       of the first look; its embeddings are those of the first steps, when the encoder is nearly untrained
    alarms      raised so far: step, cause, action, reason
    """

    def __init__(
        self, options: Health, every: int, batch_size: int, total: int, prototypes: int = 0, floor: float = 0.0
    ) -> None:
        self.options, self.every, self.total, self.floor = options, every, total, floor
        self.steps = min(every, -(-ROWS // batch_size))
        self.reach = min(1.0, batch_size / prototypes) if prototypes else 1.0
        self.values: dict[str, float] = {}
        self.start: dict[str, float] = {}
        self.alarms: list[dict[str, Any]] = []
        self._row: dict[str, int] = {}  # looks in a row that showed it, by cause
        self._well: dict[str, int] = {}  # the last look that did not
        self._first: list[Tensor] = []
        self._held: list[Tensor] = []
        self._scalars: list[Tensor] = []  # (loss, gradient norm) of the steps since the last look

    @torch.no_grad()
    def keep(self, step: int, out: dict[str, Any]) -> None:
        """After the 0-based `step`; no wait for the device."""
        self._scalars.append(torch.stack([out["loss"].float(), out["grad_norm"].float()]))
        early, late = step < self.steps, self._left(step) < self.steps
        if early or late:
            z = out["embedding"].flatten(1).float()
            rows = ranks.gather(torch.cat([z, out["weight"].to(z)[:, None]], 1))
            if early:
                self._first.append(rows)
            self._held = [*self._held, rows][-self.steps :] if late else self._held

    def _left(self, step: int) -> int:
        """Steps between `step` and the next look."""
        return min(self.every - 1 - step % self.every, self.total - 1 - step)

    def look(self, done: int, out: dict[str, Any]) -> list[Trouble]:
        """Judge; called by every rank after `done` steps. Troubles are those of the first rank, [] on the others."""
        vitals = out.get("vitals", {})
        means = ranks.total(torch.stack([v.float() for v in vitals.values()])) / ranks.world() if vitals else None
        scalars, self._scalars = self._scalars, []
        first, self._first = self._first, []
        if ranks.rank() != 0:
            return []
        values = _measured(self._held)
        if means is not None:
            values |= dict(zip(vitals, means.tolist(), strict=True))
        losses, norms = torch.stack(scalars).cpu().unbind(1)
        values |= {"loss": _median(losses), "gradient": _median(norms)}
        if not self.start:
            self.start = values | _measured(first)
        self.values = values
        return [trouble for cause in LIMITS if (trouble := self._judged(cause, done)) is not None]

    def _judged(self, cause: str, done: int) -> Trouble | None:
        limit, alarm = LIMITS[cause], getattr(self.options, cause)
        assert isinstance(alarm, Alarm)
        least = self.floor if limit.value == "loss" else 0.0
        seen, begun = (of.get(limit.value, math.nan) - least for of in (self.values, self.start))
        # a start of nothing sets no scale
        bound = alarm.at * {"start": begun if begun > 0 else math.nan, "reach": self.reach, "one": 1.0}[limit.to]
        # False where either is unknown, and for a loss below its floor (DCL's has none)
        wrong = seen > bound if limit.most else 0 <= seen < bound
        row = self._row[cause] = self._row.get(cause, 0) + 1 if wrong else 0
        if not wrong:
            self._well[cause] = done
        if row < self.options.patience or (alarm.action == "warn" and row > self.options.patience):
            return None
        what = f"{limit.what} above its least, {least:g}," if least else limit.what
        against = f"{begun:.3g} at the start" if limit.to == "start" else f"a limit of {bound:.3g}"
        reason = f"after {done} steps {what} is {seen:.3g}, against {against}, for {row} looks: {limit.advice}"
        self.alarms.append({"step": done, "cause": cause, "action": alarm.action, "reason": reason})
        return Trouble(cause, alarm.action, self._well.get(cause, 0), reason)

    @staticmethod
    def known(values: dict[str, float]) -> dict[str, float]:
        """Without what was too few or not finite."""
        return {k: v for k, v in values.items() if math.isfinite(v)}

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs to see and to do the same; tensors, numbers and strings."""
        return {
            "values": dict(self.values),
            "start": dict(self.start),
            "alarms": [dict(a) for a in self.alarms],
            "row": dict(self._row),
            "well": dict(self._well),
            "first": list(self._first),
            "held": list(self._held),
            "scalars": list(self._scalars),
        }

    def restore(self, state: dict[str, Any], device: torch.device) -> None:
        self.values, self.start = dict(state["values"]), dict(state["start"])
        self.alarms = [dict(a) for a in state["alarms"]]
        self._row, self._well = dict(state["row"]), dict(state["well"])
        self._first, self._held, self._scalars = (
            [t.to(device) for t in state[name]] for name in ("first", "held", "scalars")
        )


def _measured(rows: list[Tensor]) -> dict[str, float]:
    """`measure` of the finite rows of positive weight, the last column; {} where they are too few."""
    if not rows:
        return {}
    both = torch.cat(rows).cpu()
    z, weight = both[:, :-1], both[:, -1]
    z = z[(weight > 0) & z.isfinite().all(1)]
    return measure(z) if len(z) >= FEWEST else {}


def _median(values: Tensor) -> float:
    return values[values.isfinite()].median().item() if values.isfinite().any() else math.nan
