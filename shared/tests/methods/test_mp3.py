"""MP3: its contract and oracles."""

import math
from dataclasses import replace

import pytest
import torch

from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.recipe import validated
from unlabeled.core.methods.mp3 import MP3
from unlabeled.core.nn.convnet import ConvNet
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.testing.events import EVENTS, pack
from unlabeled.core.testing.method import CTX, MethodContract
from unlabeled.core.testing.ranks import assert_same, share, step_and_gradients

ENCODER = {"width": 16, "depth": 2, "heads": 2, "patch": (4, 4), "positions": "none"}


class TestMP3(MethodContract):
    name = "mp3"
    shape = (16, 16)
    encoder = ("tokens", ENCODER)
    options = {"places": (4, 4), "mask_ratio": 0.5}


class TestMP3Signal(MethodContract):
    name = "mp3"
    encoder = ("tokens", ENCODER | {"patch": (4,), "cls": True})
    options = {"places": (5,)}


def given(**options):
    m = TestMP3.method(**options).double()
    return m, m.on_batch(TestMP3.batch(), CTX)


def test_equal_logits_cost_ln_l():
    # 16 places: ln 16 = 2.7726; a grid of other size has its own
    for places in ((4, 4), (5, 7)):
        m, batch = given(places=places)
        torch.nn.init.zeros_(m.heads["x"].weight)
        expected = math.log(math.prod(places))
        assert m.step(batch, CTX)["loss"].item() == pytest.approx(expected, abs=1e-12)


def test_an_untrained_model_costs_about_as_much():
    # Xavier's weights of 16 x 16 have variance 2 / 32, and 16 normed channels make logits of variance 1: half of it more
    m, batch = given()
    assert m.step(batch, CTX)["loss"].item() == pytest.approx(math.log(16) + 0.5, abs=0.3)


def test_permuting_tokens_permutes_what_is_said_of_them():
    m, batch = given()
    t, keys = batch.tokens["x"], batch.keys["x"]
    order = torch.stack([torch.randperm(16) for _ in range(8)])

    def logits(t, keys):
        return m.heads["x"](m.encoder.encode({"x": t}, keys=keys).tokens)

    plain = logits(t, keys)
    permuted = t.take(order, t.valid.gather(1, order))
    found = logits(permuted, keys.gather(1, order))
    torch.testing.assert_close(found, plain.take_along_dim(order[..., None], 1), rtol=0, atol=1e-12)
    # wherever the patches are said to lie: what is said hangs on their content
    torch.testing.assert_close(logits(replace(t, coords=t.coords.flip(1)), keys), plain, rtol=0, atol=0)


def test_equal_patches_cannot_be_told_apart():
    # the mean of -log p_i over places i of one distribution p is ln L at least
    m, batch = given()
    t = batch.tokens["x"]
    out = m.step(replace(batch, tokens={"x": replace(t, patches=torch.where(t.elements, 0.3, 0))}), CTX)
    features = m.encoder.encode({"x": replace(t, patches=torch.full_like(t.patches, 0.3))}, keys=batch.keys["x"])
    torch.testing.assert_close(features.tokens[0], features.tokens[0, :1].expand(16, -1), rtol=0, atol=1e-12)
    assert out["loss"] > math.log(16)


def test_every_token_asks_and_only_keys_are_attended_to():
    m, batch = given()
    t, keys = batch.tokens["x"], batch.keys["x"]
    # of 16 tokens int(16 / 2) = 8 are keys, of the 8 valid ones of the second item 4
    assert keys.sum(1).tolist() == [8, 4, 0, 0, 8, 8, 8, 8] and not (keys & ~t.valid).any()
    plain = m.encoder.encode({"x": t}, keys=keys).tokens
    query = int((~keys[0]).nonzero()[0])
    changed = t.patches.clone()
    changed[0, query] += 1
    found = m.encoder.encode({"x": replace(t, patches=changed)}, keys=keys).tokens
    moved = (found - plain).abs().amax(-1) > 1e-9
    assert moved.nonzero().tolist() == [[0, query]]
    key = int(keys[0].nonzero()[0])
    changed = t.patches.clone()
    changed[0, key] += 1
    found = m.encoder.encode({"x": replace(t, patches=changed)}, keys=keys).tokens
    assert ((found - plain).abs().amax(-1) > 1e-9)[0].all()
    # and all valid tokens of rows that count are targets
    seen = []
    m.heads["x"].register_forward_hook(lambda module, args, out: (out.retain_grad(), seen.append(out))[0])
    m.step(batch, CTX)["loss"].backward()
    assert torch.equal(seen[0].grad.abs().sum(-1) > 0, t.valid & (batch.weight > 0)[:, None])


