"""DINOv2: its contract and oracles."""

import math
from dataclasses import replace

import pytest
import torch

from unlabeled.core.losses.koleo import koleo
from unlabeled.core.losses.sinkhorn import sinkhorn
from unlabeled.core.methods.ibot import IBOT
from unlabeled.core.testing.method import CTX, MethodContract, noisy
from unlabeled.core.testing.ranks import assert_same, share, step_and_gradients


class TestDINOv2(MethodContract):
    name = "dinov2"
    encoder = ("tokens", {"width": 16, "depth": 1, "heads": 2, "patch": (4,), "cls": True, "pool": "cls"})
    options = {
        "prototypes": 32,
        "projector": (16, 8),
        "local_crops": 1,
        "freeze_steps": 5,
        "warmup_steps": 10,
        "mask": {"name": "boxes", "least": 1},
        "teacher": {"momentum": 0.9},
    }
    local_views = True


def made(**options):
    return TestDINOv2.method(**options).double()


def given(**options):
    """A method whose teacher is not that of the start, its crops, and what the teacher and the student make of them."""
    m = made(**options)
    with torch.no_grad():
        for p in m.teacher.parameters():
            p.add_(0.1 * torch.randn_like(p))
    crops = m.on_batch(TestDINOv2.batch(), CTX)
    whole = m.teacher["encoder"].encode(crops.large.tokens)
    return m, crops, whole, crops.large.encode(m.encoder, m.mask_token)


def test_a_student_that_does_not_choose_costs_log_k():
    # 32 equal prototypes in each head; the assignments of Sinkhorn sum to 1: log 32 for items and for patches
    m = made(mask_share=1.0)
    with torch.no_grad():
        for head in (m.head, m.patch_head):
            head.prototypes.copy_(head.prototypes[:1].expand(32, -1))
    parts = m.step(m.on_batch(TestDINOv2.batch(), CTX), CTX)["parts"]
    assert set(parts) == {"dino", "patches", "koleo"}
    assert parts["dino"].item() == pytest.approx(3.4657359, abs=1e-7)
    assert parts["patches"].item() == pytest.approx(3.4657359, abs=1e-7)


def test_the_terms_by_hand():
    m, crops, whole, seen = given(mask_share=0.6, local_crops=0)
    large = crops.large
    there = large.weight > 0
    # over the 12 crops that count at once; the temperature at step 3 of 10: .04 + .3 * .03
    items = sinkhorn(m.teacher["head"](whole.pooled)[there], 0.049, 3)
    logs = (m.head(seen.pooled)[there] / 0.1).log_softmax(1)
    item = -(items[:6] * logs[6:] + items[6:] * logs[:6]).sum(1).mean() / 2
    # over all their hidden patches at once
    hides = large.there & there[:, None]
    patches = sinkhorn(m.teacher["patch_head"](large.take(whole.tokens)[hides]), 0.049, 3)
    said = (m.patch_head(large.take(seen.tokens)[hides]) / 0.1).log_softmax(1)
    each = torch.zeros(16, 3, dtype=torch.float64).masked_scatter(hides, -(patches * said).sum(1))
    patch = (each.sum(1) / hides.sum(1).clamp_min(1)).sum() / 12
    # of both crops by themselves
    apart = sum(koleo(z[:8][there[:8]]) for z in seen.pooled.split(8))
    out = m.step(crops, CTX)
    torch.testing.assert_close(out["parts"]["dino"], item, rtol=0, atol=1e-12)
    torch.testing.assert_close(out["parts"]["patches"], patch, rtol=0, atol=1e-12)
    torch.testing.assert_close(out["parts"]["koleo"], apart, rtol=0, atol=1e-12)
    torch.testing.assert_close(out["loss"], item + patch + 0.1 * apart, rtol=0, atol=1e-12)


def test_items_of_orthonormal_features_cost_log_sqrt_2_less():
    # 6 items that count, on 6 axes, in each of the two crops: 2 * -log sqrt(2) = -.6931472
    m, crops, whole, seen = given()
    axes = torch.zeros(8, 16, dtype=torch.float64)
    axes[crops.large.weight[:8] > 0] = torch.eye(6, 16, dtype=torch.float64)
    terms, _ = m.terms(crops, replace(seen, pooled=axes.repeat(2, 1)), whole, CTX)
    assert terms["koleo"][0] == 0.1 and math.isclose(terms["koleo"][1].item(), -0.6931472, abs_tol=1e-7)


