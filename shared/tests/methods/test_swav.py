"""SwAV."""

import warnings
from dataclasses import replace

import pytest
import torch

from unlabeled.core.contracts import RequestError
from unlabeled.core.losses.sinkhorn import sinkhorn
from unlabeled.core.methods.swav import SwAV
from unlabeled.core.testing.method import CTX, FAILED, MethodContract, noisy
from unlabeled.core.testing.ranks import assert_same, share, step_and_gradients


class TestSwAV(MethodContract):
    name = "swav"
    encoder = ("convnet", {"channels": (8, 12), "kernels": (5, 3), "strides": (2, 2)})
    options = {
        "prototypes": 16,
        "projector": (16, 8),
        "local_crops": 2,
        "freeze_steps": 5,
        "queue": 12,
        "queue_from": 8,
    }
    local_views = True


def halved(batch, draw):
    """A small crop: the middle half, with noise."""
    x = batch.inputs["x"]
    crop = replace(x, values=x.values[..., 6:18], valid=x.valid[..., 6:18])
    return noisy(batch.with_inputs(x=crop), draw)


def made(**options):
    m = TestSwAV.method(**options).double()
    m.local_views = halved
    return m


def step(m, ctx=CTX, batch=None):
    return m.step(m.on_batch(TestSwAV.batch() if batch is None else batch, ctx), ctx)


def scores(m, batch, ctx=CTX):
    """Of every crop, one by one through the encoder (whose norms are fixed) and together through the projector."""
    wide, small = m.on_batch(batch, ctx)
    pooled = [m.encoder(v.inputs).pooled for v in wide + small]
    z = torch.nn.functional.normalize(m.projector(torch.cat(pooled), batch.weight.repeat(len(pooled))), dim=1)
    return (z @ m.prototypes.T).chunk(len(pooled)), z.chunk(len(pooled))


def test_equal_prototypes_cost_log_k():
    # 16 equal prototypes: log 16, whatever is assigned
    m = made(local_crops=3)
    with torch.no_grad():
        m.prototypes.copy_(m.prototypes[:1].expand(16, -1))
    assert step(m)["loss"].item() == pytest.approx(2.7725887, abs=1e-7)


@pytest.mark.parametrize("queued", [False, True])
def test_lightly_agrees(queued):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lightly.loss import SwaVLoss
    m = made(queue_from=0).eval()
    batch = TestSwAV.batch()
    x = batch.inputs["x"]
    batch = replace(batch.with_inputs(x=replace(x, valid=torch.ones_like(x.valid))), weight=torch.ones(8))
    if queued:
        g = torch.Generator().manual_seed(0)
        for queue in m.queues:
            rows = torch.nn.functional.normalize(torch.randn(12, 8, generator=g, dtype=torch.float64), dim=1)
            queue.put(rows, torch.ones(12))
    found, _ = scores(m, batch)
    former = [queue.rows @ m.prototypes.T for queue in m.queues] if queued else None
    theirs = SwaVLoss()(list(found[:2]), list(found[2:]), former)
    torch.testing.assert_close(step(m, batch=batch)["loss"], theirs[0], rtol=0, atol=1e-10)


def test_the_loss_over_pairs_of_different_crops():
    # of the six items that count, against the definition: -sum q log p, q of a global crop and p of any other one
    m = made().eval()
    batch = TestSwAV.batch()
    there = batch.weight > 0
    found = [s[there] for s in scores(m, batch)[0]]
    targets = [sinkhorn(s, 0.05, 3) for s in found[:2]]
    logs = [(s / 0.1).log_softmax(1) for s in found]
    pairs = [(0, 1), (0, 2), (0, 3), (1, 0), (1, 2), (1, 3)]
    expected = sum(-(targets[t] * logs[s]).sum(1).mean() for t, s in pairs) / 6
    torch.testing.assert_close(step(m)["loss"], expected, rtol=0, atol=1e-12)


def test_targets_have_no_gradient():
    # with targets held fast the gradient is the same
    m = made()
    found = step_and_gradients(m, TestSwAV.batch(), CTX)
    targets = iter([])

    class Fixed(SwAV):
        def assign(self, scores, weight):
            return next(targets)

    given = []

    class Kept(SwAV):
        def assign(self, scores, weight):
            given.append(super().assign(scores, weight).detach().clone())
            return given[-1]

    again = []
    for kind in (Kept, Fixed):
        m = made()
        m.__class__ = kind
        targets = iter(given)
        again.append(step_and_gradients(m, TestSwAV.batch(), CTX))
    assert len(given) == 2
    assert_same(again, found, tolerance=1e-12)


