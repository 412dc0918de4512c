"""SiT: its contract and oracles."""

import math
from dataclasses import replace

import pytest
import torch

from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.batch import Batch, Dense
from unlabeled.core.testing.method import CTX, MethodContract


class TestSiT(MethodContract):
    name = "sit"
    shape = (16, 16)
    encoder = ("tokens", {"width": 16, "depth": 1, "heads": 2, "patch": (4, 4), "cls": True, "pool": "cls"})
    options = {"projector": (16, 8)}


class TestSiTTurned(TestSiT):
    options = {"projector": (16, 8), "rotation": 1.0}


def given(**options):
    m = TestSiT.method(**options).double()
    return m, m.on_batch(TestSiT.batch(), CTX)


def test_its_terms_are_named_and_weighed():
    m, pair = given(weight=0.5)
    out = m.step(pair, CTX)
    assert set(out["parts"]) == {"l1_x", "contrast"}
    torch.testing.assert_close(out["loss"], out["parts"]["l1_x"] + 0.5 * out["parts"]["contrast"])


def test_the_recovery_is_gmmls_in_both_views():
    m, pair = given()
    single = [m.recover(view)[1]["l1_x"][1] for view in pair]
    torch.testing.assert_close(m.step(pair, CTX)["parts"]["l1_x"], (single[0] + single[1]) / 2)
    # which are two views, hidden in different places
    assert not torch.equal(pair[0].tokens["x"].patches, pair[1].tokens["x"].patches)
    assert not torch.equal(pair[0].masks["x"].hide, pair[1].masks["x"].hide)


def test_collapsed_the_contrast_is_the_logarithm_of_the_items():
    # all projections alike: each query meets its own key and those of the 3 counting items of the other record (items
    # 0, 1 | 4 to 7 count, records are 0 to 3 and 4 to 7), so a query of the first record meets 1 + 4 keys and one of the
    # second 1 + 2; times 2 t for each of both directions
    m, pair = given(temperature=0.3)
    for projector in (m.projector, m.teacher["projector"]):
        torch.nn.init.zeros_(projector.layers[-1].weight), torch.nn.init.ones_(projector.layers[-1].bias)
    mean = (2 * math.log(5) + 4 * math.log(3)) / 6
    assert math.isclose(m.step(pair, CTX)["parts"]["contrast"].item(), 2 * 2 * 0.3 * mean, abs_tol=1e-9)
    m.options = m.options.model_copy(update={"same_record_negatives": True})
    assert math.isclose(m.step(pair, CTX)["parts"]["contrast"].item(), 2 * 2 * 0.3 * math.log(6), abs_tol=1e-9)


def test_quarter_turns_are_told_of_square_items():
    # an even head costs ln 4; item 1 has half of its grid and is oblong, 2 and 3 failed: 0 and 4 to 7 are asked
    m, pair = given(rotation=0.5)
    torch.nn.init.zeros_(m.rotation.weight), torch.nn.init.zeros_(m.rotation.bias)
    out = m.step(pair, CTX)
    assert math.isclose(out["parts"]["rotation"].item(), math.log(4), abs_tol=1e-12)
    torch.testing.assert_close(out["loss"], out["parts"]["l1_x"] + out["parts"]["contrast"] + 0.5 * math.log(4))
    assert pair[0].able.tolist() == [True, False, False, False, True, True, True, True]
    # a head that knows the turns of the asked items pays nothing, whatever it says of the others
    with torch.no_grad():
        m.rotation.forward = lambda pooled: 50 * torch.nn.functional.one_hot(told.pop(0), 4).double()
    told = [pair[0].turns, pair[1].turns]
    assert m.step(pair, CTX)["parts"]["rotation"] < 1e-12


def test_only_one_image_can_be_turned():
    class Signal(TestSiT):
        shape = (24,)
        encoder = ("tokens", {"width": 16, "depth": 1, "heads": 2, "patch": (4,)})

    with pytest.raises(RequestError, match=r"method\.rotation: only one image"):
        Signal.method(rotation=1.0)


def test_the_teacher_sees_whole_views_and_learns_nothing_by_gradient():
    m, pair = given()
    spoiled = tuple(replace(v, seen={"x": replace(v.seen["x"], patches=v.seen["x"].patches + 1)}) for v in pair)
    assert all(torch.equal(a, b) for a, b in zip(m.targets(pair), m.targets(spoiled), strict=True))
    m.step(pair, CTX)["loss"].backward()
    assert all(p.grad is None for p in m.teacher.parameters())


def test_the_teacher_follows():
    m, _ = given()
    before = m.teacher["encoder"].project["x"].weight.clone()
    with torch.no_grad():
        m.encoder.project["x"].weight += 1
    m.after_step(replace(CTX, step=0))
    # 0.996 of the old one stays at the first step
    torch.testing.assert_close(m.teacher["encoder"].project["x"].weight, before + 0.004)


def test_it_learns():
    # items of a pattern of their own: of 16 keys the teacher's other view is found far better than by chance, which
    # costs 2 * 2 t * ln 16
    m = TestSiT.method()
    optimiser = torch.optim.AdamW(m.parameters(), lr=1e-2)
    g = torch.Generator().manual_seed(0)
    values = torch.randn(16, 2, 1, 1, generator=g) + torch.randn(16, 2, 4, 4, generator=g).repeat(1, 1, 4, 4)
    ids = torch.arange(16)
    x = Dense(values, torch.ones(16, 1, 16, 16, dtype=torch.bool), torch.ones(16, 2), whole=True)
    batch, contrast = Batch({"x": x}, ids, ids, ids, torch.ones(16), {}), []
    for epoch in range(60):
        ctx = replace(CTX, epoch=epoch, step=epoch, max_steps=60)
        out = m.step(m.on_batch(batch, ctx), ctx)
        optimiser.zero_grad()
        out["loss"].backward()
        optimiser.step()
        m.after_step(ctx)
        contrast.append(out["parts"]["contrast"].item())
    assert sum(contrast[-10:]) / 10 < 0.5 * 4 * 0.2 * math.log(16)
