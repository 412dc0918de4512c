"""The flow encoder: features depend on the flow alone, and on where its packets are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from unlabeled.core.build import make_encoder
from unlabeled.core.contracts import InputSpec, RequestError, load
from unlabeled.core.contracts.batch import Packed
from unlabeled.core.contracts.recipe import validated
from unlabeled.core.tokens.packed import packed_tokens
from unlabeled.core.tokens.tokens import Tokens
from unlabeled.network import domain
from unlabeled.network.encoder import FlowEncoder
from unlabeled.network.flow.fields import VOCABULARY
from unlabeled.network.testing import SPEC, conversation, flow, packed, tokens

KINDS: tuple[dict[str, Any], ...] = ({}, {"positions": "sincos"}, {"positions": "learned", "grid": (12, 4, 12)})
POSITIONS = ("rope", "sincos", "learned", "none")


def encoder(**options: Any) -> FlowEncoder:
    """Small, in fp64, with pooling weights that are not all alike."""
    torch.manual_seed(0)
    if options.get("positions") == "learned":
        options = {"grid": (12, 4, 12)} | options
    made = FlowEncoder({"x": SPEC}, FlowEncoder.Options(**{"width": 24, "depth": 2, "heads": 2} | options)).double()
    torch.nn.init.normal_(made.score.weight)
    return made


def flows() -> list[Any]:
    """Conversations of 1 to 12 bursts."""
    return [flow(conversation(np.random.default_rng(n), n), "tcp" if n % 3 else "udp") for n in range(1, 13)]


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_a_flow_has_the_same_features_alone_and_beside_others(
    positions: str, dtype: torch.dtype, tolerance: float
) -> None:
    """Defect 1 of netFound's code: its pooling had no mask, so that a flow depended on its batch mates."""
    enc, every = encoder(positions=positions).to(dtype), flows()
    together = enc({"x": packed(every, dtype)})
    assert together.pooled.abs().amax(1).min() > 0.05
    for n, one in enumerate(every):
        alone = enc({"x": packed([one], dtype)})
        length = len(one.data)
        torch.testing.assert_close(together.pooled[n], alone.pooled[0], rtol=0, atol=tolerance)
        torch.testing.assert_close(together.tokens[n, :length], alone.tokens[0], rtol=0, atol=tolerance)
        assert (together.tokens[n, length:] == 0).all()


def test_another_order_of_the_batch_gives_the_same_in_another_order() -> None:
    enc, every = encoder(), flows()
    order = [int(i) for i in torch.randperm(12)]
    plain, other = enc({"x": packed(every)}), enc({"x": packed([every[i] for i in order])})
    torch.testing.assert_close(other.pooled, plain.pooled[order], rtol=0, atol=1e-10)


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("axis", ["burst", "packet", "place"])
def test_where_a_token_is_counts_with_positions_and_only_then(positions: str, axis: str) -> None:
    """Defects 2 and 3 of netFound's code: one table of positions was overwritten, and rotary ones had no channels."""
    enc = encoder(positions=positions)
    x = packed([flow(conversation(np.random.default_rng(3), 6))])
    coords = x.coords.clone()
    if axis == "burst":
        coords[:, 0] = torch.tensor([3.0, 0, 5, 2, 1, 4], dtype=torch.float64)[coords[:, 0].long()]
    elif axis == "packet":
        coords[:, 1] = 3 - coords[:, 1]
    else:
        coords[:, 2] = 11 - coords[:, 2]
    plain, moved = enc({"x": x}).pooled, enc({"x": replace(x, coords=coords)}).pooled
    if positions == "none":
        torch.testing.assert_close(moved, plain, rtol=0, atol=1e-10)
    else:
        assert (moved - plain).abs().max() > 1e-3


def test_the_order_in_memory_does_not_count() -> None:
    enc = encoder()
    x = packed([flow(conversation(np.random.default_rng(3), 6))])
    order = torch.randperm(len(x.values))
    moved = replace(x, values=x.values[order], coords=x.coords[order])
    plain, other = enc({"x": x}), enc({"x": moved})
    torch.testing.assert_close(other.pooled, plain.pooled, rtol=0, atol=1e-10)
    torch.testing.assert_close(other.tokens[0], plain.tokens[0, order], rtol=0, atol=1e-10)


