"""MoCo v2."""

import math
from dataclasses import replace

import pytest
import torch

from unlabeled.core.losses.contrastive import queue_nce
from unlabeled.core.methods.base import unchanged
from unlabeled.core.testing.learning import descent
from unlabeled.core.testing.method import CTX, MethodContract
from unlabeled.core.testing.ranks import assert_same, share


class TestMoCo(MethodContract):
    name = "moco"
    encoder = ("convnet", {"channels": (8, 12), "kernels": (5, 3), "strides": (2, 2)})
    options = {"projector": (12, 8), "queue": 20}


class TestMoCoTokens(MethodContract):
    name = "moco"
    encoder = ("tokens", {"width": 16, "depth": 1, "heads": 2, "patch": (4,)})
    options = {
        "projector": (12, 8),
        "queue": 13,
        "same_record_negatives": True,
        "teacher": {"momentum": 0.9, "final_momentum": 1.0},
    }


def made(like=TestMoCo, **options):
    return like.method(**options).double()


def stepped(m, batch, ctx=CTX):
    out = m.step(m.on_batch(batch, ctx), ctx)
    m.after_step(ctx)
    return out


def test_the_first_step_has_no_negatives_and_the_loss_grows_with_the_queue():
    # equal weights and constant projections: log(1 + the keys in the queue), of which 6 of 8 count at every step
    m = made(same_record_negatives=True)
    for part in (m.projector, m.teacher["projector"]):
        torch.nn.init.zeros_(part.layers[-1].weight)
        torch.nn.init.ones_(part.layers[-1].bias)
    losses = [stepped(m, TestMoCo.batch())["loss"].item() for _ in range(5)]
    expected = [math.log(1 + n) for n in (0, 6, 12, 18, 20)]
    assert losses == pytest.approx(expected, abs=1e-12)


def test_former_keys_of_a_record_are_no_negatives():
    # as above, but the items 0 and 1 are of the record 0 and the items 4 to 7 of the record 1
    m = made()
    for part in (m.projector, m.teacher["projector"]):
        torch.nn.init.zeros_(part.layers[-1].weight)
        torch.nn.init.ones_(part.layers[-1].bias)
    losses = [stepped(m, TestMoCo.batch())["loss"].item() for _ in range(3)]
    # after one step 2 items meet 4 keys, and 4 items meet 2; after another one twice as many
    expected = [0, *((2 * math.log(1 + 4 * n) + 4 * math.log(1 + 2 * n)) / 6 for n in (1, 2))]
    assert losses == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("like", [TestMoCo, TestMoCoTokens])
def test_the_query_is_the_students_and_the_keys_are_the_teachers(like):
    m = made(like, temperature=0.3)
    with torch.no_grad():
        for p in m.teacher.parameters():
            p.add_(0.1 * torch.randn_like(p))
    stepped(m, TestMoCo.batch())
    m.eval()
    views = m.on_batch(TestMoCo.batch(), CTX)
    query = m.projector(m.encoder(views[0].inputs).pooled)
    key = m.teacher["projector"](m.teacher["encoder"](views[1].inputs).pooled)
    met = m.queue.valid.expand(8, -1)
    if like is TestMoCo:
        met = met & (views[0].record[:, None] != m.records.rows[:, 0])
    # the queue holds records 0, 0 and 1 four times: four queries of record 0, two of which count, and four of record 1
    assert met.sum() == (4 * 4 + 4 * 2 if like is TestMoCo else 8 * 6)
    expected = queue_nce(query, key, m.queue.rows, met, 0.3, views[0].weight)
    out = m.step(views, CTX)
    torch.testing.assert_close(out["loss"], expected, rtol=0, atol=1e-12)
    # the queue moves after the step: the keys of the items that count, of length 1, behind the first six
    before = m.queue.rows.clone()
    m.after_step(CTX)
    assert torch.equal(m.queue.rows[:6], before[:6]) and m.queue.place == 12 and m.queue.valid.sum() == 12
    torch.testing.assert_close(m.queue.rows[6:12], torch.nn.functional.normalize(key[views[0].weight > 0]).detach())
    assert m.records.rows[:12, 0].tolist() == [0, 0, 1, 1, 1, 1] * 2


def test_a_batch_in_parts_gives_the_queue_of_a_whole_one():
    whole, parts = made(TestMoCoTokens), made(TestMoCoTokens)
    for m, given in ((whole, [TestMoCo.batch()]), (parts, TestMoCo.batch().parts(2))):
        for part in given:
            m.step(m.on_batch(part, CTX), CTX)
        m.after_step(CTX)
    torch.testing.assert_close(parts.queue.rows, whole.queue.rows, rtol=0, atol=1e-12)
    assert torch.equal(parts.queue.valid, whole.queue.valid) and whole.couples == ""


def test_the_teacher_follows_by_a_thousandth_and_learns_nothing():
    m = made()
    m.views = unchanged
    before = [p.clone() for p in m.teacher.parameters()]
    assert stepped(m, TestMoCo.batch())["vitals"]["teacher_gap"] == 0
    m.step(m.on_batch(TestMoCo.batch(), CTX), CTX)["loss"].backward()
    assert all(p.grad is None for p in m.teacher.parameters())
    with torch.no_grad():
        for p in (*m.encoder.parameters(), *m.projector.parameters()):
            p.add_(1)
    # at any step of the run
    m.after_step(replace(CTX, step=CTX.max_steps - 1))
    moved = zip(m.teacher.parameters(), before, strict=True)
    assert all((after - first - 0.001).abs().max() < 1e-12 for after, first in moved)
    assert m.exported is m.encoder


def on_rank():
    """The third of three steps, with a full queue, and what is in it."""
    m = made(queue=10)
    batch = share(TestMoCo.batch())
    losses = [stepped(m, batch, replace(CTX, step=s))["loss"].detach() for s in range(3)]
    return {"losses": torch.stack(losses)} | {name: b.clone() for name, b in m.named_buffers()}


def test_two_ranks_equal_one_with_a_full_queue(two_ranks):
    alone = on_rank()
    assert alone["queue.valid"].all() and alone["losses"][2] > 1
    assert_same(two_ranks.run(f"{__file__}:on_rank"), alone, tolerance=1e-9)


def test_it_learns_to_tell_items_from_the_queue():
    # a full queue of the items' keys, without those of the own record, and views drawn anew at every step
    m = made()
    for _ in range(4):
        stepped(m, TestMoCo.batch())
    losses = descent(m, TestMoCo.batch(), 60)
    assert sum(losses[-10:]) < 0.85 * sum(losses[:10])
