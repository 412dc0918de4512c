"""One pass of the encoder for all views of a size."""

from dataclasses import fields, replace

import pytest
import torch

from unlabeled.core.contracts.batch import Graph, Packed
from unlabeled.core.methods.views import encoded
from unlabeled.core.nn.base import Features
from unlabeled.core.streams import Draw
from unlabeled.core.testing.method import MethodContract, noisy
from unlabeled.core.testing.ranks import assert_same

TOKENS = ("tokens", {"width": 16, "depth": 1, "heads": 2, "patch": (4,), "cls": True})
CONVNET = ("convnet", {"channels": (8, 12), "kernels": (5, 3), "strides": (2, 2)})


def made(named=TOKENS):
    kind = type("Kind", (MethodContract,), {"name": "vicreg", "encoder": named})
    return kind.method().encoder.double(), kind.batch()


def views(batch, widths):
    """Noisy crops, with NaN in the rows that failed to load; half of the second row is invalid."""
    found = []
    for i, width in enumerate(widths):
        view = noisy(batch, Draw(0, 0, batch.index, f"view{i}"))
        x = view.inputs["x"]
        x.values[batch.weight == 0] = torch.nan
        found.append(view.with_inputs(x=replace(x, values=x.values[..., :width], valid=x.valid[..., :width])))
    return found


def tensors(features):
    return {f.name: v for f in fields(features) if isinstance(v := getattr(features, f.name), torch.Tensor)}


def test_views_in_one_pass_are_as_one_by_one():
    encoder, batch = made()
    given = views(batch, (24, 12, 24, 12, 12))
    calls = []
    encoder.register_forward_pre_hook(lambda module, args: calls.append(args[0]["x"].values.shape))
    together = encoded(encoder, given)
    # two sizes: one pass for the two wide views of 8 items, one for the three small ones
    assert calls == [(16, 2, 24), (24, 2, 12)]
    for view, found in zip(given, together, strict=True):
        alone = tensors(encoder(view.inputs))
        assert set(alone) == {"tokens", "valid", "pooled", "cls"}
        there = batch.weight > 0
        assert_same([{k: v[there] for k, v in tensors(found).items()}], {k: v[there] for k, v in alone.items()}, 1e-12)


def test_states_and_layers_are_split_too():
    encoder, batch = made()
    given = views(batch, (24, 24))

    def call(inputs):
        return encoder.encode(encoder.tokenise(inputs), layers=True, states=True, attention=True)

    for view, found in zip(given, encoded(call, given), strict=True):
        alone = call(view.inputs)
        there = batch.weight > 0
        for name in ("layers", "states"):
            (a,), (b,) = getattr(found, name), getattr(alone, name)
            torch.testing.assert_close(a[there], b[there], rtol=0, atol=1e-12)
        torch.testing.assert_close(found.attention[there], alone.attention[there], rtol=0, atol=1e-12)


def test_a_whole_view_stays_whole_among_its_like_only():
    encoder, batch = made()
    x = batch.inputs["x"]
    whole = batch.with_inputs(x=replace(x, valid=torch.ones_like(x.valid), whole=True))
    assert [f.whole for f in encoded(encoder, [whole, whole])] == [True, True]
    assert [f.whole for f in encoded(encoder, [whole, batch])] == [False, False]


def test_norms_see_the_views_of_a_pass_together():
    # a batch norm over two views at once has the mean of both, and one by one each its own
    encoder, batch = made(CONVNET)
    given = views(batch, (24, 24))
    given[1] = given[1].with_inputs(x=replace(given[1].inputs["x"], values=given[1].inputs["x"].values + 3))
    there = batch.weight > 0
    together = [f.pooled[there] for f in encoded(encoder, given)]
    apart = [encoder(v.inputs).pooled[there] for v in given]
    assert all((a - b).abs().max() > 0.1 for a, b in zip(together, apart, strict=True))
    encoder.eval()
    together, apart = (
        [f.pooled[there] for f in fs] for fs in (encoded(encoder, given), map(encoder, [v.inputs for v in given]))
    )
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-12)


def packed(lengths, start):
    n = sum(lengths)
    values = start + torch.arange(2.0 * n).view(n, 2)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    return Packed(values, torch.ones(n, dtype=torch.bool), values[:, :1], offsets)


def test_packed_rows_follow_each_other():
    first, second = packed((2, 0, 3), 0.0), packed((1, 4, 0), 100.0)
    found = Packed.joined([first, second])
    assert found.offsets.tolist() == [0, 2, 2, 5, 6, 10, 10]
    assert found.owner.tolist() == [0, 0, 2, 2, 2, 3, 4, 4, 4, 4]
    assert torch.equal(found.values, torch.cat([first.values, second.values]))
    assert found.coords.shape == (10, 1) and found.valid.shape == (10,)
    edges = torch.tensor([[0, 4], [1, 2]])
    graphs = [Graph(x.values, x.valid, x.coords, x.offsets, edges) for x in (first, second)]
    joined = Graph.joined(graphs)
    assert joined.edges.tolist() == [[0, 4, 5, 9], [1, 2, 6, 7]]
    assert torch.equal(joined.offsets, found.offsets)


@pytest.mark.parametrize("lengths", [(1, 4, 0), (1, 3, 0)])
def test_packed_views_of_other_lengths_go_one_by_one(lengths):
    _, batch = made()
    given = [batch.with_inputs(x=x) for x in (packed((2, 0, 3), 0.0), packed(lengths, 100.0))]
    calls = []

    def sums(inputs):
        x = inputs["x"]
        calls.append(x.size)
        pooled = torch.zeros(x.size, 2).index_add(0, x.owner, x.values)
        return Features(tokens=pooled, valid=x.valid, pooled=pooled)

    found = encoded(sums, given)
    assert calls == ([6] if sum(lengths) == 5 else [3, 3])
    # what every row holds, by hand
    for view, features in zip(given, found, strict=True):
        x = view.inputs["x"]
        rows = [x.values[a:b].sum(0) for a, b in zip(x.offsets[:-1], x.offsets[1:], strict=True)]
        assert torch.equal(features.pooled, torch.stack(rows))
