"""Masked packets: their contract and oracles."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Batch, Packed
from unlabeled.core.contracts.recipe import validated
from unlabeled.core.nn.convnet import ConvNet
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.testing.learning import descent
from unlabeled.core.testing.method import CTX
from unlabeled.network.flow.fields import TYPES, VOCABULARY, first
from unlabeled.network.methods.masked_packets import MaskedPackets, repeated, units
from unlabeled.network.testing import SPEC, Burst, FlowContract, batched, conversation, flow, packed

FLAT = ("tokens", {"width": 16, "depth": 2, "heads": 2, "positions": "rope", "vocabulary": VOCABULARY})


class TestMaskedPackets(FlowContract):
    name = "masked_packets"


class TestMaskedPacketsFlat(FlowContract):
    name = "masked_packets"
    encoder = FLAT
    options = {"tied": False, "copies": True, "packets": 0.5, "bursts": 0.5}


def given(**options: Any) -> tuple[Any, Any]:
    m = TestMaskedPackets.method(**options).double()
    return m, m.on_batch(TestMaskedPackets.batch(), CTX)


def many(rows: int = 64, bursts: int = 12) -> Batch:
    kinds = ("tcp", "udp", "icmp")
    return batched(packed([flow(conversation(np.random.default_rng(i), bursts), kinds[i % 3]) for i in range(rows)]))


def near(count: float, n: float, p: float) -> bool:
    """Whether a share is within 4 standard deviations of a binomial one."""
    return abs(count / n - p) < 4 * math.sqrt(p * (1 - p) / n)


def chosen_of(spoiled: Any) -> torch.Tensor:
    mask = spoiled.masks["x"]
    return torch.zeros_like(spoiled.tokens["x"].valid).scatter(1, mask.hide, mask.hide_valid)


@pytest.mark.parametrize("options", [{"packets": 0.0, "bursts": 0.0}, {"packets": 1.0}, {"bursts": 1.0}])
def test_30_percent_are_chosen_80_become_the_mask_token_10_another_value_and_10_stay(options: dict[str, Any]) -> None:
    m = TestMaskedPackets.method(copies=True, **({"packets": 0.0, "bursts": 0.0} | options)).double()
    spoiled = m.on_batch(many(), CTX)
    t, before = spoiled.tokens["x"], spoiled.ids["x"]
    chosen, masked = chosen_of(spoiled), spoiled.masked["x"]
    # "keep": of n tokens int(0.7 n) stay
    n = t.valid.sum(1)
    assert torch.equal(chosen.sum(1), n - (n.double() * 0.7).long())
    total = int(chosen.sum())
    assert near(total, int(n.sum()), 0.3) and not (masked & ~chosen).any()
    assert near(int(masked.sum()), total, 0.8)
    changed = (t.patches.long() != before).any(-1)
    assert not (changed & (~chosen | masked)).any()
    # of the 10 % a part gets the value it had: less than 10 % differ, and more than 2 %
    assert 0.02 * total < int(changed.sum()) < 0.1 * total + 4 * math.sqrt(0.09 * total)


def test_a_random_value_is_one_that_the_field_has_in_the_batch() -> None:
    """Defect 7 of netFound's code: a TTL of 41,000, or the id of the mask."""
    m = TestMaskedPackets.method(masked=0.0, random=1.0, copies=True, packets=0.0, bursts=0.0).double()
    spoiled = m.on_batch(many(), CTX)
    t, before, chosen = spoiled.tokens["x"], spoiled.ids["x"], chosen_of(spoiled)
    after = t.patches.long()
    assert torch.equal(after[..., 0][t.valid], before[..., 0][t.valid])
    here = [set(map(tuple, before[t.valid & (before[..., 0] == f)].tolist())) for f in range(len(TYPES))]
    assert all(tuple(row) in here[row[0]] for row in after[chosen].tolist())
    # of the lengths the shares too: the mean of those drawn is that of all, within 4 standard errors
    lengths = (t.valid & (before[..., 0] == first("length")), chosen & (before[..., 0] == first("length")))
    every, drawn = before[lengths[0]].double() @ WORD, after[lengths[1]].double() @ WORD
    assert len(drawn) > 200
    assert abs(drawn.mean() - every.mean()) < 4 * every.std() / math.sqrt(len(drawn))
    assert drawn.unique().numel() > 100


WORD = torch.tensor([0.0, 256, 1], dtype=torch.float64)


