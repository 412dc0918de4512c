"""MMC: its contract and oracles."""

import math
from dataclasses import replace

import pytest
import torch

from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.batch import Batch, Dense
from unlabeled.core.losses.contrastive import info_nce
from unlabeled.core.losses.patches import patch_contrast
from unlabeled.core.testing.method import CTX, MethodContract


class TestMMC(MethodContract):
    name = "mmc"
    shape = (8, 8)
    encoder = ("tokens", {"width": 16, "depth": 1, "heads": 2, "patch": (2, 2), "cls": True, "pool": "cls"})
    options = {
        "projector": (16, 8),
        "contrasted": 3,
        "mask": {"name": "boxes", "least": 2},
        "teacher": {"momentum": 0.9},
    }


def given(**options):
    """A method whose teacher is not that of the start, its views, and what the student and the teacher make of them."""
    m = TestMMC.method(**options).double()
    with torch.no_grad():
        for p in m.teacher.parameters():
            p.add_(0.1 * torch.randn_like(p))
    pair = m.on_batch(TestMMC.batch(), CTX)
    return m, pair, pair.views.encode(m.encoder, m.mask_token), m.teacher["encoder"].encode(pair.views.tokens)


def test_collapsed_it_is_the_logarithm_of_what_is_met():
    # all projections alike. Items 0, 1 | 4 to 7 count, records are 0 to 3 and 4 to 7: an item of the first record meets
    # itself and 4 others, one of the second itself and 2. Each has 3 hidden patches in each view, item 1, with 8 patches, too
    # (int(.3 * 8) = 2 and more: with a ratio of .5 they are 4): 3 (1 + 4) and 3 (1 + 2) patches are met
    m, pair, _, _ = given(mask_ratio=(0.5, 0.5))
    for module in (m.projector, m.patch_projector, m.teacher["projector"], m.teacher["patch_projector"]):
        torch.nn.init.zeros_(module.layers[-1].weight), torch.nn.init.ones_(module.layers[-1].bias)
    parts = m.step(pair, CTX)["parts"]
    assert set(parts) == {"item", "patches"}
    assert math.isclose(parts["item"].item(), (2 * math.log(5) + 4 * math.log(3)) / 6, abs_tol=1e-9)
    assert math.isclose(parts["patches"].item(), (2 * math.log(15) + 4 * math.log(9)) / 6, abs_tol=1e-9)
    m.options = m.options.model_copy(update={"same_record_negatives": True})
    parts = m.step(pair, CTX)["parts"]
    assert math.isclose(parts["item"].item(), math.log(6), abs_tol=1e-9)
    assert math.isclose(parts["patches"].item(), math.log(18), abs_tol=1e-9)


def test_the_terms_by_hand():
    m, pair, seen, whole = given(same_record_negatives=True)
    views = pair.views
    some = views.some(3)
    counts = some.there & (views.weight > 0)[:, None]
    there = views.weight > 0
    student = m.projector(seen.pooled, views.weight)
    teacher = m.teacher["projector"](whole.pooled, views.weight)
    first, second = slice(0, 8), slice(8, 16)
    item = sum(info_nce(student[a][there[a]], teacher[b][there[b]], 0.2) for a, b in ((first, second), (second, first)))
    unit = torch.nn.functional.normalize
    said, told = (
        unit(p(some.take(f.tokens)[counts]), dim=1)
        for p, f in ((m.patch_projector, seen), (m.teacher["patch_projector"], whole))
    )
    # 3 for each view of the six items that count
    assert len(said) == 36
    similarity = [s @ t.T / 0.2 for s, t in zip(said.split(18), told.split(18), strict=True)]
    patch = sum((s.logsumexp(1) - s.diagonal()).mean() for s in similarity)
    out = m.step(pair, CTX)
    torch.testing.assert_close(out["parts"]["item"], item / 2, rtol=0, atol=1e-12)
    torch.testing.assert_close(out["parts"]["patches"], patch / 2, rtol=0, atol=1e-12)
    torch.testing.assert_close(out["loss"], (item + patch) / 2, rtol=0, atol=1e-12)


def test_only_contrasted_hidden_patches_get_a_loss():
    m, pair, seen, _ = given()
    some = pair.views.some(3)
    assert some.at.shape == (16, 3)
    tokens = seen.tokens.detach().requires_grad_()
    _, patches = m.projected(m._student(), replace(seen, tokens=tokens), some)
    _, targets = m.projected(m.teacher, seen, some)
    weight = pair.views.weight.chunk(2)[0]
    sum(
        patch_contrast(z, t, 0.2, c, weight) for z, t, c in zip(patches, targets, some.there.chunk(2), strict=True)
    ).backward()
    counts = torch.zeros(16, 16, dtype=torch.bool).scatter(1, some.at, some.there) & (pair.views.weight > 0)[:, None]
    assert torch.equal(tokens.grad.abs().sum(-1) > 0, counts)


def test_a_batch_that_hides_nothing():
    m, pair, _, _ = given()
    pair = replace(pair, views=replace(pair.views, there=torch.zeros_like(pair.views.there)))
    out = m.step(pair, CTX)
    out["loss"].backward()
    assert out["parts"]["patches"] == 0 and out["loss"].isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in m.parameters())


def test_the_teacher_learns_nothing_by_gradient_and_follows():
    m, pair, _, _ = given()
    m.step(pair, CTX)["loss"].backward()
    assert all(p.grad is None for p in m.teacher.parameters())
    assert m.exported is m.encoder and m.mask_token.grad.norm() > 0
    before = m.teacher["patch_projector"].layers[0].weight.clone()
    student = m.patch_projector.layers[0].weight
    m.after_step(replace(CTX, step=0))
    torch.testing.assert_close(m.teacher["patch_projector"].layers[0].weight, 0.9 * before + 0.1 * student)


def test_it_needs_tokens():
    class ConvNet(TestMMC):
        encoder = ("convnet", {"channels": (8,), "kernels": (3,), "strides": (2,)})

    with pytest.raises(RequestError, match=r"method mmc: needs a token encoder, got ConvNet"):
        ConvNet.method()


def test_it_learns():
    # 16 items of a pattern and a record of their own, 3 patches each: all alike they cost log 16 and log 48
    m = TestMMC.method()
    optimiser = torch.optim.AdamW(m.parameters(), lr=1e-2)
    g = torch.Generator().manual_seed(0)
    values = torch.randn(16, 2, 1, 1, generator=g) + torch.randn(16, 2, 8, 8, generator=g)
    ids = torch.arange(16)
    x = Dense(values, torch.ones(16, 1, 8, 8, dtype=torch.bool), torch.ones(16, 2), whole=True)
    batch, found = Batch({"x": x}, ids, ids, ids, torch.ones(16), {}), []
    for epoch in range(60):
        ctx = replace(CTX, epoch=epoch, step=epoch, max_steps=60)
        out = m.step(m.on_batch(batch, ctx), ctx)
        optimiser.zero_grad()
        out["loss"].backward()
        optimiser.step()
        m.after_step(ctx)
        found.append([out["parts"]["item"].item(), out["parts"]["patches"].item()])
    item, patch = torch.tensor(found[-10:]).mean(0).tolist()
    assert item < 0.6 * math.log(16) and patch < 0.7 * math.log(48)
