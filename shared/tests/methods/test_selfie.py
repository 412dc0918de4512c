"""Selfie: its contract and oracles."""

import math
from dataclasses import replace

import pytest
import torch

from unlabeled.core.contracts import RequestError
from unlabeled.core.methods.selfie import Selfie
from unlabeled.core.nn.convnet import ConvNet
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.testing.events import EVENTS, with_events
from unlabeled.core.testing.learning import descent, stripes
from unlabeled.core.testing.method import CTX, MethodContract
from unlabeled.core.testing.ranks import assert_same, share, step_and_gradients


class TestSelfie(MethodContract):
    name = "selfie"
    shape = (16, 16)
    encoder = ("tokens", {"width": 16, "depth": 1, "heads": 2, "patch": (4, 4)})
    options = {"heads": 2}


class TestSelfieInBlocks(MethodContract):
    name = "selfie"
    encoder = ("tokens", {"width": 16, "depth": 1, "heads": 2, "patch": (4,), "cls": True})
    options = {"heads": 2, "depth": 2, "mask": "block", "mask_ratio": 0.5}


def given(**options):
    m = TestSelfie.method(**options).double()
    return m, m.on_batch(TestSelfie.batch(), CTX)


def silenced(head):
    torch.nn.init.zeros_(head.layers[-1].weight)
    return head


@pytest.mark.parametrize("side", ["query", "candidate"])
def test_without_any_knowledge_it_guesses(side):
    # 16 patches, int(16 * 0.75) = 12 kept: 4 hidden, ln 4 each; of the item whose right half is missing 8 are valid and
    # 6 kept: 2 hidden, ln 2 each. 5 whole items count.
    m, cut = given()
    silenced(getattr(m, side)["x"])
    assert cut.hidden["x"].valid.sum(1).tolist() == [4, 2, 0, 0, 4, 4, 4, 4]
    expected = (5 * 4 * math.log(4) + 2 * math.log(2)) / 22
    torch.testing.assert_close(m.step(cut, CTX)["loss"].item(), expected, rtol=0, atol=1e-12)


def test_orthonormal_embeddings():
    # embeddings that name the patch, 2 long, in a batch without gaps: logits 4, 0, 0, 0 where the query names it too
    m, cut = given()
    cut = replace(cut, weight=cut.weight * (cut.hidden["x"].valid.sum(1) == 4))
    names = 2 * torch.eye(16, dtype=torch.float64)[:4].expand(8, -1, -1)
    for head in (m.query["x"], m.candidate["x"]):
        head.register_forward_hook(lambda module, args, out: names)
    assert math.isclose(m.step(cut, CTX)["loss"].item(), math.log(math.exp(4) + 3) - 4, abs_tol=1e-12)


def test_permuting_the_hidden_places_permutes_the_pairs():
    m, cut = given()
    u = torch.randn(8, 16, dtype=torch.float64)
    order = torch.tensor([2, 0, 3, 1])
    turned = replace(cut, hidden={"x": cut.hidden["x"]._each(lambda t: t[:, order])})
    for plain, moved in zip(m.pairs("x", u, cut), m.pairs("x", u, turned), strict=True):
        torch.testing.assert_close(moved, plain[:, order], rtol=0, atol=1e-12)
    torch.testing.assert_close(m.step(turned, CTX)["loss"], m.step(cut, CTX)["loss"], rtol=0, atol=1e-12)


def test_the_query_knows_no_hidden_pixel_and_the_candidate_no_place():
    m, cut = given()
    u, h = torch.randn(8, 16, dtype=torch.float64), cut.hidden["x"]
    pixels = replace(cut, hidden={"x": replace(h, patches=h.patches + 1)})
    places = replace(cut, hidden={"x": replace(h, coords=h.coords + 1)})
    query, candidate = m.pairs("x", u, cut)
    assert torch.equal(m.pairs("x", u, pixels)[0], query) and torch.equal(m.pairs("x", u, places)[1], candidate)
    assert not torch.equal(m.pairs("x", u, pixels)[1], candidate)
    assert not torch.equal(m.pairs("x", u, places)[0], query)
    assert torch.equal(m.step(pixels, CTX)["embedding"], m.step(cut, CTX)["embedding"])


def test_the_content_chooses_with_the_place():
    # were the query u + place, then q_m . k_j - q_n . k_j would not depend on u; the hidden layer makes it so
    m, cut = given()
    differences = []
    for seed in (0, 1):
        u = torch.randn(8, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        query, candidate = m.pairs("x", u, cut)
        logits = query @ candidate.mT
        differences.append(logits[0, 0] - logits[0, 1])
    assert (differences[0] - differences[1]).abs().max() > 1e-3


def test_it_learns():
    # stripes of a random phase: which patch lies in which column follows from the visible ones; a guess costs ln 4
    m = TestSelfie.method()
    losses = descent(m, stripes(), 160, lr=5e-3)
    assert sum(losses[-20:]) / 20 < 0.75 * math.log(4)


def two_inputs():
    return with_events(TestSelfie.batch(), [9, 5, 0, 2, 1, 0, 3, 4])


def both():
    torch.manual_seed(0)
    specs = {"x": TestSelfie.method().specs["x"], "events": EVENTS}
    options = TokenEncoder.Options(width=16, depth=1, heads=2, patch={"x": (4, 4)})
    return Selfie(TokenEncoder(specs, options), specs, Selfie.Options(heads=2, mask_ratio=0.5)).double()


def on_rank():
    return step_and_gradients(both(), share(two_inputs()), CTX)


def test_several_inputs_also_packed_on_two_ranks(two_ranks):
    out = both().step(both().on_batch(two_inputs(), CTX), CTX)
    torch.testing.assert_close(out["loss"], (out["parts"]["choice_x"] + out["parts"]["choice_events"]) / 2)
    assert_same(two_ranks.run(f"{__file__}:on_rank"), on_rank(), tolerance=1e-9)


def test_an_encoder_without_tokens_is_refused():
    specs = TestSelfie.method().specs
    with pytest.raises(RequestError, match="method selfie: needs a token encoder, got ConvNet"):
        Selfie(ConvNet(specs, ConvNet.Options()), specs, Selfie.Options())