def test_whole_packets_and_bursts_are_chosen() -> None:
    for option, axes in (("packets", 2), ("bursts", 1)):
        m = TestMaskedPackets.method(**{"copies": True, "packets": 0.0, "bursts": 0.0, option: 1.0}).double()
        spoiled = m.on_batch(many(), CTX)
        t, chosen = spoiled.tokens["x"], chosen_of(spoiled)
        unit = units(t.coords, axes)
        for row in range(len(unit)):
            share = [chosen[row][t.valid[row] & (unit[row] == u)].double().mean() for u in unit[row].unique()]
            # all of a unit or nothing, but of the one that makes the count exact
            assert sum(0 < float(s) < 1 for s in share) <= 1
            assert any(s == 1 for s in share) or axes == 1


def test_shares_of_flows() -> None:
    m = TestMaskedPackets.method(copies=True, packets=0.3, bursts=0.5).double()
    batch, counts = many(8), {1: 0, 2: 0, 0: 0}
    for epoch in range(50):
        spoiled = m.on_batch(batch, replace(CTX, epoch=epoch))
        t, chosen = spoiled.tokens["x"], chosen_of(spoiled)
        for row in range(8):
            whole = [
                sum(0 < float(chosen[row][t.valid[row] & (unit == u)].double().mean()) < 1 for u in unit.unique()) <= 1
                for unit in (units(t.coords, 1)[row], units(t.coords, 2)[row])
            ]
            counts[1 if whole[0] else 2 if whole[1] else 0] += 1
    assert near(counts[1], 400, 0.5) and near(counts[2], 400, 0.3) and near(counts[0], 400, 0.2)


def test_equal_logits_cost_two_bytes_and_an_untrained_model_about_as_much() -> None:
    # 2 ln 256 = 11.0904, whatever the field: it is seen and not named
    m, spoiled = given()
    # logits of an untrained head have a deviation of 0.1; most high bytes are 0, so theirs does not average out
    assert m.step(spoiled, CTX)["loss"].item() == pytest.approx(11.0904, abs=0.2)
    torch.nn.init.zeros_(m.heads["x"].transform[2].weight)
    assert m.step(spoiled, CTX)["loss"].item() == pytest.approx(11.0904, abs=1e-4)


def test_the_loss_by_hand() -> None:
    m, spoiled = given(tied=False)
    _, logits = m._named(spoiled)
    mask, total, count = spoiled.masks["x"], 0.0, 0
    for b in range(8):
        for slot in range(mask.hide.shape[1]):
            if mask.hide_valid[b, slot] and spoiled.weight[b] > 0:
                ids = spoiled.ids["x"][b, mask.hide[b, slot]]
                total -= sum(float(logits["x"][c][b, slot].detach().log_softmax(-1)[ids[c]]) for c in (1, 2))
                count += 1
    assert m.step(spoiled, CTX)["loss"].item() == pytest.approx(total / count, abs=1e-10) and count > 50


def test_the_field_stays_visible_and_the_bytes_do_not() -> None:
    m, spoiled = given()
    t, masked = spoiled.tokens["x"], spoiled.masked["x"] & (spoiled.weight > 0)[:, None]
    assert masked.any()

    def loss(channel: int, where: torch.Tensor) -> torch.Tensor:
        patches = t.patches.clone()
        patches[..., channel] = torch.where(where, (patches[..., channel] + 1) % 8, patches[..., channel])
        found: torch.Tensor = m.step(replace(spoiled, tokens={"x": replace(t, patches=patches)}), CTX)["loss"]
        return found.detach()

    plain = m.step(spoiled, CTX)["loss"].detach()
    # to the rounding: the bytes' share of a vector is taken off and put back
    torch.testing.assert_close(loss(1, masked), plain, rtol=0, atol=1e-12)
    torch.testing.assert_close(loss(2, masked), plain, rtol=0, atol=1e-12)
    assert (loss(0, masked) - plain).abs() > 1e-6
    assert (loss(2, t.valid & ~masked) - plain).abs() > 1e-6


