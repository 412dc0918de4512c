"""Replaced fields: their contract and oracles."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from unlabeled.core.contracts import RequestError
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.testing.method import CTX
from unlabeled.network.flow.fields import TYPES, VOCABULARY, first
from unlabeled.network.methods.replaced_fields import ReplacedFields
from unlabeled.network.testing import SPEC, FlowContract, batched, conversation, flow, packed

DERIVED = torch.tensor([derived for *_, derived in TYPES])
# rotary positions at three axes need 6 channels a head
SMALL = {"width": 16, "depth": 1, "heads": 2, "positions": "rope"}


class TestReplacedFields(FlowContract):
    name = "replaced_fields"
    options = {"generator": 0.5}


class TestReplacedFieldsFlat(FlowContract):
    name = "replaced_fields"
    encoder = ("tokens", SMALL | {"vocabulary": VOCABULARY})
    options = {"generator": 0.5, "bursts": 0.5, "weight": 5.0}


def given(**options: Any) -> tuple[Any, Any]:
    m = TestReplacedFields.method(**options).double()
    return m, m.on_batch(TestReplacedFields.batch(), CTX)


def many(rows: int = 24) -> Any:
    kinds = ("tcp", "udp", "icmp")
    return batched(packed([flow(conversation(np.random.default_rng(i), 8), kinds[i % 3]) for i in range(rows)]))


def judged_of(dealt: Any) -> torch.Tensor:
    return dealt.tokens["x"].valid & ~DERIVED[dealt.ids["x"][..., 0]]


def test_undecided_judgements_cost_50_ln_2() -> None:
    m, dealt = given()
    nn.init.zeros_(m.judges["x"][-1].weight), nn.init.zeros_(m.judges["x"][-1].bias)
    out = m.step(dealt, CTX)
    assert out["parts"]["detection_x"].item() == pytest.approx(0.693147, abs=1e-6)
    # 50 ln 2 = 34.657, and the generator's two bytes cost 2 ln 256 = 11.0904 at first
    assert (out["loss"] - out["parts"]["naming_x"]).item() == pytest.approx(34.657, abs=1e-3)
    assert out["parts"]["naming_x"].item() == pytest.approx(11.0904, abs=0.2)


def test_what_follows_from_other_fields_is_neither_replaced_nor_judged() -> None:
    m = TestReplacedFields.method(mask_ratio=0.5).double()
    batch = many()
    dealt = m.on_batch(batch, CTX)
    before = m.encoder.tokenise(batch.inputs)["x"]
    tokens, wrong = m._replaced(dealt, m._named(dealt)[1])
    t, field = tokens["x"], dealt.ids["x"][..., 0]
    derived = DERIVED[field] & t.valid
    assert {TYPES[int(f)][0] for f in field[derived].unique()} == {
        "bytes",
        "packets",
        "length",
        "seq",
        "ack",
        "udp length",
    }
    assert torch.equal(t.patches[derived], before.patches[derived]) and not wrong["x"][derived].any()
    assert not t.elements[derived].any()
    # the field is never replaced or judged, every byte of the others is judged, and the replaced ones are among them
    assert torch.equal(t.patches[..., 0], before.patches[..., 0])
    assert not t.elements[..., 0].any() and not wrong["x"][..., 0].any()
    judged = judged_of(dealt)
    assert torch.equal(t.elements[..., 1], judged) and torch.equal(t.elements[..., 2], judged)
    differs = t.patches.long() != dealt.ids["x"]
    assert torch.equal(differs, wrong["x"]) and not (differs.any(-1) & ~judged).any() and differs.any()
    # and the share that is chosen is of those
    mask = dealt.masks["x"]
    assert torch.equal(mask.hide_valid.sum(1), judged.sum(1) - (judged.sum(1).double() * 0.5).long())


def test_a_uniform_generator_replaces_all_but_one_in_256() -> None:
    # expected of the judged bytes: mask * (1 - 1 / 256), within 4 standard deviations
    m = TestReplacedFields.method().double()
    nn.init.zeros_(m.heads["x"].transform[2].weight)
    batch, changed, n, judged = many(), 0, 0, 0
    for epoch in range(4):
        dealt = m.on_batch(batch, replace(CTX, epoch=epoch))
        _, wrong = m._replaced(dealt, m._named(dealt)[1])
        changed += int(wrong["x"].sum())
        n += 2 * int(dealt.masks["x"].hide_valid.sum())
        judged += 2 * int(judged_of(dealt).sum())
    p = 255 / 256
    assert n > 5000 and abs(changed / n - p) < 4 * math.sqrt(p * (1 - p) / n)
    assert changed / judged == pytest.approx(0.3 * p, abs=0.005)


def test_a_generator_of_known_chances_replaces_one_minus_the_chance_of_the_truth() -> None:
    # the true byte has 0.7 and one other 0.3: 0.3 are replaced, in each channel by itself
    m = TestReplacedFields.method().double()
    dealt = m.on_batch(many(), CTX)
    mask = dealt.masks["x"]
    true = dealt.ids["x"].take_along_dim(mask.hide[..., None], 1)
    logits = [torch.full((*true.shape[:2], k), -100.0).double() for k in VOCABULARY]
    for c, k in enumerate(VOCABULARY):
        logits[c].scatter_(-1, true[..., c : c + 1], math.log(0.7))
        logits[c].scatter_(-1, (true[..., c : c + 1] + 1) % k, math.log(0.3))
    _, wrong = m._replaced(dealt, {"x": tuple(logits)})
    n = int(mask.hide_valid.sum())
    for c, p in enumerate((0.0, 0.3, 0.3)):
        assert abs(int(wrong["x"][..., c].sum()) / n - p) <= 4 * math.sqrt(p * (1 - p) / n)
    # one that is right copies: nothing is replaced
    right = tuple(100.0 * nn.functional.one_hot(true[..., c], k).double() for c, k in enumerate(VOCABULARY))
    tokens, wrong = m._replaced(dealt, {"x": right})
    assert not wrong["x"].any() and torch.equal(
        tokens["x"].patches.long()[judged_of(dealt)], dealt.ids["x"][judged_of(dealt)]
    )


def test_the_generator_learns_nothing_from_the_judgements() -> None:
    m, dealt = given()
    m._naming = lambda batch, logits: {}
    m.step(dealt, CTX)["loss"].backward()
    for name, p in m.named_parameters():
        got = p.grad is not None and bool(p.grad.abs().sum() > 0)
        assert got != name.startswith(("generator", "narrow", "heads", "mask_token")), name


def test_the_generator_sees_the_field_and_not_the_bytes() -> None:
    m, dealt = given()
    t, masked = dealt.tokens["x"], dealt.masked["x"] & (dealt.weight > 0)[:, None]

    def named(channel: int) -> torch.Tensor:
        patches = t.patches.clone()
        patches[..., channel] = torch.where(masked, (patches[..., channel] + 1) % 8, patches[..., channel])
        found: torch.Tensor = m._named(replace(dealt, tokens={"x": replace(t, patches=patches)}))[1]["x"][1]
        return found.detach()

    plain = m._named(dealt)[1]["x"][1].detach()
    torch.testing.assert_close(named(1), plain, rtol=0, atol=1e-12)
    torch.testing.assert_close(named(2), plain, rtol=0, atol=1e-12)
    assert (named(0) - plain).abs().max() > 1e-6
    assert isinstance(m.generator, TokenEncoder) and m.generator.token_width == 8 and m.exported is m.encoder


def test_judged_by_hand() -> None:
    m, dealt = given()
    seen: list[torch.Tensor] = []
    m.judges["x"].register_forward_hook(lambda module, args, out: (out.retain_grad(), seen.append(out))[0])
    out = m.step(dealt, CTX)
    out["loss"].backward()
    counts = torch.stack([torch.zeros_like(judged_of(dealt)), judged_of(dealt), judged_of(dealt)], -1)
    counts &= (dealt.weight > 0)[:, None, None]
    assert torch.equal(seen[0].grad.abs() > 0, counts)
    _, wrong = m._replaced(dealt, m._named(dealt)[1])
    right = torch.where(wrong["x"], seen[0], -seen[0]).sigmoid().log()
    torch.testing.assert_close(out["parts"]["detection_x"], -right[counts].mean().detach(), rtol=0, atol=1e-12)


def test_it_learns() -> None:
    # every flow says one TTL and one window in all of its packets: another value stands out
    m = TestReplacedFields.method(mask_ratio=0.3)
    optimiser = torch.optim.AdamW(m.parameters(), lr=1e-2)
    batch = batched(packed([flow(conversation(np.random.default_rng(i), 4)) for i in range(8)], torch.float32))
    losses = []
    for epoch in range(40):
        ctx = replace(CTX, epoch=epoch)
        out = m.step(m.on_batch(batch, ctx), ctx)
        optimiser.zero_grad()
        out["loss"].backward()
        optimiser.step()
        losses.append(out["parts"]["detection_x"].item())
    assert sum(losses[-10:]) / 10 < 0.6 * math.log(2)


def test_other_ids_are_refused() -> None:
    other = TokenEncoder({"x": SPEC}, TokenEncoder.Options(width=16, depth=1, heads=2, vocabulary=(7, 5, 3)))
    with pytest.raises(RequestError, match="method replaced_fields: needs the fields of packets"):
        ReplacedFields(other, {"x": SPEC}, ReplacedFields.Options())
    assert not DERIVED[first("ttl")] and DERIVED[first("seq") + 1]
