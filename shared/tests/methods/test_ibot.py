"""iBOT: its contract and oracles."""

import math
from dataclasses import replace

import pytest
import torch

from unlabeled.core.contracts import RequestError
from unlabeled.core.data.loading import Collate
from unlabeled.core.methods.dino import DINO
from unlabeled.core.testing.method import CTX, MethodContract, noisy
from unlabeled.core.testing.ranks import assert_same, share, step_and_gradients

SMALL = {
    "prototypes": 32,
    "projector": (16, 8),
    "freeze_steps": 5,
    "warmup_steps": 10,
    "mask": {"name": "boxes", "least": 1},
    "teacher": {"momentum": 0.9},
}


class TestIBOT(MethodContract):
    name = "ibot"
    encoder = ("tokens", {"width": 16, "depth": 1, "heads": 2, "patch": (4,)})
    options = SMALL | {"local_crops": 2}
    local_views = True


class TestIBOTClassToken(MethodContract):
    """With a class token, and a head of its own for patches, on a plane."""

    name = "ibot"
    shape = (8, 8)
    encoder = ("tokens", {"width": 16, "depth": 1, "heads": 2, "patch": (2, 2), "cls": True, "pool": "cls"})
    options = SMALL | {"shared_head": False, "mask_ratio": (0.3, 0.3)}


def halved(batch, draw):
    """A small crop: the middle half, with noise."""
    x = batch.inputs["x"]
    crop = replace(x, values=x.values[..., 6:18], valid=x.valid[..., 6:18])
    return noisy(batch.with_inputs(x=crop), draw)


def made(like=TestIBOT, **options):
    m = like.method(**options).double()
    m.local_views = halved if like is TestIBOT else None
    return m


def given(like=TestIBOT, **options):
    """A method whose teacher and centres are not those of the start, and its crops."""
    m = made(like, **options)
    with torch.no_grad():
        m.center.copy_(torch.linspace(-0.1, 0.1, 32))
        m.patch_center.copy_(torch.linspace(0.2, -0.2, 32))
        for p in m.teacher.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return m, m.on_batch(like.batch(), CTX)


@pytest.mark.parametrize("like", [TestIBOT, TestIBOTClassToken])
def test_a_student_that_does_not_choose_costs_log_k(like):
    # 32 equal prototypes: log 32 for the item, and, where all crops hide something, for the patches
    m = made(like, mask_share=1.0)
    with torch.no_grad():
        for head in (m.head, m._student().get("patch_head", m.head)):
            head.prototypes.copy_(head.prototypes[:1].expand(32, -1))
    parts = m.step(m.on_batch(like.batch(), CTX), CTX)["parts"]
    assert set(parts) == {"dino", "patches"}
    assert parts["dino"].item() == pytest.approx(3.4657359, abs=1e-7)
    assert parts["patches"].item() == pytest.approx(3.4657359, abs=1e-7)


@pytest.mark.parametrize("like", [TestIBOT, TestIBOTClassToken])
def test_the_patch_loss_by_hand(like):
    m, crops = given(like, mask_share=0.6)
    large = crops.large
    head = m.head if like is TestIBOT else m.patch_head
    taught = m.teacher["head" if like is TestIBOT else "patch_head"]
    whole = m.teacher["encoder"].encode(large.tokens).tokens
    seen = large.encode(m.encoder, m.mask_token).tokens
    losses = []
    for r in (r for r in range(16) if large.weight[r] > 0):
        at = large.at[r][large.there[r]]
        # the temperature at step 3 of 10: .04 + .3 * .03
        target = ((taught(whole[r, at]) - m.patch_center) / 0.049).softmax(1)
        each = -(target * (head(seen[r, at]) / 0.1).log_softmax(1)).sum(1)
        losses.append(each.mean() if len(at) else each.sum())
    assert len(losses) == 12 and 0 < sum(loss == 0 for loss in losses) < 12
    out = m.step(crops, CTX)
    torch.testing.assert_close(out["parts"]["patches"], sum(losses) / 12, rtol=0, atol=1e-12)
    torch.testing.assert_close(out["loss"], out["parts"]["dino"] + out["parts"]["patches"], rtol=0, atol=1e-12)


