"""DINO."""

from dataclasses import replace

import pytest
import torch

from unlabeled.core.contracts import RequestError
from unlabeled.core.methods.dino import DINO, prototype_use
from unlabeled.core.testing.method import CTX, MethodContract, noisy
from unlabeled.core.testing.ranks import assert_same, share, step_and_gradients


class TestDINO(MethodContract):
    name = "dino"
    encoder = ("tokens", {"width": 16, "depth": 1, "heads": 2, "patch": (4,)})
    options = {
        "prototypes": 32,
        "projector": (16, 8),
        "local_crops": 2,
        "freeze_steps": 5,
        "warmup_steps": 10,
        "teacher": {"momentum": 0.9},
    }
    local_views = True


class TestDINOConvNet(MethodContract):
    name = "dino"
    encoder = ("convnet", {"channels": (8, 12), "kernels": (5, 3), "strides": (2, 2)})
    options = {"prototypes": 32, "projector": (16, 8), "freeze_steps": 2}


def halved(batch, draw):
    """A small crop: the middle half, with noise."""
    x = batch.inputs["x"]
    crop = replace(x, values=x.values[..., 6:18], valid=x.valid[..., 6:18])
    return noisy(batch.with_inputs(x=crop), draw)


def made(like=TestDINO, **options):
    m = like.method(**options).double()
    m.local_views = halved
    return m


def step(m, ctx=CTX):
    return m.step(m.on_batch(TestDINO.batch(), ctx), ctx)


@pytest.mark.parametrize("like", [TestDINO, TestDINOConvNet])
def test_a_student_that_does_not_choose_costs_log_k(like):
    # 32 equal prototypes: log 32, whatever the teacher chooses, on large and small crops
    m = made(like, local_crops=3)
    with torch.no_grad():
        m.head.prototypes.copy_(m.head.prototypes[:1].expand(32, -1))
    assert step(m)["loss"].item() == pytest.approx(3.4657359, abs=1e-7)


def test_outputs_are_cosines_with_the_prototypes():
    m = made()
    x = torch.randn(4, 16, dtype=torch.float64)
    logits = m.head(x)
    cosines = torch.nn.functional.cosine_similarity(m.head.projector(x)[:, None], m.head.prototypes[None], dim=2)
    torch.testing.assert_close(logits, cosines, rtol=0, atol=1e-12)
    with torch.no_grad():
        m.head.prototypes.mul_(3)
    torch.testing.assert_close(m.head(x), logits, rtol=0, atol=1e-12)


def test_the_loss_over_pairs_of_different_crops():
    m = made().eval()
    with torch.no_grad():
        m.center.copy_(torch.linspace(-0.1, 0.1, 32))
        for p in m.teacher.parameters():
            p.add_(0.1 * torch.randn_like(p))
    wide, small = m.on_batch(TestDINO.batch(), CTX)
    there = wide[0].weight > 0
    student = [m.head(m.encoder(v.inputs).pooled)[there] for v in wide + small]
    teacher = [m.teacher["head"](m.teacher["encoder"](v.inputs).pooled)[there] for v in wide]
    # the temperature at step 3 of 10: .04 + .3 * .03
    targets = [((t - m.center) / 0.049).softmax(1) for t in teacher]
    logs = [(s / 0.1).log_softmax(1) for s in student]
    pairs = [(0, 1), (0, 2), (0, 3), (1, 0), (1, 2), (1, 3)]
    expected = sum(-(targets[t] * logs[s]).sum(1).mean() for t, s in pairs) / 6
    torch.testing.assert_close(m.step((wide, small), CTX)["loss"], expected, rtol=0, atol=1e-12)


def test_the_centre_moves_to_the_mean_of_the_teachers_outputs():
    # of the six items that count and of the large crops only; .1 of the way from 0
    found = []
    for local_crops in (0, 2):
        m = made(local_crops=local_crops).eval()
        wide, small = m.on_batch(TestDINO.batch(), CTX)
        outputs = [m.teacher["head"](m.teacher["encoder"](v.inputs).pooled) for v in wide]
        m.step((wide, small), CTX)
        assert (m.center == 0).all()
        m.after_step(CTX)
        mean = torch.cat([o[wide[0].weight > 0] for o in outputs]).mean(0)
        torch.testing.assert_close(m.center, 0.1 * mean, rtol=0, atol=1e-12)
        found.append(m.center)
    assert torch.equal(*found)


