"""What is hidden from a student."""

from dataclasses import replace

import torch

from unlabeled.core.contracts import Input, InputSpec, Sample
from unlabeled.core.data.loading import Collate
from unlabeled.core.methods.hiding import Hiding, hidden
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.testing.method import CTX


def item(i, length=(24, 16)):
    """Two signals, of 6 and of 2 patches."""
    g = torch.Generator().manual_seed(i)
    inputs = {
        name: Input(torch.randn(1, n, generator=g).numpy(), ("a",), ("",), unit="px", spacing=(1.0,))
        for name, n in zip("xy", length, strict=True)
    }
    return Sample(inputs, key=f"i{i}", group=f"g{i}", index=i, record=i)


def given(options=None, items=4):
    specs = {name: InputSpec.of(x, axes=("x",)) for name, x in item(0).inputs.items()}
    encoder = TokenEncoder(specs, TokenEncoder.Options(width=16, depth=1, heads=2, patch={"x": (4,), "y": (8,)}))
    batch = Collate(specs)([item(i) for i in range(items)])
    options = options or Hiding(mask_share=1.0, mask_ratio=(0.5, 0.5), mask={"name": "random"})
    return encoder, batch, hidden(options, encoder, [batch, batch], CTX)


def test_places_are_those_in_the_sequence_of_all_inputs():
    encoder, _, found = given()
    # of 6 and of 2 patches half are hidden, in 2 crops of 4 items
    assert found.at.shape == (8, 4) and found.there.all()
    assert (found.at[:, :3] < 6).all() and (found.at[:, 3:] >= 6).all() and found.at.max() == 7
    token = torch.full((16,), 3.0)
    seen = {}
    encoder.encode(found.tokens, lambda name, x: seen.setdefault(name, x))
    asked = {}

    class Listening:
        def encode(self, tokens, corrupt):
            asked.update({name: corrupt(name, x) for name, x in seen.items()})

    found.encode(Listening(), token)
    every, were = torch.cat(list(asked.values()), 1), torch.cat(list(seen.values()), 1)
    is_hidden = torch.zeros(8, 8, dtype=torch.bool).scatter(1, found.at, True)
    assert (every[is_hidden] == 3).all() and torch.equal(every[~is_hidden], were[~is_hidden])
    assert torch.equal(found.take(every), torch.full((8, 4, 16), 3.0))


def test_crops_of_an_item_hide_what_they_like_and_an_item_hides_the_same_in_any_batch():
    encoder, batch, found = given(items=32)
    assert not torch.equal(found.at[:32], found.at[32:])
    options = Hiding(mask_share=1.0, mask_ratio=(0.5, 0.5), mask={"name": "random"})
    part = hidden(options, encoder, batch.parts(2)[1:] * 2, CTX)
    assert torch.equal(part.at, torch.cat([found.at[16:32], found.at[48:]]))
    other = hidden(options, encoder, [batch, batch], replace(CTX, epoch=2))
    assert not torch.equal(other.at, found.at)


def test_nothing_hidden_is_the_plain_encoder():
    encoder, _, found = given()
    nothing = replace(found, there=torch.zeros_like(found.there))
    plain = encoder.encode(found.tokens)
    assert torch.equal(nothing.encode(encoder, torch.full((16,), 3.0)).tokens, plain.tokens)


def test_some_of_the_hidden():
    _, _, found = given(items=32)
    two, six = found.some(2), found.some(6)
    assert two.at.shape == (64, 2) and two.there.all()
    assert (two.at[:, :, None] == found.at[:, None]).any(-1).all()
    # each of the four slots is as likely: 128 of 2 * 64 draws at .25, deviation .038
    first = (two.at[:, :, None] == found.at[:, None, :1]).any(-1).any(-1).double().mean().item()
    assert abs(first - 0.5) < 0.2
    # more than there are: the others are fillers
    assert six.at.shape == (64, 6) and (six.there.sum(1) == 4).all()
    assert torch.equal(six.at[six.there].view(64, 4).sort(1)[0], found.at.sort(1)[0])
    assert not replace(found, there=torch.zeros_like(found.there)).some(2).there.any()
