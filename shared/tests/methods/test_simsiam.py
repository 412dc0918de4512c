"""SimSiam."""

import warnings

import pytest
import torch

from unlabeled.core.methods.base import unchanged
from unlabeled.core.methods.simsiam import SimSiam
from unlabeled.core.testing.learning import descent
from unlabeled.core.testing.method import CTX, MethodContract


class TestSimSiam(MethodContract):
    name = "simsiam"
    encoder = ("convnet", {"channels": (8, 12), "kernels": (5, 3), "strides": (2, 2)})
    options = {"projector": (12, 12, 8), "predictor": 4}


class TestSimSiamTokens(MethodContract):
    name = "simsiam"
    encoder = ("tokens", {"width": 16, "depth": 1, "heads": 2, "patch": (4,)})
    options = {"projector": (12, 8), "predictor": 4}


class Unpredicted(SimSiam):
    def predict(self, z, weight):
        return z


class Opposed(SimSiam):
    def predict(self, z, weight):
        return -z


class Unstopped(SimSiam):
    def still(self, z):
        return z


def made(kind=SimSiam, like=TestSimSiam, **options):
    m = like.method(**options)
    return kind(m.encoder, m.specs, m.options, m.views).double()


@pytest.mark.parametrize(("kind", "expected"), [(Unpredicted, -1), (Opposed, 1)])
def test_equal_views_and_no_predictor_agree(kind, expected):
    # -cos / 2 twice: -1 where a view predicts itself, 1 where it predicts the opposite; with noise it is between them
    m = made(kind)
    noisy = m.step(m.on_batch(TestSimSiam.batch(), CTX), CTX)["loss"].item()
    assert -0.99 < noisy < 0.99
    m.views = unchanged
    loss = m.step(m.on_batch(TestSimSiam.batch(), CTX), CTX)["loss"].item()
    assert loss == pytest.approx(expected, abs=1e-12)


def test_each_view_predicts_the_other_and_lightly_agrees():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lightly.loss import NegativeCosineSimilarity
    m = made(like=TestSimSiamTokens).eval()
    views = m.on_batch(TestSimSiamTokens.batch(), CTX)
    there = views[0].weight > 0
    z = [m.projector(m.encoder(v.inputs).pooled) for v in views]
    p = [m.predictor(x) for x in z]
    cosine = NegativeCosineSimilarity()
    expected = (cosine(p[0][there], z[1][there]) + cosine(p[1][there], z[0][there])) / 2
    torch.testing.assert_close(m.step(views, CTX)["loss"], expected, rtol=0, atol=1e-10)


def test_targets_get_no_gradient():
    # at equal weights the loss is the same and the gradient is not
    stopped, free = made(), made(Unstopped)
    free.load_state_dict(stopped.state_dict())
    views = stopped.on_batch(TestSimSiam.batch(), CTX)
    losses = [m.step(views, CTX)["loss"] for m in (stopped, free)]
    assert losses[0] == losses[1]
    first, second = (
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, m.encoder.parameters())])
        for loss, m in zip(losses, (stopped, free), strict=True)
    )
    assert (first - second).norm() > 0.1 * first.norm()


def test_the_deviation_of_the_targets():
    # the norm at the output keeps it near 1; where all items are alike it is sqrt(1e-6)
    m = made()
    assert 0.9 < m.step(m.on_batch(TestSimSiam.batch(), CTX), CTX)["vitals"]["target_std"] < 1.1
    torch.nn.init.zeros_(m.projector.layers[-1].weight)
    flat = m.step(m.on_batch(TestSimSiam.batch(), CTX), CTX)["vitals"]["target_std"].item()
    assert flat == pytest.approx(1e-3, abs=1e-9)


def test_it_says_why_a_batch_stays_whole_and_exports_its_encoder():
    m = made()
    assert "batch norms" in m.couples and m.exported is m.encoder


def test_it_learns_to_predict():
    # from no agreement of the predictor's random directions to most of it, with views drawn anew at every step
    losses = descent(made(), TestSimSiam.batch(), 100)
    assert losses[0] > -0.4 and sum(losses[-10:]) / 10 < -0.7