def test_what_the_packet_before_shows_is_not_named() -> None:
    # two bursts of 3 and 1 packets of one size: in the second packet all but seq repeats the first one's
    x = packed([flow([Burst(False, (100, 100, 100), 0.0), Burst(True, (100,), 1.0)])])
    m = TestMaskedPackets.method().double()
    t = m.encoder.tokenise({"x": x})["x"]
    ids = t.patches.long()
    nothing = torch.zeros_like(t.valid)
    said = repeated(ids, t, nothing)
    packet, field, burst = t.coords[0, :, 1], ids[0, :, 0], t.coords[0, :, 0]
    seq = first("seq") + 1  # its low word grows by 100
    expected = (burst == 0) & (packet >= 2) & (field != seq)
    assert torch.equal(said[0], expected) and expected.sum() == 2 * 11
    # where the packet before is chosen itself, it shows nothing: only the third packet's is left
    assert torch.equal(repeated(ids, t, (packet == 1)[None] & t.valid)[0], expected & (packet == 3))
    # a method that leaves them out chooses as many, and names fewer
    every, fewer = (TestMaskedPackets.method(copies=copies).double().on_batch(many(), CTX) for copies in (True, False))
    assert torch.equal(every.masked["x"], fewer.masked["x"])
    assert 0.3 < fewer.masks["x"].hide_valid.sum() / every.masks["x"].hide_valid.sum() < 0.95


def test_no_gradient_from_what_is_not_named() -> None:
    m, spoiled = given()
    seen: list[torch.Tensor] = []

    def watched(module: Any, args: Any, kwargs: Any) -> None:
        args[0].retain_grad()
        seen.append(args[0])

    m.heads["x"].register_forward_pre_hook(watched, with_kwargs=True)
    m.step(spoiled, CTX)["loss"].backward()
    counts = spoiled.masks["x"].hide_valid & (spoiled.weight > 0)[:, None]
    assert torch.equal(seen[0].grad.abs().sum(-1) > 0, counts)


def test_it_learns_what_follows_from_the_rest() -> None:
    # 8 flows, each of one size of packets: bytes and lengths say each other
    flows = [flow([Burst(b % 2 == 1, (100 * i,) * 2, 1e4 * b) for b in range(4)]) for i in range(1, 9)]
    m = TestMaskedPackets.method()
    losses = descent(m, batched(packed(flows, torch.float32)), 60)
    assert sum(losses[-10:]) / 10 < 0.4 * 11.0904


@pytest.mark.parametrize("positions", ["sincos", "learned", "rope", "none"])
def test_positions_of_the_flat_encoder(positions: str) -> None:
    options = {"grid": (12, 4, 12)} if positions == "learned" else {}
    o = TokenEncoder.Options(width=16, depth=1, heads=2, vocabulary=VOCABULARY, positions=positions, **options)  # type: ignore[arg-type]
    m = MaskedPackets(TokenEncoder({"x": SPEC}, o), {"x": SPEC}, MaskedPackets.Options())
    out = m.step(
        m.on_batch(batched(packed([flow(conversation(np.random.default_rng(0), 4))], torch.float32)), CTX), CTX
    )
    assert out["loss"].item() == pytest.approx(11.09, abs=0.2)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"packets": 0.6, "bursts": 0.5}, "packets and bursts are shares of the flows, got 1.1"),
     ({"masked": 0.8, "random": 0.3}, "shares of the chosen tokens")],
)  # fmt: skip
def test_shares_that_do_not_fit_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        validated(MaskedPackets.Options, options, "method")


def test_other_encoders_and_ids_are_refused() -> None:
    grid = InputSpec(channels=("a",), units=("",), axes=("time",), unit="s", spacing=(1.0,))
    with pytest.raises(RequestError, match="method masked_packets: needs a token encoder, got ConvNet"):
        MaskedPackets(ConvNet({"x": grid}, ConvNet.Options()), {"x": grid}, MaskedPackets.Options())
    other = TokenEncoder({"x": SPEC}, TokenEncoder.Options(width=16, depth=1, heads=2, vocabulary=(7, 5, 3)))
    with pytest.raises(RequestError, match=r"needs the fields of packets, and the ids of 'x' are \[7, 5, 3\]"):
        MaskedPackets(other, {"x": SPEC}, MaskedPackets.Options())


def test_units_number_bursts_and_packets_in_order() -> None:
    x = packed([flow([Burst(False, (1, 2), 0.0), Burst(True, (3,), 1.0)])])
    t = TestMaskedPackets.method().encoder.tokenise({"x": x})["x"]
    assert isinstance(x, Packed)
    # 4 tokens of the burst, then packets of 12
    assert units(t.coords, 1)[0].tolist() == [0] * 28 + [1] * 16
    assert units(t.coords, 2)[0].tolist() == [0] * 4 + [1] * 12 + [2] * 12 + [3] * 4 + [4] * 12
