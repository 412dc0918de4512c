"""MTO: SimMIM where its terms are off, closed forms where they are on, and the contract."""

import math
from dataclasses import replace

import pytest
import torch

from unlabeled.core.contracts import RequestError
from unlabeled.core.methods.mto import MTO
from unlabeled.core.nn.convnet import ConvNet
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.testing.learning import stripes
from unlabeled.core.testing.method import CTX, MethodContract
from unlabeled.core.testing.ranks import assert_same, step_and_gradients

TOKENS = {"width": 16, "depth": 2, "heads": 2, "patch": (4, 4)}
OFF = {"exclusion": 0, "singularity": 0, "descent": 0}


class TestMTO(MethodContract):
    name = "mto"
    encoder = ("tokens", TOKENS)
    shape = (16, 16)


class TestMTOClassToken(MethodContract):
    name = "mto"
    encoder = ("tokens", {"width": 16, "depth": 2, "heads": 2, "patch": (4,), "cls": True, "positions": "rope"})
    options = {"exclusion": 1, "singularity": 0, "descent": 1}


class Plain(MethodContract):
    """SimMIM beside it; not collected."""

    __test__ = False
    name = "simmim"
    encoder = ("tokens", TOKENS)
    shape = (16, 16)


def given(**options):
    m = TestMTO.method(**options).double()
    return m, m.on_batch(TestMTO.batch(), CTX)


def flat(m):
    """The method with blocks whose queries and keys are all 0, so that attention is uniform."""
    for block in m.encoder.transformer.blocks:
        torch.nn.init.zeros_(block.attn.qkv.weight[: 2 * 16])
        torch.nn.init.zeros_(block.attn.qkv.bias[: 2 * 16])
    return m


def test_without_its_terms_it_is_simmim_to_the_bit():
    found = [
        step_and_gradients(kind.method(**o).double(), TestMTO.batch(), CTX) for kind, o in ((TestMTO, OFF), (Plain, {}))
    ]
    assert_same(found[:1], found[1], tolerance=0)
    # and with them the reconstruction stays what it was
    m, cut = given()
    parts = m.step(cut, CTX)["parts"]
    assert set(parts) == {"l1_x", "exclusion", "singularity", "descent"}
    assert torch.equal(parts["l1_x"], given(**OFF)[0].step(cut, CTX)["loss"].detach())


def test_the_loss_is_the_weighted_sum():
    m, cut = given(exclusion=0.5, singularity=2.0, descent=3.0)
    out = m.step(cut, CTX)
    p = out["parts"]
    wanted = p["l1_x"] + 0.5 * p["exclusion"] + 2 * p["singularity"] + 3 * p["descent"]
    torch.testing.assert_close(out["loss"].detach(), wanted, rtol=1e-12, atol=0)
    assert all(p[name] > 0 for name in ("exclusion", "singularity"))


def test_uniform_attention_costs_the_share_of_the_hidden():
    # of n valid tokens int(0.4 n) are seen. Rows 0 and 4 to 7 have 16 tokens, 6 seen and 10 hidden: visible tokens give
    # 10/16 to hidden ones. Row 1 has 8: 3 seen, 5/8. Rows 2 and 3 have weight 0. All shares are 5/8, and equal attention
    # is singular in every block
    m, cut = given()
    parts = flat(m).step(cut, CTX)["parts"]
    wanted = {"exclusion": 0.625, "singularity": 0.0, "descent": 0.0}
    for name, value in wanted.items():
        torch.testing.assert_close(parts[name], torch.tensor(value, dtype=torch.float64), rtol=0, atol=1e-12)


def test_attention_is_the_encoders_own():
    # what a block mixes is its attention weights times its values, so that the weights that are looked at are the true ones
    m, cut = given()
    seen = []
    m._terms(cut, lambda block, x, attend, turn: seen.append((block, x, attend)))
    assert len(seen) == 2
    for block, x, attend in seen:
        normed = block.norm1(x)
        value = block.attn.qkv(normed).chunk(3, -1)[2].unflatten(-1, (2, 8)).transpose(1, 2)
        mixed = block.attn.proj((block.attention(normed, attend) @ value).transpose(1, 2).flatten(2))
        torch.testing.assert_close(mixed, block.attn(normed, attn_mask=attend), rtol=0, atol=1e-12)


