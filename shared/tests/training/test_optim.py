"""Parameter groups, the optimiser and its schedule."""

import itertools
import math

import pytest
import torch
from torch import nn

from unlabeled.core.contracts.recipe import Optimiser, Schedule
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
        (Schedule(name="constant", warmup=4), {0: 0.25, 3: 1.0, 50: 1.0, 99: 1.0}),
        (Schedule(name="constant"), {0: 1.0, 99: 1.0}),
    ],
)
def test_schedule_values_and_continuity(schedule: Schedule, at: dict[int, float]) -> None:
    values = [learning_rate(schedule, 1.0, s, 100) for s in range(100)]
    for step, value in at.items():
        assert values[step] == pytest.approx(value, abs=1e-12)
    # no jump is larger than the steepest slope: warm-up 1/warmup, decay 1/20, the cosine's pi/2 / 90
    steepest = max(1 / max(schedule.warmup, 1) if schedule.warmup else 0, 1 / 20, math.pi / 180)
    assert max(abs(b - a) for a, b in itertools.pairwise(values)) <= steepest + 1e-12
