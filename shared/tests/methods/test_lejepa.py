"""LeJEPA."""

from dataclasses import replace

import pytest
import torch

from unlabeled.core.contracts import RequestError
from unlabeled.core.losses.sigreg import sigreg, slices
from unlabeled.core.methods.base import unchanged
from unlabeled.core.testing.method import CTX, MethodContract, noisy


class TestLeJEPA(MethodContract):
    name = "lejepa"
    encoder = ("convnet", {"channels": (8, 12), "kernels": (5, 3), "strides": (2, 2)})
    options = {"projector": (12, 8), "slices": 16}


class TestLeJEPACrops(MethodContract):
    name = "lejepa"
    encoder = ("tokens", {"width": 16, "depth": 1, "heads": 2, "patch": (4,)})
    options = {"projector": (12, 8), "slices": 16, "local_crops": 2}
    local_views = True


def halved(batch, draw):
    """A small crop: the middle half, with noise."""
    x = batch.inputs["x"]
    crop = replace(x, values=x.values[..., 6:18], valid=x.valid[..., 6:18])
    return noisy(batch.with_inputs(x=crop), draw)


def test_small_crops_are_smaller_and_no_part_of_the_middle():
    m = TestLeJEPACrops.method(sigreg=0.1).double().eval()
    m.local_views = halved
    views = m.on_batch(TestLeJEPACrops.batch(), CTX)
    assert [v.inputs["x"].values.shape[-1] for v in views] == [24, 24, 12, 12]
    there = views[0].weight > 0
    z = torch.stack([m.projector(m.encoder(v.inputs).pooled)[there] for v in views])
    parts = m.step(views, CTX)["parts"]
    invariance = (z - z[:2].mean(0)).square().mean()
    torch.testing.assert_close(parts["invariance"], invariance, rtol=0, atol=1e-12)
    directions = slices(CTX.shared("slices"), 16, 8, z.device)
    gaussian = torch.stack([sigreg(view, directions) for view in z]).mean()
    torch.testing.assert_close(parts["sigreg"], gaussian, rtol=0, atol=1e-12)
    loss = m.step(views, CTX)["loss"]
    torch.testing.assert_close(loss, 0.9 * invariance + 0.1 * gaussian, rtol=0, atol=1e-12)


def test_a_collapsed_projector_costs_its_distance_to_a_gaussian():
    # six items that count, all at 0: .05 * 6 * .4020476
    m = TestLeJEPA.method().double()
    torch.nn.init.zeros_(m.projector.layers[-1].weight)
    torch.nn.init.zeros_(m.projector.layers[-1].bias)
    out = m.step(m.on_batch(TestLeJEPA.batch(), CTX), CTX)
    assert out["loss"].item() == pytest.approx(0.05 * 6 * 0.4020476, abs=1e-7)
    assert out["parts"]["invariance"] == 0


def test_equal_views_agree_and_the_middle_learns():
    m = TestLeJEPA.method(sigreg=0.0).double()
    views = m.on_batch(TestLeJEPA.batch(), CTX)
    both = [m.projector(m.encoder(v.inputs).pooled, v.weight) for v in views]
    # two views, z and z': both are |z - z'| / 2 from their middle; a stopped middle would give half the gradient
    expected = torch.autograd.grad(
        ((both[0] - both[1]) / 2)[views[0].weight > 0].square().mean(), m.encoder.parameters()
    )
    found = torch.autograd.grad(m.step(views, CTX)["loss"], m.encoder.parameters())
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    m.views = unchanged
    assert m.step(m.on_batch(TestLeJEPA.batch(), CTX), CTX)["loss"] < 1e-24


def test_the_middle_is_taken_in_single_precision():
    # of projections in bfloat16, whose mean in bfloat16 would be off by 2^-9 of its size, which is large here
    m = TestLeJEPA.method()
    torch.nn.init.constant_(m.projector.layers[-1].bias, 100.0)
    views = [v.with_inputs(x=_single(v.inputs["x"])) for v in m.on_batch(TestLeJEPA.batch(), CTX)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = [m.projector(m.encoder(v.inputs).pooled, v.weight).float() for v in views]
        found = m.step(views, CTX)["parts"]["invariance"]
    expected = ((z[0] - z[1]) / 2)[views[0].weight > 0].square().mean()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def _single(x):
    return replace(x, values=x.values.float(), spacing=x.spacing.float())


def test_slices_are_new_at_every_step():
    m = TestLeJEPA.method().double()
    views = m.on_batch(TestLeJEPA.batch(), CTX)
    found = [m.step(views, replace(CTX, step=step))["parts"]["sigreg"] for step in (3, 3, 4)]
    assert found[0] == found[1] != found[2]


def test_small_crops_need_their_views():
    m = TestLeJEPACrops.method()
    m.local_views = None
    with pytest.raises(RequestError, match=r"local_crops is 2 but the recipe has no local_views; add them or set"):
        m.on_batch(TestLeJEPACrops.batch(), CTX)
    assert len(TestLeJEPA.method(global_views=3).on_batch(TestLeJEPA.batch(), CTX)) == 3
    assert m.couples