def test_prototypes_stay_at_first_and_keep_their_length():
    m = made()
    for at, stays in ((0, True), (4, True), (5, False)):
        ctx = replace(CTX, step=at)
        m.zero_grad()
        step(m, ctx)["loss"].backward()
        assert m.prototypes.grad.norm() > 0
        m.after_backward(ctx)
        assert (m.prototypes.grad is None) is stays
        assert m.projector.layers[0].weight.grad.norm() > 0
    m.after_step(CTX)
    with torch.no_grad():
        before = m.prototypes.clone()
        m.prototypes.mul_(torch.arange(1, 17)[:, None])
    m.after_step(CTX)
    torch.testing.assert_close(m.prototypes.detach(), before, rtol=0, atol=1e-12)


def test_the_queue_holds_the_projections_of_former_global_crops():
    m = made(queue_from=2).eval()
    batch = TestSwAV.batch()
    there = batch.weight > 0
    expected = [[], []]
    for at in range(4):
        ctx = replace(CTX, step=at)
        _, z = scores(m, batch, ctx)
        step(m, ctx)
        m.after_step(ctx)
        if at >= 2:
            for queue, rows, view in zip(m.queues, expected, z[:2], strict=True):
                rows.append(view[there])
                assert torch.equal(queue.valid.sum(), torch.tensor(6 * (at - 1)))
        else:
            assert not any(queue.valid.any() for queue in m.queues)
    for queue, rows in zip(m.queues, expected, strict=True):
        torch.testing.assert_close(queue.rows, torch.cat(rows).detach(), rtol=0, atol=1e-12)


def test_the_queue_is_shared_out_too():
    # six former rows count (other views of the items), the six free places do not, and no row that failed
    m = made(queue_from=0).eval()
    batch = TestSwAV.batch()
    there = batch.weight > 0
    ctx = replace(CTX, step=2, epoch=0)
    step(m, ctx)
    m.after_step(ctx)
    found = [s[there] for s in scores(m, batch)[0]]
    targets = [
        sinkhorn(torch.cat([s, queue.rows[:6] @ m.prototypes.T]), 0.05, 3)[:6]
        for s, queue in zip(found[:2], m.queues, strict=True)
    ]
    logs = [(s / 0.1).log_softmax(1) for s in found]
    pairs = [(0, 1), (0, 2), (0, 3), (1, 0), (1, 2), (1, 3)]
    expected = sum(-(targets[t] * logs[s]).sum(1).mean() for t, s in pairs) / 6
    assert (targets[0] - sinkhorn(found[0], 0.05, 3)).abs().max() > 0.01
    torch.testing.assert_close(step(m)["loss"], expected, rtol=0, atol=1e-12)


def test_sinkhorn_is_easily_left_out_and_the_vital_sign_tells():
    class Bare(SwAV):
        def assign(self, scores, weight):
            return (scores / self.options.sinkhorn_temperature).softmax(1)

    # all items like prototype 0 best, by far: by their scores alone it takes all, and then 1 of 16 is in use
    found = {}
    for kind in (SwAV, Bare):
        m = made(freeze_steps=0)
        m.__class__ = kind
        with torch.no_grad():
            m.projector.layers[-1].weight.zero_()
            m.projector.layers[-1].bias.copy_(m.prototypes[0])
            m.prototypes[1:] = -m.prototypes[0]
        found[kind] = step(m)
        assert found[kind]["vitals"]["prototype_use"].item() == pytest.approx(1 / 16, abs=1e-9)
    # to agree on prototype 0 costs nothing; with Sinkhorn 15 of 16 items' shares are another's, whose margin is 2 / .1
    assert found[Bare]["loss"].item() < 1e-6
    assert found[SwAV]["loss"].item() == pytest.approx(20 * 15 / 16, abs=1e-6)


def test_small_crops_need_their_views():
    m = made()
    m.local_views = None
    with pytest.raises(RequestError, match="local_crops is 2 but the recipe has no local_views"):
        m.on_batch(TestSwAV.batch(), CTX)


def test_one_pass_for_each_size():
    m = made()
    calls = []
    m.encoder.register_forward_pre_hook(lambda module, args: calls.append(args[0]["x"].values.shape[::2]))
    step(m)
    assert calls == [(16, 24), (16, 12)]


def on_rank(spoiled):
    """The second step, whose queue is half full."""
    m = made(queue_from=0)
    batch = TestSwAV.batch()
    if spoiled:
        batch.inputs["x"].values[FAILED] = torch.nan
    batch = share(batch)
    first = replace(CTX, step=2, epoch=0)
    m.step(m.on_batch(batch, first), first)
    m.after_step(first)
    vitals = m.step(m.on_batch(batch, CTX), CTX)["vitals"]
    return step_and_gradients(m, batch, CTX) | vitals


def test_two_ranks_equal_one(two_ranks):
    alone = on_rank(False)
    assert alone["buffer queues.0.valid"].sum() == 6
    assert_same(two_ranks.run(f"{__file__}:on_rank", False), alone, tolerance=1e-9)
    assert_same([on_rank(True)], alone, tolerance=1e-12)
