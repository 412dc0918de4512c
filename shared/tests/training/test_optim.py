"""Parameter groups, the optimiser and its schedule."""

import itertools
import math
from typing import Literal

import pytest
import torch
from torch import nn

from unlabeled.core.contracts.recipe import Optimiser, Schedule
from unlabeled.core.methods.base import Context
from unlabeled.core.training.optim import adamw, learning_rate, parameter_groups


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Linear(3, 4)  # a patch embedding: decayed, whatever its module is called
        self.norm = nn.LayerNorm(4)
        self.conv = nn.Conv1d(4, 4, 3)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, 4))
        self.table = nn.Embedding(5, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


def test_only_matrices_and_kernels_decay() -> None:
    net = Net()
    decayed, free = parameter_groups(net, 0.05)
    names = {id(p): name for name, p in net.named_parameters()}
    assert {names[id(p)] for p in decayed["params"]} == {"tokens.weight", "conv.weight"}
    assert {names[id(p)] for p in free["params"]} == {
        "tokens.bias", "norm.weight", "norm.bias", "conv.bias", "cls_token", "pos_embed", "table.weight",
    }  # fmt: skip
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.05, 0.0)


def test_decay_alone_shrinks_by_lr_times_decay() -> None:
    # AdamW with zero gradient: w <- w (1 - lr * decay) = w (1 - 0.1 * 0.5) for matrices, unchanged for the rest
    net = nn.Linear(2, 2)
    optimiser = adamw(net, Optimiser(lr=0.1, weight_decay=0.5))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimiser.step()
    torch.testing.assert_close(net.weight.data, before["weight"] * 0.95, rtol=1e-6, atol=0)
    assert torch.equal(net.bias.data, before["bias"])
    assert optimiser.defaults["fused"]


@pytest.mark.parametrize(
    ("schedule", "at"),
    [
        # cosine: peak at the end of warm-up, then half a cosine over 90 steps: half the peak after 45, 0 at the end
        (Schedule(name="cosine", warmup=10), {0: 0.1, 9: 1.0, 54: 0.5, 99: 0.0}),
        # wsd: flat until 20 steps are left, then down by 1/20 a step to 0
        (Schedule(name="wsd", warmup=10, decay=20), {0: 0.1, 9: 1.0, 79: 1.0, 80: 19 / 20, 98: 1 / 20, 99: 0.0}),
        # infinite: up over 10 steps, half a cosine over 20 down to a half (3/4 after 10), level until 20 steps are left, then
        # by the factor (.01 / .5)^(1/20) a step: (.005)^(1/2) = .0707 after 10, .01 at the end
        (
            Schedule(name="infinite", warmup=10, cooldown=20, decay=20, constant=0.5),
            {0: 0.1, 9: 1.0, 19: 0.75, 29: 0.5, 79: 0.5, 89: 0.0707106781187, 99: 0.01},
        ),
        (Schedule(name="constant", warmup=4), {0: 0.25, 3: 1.0, 50: 1.0, 99: 1.0}),
        (Schedule(name="constant"), {0: 1.0, 99: 1.0}),
    ],
)
def test_schedule_values_and_continuity(schedule: Schedule, at: dict[int, float]) -> None:
    values = [learning_rate(schedule, 1.0, s, 100) for s in range(100)]
    for step, value in at.items():
        assert values[step] == pytest.approx(value, abs=1e-12)
    # no jump is larger than the steepest slope: warm-up 1/warmup, decay 1/20, the cosine's pi/2 / 90
    # the last part of an infinite schedule falls by a factor of .82, from a half
    falls = 0.5 * (1 - 0.02 ** (1 / 20)) if schedule.name == "infinite" else 0
    steepest = max(1 / max(schedule.warmup, 1) if schedule.warmup else 0, 1 / 20, math.pi / 180, falls)
    assert max(abs(b - a) for a, b in itertools.pairwise(values)) <= steepest + 1e-12


@pytest.mark.parametrize("name", ["wsd", "infinite"])
def test_until_its_decay_a_branching_schedule_knows_no_end(name: Literal["wsd", "infinite"]) -> None:
    schedule = Schedule(name=name, warmup=10, cooldown=10, decay=20)
    rates = {total: [learning_rate(schedule, 1.0, s, total) for s in range(total)] for total in (60, 100, 1000)}
    assert rates[60][:40] == rates[100][:40] == rates[1000][:40] and rates[100][:80] == rates[1000][:80]
    assert rates[60][40] < rates[100][40]
    assert [schedule.trunk(total) for total in (60, 100, 1000)] == [40, 80, 980]
    # what moves over a run (a teacher's momentum, the weight decay) stands still until then, and moves over the decay
    for total in (60, 100):
        moved = [Context(0, s, 0, total, schedule.trunk(total)).progress for s in range(total)]
        assert moved[: total - 19] == [0.0] * (total - 19) and moved[-1] == 1
        assert moved[total - 10] == pytest.approx(10 / 19)


def test_other_schedules_move_over_the_whole_run() -> None:
    for name in ("cosine", "constant"):
        schedule = Schedule(name=name, decay=20)
        assert schedule.trunk(100) == 0 and not schedule.branches
        assert [Context(0, s, 0, 100, schedule.trunk(100)).progress for s in (0, 33, 99)] == [0, 1 / 3, 1]