def test_where_nothing_is_hidden_the_item_loss_is_dinos():
    # crops that hide nothing, and no centre: a DINO with the same weights has the same loss on the same crops
    m, _ = given()
    m.center.zero_()
    dino = DINO(
        m.encoder, m.specs, DINO.Options(**{k: v for k, v in SMALL.items() if k != "mask"}, local_crops=2), noisy
    )
    dino.local_views, dino.head, dino.teacher = halved, m.head, m.teacher
    dino = dino.double()
    crops = m.on_batch(TestIBOT.batch(), CTX)
    crops = replace(crops, large=replace(crops.large, there=torch.zeros_like(crops.large.there)))
    parts = m.step(crops, CTX)["parts"]
    expected = dino.step(dino.on_batch(TestIBOT.batch(), CTX), CTX)["loss"]
    torch.testing.assert_close(parts["dino"], expected, rtol=0, atol=1e-12)
    assert parts["patches"] == 0


def test_a_batch_that_hides_nothing_has_a_gradient_and_leaves_the_centre_of_patches():
    m, crops = given()
    crops = replace(crops, large=replace(crops.large, there=torch.zeros_like(crops.large.there)))
    before, centre = m.patch_center.clone(), m.center.clone()
    m.step(crops, CTX)["loss"].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in m.parameters())
    m.after_step(CTX)
    assert torch.equal(m.patch_center, before) and not torch.equal(m.center, centre)


def test_the_student_does_not_see_what_is_hidden_and_the_teacher_does():
    m, crops = given(mask_share=1.0)
    large = crops.large
    patches = large.tokens["x"].patches
    change = torch.zeros(16, 6, 1).double().scatter(1, large.at[..., None], large.there[..., None].double())
    spoiled = replace(large, tokens={"x": replace(large.tokens["x"], patches=patches + change)})
    seen, again = (x.encode(m.encoder, m.mask_token) for x in (large, spoiled))
    assert torch.equal(seen.tokens, again.tokens)
    whole, other = (m.teacher["encoder"].encode(x.tokens).tokens for x in (large, spoiled))
    assert not torch.allclose(whole, other)


def test_only_hidden_patches_get_a_loss():
    # the head's answer at the other places does not matter: features there have no gradient from the patch loss
    m, crops = given(mask_share=0.6, item=0.0)
    large = crops.large
    features = large.encode(m.encoder, m.mask_token)
    tokens = features.tokens.detach().requires_grad_()
    whole = m.teacher["encoder"].encode(large.tokens)
    terms, _ = m.terms(crops, replace(features, tokens=tokens), whole, CTX)
    terms["patches"][1].backward()
    counts = torch.zeros(16, 6, dtype=torch.bool).scatter(1, large.at, large.there) & (large.weight > 0)[:, None]
    assert torch.equal(tokens.grad.abs().sum(-1) > 0, counts) and counts.any() and not counts.all()


def test_how_much_is_hidden():
    # 6 patches, item 1 has 3 of them, items 2 and 3 have none. Of .1 to .5: one or two of 6 (int(6 * .5) = 3 is the end of
    # the range), one of 3
    m = made(mask_share=1.0)
    counts = torch.stack([m.on_batch(TestIBOT.batch(), replace(CTX, epoch=e)).large.there.sum(1) for e in range(40)])
    assert (counts[:, [2, 3, 10, 11]] == 0).all() and (counts[:, [1, 9]] == 1).all()
    rest = counts[:, [0, 4, 5, 6, 7, 8, 12, 13, 14, 15]]
    assert set(rest.unique().tolist()) == {1, 2}
    # int(6 r) is 2 from r = 1/3 on: (.5 - 1/3) / .4 = .417 of 400 draws, deviation .025
    assert (rest == 2).double().mean().item() == pytest.approx(0.417, abs=0.1)
    # the two crops of an item hide what they like, and half of all crops nothing: deviation .022
    assert not torch.equal(rest[:, :5], rest[:, 5:])
    m = made()
    counts = torch.stack([m.on_batch(TestIBOT.batch(), replace(CTX, epoch=e)).large.there.sum(1) for e in range(50)])[
        :, [0, 4, 5, 6, 7, 8, 12, 13, 14, 15]
    ]
    assert (counts == 0).double().mean().item() == pytest.approx(0.5, abs=0.1)


def test_the_centres_move_to_the_mean_of_what_the_teacher_put_out():
    # .1 of the way from 0: of both large crops of the six items that count, and of their hidden patches
    m = made(mask_share=0.6)
    crops = m.on_batch(TestIBOT.batch(), CTX)
    large = crops.large
    whole = m.teacher["encoder"].encode(large.tokens)
    m.step(crops, CTX)
    assert (m.center == 0).all() and (m.patch_center == 0).all()
    m.after_step(CTX)
    there = large.weight > 0
    items = m.teacher["head"](whole.pooled)[there].mean(0)
    patches = m.teacher["head"](large.take(whole.tokens))[large.there & there[:, None]].mean(0)
    torch.testing.assert_close(m.center, 0.1 * items, rtol=0, atol=1e-12)
    torch.testing.assert_close(m.patch_center, 0.1 * patches, rtol=0, atol=1e-12)


