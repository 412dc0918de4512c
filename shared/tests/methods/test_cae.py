"""CAE: its contract and oracles."""

import math
from dataclasses import replace

import pytest
import torch

from unlabeled.core.contracts import RequestError
from unlabeled.core.losses.masked import normalised_patches
from unlabeled.core.methods.cae import CAE
from unlabeled.core.nn.convnet import ConvNet
from unlabeled.core.testing.method import CTX, MethodContract

SMALL = {"width": 16, "depth": 1, "heads": 2}


class TestCAE(MethodContract):
    name = "cae"
    shape = (16, 16)
    encoder = ("tokens", {"width": 16, "depth": 2, "heads": 2, "patch": (4, 4)})
    options = {"regressor": SMALL, "decoder": SMALL, "size": 32, "smoothing": 0.1}


class TestCAEPixels(MethodContract):
    name = "cae"
    encoder = ("tokens", {"width": 16, "depth": 1, "heads": 2, "patch": (4,), "cls": True})
    options = {"regressor": SMALL, "decoder": SMALL, "target": "pixels", "mask": "random"}


def given(case=TestCAE, **options):
    m = case.method(**options).double()
    return m, m.on_batch(case.batch(), CTX)


def test_half_of_the_tokens_are_hidden_in_boxes():
    # 98 of 196 in the paper; here int(0.5 * 16) = 8 of 16, and 4 of the 8 that the half item has
    _, cut = given()
    assert cut.hidden["x"].valid.sum(1).tolist() == [8, 4, 0, 0, 8, 8, 8, 8]
    assert cut.visible["x"].valid.sum(1).tolist() == [8, 4, 0, 0, 8, 8, 8, 8]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_uniform_logits_cost_ln_of_the_codes(smoothing):
    # every code has the share 1 / 32: ln 32 = 3.4657, and smoothing spreads over equal terms
    m, cut = given(smoothing=smoothing)
    torch.nn.init.zeros_(m.decoder.heads["x"].weight)
    parts = m.step(cut, CTX)["parts"]
    assert math.isclose(parts["codes_x"].item(), math.log(32), abs_tol=1e-12)
    assert set(parts) == {"codes_x", "align_x"}


def test_the_right_codes_cost_nothing():
    # the decoder is told the answer: a logit of 60 at the code and 0 elsewhere costs ln(1 + 31 e^-60)
    m, cut = given(smoothing=0.0)
    t = cut.hidden["x"]
    ids = m.codebooks["x"].codes(normalised_patches(t.patches, t.elements))
    assert len(ids[t.valid].unique()) > 8
    told = 60 * torch.nn.functional.one_hot(ids, 32).double()
    m.decoder.heads["x"].register_forward_hook(lambda module, args, out: told)
    assert m.step(cut, CTX)["parts"]["codes_x"] < 1e-12
    m.decoder.heads["x"].register_forward_hook(lambda module, args, out: told.roll(1, -1))
    torch.testing.assert_close(m.step(cut, CTX)["parts"]["codes_x"].item(), 60.0, rtol=0, atol=1e-9)


def test_alignment_is_a_distance_to_the_latents_of_the_hidden_patches_alone():
    m, cut = given()
    with torch.no_grad():
        target = m.encoder.encode(cut.hidden).tokens
    m.predictor.heads["x"].register_forward_hook(lambda module, args, out: target + shift)
    shift = 0.0
    assert m.step(cut, CTX)["parts"]["align_x"] == 0
    # a constant offset costs its square, and the loss counts it twice
    shift = 0.3
    out = m.step(cut, CTX)
    torch.testing.assert_close(out["parts"]["align_x"].item(), 0.09, rtol=0, atol=1e-12)
    torch.testing.assert_close(out["loss"], out["parts"]["codes_x"] + 2 * out["parts"]["align_x"])


def test_no_gradient_reaches_the_target_branch():
    # with the decoder silenced, the encoder's gradient is that of a loss against fixed latents
    m, cut = given()
    torch.nn.init.zeros_(m.decoder.embed.weight)
    m.step(cut, CTX)["loss"].backward()
    found = {n: p.grad.clone() for n, p in m.encoder.named_parameters()}
    m.zero_grad()
    with torch.no_grad():
        fixed = m.encoder.encode(cut.hidden).tokens
    features = m.encoder.encode(cut.visible)
    latents = m.predictor(features, *m._places(cut))["x"]
    counts = (cut.hidden["x"].valid * cut.weight[:, None])[..., None]
    distance = torch.where(counts > 0, latents - fixed, 0).square().sum() / counts.sum() / 16
    (2 * distance).backward()
    for n, p in m.encoder.named_parameters():
        torch.testing.assert_close(found[n], p.grad, rtol=0, atol=1e-12)
    # hidden patches reach no embedding and no latent
    other = replace(cut, hidden={"x": replace(cut.hidden["x"], patches=cut.hidden["x"].patches + 1)})
    assert torch.equal(m.step(other, CTX)["embedding"], features.pooled)


def test_the_decoder_sees_predicted_latents_only():
    # of the hidden tokens; with the regressor silenced nothing of the item reaches the logits
    m, cut = given()
    torch.nn.init.zeros_(m.predictor.heads["x"].weight)
    seen = []
    m.decoder.register_forward_hook(lambda module, args, out: seen.append(out["x"]))
    for shown in (cut.visible["x"].patches, 3 * cut.visible["x"].patches):
        m.step(replace(cut, visible={"x": replace(cut.visible["x"], patches=shown)}), CTX)
    assert torch.equal(*seen)


def test_pixels_instead_of_codes_can_be_drawn():
    m, cut = given(TestCAEPixels)
    torch.nn.init.zeros_(m.decoder.heads["x"].weight)
    # P = 8: the normalised patch has the mean square 7/8, up to eps
    loss = m.step(cut, CTX)["parts"]["pixels_x"].item()
    assert math.isclose(loss, 7 / 8, abs_tol=1e-4)
    drawn = m.reconstruct(TestCAEPixels.batch(), CTX)
    assert drawn["x.predicted"].shape == (8, 2, 24)
    assert given()[0].reconstruct(TestCAE.batch(), CTX) == {}


def test_an_encoder_without_tokens_is_refused():
    specs = TestCAE.method().specs
    with pytest.raises(RequestError, match="method cae: needs a token encoder, got ConvNet"):
        CAE(ConvNet(specs, ConvNet.Options()), specs, CAE.Options())