def test_one_burst_by_hand() -> None:
    # a softmax over one key is 1, so attention over bursts is the value alone: b + proj(V norm(b)), then the MLP, whatever
    # the rotary positions; the mean of its tokens joins it, and the mean of one vector is that vector
    enc = encoder(depth=1)
    x = packed([flow(conversation(np.random.default_rng(0), 1))])
    seen: list[torch.Tensor] = []
    enc.transformer.blocks[0].register_forward_hook(lambda module, args, out: seen.append(out))
    out = enc.levels(enc.tokenise({"x": x}))
    block: Any = enc.flows[0]
    b = seen[0][:, 0]
    value = F.linear(block.norm1(b), block.attn.qkv.weight[48:], block.attn.qkv.bias[48:])
    b = b + block.attn.proj(value)
    b = b + block.mlp(block.norm2(b))
    expected = enc.transformer.norm(b + seen[0][:, 1:].mean(1))
    torch.testing.assert_close(out.bursts[:, 0], expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(out.features.pooled, expected, rtol=0, atol=1e-12)
    # a token: its own vector with those of its burst and its flow
    torch.testing.assert_close(
        out.features.tokens[0], enc.transformer.norm(seen[0][0, 1:] + 2 * expected), rtol=0, atol=1e-12
    )


def test_pooled_is_the_softmax_mean_of_the_bursts_that_are_there() -> None:
    enc = encoder()
    out = enc.levels(enc.tokenise({"x": packed(flows())}))
    assert out.there.sum(1).tolist() == list(range(1, 13))
    for n in range(12):
        own = out.bursts[n, : n + 1]
        share = enc.score(own)[:, 0].softmax(0)
        torch.testing.assert_close(out.features.pooled[n], share @ own, rtol=0, atol=1e-12)
    assert (out.bursts[~out.there] == 0).all()
    # untrained, it is the plain mean
    torch.nn.init.zeros_(enc.score.weight)
    out = enc.levels(enc.tokenise({"x": packed(flows())}))
    torch.testing.assert_close(out.features.pooled[4], out.bursts[4, :5].mean(0), rtol=0, atol=1e-12)
    assert (FlowEncoder({"x": SPEC}, FlowEncoder.Options()).score.weight == 0).all()


def test_a_token_sees_its_burst_first_and_the_others_through_it() -> None:
    # one layer: the first block of a token knows its own burst only; the second spreads, and comes back with the last sum
    enc = encoder(depth=1)
    inner: list[torch.Tensor] = []
    enc.transformer.blocks[0].register_forward_hook(lambda module, args, out: inner.append(out))
    data, coords = tokens(conversation(np.random.default_rng(1), 3))
    x = packed([flow(conversation(np.random.default_rng(1), 3))])
    other = x.values.clone()
    last = torch.from_numpy(coords[:, 0] == 2)
    other[last, 2] = (other[last, 2] + 1) % 256
    plain, changed = enc({"x": x}), enc({"x": replace(x, values=other)})
    assert len(data) == len(last)
    # K + 1 rows of each of the three bursts; the first two do not know of the third
    assert torch.equal(inner[0][:2], inner[1][:2]) and (inner[0][2] - inner[1][2]).abs().max() > 1e-3
    assert (plain.tokens[0, ~last] - changed.tokens[0, ~last]).abs().amax(-1).min() > 1e-6


def test_only_what_is_there_is_computed() -> None:
    # 12 + 1 bursts of 2 flows; were they padded to 12 bursts each, 24 rows
    enc = encoder(depth=1)
    shapes: list[torch.Size] = []
    enc.transformer.blocks[0].register_forward_hook(lambda module, args, out: shapes.append(out.shape))
    every = [flow(conversation(np.random.default_rng(n), n)) for n in (12, 1)]
    enc({"x": packed(every)})
    longest = max(int(np.bincount(f.coords[:, 0].astype(int)).max()) for f in every if f.coords is not None)
    assert shapes == [(13, longest + 1, 24)]


def test_invalid_tokens_are_as_if_they_were_not_there() -> None:
    enc = encoder()
    x = packed([flow(conversation(np.random.default_rng(5), 5))])
    keep = torch.rand(len(x.values), generator=torch.Generator().manual_seed(0)) < 0.6
    fewer = Packed(x.values[keep], x.valid[keep], x.coords[keep], torch.tensor([0, int(keep.sum())]))
    values = torch.where(keep[:, None], x.values, torch.nan)
    masked = replace(x, valid=x.valid & keep, values=values, coords=torch.where(keep[:, None], x.coords, 99.0))
    torch.testing.assert_close(enc({"x": masked}).pooled, enc({"x": fewer}).pooled, rtol=0, atol=1e-10)


@pytest.mark.parametrize("positions", POSITIONS)
def test_every_weight_gets_a_finite_gradient_also_beside_failed_items(positions: str) -> None:
    x = packed([flow(conversation(np.random.default_rng(2), 4)), None])
    for feature in ("pooled", "tokens"):  # DDP stops at a weight without one, whatever a method reads
        enc = encoder(positions=positions)
        out = enc({"x": x})
        assert (out.pooled[1] == 0).all() and (out.tokens[1] == 0).all()
        (getattr(out, feature) + 1).pow(3).sum().backward()
        for name, p in enc.named_parameters():
            assert p.grad is not None and p.grad.isfinite().all(), name
            assert p.grad.abs().sum() > 0, name
    # nothing at all to read
    out = enc({"x": packed([None, None])})
    assert out.pooled.shape == (2, 24) and (out.pooled == 0).all()
    out.tokens.sum().backward()


def test_the_same_bytes_in_another_field_are_something_else() -> None:
    """Defect 8: a TTL of 64 and a window of 64 were one word. And 61 + 2 * 256 vectors replace 65,600."""
    enc = encoder(positions="none")
    known = enc.projected("x", Tokens.of(torch.tensor([[[8.0, 0, 64], [10, 0, 64], [8, 64, 0]]]), torch.ones(1, 3, 3) > 0,
                                         torch.zeros(1, 3, 3)))[0]  # fmt: skip
    assert (known[0] - known[1]).abs().max() > 0.1 and (known[0] - known[2]).abs().max() > 0.1
    table: Any = enc.project["x"]
    assert table.table.shape == (VOCABULARY[0] + 512, 24)


def test_masks_leave_tokens_out_before_they_are_computed() -> None:
    from unlabeled.core.tokens.masks import random_mask

    enc, x = encoder(), packed(flows())
    t = packed_tokens(x)
    mask = random_mask(t.valid, 0.5, torch.rand(t.valid.shape))
    kept = torch.zeros_like(t.valid).scatter(1, mask.keep, mask.keep_valid)
    masked = Tokens.of(t.patches, t.elements & kept[..., None], t.coords)
    torch.testing.assert_close(enc({"x": x}, {"x": mask}).pooled, enc.encode({"x": masked}).pooled, rtol=0, atol=1e-10)


def test_the_domain_builds_it_and_bundles_can_again() -> None:
    made = make_encoder("flow", {"width": 24, "depth": 1, "heads": 2}, domain, {"x": SPEC}, seed=0)
    assert isinstance(made, FlowEncoder) and made.vocabulary == {"x": VOCABULARY}
    assert made.named is not None
    again = make_encoder(
        made.named["name"], {k: v for k, v in made.named.items() if k != "name"}, domain, made.specs, 0
    )
    x = {"x": packed(flows(), torch.float32)}
    assert torch.equal(made(x).pooled, again(x).pooled)
    assert load(domain.encoders["flow"]) is FlowEncoder


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"cls": True}, "the flow encoder has no cls; leave it out, or set encoder.name: tokens"),
        ({"causal": (1, 1, 1)}, "the flow encoder has no causal"),
        ({"pool": "mean"}, "pool"),
        ({"width": 10, "heads": 2}, "rope turns pairs of channels"),
        ({"positions": "learned"}, "learned positions of 'x' need 3 numbers"),
        ({"vocabulary": (8, 256)}, "needs a positive number for each of its 3 channels"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        FlowEncoder({"x": SPEC}, validated(FlowEncoder.Options, options, "encoder"))


def test_other_inputs_are_refused_and_so_is_what_is_inside() -> None:
    url = InputSpec(layout="packed", channels=("id", "part"), units=("id", "id"), axes=("token",), unit="token")
    with pytest.raises(
        RequestError, match="flow reads one packed input at burst, packet and place, and 'x' is packed at token"
    ):
        FlowEncoder({"x": url}, FlowEncoder.Options())
    with pytest.raises(RequestError, match=r"of 2; set encoder\.name: tokens"):
        FlowEncoder({"x": SPEC, "y": SPEC}, FlowEncoder.Options())
    enc = encoder()
    with pytest.raises(RequestError, match="does not tell what happens inside"):
        enc.encode(enc.tokenise({"x": packed(flows())}), states=True)