def test_a_batch_in_parts_moves_the_centres_as_a_whole_one():
    batch = TestIBOT.batch()
    batch.weight[1] = 0
    whole, parts = made(mask_share=0.6), made(mask_share=0.6)
    for m, of in ((whole, [batch]), (parts, batch.parts(2))):
        for part in of:
            m.step(m.on_batch(part, CTX), CTX)
        m.after_step(CTX)
    torch.testing.assert_close(parts.center, whole.center, rtol=0, atol=1e-12)
    torch.testing.assert_close(parts.patch_center, whole.patch_center, rtol=0, atol=1e-12)
    assert whole.couples == ""


def test_the_prototypes_of_both_heads_stay_at_first():
    m, crops = given(TestIBOTClassToken)
    for at, stays in ((0, True), (4, True), (5, False)):
        ctx = replace(CTX, step=at)
        m.zero_grad()
        m.step(crops, ctx)["loss"].backward()
        for head in (m.head, m.patch_head):
            assert head.prototypes.grad.norm() > 0
        m.after_backward(ctx)
        for head in (m.head, m.patch_head):
            assert (head.prototypes.grad is None) is stays


def test_the_teacher_follows_with_all_heads():
    for like, parts in ((TestIBOT, {"encoder", "head"}), (TestIBOTClassToken, {"encoder", "head", "patch_head"})):
        m = made(like)
        assert set(m.teacher.parts) == parts and m.exported is m.teacher["encoder"]
        before = [p.clone() for p in m.teacher.parameters()]
        with torch.no_grad():
            for module in m._student().values():
                for p in module.parameters():
                    p.add_(1)
        m.after_step(replace(CTX, step=0))
        assert all((p - b - 0.1).abs().max() < 1e-12 for p, b in zip(m.teacher.parameters(), before, strict=True))


def test_it_needs_tokens_and_a_head_that_can_be_shared():
    class ConvNet(TestIBOT):
        encoder = ("convnet", {"channels": (8,), "kernels": (3,), "strides": (2,)})

    class Wide(TestIBOT):
        encoder = ("tokens", {"width": 16, "depth": 1, "heads": 2, "patch": (4,), "pool": "mean_max"})

    with pytest.raises(RequestError, match=r"method ibot: needs a token encoder, got ConvNet"):
        ConvNet.method()
    with pytest.raises(RequestError, match=r"32 features and a patch's 16 cannot share a head; set method.shared_head"):
        Wide.method()
    assert Wide.method(shared_head=False).patch_head.projector.layers[0].in_features == 16


def on_rank():
    """With centres and a teacher of its own, so that they matter; the vital sign too."""
    m = made(mask_share=0.6)
    with torch.no_grad():
        m.center.copy_(torch.linspace(-0.1, 0.1, 32))
        m.patch_center.copy_(torch.linspace(0.2, -0.2, 32))
        for p in m.teacher.parameters():
            p.mul_(1.2)
    batch = share(TestIBOT.batch())
    vitals = m.step(m.on_batch(batch, CTX), CTX)["vitals"]
    m._put_out.clear()
    found = step_and_gradients(m, batch, CTX)
    m.after_step(CTX)
    return found | vitals | {"center": m.center.clone(), "patch_center": m.patch_center.clone()}


def test_two_ranks_equal_one(two_ranks):
    assert_same(two_ranks.run(f"{__file__}:on_rank"), on_rank(), tolerance=1e-9)


@pytest.mark.slow
def test_it_learns():
    # hidden patches are assigned by what is visible: at 32 prototypes, nearly all in use, well below the log of their number,
    # which is what a student pays that knows no more than how often each is chosen
    class Long(TestIBOT):
        options = SMALL | {"mask_share": 1.0, "freeze_steps": 0}

    m, found = Long.method(), []
    optimiser = torch.optim.AdamW(m.parameters(), lr=3e-3)
    source = Long.source()
    batch = Collate(source.specs)([source.sample(i) for i in range(32)])
    for epoch in range(100):
        ctx = replace(CTX, epoch=epoch, step=epoch, max_steps=100)
        out = m.step(m.on_batch(batch, ctx), ctx)
        optimiser.zero_grad()
        out["loss"].backward()
        optimiser.step()
        m.after_step(ctx)
        found.append([out["parts"]["patches"].item(), out["vitals"]["prototype_use"].item()])
    loss, use = torch.tensor(found[-10:]).mean(0).tolist()
    assert use > 0.7 and loss < 0.75 * math.log(32 * use)
