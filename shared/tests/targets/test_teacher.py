"""The EMA teacher: what it keeps, how far it follows, and that nothing flows back."""

import pytest
import torch
from torch import nn

from unlabeled.core.schedules import momentum, passed
from unlabeled.core.targets.teacher import Teacher


def student():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_it_starts_equal_and_gets_no_gradient():
    net = student()
    teacher = Teacher(Teacher.Options(), net=net)
    x = torch.randn(5, 3)
    torch.testing.assert_close(teacher["net"](x), net(x))
    assert not any(p.requires_grad for p in teacher.parameters())
    assert teacher.gap(net=net).item() == 0


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_momentum_is_the_share_that_stays(share):
    net = student()
    teacher = Teacher(Teacher.Options(momentum=share, final_momentum=share), net=net)
    before = net[0].weight.detach().clone()
    with torch.no_grad():
        net[0].weight.add_(1)
    teacher.follow(0.0, net=net)
    # m * w + (1 - m) * (w + 1) = w + 1 - m
    torch.testing.assert_close(teacher["net"][0].weight, before + 1 - share)


def test_the_gap_is_relative_to_the_student():
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 2.0)
    teacher = Teacher(Teacher.Options(), net=net)
    nn.init.constant_(net.weight, 4.0)
    assert teacher.gap(net=net).item() == pytest.approx(0.5)  # |2 - 4| / 4


def test_running_moments_are_its_own():
    net = student()
    teacher = Teacher(Teacher.Options(momentum=0.0, final_momentum=0.0), net=net)
    net(torch.randn(8, 3) + 5)
    teacher.follow(0.0, net=net)
    assert teacher["net"][1].running_mean.abs().max() == 0
    assert net[1].running_mean.abs().max() > 0


def test_momentum_schedules():
    # half way a cosine and a line are both in the middle; a quarter of the way cosine has made (1 - cos(pi/4)) / 2
    for kind in ("cosine", "linear"):
        assert momentum(passed(0, 101), 0.9, 1.0, kind) == pytest.approx(0.9)
        assert momentum(passed(50, 101), 0.9, 1.0, kind) == pytest.approx(0.95)
        assert momentum(passed(100, 101), 0.9, 1.0, kind) == 1.0
    assert momentum(passed(25, 101), 0.0, 1.0, "cosine") == pytest.approx(0.14644661)
    assert momentum(passed(25, 101), 0.0, 1.0, "linear") == pytest.approx(0.25)
    assert momentum(passed(0, 1), 0.9, 1.0) == pytest.approx(0.9)
