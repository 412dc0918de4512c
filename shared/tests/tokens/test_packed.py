"""Packed inputs as padded tokens."""

import torch

from unlabeled.core.contracts.batch import Graph, Packed
from unlabeled.core.tokens.packed import packed_tokens


def test_rows_keep_their_tokens():
    # rows of 2, 0 and 3 tokens, one of them invalid
    values = torch.arange(10.0).reshape(5, 2)
    packed = Packed(
        values=values,
        valid=torch.tensor([True, True, True, False, True]),
        coords=torch.tensor([[0.0], [1.0], [0.5], [1.5], [2.5]]),
        offsets=torch.tensor([0, 2, 2, 5]),
    )
    tokens = packed_tokens(packed)
    assert tokens.valid.tolist() == [[True, True, False], [False, False, False], [True, False, True]]
    assert tokens.patches[0].tolist() == [[0, 1], [2, 3], [0, 0]]
    assert tokens.patches[2].tolist() == [[4, 5], [0, 0], [8, 9]]
    assert tokens.coords[2].tolist() == [[0.5], [0.0], [2.5]]


def test_a_graph_is_a_set_of_nodes_and_an_empty_pack_has_one_filler():
    graph = Graph(
        values=torch.zeros(0, 3),
        valid=torch.zeros(0, dtype=torch.bool),
        coords=torch.zeros(0, 2),
        offsets=torch.tensor([0, 0]),
        edges=torch.zeros(2, 0, dtype=torch.int64),
    )
    tokens = packed_tokens(graph)
    assert tokens.patches.shape == (1, 1, 3)
    assert not tokens.valid.any()
