"""VICReg."""

import math

import pytest
import torch

from unlabeled.core.methods.base import unchanged
from unlabeled.core.testing.method import CTX, MethodContract


class TestVICReg(MethodContract):
    name = "vicreg"
    encoder = ("convnet", {"channels": (8, 12), "kernels": (5, 3), "strides": (2, 2)})
    options = {"projector": (12, 8)}


class TestVICRegTokens(MethodContract):
    name = "vicreg"
    encoder = ("tokens", {"width": 16, "depth": 2, "heads": 2, "patch": (4, 4)})
    options = {"projector": (12, 8)}
    shape = (8, 8)


def step(m, batch):
    return m.step(m.on_batch(batch, CTX), CTX)


def test_a_collapsed_projector_costs_its_missing_deviations():
    # all projections equal: no distance, no covariance, and a deviation of sqrt(1e-4) where 1 is asked: 25 * .99
    m = TestVICReg.method().double()
    torch.nn.init.zeros_(m.projector.layers[-1].weight)
    out = step(m, TestVICReg.batch())
    assert math.isclose(out["loss"].item(), 24.75, abs_tol=1e-9)
    assert math.isclose(out["parts"]["variance"].item(), 0.99, abs_tol=1e-9)
    assert out["parts"]["invariance"] == 0 and out["parts"]["covariance"] == 0
    # which nothing but the variance's weight forbids
    m = TestVICReg.method(variance=0.0).double()
    torch.nn.init.zeros_(m.projector.layers[-1].weight)
    assert step(m, TestVICReg.batch())["loss"] == 0


@pytest.mark.parametrize("name", ["invariance", "variance", "covariance"])
def test_the_terms_are_weighted(name):
    weights = {"invariance": 0.0, "variance": 0.0, "covariance": 0.0} | {name: 3.0}
    out = step(TestVICRegTokens.method(**weights).double(), TestVICRegTokens.batch())
    torch.testing.assert_close(out["loss"], 3 * out["parts"][name], rtol=1e-12, atol=0)
    assert out["loss"] > 0


def test_equal_views_have_no_distance():
    m = TestVICReg.method().double()
    m.views = unchanged
    parts = step(m, TestVICReg.batch())["parts"]
    assert parts["invariance"] == 0 and parts["variance"] > 0 and m.couples


def test_the_terms_by_their_definition():
    # of the six items that count, views as they are drawn, norms switched to their running moments
    m = TestVICRegTokens.method().double().eval()
    views = m.on_batch(TestVICRegTokens.batch(), CTX)
    there = views[0].weight > 0
    z1, z2 = (m.projector(m.encoder(v.inputs).pooled)[there] for v in views)
    parts = m.step(views, CTX)["parts"]
    torch.testing.assert_close(parts["invariance"], (z1 - z2).square().mean(), rtol=0, atol=1e-12)
    hinge = [(1 - (z.var(0) + 1e-4).sqrt()).clamp_min(0).mean() for z in (z1, z2)]
    torch.testing.assert_close(parts["variance"], sum(hinge) / 2, rtol=0, atol=1e-12)
    cov = [torch.cov(z.T) for z in (z1, z2)]
    off = [(c.square().sum() - c.diagonal().square().sum()) / 8 for c in cov]
    torch.testing.assert_close(parts["covariance"], sum(off), rtol=0, atol=1e-12)
