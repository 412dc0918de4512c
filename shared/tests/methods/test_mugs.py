"""Mugs."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from unlabeled.core.losses.distillation import dino
from unlabeled.core.methods.mugs import LocalGroup, nearest_rows
from unlabeled.core.testing.method import CTX, MethodContract
from unlabeled.core.testing.ranks import assert_same, share, step_and_gradients


class TestMugs(MethodContract):
    name = "mugs"
    encoder = ("tokens", {"width": 16, "depth": 1, "heads": 2, "patch": (4,)})
    options = {
        "prototypes": 32,
        "projector": (16, 8),
        "local_crops": 1,
        "freeze_steps": 2,
        "warmup_steps": 10,
        "embedding": (12, 8),
        "predictor": 12,
        "queue": 20,
        "neighbours": 3,
        "heads": 2,
        "teacher": {"momentum": 0.9},
    }
    local_views = True


class TestMugsConvNet(MethodContract):
    name = "mugs"
    encoder = ("convnet", {"channels": (8, 12), "kernels": (5, 3), "strides": (2, 2)})
    options = TestMugs.options | {"local_crops": 0}


def filled(like=TestMugs, records=range(100, 116), **options):
    """With 16 of 20 places of every queue taken, by rows of other records, and a teacher of its own."""
    m = like.method(**options).double()
    m.local_views = like.views
    generator = torch.Generator().manual_seed(1)
    for name, queue in m.queues.items():
        rows = torch.randn(16, queue.rows.shape[1], dtype=torch.float64, generator=generator)
        rows = F.normalize(rows, dim=1) if name in ("instance", "local_group") else rows
        queue.rows[:16] = torch.tensor(list(records))[:, None] if name == "record" else rows
        queue.valid[:16] = True
        queue.place.fill_(16)
    with torch.no_grad():
        for p in m.teacher.parameters():
            p.add_(0.1 * torch.randn(p.shape, dtype=p.dtype, generator=generator))
    return m


def step(m, batch=None):
    return m.step(m.on_batch(TestMugs.batch() if batch is None else batch, CTX), CTX)


@pytest.mark.parametrize("like", [TestMugs, TestMugsConvNet])
def test_collapsed_projections_cost_log_of_what_they_meet(like):
    # every query, key and row of the queue alike: log(1 + 16), on the item and on its neighbourhood
    m = filled(like)
    for parts in (m.predictors, m.projectors, m.teacher["projectors"]):
        for part in parts.values():
            torch.nn.init.zeros_(part.layers[-1].weight)
            torch.nn.init.ones_(part.layers[-1].bias)
    for name in ("instance", "local_group"):
        m.queues[name].rows[:16] = 8**-0.5
    with torch.no_grad():
        m.head.prototypes.copy_(m.head.prototypes[:1].expand(32, -1))
    parts = step(m)["parts"]
    assert parts["instance"].item() == pytest.approx(math.log(17), abs=1e-12)
    assert parts["local_group"].item() == pytest.approx(math.log(17), abs=1e-12)
    # and a student that does not choose among 32 groups pays log 32
    assert parts["group"].item() == pytest.approx(3.4657359, abs=1e-7)


def test_without_queues_there_is_nothing_to_be_told_from():
    # all rows invalid: only the positive is left, at no cost, whatever the rows hold
    m = filled()
    for queue in m.queues.values():
        queue.valid[:] = False
    parts = step(m)["parts"]
    assert parts["instance"].abs() < 1e-12 and parts["local_group"].abs() < 1e-12 and parts["group"] > 0.1


def test_an_items_own_record_is_neither_negative_nor_neighbour():
    # the first 4 items have record 0, the others 1; of the queue 6 rows are of record 0, so as if they were not there
    kin = [0] * 6 + list(range(100, 110))
    there, gone = (filled(records=kin, same_record=False) for _ in range(2))
    for queue in gone.queues.values():
        queue.valid[:6] = False
    first = TestMugs.batch()
    first.weight[4:] = 0
    everybody = filled(records=kin, same_record=True)
    found = [step(m, first)["parts"] for m in (there, gone, everybody)]
    for name in ("instance", "local_group"):
        torch.testing.assert_close(found[0][name], found[1][name], rtol=0, atol=1e-12)
        assert (found[0][name] - found[2][name]).abs() > 1e-3
    second = TestMugs.batch()
    second.weight[:4] = 0
    assert (step(there, second)["parts"]["instance"] - step(gone, second)["parts"]["instance"]).abs() > 1e-3


def test_the_neighbours_are_those_of_brute_force():
    generator = torch.Generator().manual_seed(0)
    x, rows = (torch.randn(n, 5, dtype=torch.float64, generator=generator) for n in (7, 40))
    met = torch.rand(7, 40, generator=generator) > 0.4
    met[0, 3:] = False
    near, there = nearest_rows(x, rows, met, 8)
    for i in range(7):
        cosines = {k: F.cosine_similarity(x[i], rows[k], dim=0).item() for k in range(40) if met[i, k]}
        wanted = sorted(cosines, key=cosines.get, reverse=True)[:8]
        assert near[i, : len(wanted)].tolist() == wanted
        assert there[i].tolist() == [True] * len(wanted) + [False] * (8 - len(wanted))
    assert there[0].sum() <= 3
    # a memory of fewer rows than asked for gives them all
    assert nearest_rows(x, rows[:4], met[:, :4], 8)[0].shape == (7, 4)


def test_a_neighbourhood_is_read_at_the_items_own_place():
    group = LocalGroup(6, 2, 2, 3).double()
    x, rows = torch.randn(4, 6, dtype=torch.float64), torch.randn(9, 6, dtype=torch.float64)
    met = torch.ones(4, 9, dtype=torch.bool)
    near, _ = nearest_rows(x, rows, met, 3)
    alone = [group.transformer(torch.cat([x[i : i + 1], rows[near[i]]])[None], None)[0, 0] for i in range(4)]
    torch.testing.assert_close(group(x, rows, met), torch.stack(alone), rtol=0, atol=1e-12)
    # rows that are not among the nearest change nothing, such as longer ones of the same direction
    moved = rows.clone()
    moved[[k for k in range(9) if k not in near[0].tolist()]] *= 3
    torch.testing.assert_close(group(x, moved, met)[0], alone[0], rtol=0, atol=1e-12)
    # with no neighbour at all it is the item by itself, whatever the rows hold
    none = group(x, rows, torch.zeros_like(met))
    torch.testing.assert_close(none, group.transformer(x[:, None], None)[:, 0], rtol=0, atol=1e-12)


def test_the_terms_by_their_definition():
    m = filled().eval()
    wide, small = m.on_batch(TestMugs.batch(), CTX)
    there = wide[0].weight > 0
    pooled = [m.encoder(v.inputs).pooled for v in wide + small]
    seen = [m.teacher["encoder"](v.inputs).pooled for v in wide]
    met = m.queues["record"].valid.expand(8, -1)
    around = [m.neighbourhood(x, m.queues["student"].rows, met) for x in pooled]
    near = [m.teacher["neighbourhood"](x, m.queues["teacher"].rows, met) for x in seen]
    out = m.step((wide, small), CTX)
    for name, student, teacher in (("instance", pooled, seen), ("local_group", around, near)):
        says = [m.predictors[name](F.normalize(m.projectors[name](x), dim=1)) for x in student]
        keys = [F.normalize(m.teacher["projectors"][name](x), dim=1) for x in teacher]
        rows = m.queues[name].rows[:16]
        losses = []
        for t, s in [(0, 1), (0, 2), (1, 0), (1, 2)]:
            query = F.normalize(says[s], dim=1)
            logits = torch.cat([(query * keys[t]).sum(1, keepdim=True), query @ rows.T], 1) / 0.2
            losses.append(F.cross_entropy(logits, torch.zeros(8, dtype=torch.int64), reduction="none")[there].mean())
        torch.testing.assert_close(out["parts"][name], sum(losses) / 4, rtol=0, atol=1e-9)
    targets = [((m.teacher["head"](x) - m.center) / m.temperature(CTX)).softmax(1) for x in seen]
    group = dino([m.head(x) for x in pooled], targets, 0.1, wide[0].weight)
    torch.testing.assert_close(out["parts"]["group"], group, rtol=0, atol=1e-12)
    torch.testing.assert_close(out["loss"], sum(out["parts"].values()), rtol=0, atol=1e-12)
    weighed = filled(instance=2.0, local_group=0.0, group=3.0).eval().step((wide, small), CTX)
    wanted = 2 * out["parts"]["instance"] + 3 * out["parts"]["group"]
    torch.testing.assert_close(weighed["loss"], wanted, rtol=0, atol=1e-12)


def test_what_enters_the_queues_is_the_first_crop_of_the_items_that_count():
    m = TestMugs.method().double().eval()
    m.local_views = TestMugs.views
    wide, small = m.on_batch(TestMugs.batch(), CTX)
    there = wide[0].weight > 0
    pooled = m.encoder(wide[0].inputs).pooled
    m.step((wide, small), CTX)
    assert not any(queue.valid.any() for queue in m.queues.values())
    key = F.normalize(m.teacher["projectors"]["instance"](pooled), dim=1)
    m.after_step(CTX)
    found = {name: queue.rows[:6].double() for name, queue in m.queues.items()}
    assert all(queue.valid.sum() == 6 for queue in m.queues.values())
    torch.testing.assert_close(found["student"], pooled[there], rtol=0, atol=1e-12)
    torch.testing.assert_close(found["teacher"], pooled[there], rtol=0, atol=1e-12)  # at first they are one
    torch.testing.assert_close(found["instance"], key[there], rtol=0, atol=1e-12)
    assert found["record"][:, 0].tolist() == wide[0].record[there].tolist()


def test_a_batch_in_parts_fills_the_queues_as_a_whole_one():
    batch = TestMugs.batch()
    whole, parts = filled(), filled()
    for m, given in ((whole, [batch]), (parts, batch.parts(2))):
        for part in given:
            m.step(m.on_batch(part, CTX), CTX)
        m.after_step(CTX)
    for name, queue in whole.queues.items():
        torch.testing.assert_close(parts.queues[name].rows, queue.rows, rtol=0, atol=1e-12)
    assert whole.couples == ""


def test_every_part_learns_and_follows():
    m = filled(freeze_steps=0)
    step(m)["loss"].backward()
    for name, part in m._student().items():
        assert all(p.grad is not None and p.grad.norm() > 0 for p in part.parameters() if p.requires_grad), name
    assert all(p.grad.norm() > 0 for p in m.predictors.parameters())
    assert m.exported is m.teacher["encoder"]
    before = m.teacher["neighbourhood"].transformer.norm.weight.clone()
    with torch.no_grad():
        m.neighbourhood.transformer.norm.weight.add_(1)
    m.after_step(replace(CTX, step=0))
    assert (m.teacher["neighbourhood"].transformer.norm.weight - before).abs().min() > 0.05


def on_rank():
    """With queues that hold rows, so that all terms count; and what the queues are after the step."""
    m = filled()
    found = step_and_gradients(m, share(TestMugs.batch()), CTX)
    m.after_step(CTX)
    return found | {f"{name} rows": queue.rows.clone() for name, queue in m.queues.items()}


def test_two_ranks_equal_one(two_ranks):
    assert_same(two_ranks.run(f"{__file__}:on_rank"), on_rank(), tolerance=1e-9)
