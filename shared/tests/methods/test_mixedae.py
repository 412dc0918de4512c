"""MixedAE: its contract and oracles."""

import math
from dataclasses import replace

import pytest
import torch

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Batch, Dense
from unlabeled.core.losses.masked import masked_mse, normalised_patches
from unlabeled.core.methods.mixedae import MixedAE
from unlabeled.core.nn.convnet import ConvNet
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.testing.events import EVENTS
from unlabeled.core.testing.method import CTX, MethodContract
from unlabeled.core.testing.ranks import assert_same, share, step_and_gradients

DECODER = {"width": 16, "depth": 1, "heads": 2}


class TestMixedAE(MethodContract):
    name = "mixedae"
    shape = (16, 16)
    encoder = ("tokens", {"width": 16, "depth": 2, "heads": 2, "patch": (4, 4)})
    options = {"decoder": DECODER}


class TestMixedAEOfPairs(MethodContract):
    name = "mixedae"
    encoder = ("tokens", {"width": 16, "depth": 1, "heads": 2, "patch": (4,), "cls": True})
    options = {"decoder": DECODER, "mix": 2, "norm_target": False}


def given(batch=None, **options):
    m = TestMixedAE.method(**options).double()
    return m, m.on_batch(TestMixedAE.batch() if batch is None else batch, CTX)


def test_every_place_is_taken_from_one_item():
    batch = replace(TestMixedAE.batch(), weight=torch.ones(8))
    x = batch.inputs["x"]
    batch = batch.with_inputs(x=replace(x, valid=torch.ones_like(x.valid)))
    m, cut = given(batch)
    # 8 items are 2 groups of 4; each item gives 4 of its 16 patches, at places that no other one of its group gives
    g = cut.given["x"]
    assert g.patches.shape == (8, 4, 32) and g.valid.all()
    assert cut.hidden["x"].patches.shape == (8, 12, 32) and cut.hidden["x"].valid.all()
    for group in g.coords.reshape(2, 16, 2):
        assert len({tuple(c) for c in group.tolist()}) == 16
    # and what it gives and what it hides are the item
    everything = torch.cat([g.patches, cut.hidden["x"].patches], 1).sum((1, 2))
    tokens = m.encoder.tokenise(m.views(batch, CTX.draw(batch, "view")).inputs)["x"]
    torch.testing.assert_close(everything, tokens.patches.sum((1, 2))[cut.groups.member])


def only(row):
    batch = TestMixedAE.batch()
    return replace(batch, weight=torch.zeros(8).index_fill(0, torch.tensor([row]), 1.0))