def test_a_student_that_is_sure_and_right_pays_next_to_nothing():
    # 32 rows with a prototype each: Sinkhorn changes nothing of softmax(1 / .049), which is e^(-1 / .049) = 1.37e-9 beside it;
    # a student with logits of 100 apart pays 100 for each of the 31 others
    m, _, _, _ = given()
    one = torch.eye(32, dtype=torch.float64)
    assigned = m.targets("center", one, torch.ones(32), CTX)
    assert math.isclose(assigned[0, 1].item(), 1.3704e-9, rel_tol=1e-4)
    paid = -(assigned * (10 * one / 0.1).log_softmax(1)).sum(1)
    assert math.isclose(paid.max().item(), 31 * 100 * 1.3704e-9, rel_tol=1e-4)


def test_items_and_patches_are_shared_out_evenly():
    # 3 iterations: a row sums to 1, and of many rows no prototype gets most, whatever the teacher prefers
    m, _, _, _ = given()
    g = torch.Generator().manual_seed(0)
    outputs = 0.1 * torch.randn(256, 32, generator=g, dtype=torch.float64)
    outputs[:, 3] += 0.5
    weight = torch.ones(256)
    weight[200:] = 0
    assigned = m.targets("patch_center", outputs, weight, CTX)
    torch.testing.assert_close(assigned[:200].sum(1), torch.ones(200, dtype=torch.float64))
    assert (assigned[200:] == 0).all()
    assert assigned.sum(0).max() < 1.5 * 200 / 32
    # without it the preferred one gets nearly all
    assert (outputs[:200] / 0.049).softmax(1).sum(0)[3] > 0.9 * 200


def test_with_centres_and_a_shared_head_it_is_ibot_and_koleo():
    m = made(centring="mean", shared_head=True, koleo=0.0)
    options = {k: v for k, v in TestDINOv2.options.items() if k != "koleo"}
    ibot = IBOT(m.encoder, m.specs, IBOT.Options(**options), noisy)
    ibot.local_views, ibot.head, ibot.teacher, ibot.mask_token = noisy, m.head, m.teacher, m.mask_token
    ibot = ibot.double()
    found = [x.step(x.on_batch(TestDINOv2.batch(), CTX), CTX)["loss"] for x in (m, ibot)]
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)
    m.after_step(CTX)
    assert m.center.norm() > 0 and m.patch_center.norm() > 0
    sinkhorned = made()
    sinkhorned.step(sinkhorned.on_batch(TestDINOv2.batch(), CTX), CTX)
    sinkhorned.after_step(CTX)
    assert (sinkhorned.center == 0).all() and (sinkhorned.patch_center == 0).all()


def test_a_batch_that_hides_nothing():
    m, crops, _, _ = given()
    crops = replace(crops, large=replace(crops.large, there=torch.zeros_like(crops.large.there)))
    out = m.step(crops, CTX)
    out["loss"].backward()
    assert out["parts"]["patches"] == 0 and out["loss"].isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in m.parameters())


def test_duplicates_have_a_finite_gradient():
    # all items alike, so that all features are: -log 1e-4 for each crop
    batch = TestDINOv2.batch()
    x = batch.inputs["x"]
    alike = replace(x, values=x.values[:1].expand(8, -1, -1).clone(), valid=x.valid[:1].expand(8, -1, -1).clone())
    m = made()
    m.views = lambda batch, draw: batch
    crops = m.on_batch(batch.with_inputs(x=alike), CTX)
    crops = replace(crops, large=replace(crops.large, there=torch.zeros_like(crops.large.there)))
    out = m.step(crops, CTX)
    assert out["parts"]["koleo"].item() == pytest.approx(2 * 9.2103404, rel=1e-6)
    out["loss"].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in m.parameters())


def on_rank():
    m = made(mask_share=0.6)
    with torch.no_grad():
        for p in m.teacher.parameters():
            p.mul_(1.2)
    batch = share(TestDINOv2.batch())
    vitals = m.step(m.on_batch(batch, CTX), CTX)["vitals"]
    return step_and_gradients(m, batch, CTX) | vitals


def test_two_ranks_equal_one(two_ranks):
    assert_same(two_ranks.run(f"{__file__}:on_rank"), on_rank(), tolerance=1e-9)
