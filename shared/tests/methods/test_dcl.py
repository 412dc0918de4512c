"""DCL."""

import math

import pytest
import torch

from unlabeled.core.losses.contrastive import dcl
from unlabeled.core.testing.method import CTX, MethodContract


class TestDCL(MethodContract):
    name = "dcl"
    encoder = ("convnet", {"channels": (8, 12), "kernels": (5, 3), "strides": (2, 2)})
    options = {"projector": (12, 8)}


class TestDCLTokens(MethodContract):
    name = "dcl"
    options = {"projector": (12, 8), "sigma": 0.5}


def collapsed(**options):
    m = TestDCL.method(**options).double()
    torch.nn.init.zeros_(m.projector.layers[-1].weight)
    torch.nn.init.ones_(m.projector.layers[-1].bias)
    return m.step(m.on_batch(TestDCL.batch(), CTX), CTX)["loss"].item()


def test_collapsed_features_cost_log_of_the_others():
    # 6 items count: each repels both views of 5 others, and the positive, which is no closer, is not among them
    assert math.isclose(collapsed(same_record_negatives=True), math.log(10), abs_tol=1e-12)
    # records 0, 0, (0), (0), 1, 1, 1, 1: two items repel both views of four, and four those of two
    assert math.isclose(collapsed(), (2 * math.log(8) + 4 * math.log(4)) / 6, abs_tol=1e-12)


@pytest.mark.parametrize("sigma", [None, 0.3])
def test_the_loss_is_that_of_the_projections(sigma):
    m = TestDCLTokens.method(temperature=0.4, sigma=sigma).double().eval()
    views = m.on_batch(TestDCLTokens.batch(), CTX)
    z = [m.projector(m.encoder(v.inputs).pooled) for v in views]
    out = m.step(views, CTX)
    expected = dcl(*z, 0.4, views[0].weight, views[0].record, sigma)
    torch.testing.assert_close(out["loss"], expected, rtol=0, atol=1e-12)
    assert torch.equal(out["embedding"], m.encoder(views[0].inputs).pooled)


def test_it_says_why_a_batch_stays_whole():
    assert "negative" in TestDCL.method().couples
