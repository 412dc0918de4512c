"""VideoMAE V2: its contract and oracles."""

from dataclasses import replace

import pytest
import torch

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Batch, Dense
from unlabeled.core.methods.mae import MAE
from unlabeled.core.methods.videomae2 import VideoMAE2
from unlabeled.core.nn.convnet import ConvNet
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.testing.learning import descent
from unlabeled.core.testing.method import CTX, MethodContract

DECODER = {"width": 18, "depth": 1, "heads": 2}


class TestVideoMAE2(MethodContract):
    name = "videomae2"
    shape = (8, 8, 8)
    encoder = ("tokens", {"width": 18, "depth": 2, "heads": 2, "patch": (2, 4, 4)})
    options = {"decoder": DECODER, "mask_ratio": 0.75}


class TestVideoMAE2Channels(MethodContract):
    """Two axes, time and what a channel number stands for: cells of two, an odd number of times, patches that stick out."""

    name = "videomae2"
    shape = (21, 10)
    encoder = ("tokens", {"width": 16, "depth": 1, "heads": 2, "patch": (3, 4)})
    options = {"decoder": DECODER | {"width": 16}, "mask_ratio": 0.6}


def made(grid, mask_ratio=0.9, cls=VideoMAE2, **options):
    """A method on single cells as tokens, and 3 whole items."""
    d = len(grid)
    axes = (("time", "height", "width"), ("time", "channel"))[d == 2][:d]
    spec = {"x": InputSpec(channels=("a",), units=("",), axes=axes, unit="px", spacing=(1.0,) * d)}
    torch.manual_seed(0)
    encoder = TokenEncoder(spec, TokenEncoder.Options(width=12, depth=1, heads=2, patch=(1,) * d))
    options = {
        "decoder": {"width": 12, "depth": 1, "heads": 2},
        "mask_ratio": mask_ratio,
        "norm_target": False,
        **options,
    }
    x = torch.randn(3, 1, *grid, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    dense = Dense(x, torch.ones_like(x, dtype=torch.bool), torch.ones(3, d, dtype=torch.float64), whole=True)
    ids = torch.arange(3)
    method = cls(encoder, spec, cls.Options(**options)).double()
    return method, Batch({"x": dense}, ids, ids, ids, torch.ones(3, dtype=torch.float64), {})


def places(tokens, grid):
    """(B, *grid) bool: where tokens are."""
    at = [(tokens.coords[..., i] - 0.5).long() for i in range(len(grid))]
    rows = torch.arange(len(tokens.valid))[:, None]
    count = torch.zeros(len(tokens.valid), *grid, dtype=torch.int64)
    return count.index_put((rows, *at), tokens.valid.long(), accumulate=True) == 1


def test_the_published_counts():
    # 8 x 14 x 14 tokens: int(.9 * 196) = 176 tubes are hidden, 20 * 8 = 160 tokens seen, and 4 of 8 times of each tube
    # decoded: 704. No row has fillers
    grid = (8, 14, 14)
    m, batch = made(grid)
    cut = m.on_batch(batch, CTX)
    assert cut.visible["x"].patches.shape[1] == 160 and cut.hidden["x"].patches.shape[1] == 704
    assert cut.visible["x"].whole and cut.hidden["x"].whole
    seen, decoded = places(cut.visible["x"], grid), places(cut.hidden["x"], grid)
    assert torch.equal(seen, seen[:, :1].expand_as(seen)) and not (seen & decoded).any()
    assert (decoded.sum(1)[~seen[:, 0]] == 4).all()
    # two of four tokens of a cell at each time, and half a cycle later the others
    hidden = ~seen
    cell = decoded[:, 2:] ^ decoded[:, :-2]
    assert torch.equal(cell, hidden[:, 2:])
    whole_cells = hidden.reshape(3, 8, 7, 2, 7, 2).all(-1).all(-2)
    per_cell = decoded.reshape(3, 8, 7, 2, 7, 2).sum((3, 5))
    assert (per_cell[whole_cells] == 2).all()


def test_items_begin_at_phases_of_their_own():
    grid = (4, 4, 4)
    m, batch = made(grid, 0.5)
    batch = replace(batch, index=torch.arange(3))
    first = {
        tuple(places(m.on_batch(batch, replace(CTX, epoch=e)).hidden["x"], grid)[0].flatten().tolist())
        for e in range(30)
    }
    assert len(first) > 4


@pytest.mark.parametrize("mask", ["tube", "random"])
@pytest.mark.parametrize("grid", [(8, 4, 4), (7, 5, 3), (2, 4, 6), (9, 6), (4, 7)], ids=str)
def test_decoded_are_those_hidden_that_the_cells_take(mask, grid):
    m, batch = made(grid, 0.6, mask=mask)
    everything, _ = made(grid, 0.6, mask=mask, decoder_mask_ratio=0.0)
    decoded, hidden = (places(x.on_batch(batch, CTX).hidden["x"], grid) for x in (m, everything))
    assert not (decoded & ~hidden).any()
    size = 4 if len(grid) == 3 else 2
    index = torch.meshgrid(*[torch.arange(n) for n in grid], indexing="ij")
    order = index[0] + (index[1] % 2 * 2 + index[2] % 2 if size == 4 else index[1] % 2)
    for b in range(3):
        phases = [hidden[b] & ((order + q) % size < size // 2) for q in range(size)]
        assert any(torch.equal(decoded[b], p) for p in phases)


def test_with_no_cells_it_is_mae():
    m, batch = made((4, 4, 4), mask="random", mask_ratio=0.75, rounding="keep", decoder_mask_ratio=0.0)
    plain, _ = made((4, 4, 4), cls=MAE, mask_ratio=0.75)
    plain.load_state_dict(m.state_dict())
    ours, theirs = (x.step(x.on_batch(batch, CTX), CTX)["loss"] for x in (m, plain))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_the_loss_is_that_of_the_decoded_tokens():
    m, batch = made((4, 4, 4))
    torch.nn.init.zeros_(m.predictor.heads["x"].weight), torch.nn.init.constant_(m.predictor.heads["x"].bias, 0.3)
    cut = m.on_batch(batch, CTX)
    # 16 tubes, int(14.4) = 14 hidden, 2 of 4 times each: 28 tokens
    assert cut.hidden["x"].patches.shape == (3, 28, 1)
    loss = m.step(cut, CTX)["loss"]
    torch.testing.assert_close(loss, (cut.hidden["x"].patches - 0.3).square().mean())


def test_what_is_drawn_is_all_that_is_hidden():
    m, batch = made((4, 4, 4))
    with torch.inference_mode():
        out = m.reconstruct(batch, CTX)
    assert out["x.masked"].isnan().flatten(1).sum(1).tolist() == [14 * 4] * 3
    assert out["x.predicted"].isfinite().all()
    assert (out["x.predicted"] != out["x.original"]).flatten(1).sum(1).tolist() == [14 * 4] * 3


def test_it_learns():
    m, batch = made((4, 4, 4), 0.75)
    wave = torch.sin(torch.arange(3.0)[:, None, None, None] + torch.arange(4.0)[:, None, None]).expand(3, 4, 4, 4)
    batch = batch.with_inputs(x=replace(batch.inputs["x"], values=wave[:, None].double()))
    losses = descent(m, batch, 60)
    assert sum(losses[-5:]) < 0.3 * sum(losses[:5])


@pytest.mark.parametrize(
    ("grid", "options", "said"),
    [
        ((8,), {}, "method videomae2: the input 'x' has no grid of two axes or more; use mae"),
        (
            (8, 4),
            {"decoder_mask_ratio": 0.75},
            "'x' has cells of 2 tokens, of which 0.75 is no whole number; .* of 0.5",
        ),
        ((8, 4, 4), {"decoder_mask_ratio": 0.4}, "cells of 4 tokens, of which 0.4 is no whole number; .* of 0.25"),
    ],
)
def test_what_cannot_be_is_refused(grid, options, said):
    with pytest.raises(RequestError, match=said):
        made(grid, **options)


def test_an_encoder_without_tokens_is_refused():
    specs = TestVideoMAE2.method().specs
    with pytest.raises(RequestError, match="needs a token encoder, got ConvNet"):
        VideoMAE2(ConvNet(specs, ConvNet.Options()), specs, VideoMAE2.Options())