def test_alone_it_is_mae():
    # of one item only a group is that item's own tokens: what MAE would see and predict with this mask
    m, cut = given(only(4))
    out = m.step(cut, CTX)
    seen, hidden = ({"x": t._each(lambda x: x[:1])} for t in (cut.given["x"], cut.hidden["x"]))
    features = m.encoder.encode(seen)
    position = m.encoder.position
    pred = m.predictor(
        features,
        {"x": position("x", seen["x"].coords)},
        {"x": (position("x", hidden["x"].coords), hidden["x"].valid)},
    )["x"]
    h = hidden["x"]
    expected = masked_mse(pred, normalised_patches(h.patches, h.elements), h.elements.double())
    assert h.valid.sum() == 12
    torch.testing.assert_close(out["parts"]["mse_x"], expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(out["embedding"][4], features.pooled[0], rtol=0, atol=1e-12)
    # there is nobody to be told from
    assert out["parts"]["contrast"] == 0


def test_zero_prediction_costs_31_32ths():
    # as MAE: (P - 1) / P with P = 4 * 4 * 2 elements of a normalised patch, eps aside, for every hidden whole patch
    m, cut = given()
    torch.nn.init.zeros_(m.predictor.heads["x"].weight), torch.nn.init.zeros_(m.predictor.heads["x"].bias)
    assert math.isclose(m.step(cut, CTX)["parts"]["mse_x"].item(), 31 / 32, abs_tol=1e-4)


def test_an_item_is_recovered_from_its_own_tokens():
    # the predictor sees one item at a time, so another item reaches it through the encoder's attention only
    m, cut = given()
    m.encoder.transformer.blocks = torch.nn.ModuleList()
    pred = []
    m.predictor.register_forward_hook(lambda module, args, out: pred.append(out["x"]))
    m.step(cut, CTX)
    other = cut.given["x"].patches.clone()
    other[1] += 1
    m.step(replace(cut, given={"x": replace(cut.given["x"], patches=other)}), CTX)
    changed = (pred[0] != pred[1]).flatten(1).any(1)
    assert changed.tolist() == [False, True, *[False] * 6]


def test_the_contrast_of_orthonormal_items():
    # 4 items that give 4 tokens each, told apart perfectly, in the group that is full: 3 positives and 12 negatives
    m, cut = given()
    names = torch.eye(16, dtype=torch.float64)[torch.arange(16) // 4].expand(2, -1, -1)
    m.encoder.transformer.register_forward_hook(lambda module, args, out: names)
    valid = torch.ones_like(cut.given["x"].valid)
    cut = replace(cut, given={"x": replace(cut.given["x"], valid=valid)})
    expected = math.log(3 * math.exp(4) + 12) - 4
    assert math.isclose(m.step(cut, CTX)["parts"]["contrast"].item(), expected, abs_tol=1e-12)


def test_embeddings_stand_in_their_rows():
    m, cut = given()
    out = m.step(cut, CTX)["embedding"]
    assert (out[[2, 3]] == 0).all() and (out[[0, 1, 4, 5, 6, 7]].abs().sum(1) > 0).all()


def test_it_learns():
    # every item has a brightness of its own and some noise: its tokens are alike, and what is hidden follows. A guess of
    # zeros costs the mean square of the views, and collapsed features cost ln 15: 8 tokens of two items, less the anchor
    m = TestMixedAE.method(mix=2, norm_target=False)
    optimiser = torch.optim.AdamW(m.parameters(), lr=1e-2)
    g = torch.Generator().manual_seed(0)
    values = torch.randn(16, 1, 1, 1, generator=g) + 0.2 * torch.randn(16, 2, 16, 16, generator=g)
    ids = torch.arange(16)
    x = Dense(values, torch.ones(16, 1, 16, 16, dtype=torch.bool), torch.ones(16, 2), whole=True)
    batch, parts = Batch({"x": x}, ids, ids, ids, torch.ones(16), {}), []
    for epoch in range(60):
        ctx = replace(CTX, epoch=epoch, step=epoch)
        cut = m.on_batch(batch, ctx)
        out = m.step(cut, ctx)
        optimiser.zero_grad()
        out["loss"].backward()
        optimiser.step()
        guess = cut.hidden["x"].patches.square().mean()
        parts.append((out["parts"]["mse_x"] / guess, out["parts"]["contrast"]))
    mse, contrast = (sum(p) / 10 for p in zip(*parts[-10:], strict=True))
    assert mse < 0.5 and contrast < math.log(15) - 0.3


def two_inputs():
    """Images and signals, some partly invalid; 6 rows do not make whole groups of 4 on either side."""
    g = torch.Generator().manual_seed(2)
    x = Dense(
        torch.randn(6, 1, 8, 8, dtype=torch.float64, generator=g),
        torch.ones(6, 1, 8, 8, dtype=torch.bool),
        torch.ones(6, 2, dtype=torch.float64),
    )
    s = Dense(
        torch.randn(6, 1, 12, dtype=torch.float64, generator=g),
        torch.ones(6, 1, 12, dtype=torch.bool),
        torch.ones(6, 1, dtype=torch.float64),
    )
    x.valid[0, :, :, 5:] = s.valid[1, :, 4:] = x.valid[4] = s.valid[4] = False
    ids = torch.arange(6)
    return Batch({"x": x, "s": s}, ids, ids, ids, torch.tensor([1.0, 1, 1, 1, 0, 1]), {})


def both():
    torch.manual_seed(0)
    image = InputSpec(channels=("a",), units=("",), axes=("y", "x"), unit="px", spacing=(1.0, 1.0))
    signal = InputSpec(channels=("a",), units=("",), axes=("time",), unit="s", spacing=(1.0,))
    specs = {"x": image, "s": signal}
    options = TokenEncoder.Options(width=16, depth=1, heads=2, patch={"x": (2, 2), "s": (2,)})
    return MixedAE(TokenEncoder(specs, options), specs, MixedAE.Options(decoder=DECODER)).double()


def on_rank():
    return step_and_gradients(both(), share(two_inputs()), CTX)


def test_several_inputs_and_broken_groups_on_two_ranks(two_ranks):
    out = both().step(both().on_batch(two_inputs(), CTX), CTX)
    assert set(out["parts"]) == {"mse_x", "mse_s", "contrast"} and out["embedding"].shape == (6, 16)
    parts = out["parts"]
    torch.testing.assert_close(out["loss"], (parts["mse_x"] + parts["mse_s"]) / 2 + 0.1 * parts["contrast"])
    assert_same(two_ranks.run(f"{__file__}:on_rank"), on_rank(), tolerance=1e-9)


def test_what_does_not_fit_is_refused():
    specs = TestMixedAE.method().specs
    with pytest.raises(RequestError, match="method mixedae: needs a token encoder, got ConvNet"):
        MixedAE(ConvNet(specs, ConvNet.Options()), specs, MixedAE.Options())
    events = {"events": EVENTS}
    with pytest.raises(RequestError, match=r"'events' has no grid.*use mae"):
        MixedAE(TokenEncoder(events, TokenEncoder.Options(width=16, heads=2)), events, MixedAE.Options())
