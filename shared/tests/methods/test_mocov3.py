"""MoCo v3."""

import math
from dataclasses import replace

import pytest
import torch

from unlabeled.core.methods.base import unchanged
from unlabeled.core.testing.learning import descent
from unlabeled.core.testing.method import CTX, MethodContract


class TestMoCoV3(MethodContract):
    name = "mocov3"
    encoder = ("tokens", {"width": 16, "depth": 1, "heads": 2, "patch": (4,)})
    options = {"projector": (12, 12, 8), "predictor": 12, "teacher": {"momentum": 0.9}}


class TestMoCoV3ConvNet(MethodContract):
    name = "mocov3"
    encoder = ("convnet", {"channels": (8, 12), "kernels": (5, 3), "strides": (2, 2)})
    options = {"projector": (12, 8), "predictor": 12, "same_record_negatives": True}


def made(like=TestMoCoV3, **options):
    return like.method(**options).double()


def test_collapsed_keys_cost_log_n():
    # a norm makes zeros of equal rows, whose cosines are all 0: twice 2 t log 6, as 6 of 8 items count
    m = made(temperature=0.3, same_record_negatives=True)
    torch.nn.init.zeros_(m.teacher["projector"].layers[-1].weight)
    loss = m.step(m.on_batch(TestMoCoV3.batch(), CTX), CTX)["loss"].item()
    assert loss == pytest.approx(2 * 0.6 * math.log(6), abs=1e-12)


@pytest.mark.parametrize("like", [TestMoCoV3, TestMoCoV3ConvNet])
def test_each_view_predicts_the_other_of_the_teacher(like):
    # cross-entropy of the cosines over t with the item's own key, over the 6 items that count; records 0, 0 and 1 four
    # times: without negatives of the record the first two meet 4 others and the last four meet 2
    m = made(like, temperature=0.4).eval()
    with torch.no_grad():
        for p in m.teacher.parameters():
            p.add_(0.1 * torch.randn_like(p))
    views = m.on_batch(like.batch(), CTX)
    there = views[0].weight > 0
    q = [m.predictor(m.projector(m.encoder(v.inputs).pooled))[there] for v in views]
    k = [m.teacher["projector"](m.teacher["encoder"](v.inputs).pooled)[there] for v in views]
    record = views[0].record[there]
    far = torch.ones(6, 6, dtype=torch.bool) if like is TestMoCoV3ConvNet else record[:, None] != record
    keep = far | torch.eye(6, dtype=torch.bool)
    total = 0
    for query, key in ((q[0], k[1]), (q[1], k[0])):
        cosine = torch.nn.functional.cosine_similarity(query[:, None], key[None], dim=2) / 0.4
        logits = cosine.masked_fill(~keep, -torch.inf)
        total = total + 2 * 0.4 * torch.nn.functional.cross_entropy(logits, torch.arange(6))
    torch.testing.assert_close(m.step(views, CTX)["loss"], total, rtol=0, atol=1e-12)


def test_patches_are_projected_as_at_the_start():
    m = made()
    m.step(m.on_batch(TestMoCoV3.batch(), CTX), CTX)["loss"].backward()
    frozen = {name for name, p in m.encoder.named_parameters() if not p.requires_grad}
    assert frozen == {"project.x.weight", "project.x.bias"}
    assert all(p.grad.norm() > 0 for p in m.encoder.transformer.parameters() if p.grad is not None)
    assert all(p.requires_grad for p in made(freeze_patches=False).encoder.parameters())
    # an encoder without patches learns whole
    assert all(p.requires_grad for p in made(TestMoCoV3ConvNet).encoder.parameters())


def test_the_teacher_follows_and_learns_nothing():
    m = made()
    m.views = unchanged
    before = [p.clone() for p in m.teacher.parameters()]
    out = m.step(m.on_batch(TestMoCoV3.batch(), CTX), CTX)
    assert out["vitals"]["teacher_gap"] == 0
    out["loss"].backward()
    assert all(p.grad is None for p in m.teacher.parameters())
    with torch.no_grad():
        for p in (*m.encoder.parameters(), *m.projector.parameters()):
            p.add_(1)
    m.after_step(replace(CTX, step=0))
    moved = zip(m.teacher.parameters(), before, strict=True)
    assert all((after - first - 0.1).abs().max() < 1e-12 for after, first in moved)
    assert m.exported is m.encoder and "negative" in m.couples


def test_it_learns_to_tell_items_apart():
    losses = descent(made(), TestMoCoV3.batch(), 60)
    assert sum(losses[-10:]) < 0.75 * sum(losses[:10])