def test_a_batch_in_parts_moves_the_centre_as_a_whole_one():
    # one row counts in the first part and four in the second
    batch = TestDINO.batch()
    batch.weight[1] = 0
    whole, parts = made(), made()
    for m, given in ((whole, [batch]), (parts, batch.parts(2))):
        for part in given:
            m.step(m.on_batch(part, CTX), CTX)
        m.after_step(CTX)
    torch.testing.assert_close(parts.center, whole.center, rtol=0, atol=1e-12)
    assert whole.couples == ""


def test_the_prototypes_stay_at_first():
    m = made()
    for at, stays in ((0, True), (4, True), (5, False)):
        ctx = replace(CTX, step=at)
        m.zero_grad()
        step(m, ctx)["loss"].backward()
        assert m.head.prototypes.grad.norm() > 0
        m.after_backward(ctx)
        assert (m.head.prototypes.grad is None) is stays
        assert m.head.projector.layers[0].weight.grad.norm() > 0


def test_the_teachers_temperature_rises():
    m = made()
    found = [m.temperature(replace(CTX, step=s)) for s in (0, 5, 10, 100)]
    assert found == pytest.approx([0.04, 0.055, 0.07, 0.07])


def test_the_teacher_is_exported_and_follows():
    m = made()
    assert step(m)["vitals"]["teacher_gap"] == 0
    assert m.exported is m.teacher["encoder"] is not m.encoder
    before = [p.clone() for p in m.exported.parameters()]
    with torch.no_grad():
        for p in m.encoder.parameters():
            p.add_(1)
    m.after_step(replace(CTX, step=0))
    assert all((p - b - 0.1).abs().max() < 1e-12 for p, b in zip(m.exported.parameters(), before, strict=True))
    assert step(m)["vitals"]["teacher_gap"] > 0.1
    assert all(p.grad is None and not p.requires_grad for p in m.teacher.parameters())


def test_prototype_use():
    # all alike: 1; one: 1 / K; a half of them: 1 / 2
    assert prototype_use(torch.full((8,), 3.0)).item() == pytest.approx(1)
    assert prototype_use(torch.eye(8)[2] * 5).item() == pytest.approx(1 / 8)
    assert prototype_use(torch.tensor([2.0, 2, 0, 0])).item() == pytest.approx(0.5)
    m = made()
    with torch.no_grad():
        m.teacher["head"].prototypes.copy_(m.head.prototypes[:1].expand(32, -1))
    assert step(m)["vitals"]["prototype_use"].item() == pytest.approx(1, abs=1e-9)
    m.center[1:] = 100
    assert step(m)["vitals"]["prototype_use"].item() == pytest.approx(1 / 32, abs=1e-9)


def test_centring_is_easily_left_out():
    class Uncentred(DINO):
        def recentre(self, mean):
            pass

    m = made()
    bare = Uncentred(m.encoder, m.specs, m.options, m.views).double()
    bare.local_views = halved
    step(bare)
    bare.after_step(CTX)
    assert (bare.center == 0).all()


def test_small_crops_need_their_views():
    m = made()
    m.local_views = None
    with pytest.raises(RequestError, match=r"local_crops is 2 but the recipe has no local_views; add them or set"):
        m.on_batch(TestDINO.batch(), CTX)


def on_rank():
    """With a centre and a teacher of its own, so that both matter; the vital sign too."""
    m = made()
    with torch.no_grad():
        m.center.copy_(torch.linspace(-0.1, 0.1, 32))
        for p in m.teacher.parameters():
            p.mul_(1.2)
    batch = share(TestDINO.batch())
    vitals = m.step(m.on_batch(batch, CTX), CTX)["vitals"]
    m._outputs.clear()
    found = step_and_gradients(m, batch, CTX)
    m.after_step(CTX)
    return found | vitals | {"center": m.center.clone()}


def test_two_ranks_equal_one(two_ranks):
    assert_same(two_ranks.run(f"{__file__}:on_rank"), on_rank(), tolerance=1e-9)