def test_terms_do_what_they_are_for():
    # one step against each term alone lowers it
    for name in ("exclusion", "singularity"):
        m, cut = given(**(OFF | {name: 1.0}))
        before = m.step(cut, CTX)["parts"][name]
        torch.autograd.backward(m.step(cut, CTX)["loss"] - m._terms(cut)[0]["l1_x"][1])
        with torch.no_grad():
            for p in m.parameters():
                p.sub_(torch.zeros_like(p) if p.grad is None else 0.05 * p.grad)
        assert m.step(cut, CTX)["parts"][name] < before


def test_singularity_that_rises_costs():
    # a first block whose hidden tokens look at few visible ones, and a second one that looks at all alike: the descent
    # term is 1 - h of the first block, which is the singularity term
    m, cut = given()
    first, second = m.encoder.transformer.blocks
    with torch.no_grad():
        first.attn.qkv.weight[:32] *= 8
        second.attn.qkv.weight[:32], second.attn.qkv.bias[:32] = 0, 0
    parts = m.step(cut, CTX)["parts"]
    assert parts["singularity"] > 0.1
    torch.testing.assert_close(parts["descent"], parts["singularity"], rtol=1e-12, atol=0)
    # the other way round it falls and costs nothing
    with torch.no_grad():
        second.attn.qkv.weight[:32], second.attn.qkv.bias[:32] = first.attn.qkv.weight[:32], first.attn.qkv.bias[:32]
        first.attn.qkv.weight[:32], first.attn.qkv.bias[:32] = 0, 0
    parts = m.step(cut, CTX)["parts"]
    assert parts["descent"] == 0 and parts["singularity"].abs() < 1e-12


def test_a_net_without_blocks_has_no_attention_to_speak_of():
    specs = TestMTO.method().specs
    m = MTO(TokenEncoder(specs, TokenEncoder.Options(**(TOKENS | {"depth": 0}))), specs, MTO.Options()).double()
    assert set(m.step(m.on_batch(TestMTO.batch(), CTX), CTX)["parts"]) == {"l1_x"}


def test_hidden_pixels_reach_the_terms_by_no_way():
    m, cut = given()
    mask, t = cut.masks["x"], cut.tokens["x"]
    at = mask.hide[..., None].expand(-1, -1, t.patches.shape[-1])
    other = replace(cut, tokens={"x": replace(t, patches=t.patches.scatter(1, at, 7.0))})
    plain, changed = m.step(cut, CTX)["parts"], m.step(other, CTX)["parts"]
    assert plain.pop("l1_x") != changed.pop("l1_x")
    assert plain == changed


def test_it_learns():
    # stripes of a random phase: the reconstruction falls well below that of 0, the mean 2 / pi of |sin|, and visible tokens
    # turn to each other
    m = TestMTO.method(mask_ratio=0.4).float()
    optimiser = torch.optim.AdamW(m.parameters(), lr=1e-2)
    batch = TestMTO.batch()
    image = replace(stripes(8).inputs["x"], spacing=batch.inputs["x"].spacing, whole=True)
    batch = replace(batch.with_inputs(x=image), weight=torch.ones(8))
    m.views = lambda batch, draw: batch
    found = []
    for epoch in range(150):
        ctx = replace(CTX, epoch=epoch)
        out = m.step(m.on_batch(batch, ctx), ctx)
        optimiser.zero_grad()
        out["loss"].backward()
        optimiser.step()
        found.append(out["parts"])
    assert found[-1]["l1_x"] < 0.6 * 2 / math.pi and found[-1]["exclusion"] < 0.5 * found[0]["exclusion"]


def test_an_encoder_without_tokens_is_refused():
    specs = TestMTO.method().specs
    with pytest.raises(RequestError, match="method mto: needs a token encoder, got ConvNet"):
        MTO(ConvNet(specs, ConvNet.Options()), specs, MTO.Options())
