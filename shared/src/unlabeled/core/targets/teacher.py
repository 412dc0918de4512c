"""The EMA teacher (Tarvainen and Valpola 2017, Mean teachers; Grill et al. 2020, BYOL, section 3.1)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from unlabeled.core.schedules import momentum


class Teacher(nn.Module):
    """A copy of modules of the student that follows them slowly and gets no gradient: `teacher["encoder"](x)`.

    Parameters are mixed by `follow` after every optimiser step; buffers (running moments) are the teacher's own. They
    are frozen parameters, so that checkpoints hold them and the guard puts them back after a skipped step.
    """

    class Options(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")

        momentum: float = Field(0.996, ge=0, le=1, description="share of the teacher that stays, at the first step")
        final_momentum: float = Field(1.0, ge=0, le=1, description="and at the last step")
        schedule: Literal["cosine", "linear"] = Field("cosine", description="from the first to the last")

    def __init__(self, options: Options, **student: nn.Module) -> None:
        super().__init__()
        self.options = options
        self.parts = nn.ModuleDict({name: copy.deepcopy(module) for name, module in student.items()})
        self.requires_grad_(False)

    def __getitem__(self, name: str) -> Any:
        return self.parts[name]

    @torch.no_grad()
    def follow(self, progress: float, **student: nn.Module) -> None:
        """teacher <- m * teacher + (1 - m) * student, with m at this progress of the run, from 0 to 1."""
        o = self.options
        share = 1.0 - momentum(progress, o.momentum, o.final_momentum, o.schedule)
        slow, fast = self._pairs(student)
        torch._foreach_lerp_(slow, fast, share)

    @torch.no_grad()
    def gap(self, **student: nn.Module) -> Tensor:
        """Distance to the student over the student's norm, 0-d: a vital sign, 0 where both are equal."""
        slow, fast = self._pairs(student)
        apart = get_total_norm([a - b for a, b in zip(slow, fast, strict=True)])
        size = get_total_norm(fast)
        return apart / size.clamp_min(torch.finfo(size.dtype).tiny)

    def _pairs(self, student: Mapping[str, nn.Module]) -> tuple[list[Tensor], list[Tensor]]:
        slow: list[Tensor] = [p for name in student for p in self.parts[name].parameters()]
        return slow, [p for module in student.values() for p in module.parameters()]
