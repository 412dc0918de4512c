"""GroCo."""

import math

import torch

from unlabeled.core.losses.sorting import groco
from unlabeled.core.methods.base import unchanged
from unlabeled.core.testing.method import CTX, MethodContract


class TestGroCo(MethodContract):
    name = "groco"
    encoder = ("convnet", {"channels": (8, 12), "kernels": (5, 3), "strides": (2, 2)})
    options = {"projector": (12, 8), "negatives": 3}


class TestGroCoTokens(MethodContract):
    name = "groco"
    encoder = ("tokens", {"width": 16, "depth": 1, "heads": 2, "patch": (4,)})
    options = {"projector": (12, 8), "views": 3, "local_crops": 1, "same_record_negatives": True}
    local_views = True


def made(like=TestGroCo, **options):
    return like.method(**options).double()


def step(m):
    return m.step(m.on_batch(TestGroCo.batch(), CTX), CTX)


def test_collapsed_features_cost_the_network_of_equal_elements():
    # all cosines are 1, and every swap is a half: with one negative and one positive -ln(1/2)
    m = made(negatives=1)
    torch.nn.init.zeros_(m.projector.layers[-1].weight)
    torch.nn.init.ones_(m.projector.layers[-1].bias)
    assert math.isclose(step(m)["loss"].item(), math.log(2), abs_tol=1e-12)


def test_equal_views_come_before_other_items():
    # the positive's cosine is 1, so that d is at most 2: -ln(atan(2) / pi + 1/2) = .1596 at least, and at most ln 2
    m = made(negatives=1)
    m.views = unchanged
    assert 0.1596 < step(m)["loss"].item() < math.log(2)
    m = made(negatives=1, steepness=1e6)
    m.views = unchanged
    assert step(m)["loss"].item() < 1e-3


def test_the_loss_is_that_of_the_projections():
    m = made(TestGroCoTokens).eval()
    views = m.on_batch(TestGroCoTokens.batch(), CTX)
    assert len(views) == 4
    z = [m.projector(m.encoder(v.inputs).pooled) for v in views]
    out = m.step(views, CTX)
    torch.testing.assert_close(out["loss"], groco(z, 3, 10, 1.0, views[0].weight), rtol=0, atol=1e-12)
    torch.testing.assert_close(out["embedding"], m.encoder(views[0].inputs).pooled, rtol=0, atol=1e-12)
    assert "negative" in m.couples


def test_it_learns():
    m = made(negatives=4)
    optimiser = torch.optim.Adam(m.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = step(m)["loss"]
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
