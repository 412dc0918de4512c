"""The guard against non-finite values: a step that meets one changes nothing, on all ranks together."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from unlabeled.core import ranks
from unlabeled.core.contracts import RunFailed


def _unlearned(module: nn.Module) -> dict[str, Tensor]:
    """State that the optimiser does not own: buffers (running moments, queues, tables) and frozen parameters."""
    frozen = {name: p for name, p in module.named_parameters() if not p.requires_grad}
    return frozen | dict(module.named_buffers())


class Guard:
    """Decides on the device, without waiting for it, whether a step counts.

    Bad is a loss or a gradient that is not finite (or a gradient norm that overflows) on any rank. The fused optimiser
    then leaves weights, moments and counters untouched (its `found_inf`), and `release` puts back what the forward pass
    and the hooks have changed: a NaN would stay in running moments, queues and teachers for ever.

    counts  (3,) int64 on the device: steps skipped in all, in a row until now, and in the longest row
    """

    def __init__(
        self, module: nn.Module, optimiser: torch.optim.Optimizer, max_skipped: int, clip: float | None = None
    ) -> None:
        self.module, self.optimiser, self.max_skipped, self.clip = module, optimiser, max_skipped, clip
        self.counts = torch.zeros(3, dtype=torch.int64)
        self._held: dict[str, Tensor] = {}

    @torch.no_grad()
    def hold(self) -> None:
        """Before the step: remember what the optimiser does not own."""
        self._held = {name: t.clone() for name, t in _unlearned(self.module).items()}

    @torch.no_grad()
    def judge(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        """After backward: (gradient norm before clipping, bad), both 0-d; tells the optimiser."""
        learned = [p for group in self.optimiser.param_groups for p in group["params"] if p.grad is not None]
        norm = get_total_norm([p.grad for p in learned]).to(loss.device)
        bad = ranks.agree(~(loss.isfinite() & norm.isfinite()))
        if self.clip is not None:
            clip_grads_with_norm_(learned, self.clip, norm)
        self.optimiser.found_inf = bad.float()  # type: ignore[attr-defined]  # read by fused steps
        total, row, longest = self.counts.to(loss.device).unbind()
        row = (row + 1) * bad
        self.counts = torch.stack([total + bad, row, torch.maximum(longest, row)])
        return norm, bad

    @torch.no_grad()
    def release(self, bad: Tensor) -> None:
        """After the step: put back what was held where the step is bad."""
        for name, t in _unlearned(self.module).items():
            t.copy_(torch.where(bad, self._held[name], t))
        self._held = {}

    def check(self, step: int) -> None:
        """Look at the counts (waits for the device). Raises RunFailed after too many bad steps in a row."""
        longest = int(self.counts[2])
        if longest > self.max_skipped:
            raise RunFailed(
                f"{longest} steps in a row up to step {step} had a loss or gradient that is not finite; lower "
                "optimiser.lr, set optimiser.clip, or look for extreme values in the data with `inspect`"
            )
