"""BYOL."""

from dataclasses import replace

import torch

from unlabeled.core.losses.distillation import regression
from unlabeled.core.methods.base import unchanged
from unlabeled.core.methods.byol import BYOL
from unlabeled.core.testing.method import CTX, MethodContract


class TestBYOL(MethodContract):
    name = "byol"
    encoder = ("convnet", {"channels": (8, 12), "kernels": (5, 3), "strides": (2, 2)})
    options = {"projector": (12, 8), "predictor": 12}


class TestBYOLTokens(MethodContract):
    name = "byol"
    encoder = ("tokens", {"width": 16, "depth": 1, "heads": 2, "patch": (4,)})
    options = {"projector": (12, 8), "predictor": 12, "teacher": {"momentum": 0.9}}


class Unpredicted(BYOL):
    def predict(self, z, weight):
        return z


class Unstopped(BYOL):
    def targets(self, views):
        return list(self.project(views)[1:])


def made(kind, like=TestBYOL, **options):
    m = like.method(**options)
    return kind(m.encoder, m.specs, m.options, m.views).double()


def test_equal_views_and_no_predictor_agree():
    # the teacher is the student at the first step: 2 - 2 cos = 0 twice; with noise it is not
    m = made(Unpredicted)
    views = m.on_batch(TestBYOL.batch(), CTX)
    assert m.step(views, CTX)["loss"] > 0.01
    m.views = unchanged
    assert m.step(m.on_batch(TestBYOL.batch(), CTX), CTX)["loss"].abs() < 1e-12


def test_an_opposite_predictor_costs_eight():
    # 2 - 2 cos = 4 for each of the two views
    class Opposed(BYOL):
        def predict(self, z, weight):
            return -z

    m = made(Opposed)
    m.views = unchanged
    assert abs(m.step(m.on_batch(TestBYOL.batch(), CTX), CTX)["loss"].item() - 8) < 1e-12


def test_each_view_predicts_the_other_of_the_teacher():
    m = TestBYOLTokens.method().double().eval()
    with torch.no_grad():
        for p in m.teacher.parameters():
            p.add_(0.1 * torch.randn_like(p))
    views = m.on_batch(TestBYOLTokens.batch(), CTX)
    student = [m.predictor(m.projector(m.encoder(v.inputs).pooled)) for v in views]
    teacher = [m.teacher["projector"](m.teacher["encoder"](v.inputs).pooled) for v in views]
    weight = views[0].weight
    expected = regression(student[0], teacher[1], weight) + regression(student[1], teacher[0], weight)
    torch.testing.assert_close(m.step(views, CTX)["loss"], expected, rtol=0, atol=1e-12)


def test_the_teacher_follows_and_learns_nothing():
    m = TestBYOLTokens.method().double()
    before = [p.clone() for p in m.teacher.parameters()]
    out = m.step(m.on_batch(TestBYOLTokens.batch(), CTX), CTX)
    assert out["vitals"]["teacher_gap"] == 0
    out["loss"].backward()
    assert all(p.grad is None for p in m.teacher.parameters())
    with torch.no_grad():
        for p in (*m.encoder.parameters(), *m.projector.parameters()):
            p.add_(1)
    m.after_step(replace(CTX, step=0))
    # m = .9 at the first step: a tenth of the way, which was 1
    moved = zip(m.teacher.parameters(), before, strict=True)
    assert all((after - first - 0.1).abs().max() < 1e-12 for after, first in moved)
    assert m.step(m.on_batch(TestBYOLTokens.batch(), CTX), CTX)["vitals"]["teacher_gap"] > 0.1
    assert m.exported is m.encoder and m.couples


def test_without_the_stopped_gradient_the_encoder_learns_from_the_targets_too():
    # at equal weights the loss is the same and the gradient is not
    stopped, free = made(BYOL), made(Unstopped)
    free.load_state_dict(stopped.state_dict())
    views = stopped.on_batch(TestBYOL.batch(), CTX)
    losses = [m.step(views, CTX)["loss"] for m in (stopped, free)]
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-12)
    first, second = (
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, m.encoder.parameters())])
        for loss, m in zip(losses, (stopped, free), strict=True)
    )
    assert (first - second).norm() > 0.1 * first.norm()