def test_classes_are_places_in_raster_order():
    m, batch = given(places=(3, 5))
    place, inside = m._place("x", batch.tokens["x"])
    # a grid of 4 x 4 on places of 3 x 5: the last row lies outside
    expected = [5 * row + column for row in range(4) for column in range(4)]
    assert inside[0].tolist() == [True] * 12 + [False] * 4
    assert place[0, :12].tolist() == expected[:12]
    assert not inside[1, [2, 3, 6, 7]].any()


def both():
    torch.manual_seed(0)
    specs = {"x": TestMP3.source().specs["x"], "events": EVENTS}
    encoder = TokenEncoder(specs, TokenEncoder.Options(**ENCODER | {"patch": {"x": (4, 4)}}))
    return MP3(encoder, specs, MP3.Options(places={"x": (4, 4), "events": (6,)})).double()


def two_inputs():
    values = torch.randn(24, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    return TestMP3.batch().with_inputs(events=pack(values, [9, 5, 0, 2, 1, 0, 3, 4]))


def on_rank():
    return step_and_gradients(both(), share(two_inputs()), CTX)


def test_several_inputs_also_packed_on_two_ranks(two_ranks):
    m = both()
    batch = m.on_batch(two_inputs(), CTX)
    out = m.step(batch, CTX)
    torch.testing.assert_close(out["loss"], (out["parts"]["place_x"] + out["parts"]["place_events"]) / 2)
    place, inside = m._place("events", batch.tokens["events"])
    # 9 events from time 0 on, one second apart: the fourth is invalid, and 6 places take in the first six
    assert place[0, inside[0]].tolist() == [0, 1, 2, 4, 5]
    assert_same(two_ranks.run(f"{__file__}:on_rank"), on_rank(), tolerance=1e-9)


def test_it_learns():
    # a place has its own colour, with noise
    m = TestMP3.method().float()
    optimiser = torch.optim.AdamW(m.parameters(), lr=1e-2)
    batch = TestMP3.batch()
    colour = torch.arange(4).repeat_interleave(4) - 1.5
    image = torch.stack([colour[:, None].expand(16, 16), colour.expand(16, 16)])
    g = torch.Generator().manual_seed(0)
    losses = []
    m.views = lambda batch, draw: batch
    for epoch in range(60):
        ctx = replace(CTX, epoch=epoch)
        x = replace(batch.inputs["x"], values=image + 0.1 * torch.randn(8, 2, 16, 16, generator=g))
        loss = m.step(m.on_batch(batch.with_inputs(x=x), ctx), ctx)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * math.log(16)


@pytest.mark.parametrize("options", [{"positions": "sincos"}, {"positions": "rope"}, {"causal": (1, 1)}])
def test_an_encoder_that_knows_the_places_is_refused(options):
    spec = TestMP3.source().specs
    encoder = TokenEncoder(spec, TokenEncoder.Options(**ENCODER | options))
    with pytest.raises(RequestError, match=r"method mp3: .* set encoder\.positions: none, and no encoder\.causal"):
        MP3(encoder, spec, MP3.Options(places=(4, 4)))


@pytest.mark.parametrize("places", [(4,), (4, 0), {"y": (4, 4)}])
def test_places_that_do_not_fit_are_refused(places):
    spec = TestMP3.source().specs
    with pytest.raises(
        RequestError, match=r"method\.places: the input 'x' has the axes y, x and needs 2 positive numbers"
    ):
        MP3(TokenEncoder(spec, TokenEncoder.Options(**ENCODER)), spec, MP3.Options(places=places))


def test_what_is_missing_is_named():
    with pytest.raises(RequestError, match="places"):
        validated(MP3.Options, {}, "method")
    spec = TestMP3.source().specs
    with pytest.raises(RequestError, match="method mp3: needs a token encoder, got ConvNet"):
        MP3(ConvNet(spec, ConvNet.Options()), spec, MP3.Options(places=(4, 4)))
