"""Barlow Twins."""

import torch

from unlabeled.core.losses.decorrelation import barlow_twins
from unlabeled.core.methods.base import unchanged
from unlabeled.core.testing.method import CTX, MethodContract


class TestBarlowTwins(MethodContract):
    name = "barlow_twins"
    encoder = ("convnet", {"channels": (8, 12), "kernels": (3, 3), "strides": (2, 2)})
    options = {"projector": (12, 8)}
    shape = (8, 8)


class TestBarlowTwinsTokens(MethodContract):
    name = "barlow_twins"
    options = {"projector": (12, 8)}


def test_equal_views_correlate_with_themselves():
    # without noise the diagonal is 1, up to eps over the variance, and only the other dimensions are left
    m = TestBarlowTwins.method(off_diagonal=0.0).double()
    m.views = unchanged
    assert m.step(m.on_batch(TestBarlowTwins.batch(), CTX), CTX)["loss"] < 1e-3
    m = TestBarlowTwins.method(off_diagonal=1.0).double()
    m.views = unchanged
    # six items span five dimensions at most, so that eight cannot be uncorrelated: the squares of an 8 x 8 correlation
    # of rank 5 sum to 8^2 / 5 at least, 8 of which are on the diagonal
    assert m.step(m.on_batch(TestBarlowTwins.batch(), CTX), CTX)["loss"] > 64 / 5 - 8 - 1e-2


def test_the_loss_is_that_of_the_projections():
    m = TestBarlowTwinsTokens.method(off_diagonal=0.3).double().eval()
    views = m.on_batch(TestBarlowTwinsTokens.batch(), CTX)
    z = [m.projector(m.encoder(v.inputs).pooled) for v in views]
    out = m.step(views, CTX)
    torch.testing.assert_close(out["loss"], barlow_twins(*z, 0.3, views[0].weight), rtol=0, atol=1e-12)
    assert torch.equal(out["embedding"], m.encoder(views[0].inputs).pooled) and set(out["parts"]) == {"barlow_twins"}
    assert m.couples and type(m).Options().off_diagonal == 0.0051
