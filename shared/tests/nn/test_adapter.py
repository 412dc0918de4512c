"""Adapters."""

import pytest
import torch
from pydantic import ValidationError

from unlabeled.core.build import seeded
from unlabeled.core.contracts.batch import Dense
from unlabeled.core.nn.adapter import Adapter, adapters, with_adapters
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.testing.method import Grids

SPECS = Grids((24,)).specs


def made(**options):
    with seeded(0, "encoder"):
        return TokenEncoder(SPECS, TokenEncoder.Options(width=16, depth=2, heads=2, patch=(4,), **options)).double()


def given():
    x = torch.randn(3, 2, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return {"x": Dense(x, torch.ones_like(x[:, :1], dtype=torch.bool), torch.ones(3, 1), whole=True)}


def test_an_adapter_is_zero_at_first_and_then_what_its_layers_say():
    adapter, x = Adapter(6, 2).double(), torch.randn(4, 5, 6, dtype=torch.float64)
    assert torch.equal(adapter(x), torch.zeros_like(x))
    torch.nn.init.normal_(adapter.up.weight)
    hidden = torch.nn.functional.gelu(x @ adapter.down.weight.T)
    torch.testing.assert_close(adapter(x), hidden @ adapter.up.weight.T, rtol=0, atol=1e-12)
    assert adapter(x).abs().max() > 0.1


def test_without_adapters_nothing_is_new():
    plain, own = made(), made(adapter=3)
    assert [n for n in own.state_dict() if n not in plain.state_dict()] == [
        f"transformer.blocks.{i}.mlp.adapter.{layer}.{kind}"
        for i in (0, 1)
        for layer in ("down", "up")
        for kind in ("weight", "bias")
    ]
    assert not any("adapter" in n for n in plain.state_dict())
    # with them all else begins alike, and says the same to the bit, in every way that features are asked for
    assert all(torch.equal(own.state_dict()[n], v) for n, v in plain.state_dict().items())
    for more in ({}, {"layers": True}, {"states": True, "attention": True}):
        a, b = (e.encode(e.tokenise(given()), **more) for e in (plain, own))
        assert torch.equal(a.tokens, b.tokens) and all(map(torch.equal, a.layers, b.layers))


@pytest.mark.parametrize("positions", ["sincos", "rope"])
def test_what_an_adapter_adds_is_added_beside_the_mlp(positions):
    e = made(adapter=3, positions=positions)
    for adapter in adapters(e):
        torch.nn.init.normal_(adapter.up.weight)
    block, seen = e.transformer.blocks[1], []
    block.mlp.register_forward_hook(lambda _, given, out: seen.append((given[0], out)))
    features = e.encode(e.tokenise(given()), layers=True)
    x, out = seen[0]
    mlp = block.mlp.fc2(block.mlp.act(block.mlp.fc1(x)))
    torch.testing.assert_close(out, mlp + block.mlp.adapter(x), rtol=0, atol=1e-12)
    assert torch.equal(features.layers[1], out)
    torch.testing.assert_close(e.encode(e.tokenise(given())).tokens, features.tokens, rtol=0, atol=1e-12)


def test_the_same_encoder_with_other_adapters():
    e = made(adapter=3)
    adapters(e.requires_grad_(False)).requires_grad_(True)
    theirs = torch.nn.ModuleList(Adapter(16, 3).double() for _ in range(2))
    other = with_adapters(e, theirs)
    assert all(a is b for a, b in zip(adapters(other), theirs, strict=True))
    own = dict(e.named_parameters())
    assert all((own[n] is p) == (".adapter." not in n) for n, p in other.named_parameters())
    torch.nn.init.normal_(theirs[1].up.weight)
    assert torch.equal(e(given()).tokens, made()(given()).tokens)
    assert not torch.equal(other(given()).tokens, e(given()).tokens)


def test_a_width_below_0_is_refused():
    with pytest.raises(ValidationError, match="adapter"):
        TokenEncoder.Options(adapter=-1)
