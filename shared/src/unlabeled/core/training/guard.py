"""The guard against non-finite values: a step that meets one changes nothing, on all ranks together."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_

from unlabeled.core import ranks


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
    names   of the parameters that got a gradient in the last step
    norms   (P,) their gradients' norms, on this rank
    saw     0-d, whether this rank itself met the bad value
    """

    def __init__(self, module: nn.Module, optimiser: torch.optim.Optimizer, clip: float | None = None) -> None:
        self.module, self.optimiser, self.clip = module, optimiser, clip
        self.counts = torch.zeros(3, dtype=torch.int64)
        self.names: list[str] = []
        self.norms = torch.zeros(0)
        self.saw = torch.tensor(False)
        self._called = {id(p): name for name, p in module.named_parameters()}
        self._held: dict[str, Tensor] = {}

    @torch.no_grad()
    def hold(self) -> None:
        """Before the step: remember what the optimiser does not own."""
        self._held = {name: t.clone() for name, t in _unlearned(self.module).items()}

    @torch.no_grad()
    def judge(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        """After backward: (gradient norm before clipping, bad), both 0-d; tells the optimiser."""
        learned = [p for group in self.optimiser.param_groups for p in group["params"] if p.grad is not None]
        self.names = [self._called[id(p)] for p in learned]
        # one norm per parameter, since a norm that is not finite names the parameter
        self.norms = torch.stack([n.to(loss.device) for n in torch._foreach_norm([p.grad for p in learned])])
        norm = torch.linalg.vector_norm(self.norms)
        self.saw = ~(loss.isfinite() & norm.isfinite())
        bad = ranks.agree(self.saw)
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
        if bad.device.type == "cpu" and not bad:  # there the answer is known, and asking waits for nobody
            self._held = {}
            return
        for name, t in _unlearned(self.module).items():
            t.copy_(torch.where(bad, self._held[name], t))
        self._held = {}
