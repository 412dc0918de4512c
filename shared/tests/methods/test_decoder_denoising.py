"""Decoder denoising: its contract and oracles."""

import logging
from dataclasses import replace

import pytest
import torch

from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.batch import Dense
from unlabeled.core.methods.decoder_denoising import DecoderDenoising
from unlabeled.core.nn.convnet import ConvNet
from unlabeled.core.testing import toys
from unlabeled.core.testing.learning import descent
from unlabeled.core.testing.method import BATCH, CTX, FAILED, STEPS, MethodContract
from unlabeled.core.training import checkpoint

INNER = {"name": "convnet", "channels": [8, 8], "kernels": [5, 3], "strides": [2, 2]}


class TestDecoderDenoising(MethodContract):
    """The whole net learns (DeP)."""

    name = "decoder_denoising"
    shape = (16, 16)
    encoder = ("unet", {"encoder": INNER, "decoder": {"width": 16}})
    options = {"frozen": False}


def given(**options):
    m = TestDecoderDenoising.method(**options).double()
    return m, m.on_batch(TestDecoderDenoising.batch(), CTX)


def test_what_is_added_and_how_much():
    # sqrt(g) x + sqrt(1 - g) e with g = 1 / (1 + 0.22^2) = 0.953834
    m, cut = given()
    x = m.views(TestDecoderDenoising.batch(), CTX.draw(TestDecoderDenoising.batch(), "view")).inputs["x"]
    there = x.valid.expand_as(x.values)
    g = 0.953834
    wanted = g**0.5 * x.values + (1 - g) ** 0.5 * cut.noise
    torch.testing.assert_close(cut.x.values[there], wanted[there], rtol=0, atol=1e-5)
    # 8 * 2 * 256 = 4096 draws: the mean within 4 / 64, the mean square within 4 sqrt(2) / 64 = 0.089
    assert abs(cut.noise.mean()) < 0.0625 and abs(cut.noise.square().mean() - 1) < 0.089
    # every item has draws of its own, and another epoch others
    assert (cut.noise[0] - cut.noise[1]).abs().mean() > 0.5
    later = m.on_batch(TestDecoderDenoising.batch(), replace(CTX, epoch=2))
    assert (later.noise - cut.noise).abs().mean() > 0.5


def test_a_variance_of_one_stays_one():
    m, _ = given(sigma=2.0)
    batch = TestDecoderDenoising.batch()
    x = batch.inputs["x"]
    values = torch.randn(x.values.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    m.views = lambda batch, draw: batch
    whole = Dense(values, torch.ones_like(x.valid), x.spacing)
    cut = m.on_batch(replace(batch.with_inputs(x=whole), weight=torch.ones(BATCH)), CTX)
    # 4096 draws: within 4 sqrt(2) / 64
    assert abs(cut.x.values.square().mean() - 1) < 0.089


class Perfect(torch.nn.Module):
    """Gives the tokens (B, L, C) it was told."""

    def __init__(self, tokens):
        super().__init__()
        self.tokens = tokens

    def forward(self, x):
        return self.tokens + 0 * x.sum()


def test_the_target_is_the_noise():
    m, cut = given()
    m.head = Perfect(cut.noise.flatten(2).transpose(1, 2))
    assert m.step(cut, CTX)["loss"] == 0
    # not the clean input
    m.head = Perfect(cut.x.values.flatten(2).transpose(1, 2))
    assert m.step(cut, CTX)["loss"] > 0.5


def test_predicting_nothing_costs_the_variance_of_the_noise():
    # over the cells that are there: 5 whole items and half of one, 5.5 * 512 = 2816 draws: 1 within 4 sqrt(2 / 2816) = 0.107
    m, cut = given()
    torch.nn.init.zeros_(m.head.weight), torch.nn.init.zeros_(m.head.bias)
    loss = m.step(cut, CTX)["loss"]
    there = cut.x.valid.expand_as(cut.noise)
    assert there.sum() == 2816 and not there[FAILED].any()
    torch.testing.assert_close(loss.detach(), cut.noise[there].square().mean(), rtol=1e-12, atol=0)
    assert abs(loss - 1) < 0.107


def test_a_row_of_weight_0_that_can_be_read_takes_no_part():
    m, _ = given()
    batch = TestDecoderDenoising.batch()
    weight = batch.weight.clone()
    weight[5] = 0
    found = []
    for value in (0.0, 1e6):
        x = batch.inputs["x"]
        values = x.values.clone()
        values[5] = value
        cut = m.on_batch(replace(batch.with_inputs(x=replace(x, values=values)), weight=weight), CTX)
        found.append(m.step(cut, CTX)["loss"])
    assert found[0] == found[1]


def test_gradients_of_a_frozen_encoder_reach_the_decoder_alone(caplog):
    with caplog.at_level(logging.WARNING):
        m, cut = given(frozen=True)
    assert "the frozen encoder has random weights; name pretrained ones as start" in caplog.text
    m.step(cut, CTX)["loss"].backward()
    assert all(p.grad is None and not p.requires_grad for p in m.encoder.encoder.parameters())
    # mask tokens have none but where an item has holes
    learned = {n: p for n, p in m.encoder.decoder.named_parameters() if "mask_token" not in n}
    assert learned and all((p.grad != 0).any() for p in learned.values())
    caplog.clear()
    given()
    assert not caplog.text


class Frozen(TestDecoderDenoising):
    __test__ = False
    options = {"frozen": True}


def test_a_frozen_encoder_stays_as_it_was_and_the_decoder_learns(tmp_path):
    m = Frozen.trained(tmp_path / "run", save_every=10)
    start = Frozen.method()
    before, after = start.state_dict(), m.state_dict()
    inner = [n for n in before if n.startswith("encoder.encoder.")]
    assert any("running_mean" in n for n in inner) and not m.encoder.encoder.training and m.encoder.decoder.training
    assert all(torch.equal(before[n], after[n]) for n in inner)
    moved = [n for n in before if n.startswith("encoder.decoder.") and "mask_token" not in n]
    assert all(not torch.equal(before[n], after[n]) for n in moved)
    losses = [line["loss"] for line in toys.lines(tmp_path / "run")]
    assert len(losses) == STEPS and losses[-1] < losses[0]
    # and a run that goes on is the same run
    checkpoint.path_of(tmp_path / "run" / "checkpoints", STEPS).unlink()
    again = Frozen.trained(tmp_path / "run", resume=True, save_every=10)
    assert toys.identical(again.state_dict(), after)


def test_it_learns_to_see_the_noise():
    # of a constant image with noise sigma, the noise is (x' - mean) / sigma: what the whole net learns to tell
    m = TestDecoderDenoising.method(sigma=1.0)
    batch = TestDecoderDenoising.batch()
    x = batch.inputs["x"]
    flat = Dense(torch.ones_like(x.values).float(), torch.ones_like(x.valid), x.spacing.float(), whole=True)
    m.views = lambda batch, draw: batch
    whole = replace(batch.with_inputs(x=flat), weight=torch.ones(BATCH))
    assert descent(m, whole, 150)[-1] < 0.5


def test_an_encoder_without_a_decoder_is_refused():
    specs = TestDecoderDenoising.method().specs
    with pytest.raises(
        RequestError, match=r"method decoder_denoising: needs a U-Net, got ConvNet; set encoder.name: unet"
    ):
        DecoderDenoising(ConvNet(specs, ConvNet.Options()), specs, DecoderDenoising.Options())
