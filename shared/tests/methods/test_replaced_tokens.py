"""Replaced tokens: their contract and oracles."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.contracts.recipe import validated
from unlabeled.core.losses.ids import detection
from unlabeled.core.methods.base import unchanged
from unlabeled.core.methods.replaced_tokens import ReplacedTokens
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.testing.events import pack
from unlabeled.core.testing.method import CTX, MethodContract, Words
from unlabeled.core.testing.ranks import assert_same, share, step_and_gradients

WORDS = InputSpec(layout="packed", channels=("word",), units=("",), axes=("place",), unit="px")


class TestReplacedTokens(MethodContract):
    name = "replaced_tokens"
    encoder = ("tokens", {"width": 16, "depth": 2, "heads": 4, "patch": (1,), "vocabulary": (7, 5)})
    options = {"generator": 0.5}
    views = staticmethod(unchanged)

    @classmethod
    def source(cls):
        return Words(cls.shape)


def given(**options):
    m = TestReplacedTokens.method(**options).double()
    return m, m.on_batch(TestReplacedTokens.batch(), CTX)


def silenced(module):
    """The last linear layer gives zeros."""
    nn.init.zeros_(module[-1].weight), nn.init.zeros_(module[-1].bias)


def test_undecided_judgements_cost_50_ln_2():
    m, dealt = given()
    silenced(m.judges["x"])
    out = m.step(dealt, CTX)
    assert out["parts"]["detection_x"].item() == pytest.approx(0.693147, abs=1e-6)
    # 50 ln 2 = 34.657
    assert (out["loss"] - out["parts"]["naming_x"]).item() == pytest.approx(34.657, abs=1e-3)


def test_the_generator_is_the_encoder_in_fewer_heads():
    m, _ = given()
    # half of 4 heads of 4 channels, as deep as the encoder, and no table of its own
    assert (m.generator.token_width, m.generator.options.heads, m.generator.options.depth) == (8, 2, 2)
    assert not [n for n, _ in m.generator.named_parameters() if "table" in n]
    assert m.heads["x"].table is None and m.exported is m.encoder


def test_the_generator_learns_nothing_from_the_judgements():
    m, dealt = given()
    m._naming = lambda batch, logits: {}
    m.step(dealt, CTX)["loss"].backward()
    of = {n: p.grad is not None and bool(p.grad.abs().sum() > 0) for n, p in m.named_parameters()}
    for name, got in of.items():
        own = name.startswith(("generator", "narrow", "heads", "mask_token"))
        assert got != own, name
    # and the encoder learns from the generator's loss through the table they share only
    m, dealt = given()
    m.options = m.options.model_copy(update={"weight": 0.0})
    m.step(dealt, CTX)["loss"].backward()
    trained = {n for n, p in m.named_parameters() if p.grad is not None and bool(p.grad.abs().sum() > 0)}
    assert {n for n in trained if n.startswith(("encoder", "judges"))} == {"encoder.project.x.table"}
    assert any(n.startswith("generator.transformer") for n in trained)


def test_a_uniform_generator_replaces_all_but_one_in_v():
    # 6 items of whole rows, several epochs: of n chosen ids 6/7 and 4/5 become others, within 4 deviations
    m, _ = given(mask_ratio=0.5)
    nn.init.zeros_(m.heads["x"].transform[2].weight)
    changed, n = torch.zeros(2), 0
    for epoch in range(40):
        dealt = m.on_batch(TestReplacedTokens.batch(), replace(CTX, epoch=epoch))
        _, wrong = m._replaced(dealt, m._named(dealt)[1])
        changed += wrong["x"].sum((0, 1))
        n += int(dealt.masks["x"].hide_valid.sum())
    # int(24 / 2) = 12 of 5 items and int(12 / 2) = 6 of the half one
    assert n == 40 * (5 * 12 + 6)
    for count, p in zip(changed.tolist(), (6 / 7, 4 / 5), strict=True):
        assert abs(count / n - p) < 4 * math.sqrt(p * (1 - p) / n)


def test_a_generator_that_is_right_replaces_nothing():
    m, dealt = given()
    hide = dealt.masks["x"].hide[..., None]
    true = dealt.ids["x"].take_along_dim(hide, 1)
    logits = {"x": tuple(100.0 * nn.functional.one_hot(true[..., c], k).double() for c, k in enumerate((7, 5)))}
    tokens, wrong = m._replaced(dealt, logits)
    assert not wrong["x"].any()
    assert torch.equal(tokens["x"].patches, m.encoder.tokenise(TestReplacedTokens.batch().inputs)["x"].patches)
    # one that is wrong in the second channel only is wrong there only, and at chosen valid tokens only
    others = (logits["x"][0], 100.0 * nn.functional.one_hot((true[..., 1] + 1) % 5, 5).double())
    tokens, wrong = m._replaced(dealt, {"x": others})
    chosen = torch.zeros(8, 24, dtype=torch.bool).scatter(1, dealt.masks["x"].hide, dealt.masks["x"].hide_valid)
    assert torch.equal(wrong["x"], torch.stack([torch.zeros_like(chosen), chosen], -1))


def test_judged_is_every_id_of_every_valid_token():
    m, dealt = given()
    seen = []
    m.judges["x"].register_forward_hook(lambda module, args, out: (out.retain_grad(), seen.append(out))[0])
    m.step(dealt, CTX)["loss"].backward()
    counts = dealt.tokens["x"].elements & (dealt.weight > 0)[:, None, None]
    assert counts.sum() == 2 * (5 * 24 + 12)
    assert torch.equal(seen[0].grad.abs() > 0, counts)
    # by hand: the mean of -log of the probability of the truth
    _, wrong = m._replaced(dealt, m._named(dealt)[1])
    right = torch.where(wrong["x"], seen[0], -seen[0]).sigmoid().log()
    loss = m.step(dealt, CTX)["parts"]["detection_x"]
    torch.testing.assert_close(loss, -right[counts].mean(), rtol=0, atol=1e-12)


def test_what_does_not_count_may_hold_anything():
    logits, wrong = torch.randn(5, 3, dtype=torch.float64), torch.rand(5, 3) < 0.5
    weight = torch.ones(5, 3)
    weight[2] = 0
    plain = detection(logits, wrong, weight)
    logits[2] = torch.nan
    torch.testing.assert_close(detection(logits, wrong, weight), plain)
    assert detection(logits, wrong, 0 * weight) == 0


@pytest.mark.parametrize(
    "options",
    [{"positions": "learned", "grid": (24,)}, {"positions": "rope"}, {"positions": "none", "cls": True, "pool": "cls"}],
)
def test_every_kind_of_position_reaches_the_generator(options):
    torch.manual_seed(0)
    spec = {"x": TestReplacedTokens.source().specs["x"]}
    o = TokenEncoder.Options(width=16, depth=1, heads=2, patch=(1,), vocabulary=(7, 5), **options)
    m = ReplacedTokens(TokenEncoder(spec, o), spec, ReplacedTokens.Options(generator=0.5)).double()
    dealt = m.on_batch(TestReplacedTokens.batch(), CTX)
    t = dealt.tokens["x"]
    order = torch.randperm(24).expand(8, -1)
    moved = replace(dealt, tokens={"x": replace(t, coords=t.coords.take_along_dim(order[..., None], 1))})
    same = all(torch.allclose(a, b) for a, b in zip(m._named(dealt)[1]["x"], m._named(moved)[1]["x"], strict=True))
    assert same == (options["positions"] == "none")
    m.step(dealt, CTX)["loss"].backward()
    assert all(p.grad is not None for p in m.parameters())


def packed():
    ids = torch.arange(8)
    values = torch.randint(0, 50, (51, 1), generator=torch.Generator().manual_seed(2)).double()
    x = pack(values, [9, 5, 0, 2, 1, 0, 30, 4])
    return Batch({"x": x}, ids, ids, ids, torch.tensor([1.0, 1, 1, 1, 1, 1, 1, 0]), {})


def on_rank():
    torch.manual_seed(0)
    encoder = TokenEncoder({"x": WORDS}, TokenEncoder.Options(width=16, depth=1, heads=4, vocabulary=(50,)))
    m = ReplacedTokens(encoder, {"x": WORDS}, ReplacedTokens.Options()).double()
    return step_and_gradients(m, share(packed()), CTX)


def test_packed_sequences_on_two_ranks(two_ranks):
    assert_same(two_ranks.run(f"{__file__}:on_rank"), on_rank(), tolerance=1e-9)


def test_it_learns():
    # an item is one word again and again, so another word stands out
    m = TestReplacedTokens.method(mask_ratio=0.3)
    optimiser = torch.optim.AdamW(m.parameters(), lr=1e-2)
    word = torch.arange(8)[:, None].expand(8, 24)
    batch = TestReplacedTokens.batch()
    x = replace(batch.inputs["x"], values=torch.stack([word % 7, word % 5], 1).float(), spacing=torch.ones(8, 1))
    batch = batch.with_inputs(x=x)
    losses = []
    for epoch in range(60):
        ctx = replace(CTX, epoch=epoch)
        out = m.step(m.on_batch(batch, ctx), ctx)
        optimiser.zero_grad()
        out["loss"].backward()
        optimiser.step()
        losses.append(out["parts"]["detection_x"].item())
    assert sum(losses[-10:]) / 10 < 0.5 * math.log(2)


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(RequestError, match="generator"):
        validated(ReplacedTokens.Options, {"generator": 1.5}, "method")
    spec = {"x": WORDS}
    plain = TokenEncoder(spec, TokenEncoder.Options(width=16, depth=1, heads=2))
    with pytest.raises(RequestError, match="method replaced_tokens: needs an input that holds ids"):
        ReplacedTokens(plain, spec, ReplacedTokens.Options())
