"""Ids: as vectors, from features back, and drawn."""

import math

import pytest
import torch

from unlabeled.core.nn.ids import IdEmbedding, IdLogits, sample, whole_numbers


def test_values_become_the_nearest_ids():
    x = torch.tensor([[[-3.0, 0.4], [2.6, 4.5], [7.0, 1e9]]])
    # torch rounds halves to even, and 4.5 to 4
    assert whole_numbers(x, (7, 5)).tolist() == [[[0, 0], [3, 4], [6, 4]]]
    assert whole_numbers(x, (7, 5)).dtype == torch.int64


@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_products_with_a_table_by_channel(tied):
    torch.manual_seed(0)
    embedding = IdEmbedding((7, 5), 16)
    head = IdLogits(8, embedding, tied).double()
    embedding = embedding.double()
    torch.nn.init.normal_(head.bias)
    x = torch.randn(3, 4, 8, dtype=torch.float64)
    first, second = head(x, embedding)
    assert first.shape == (3, 4, 7) and second.shape == (3, 4, 5)
    table = embedding.table if tied else head.table
    hidden = (
        torch.nn.functional.layer_norm(torch.nn.functional.gelu(head.transform[0](x)), (16,)) * head.transform[2].weight
    )
    torch.testing.assert_close(second, hidden @ table[7:].T + head.bias[7:], rtol=0, atol=1e-12)
    assert (table.grad is None) and (head.table is None) == tied


def test_samples_follow_the_distribution():
    # 20,000 draws of p = softmax(0, 1, 2, -inf): within 4 standard deviations
    logits = torch.tensor([0.0, 1.0, 2.0, -torch.inf])
    noise = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    found = sample(logits.expand(20_000, -1), noise).bincount(minlength=4)
    for count, p in zip(found.tolist(), logits.softmax(0).tolist(), strict=True):
        assert abs(count / 20_000 - p) <= 4 * math.sqrt(p * (1 - p) / 20_000)
    assert found[3] == 0


def test_samples_are_the_inverse_of_the_distribution():
    # p = (1/2, 0, 1/4, 1/4): [0, 1/2) gives 0, [1/2, 3/4) gives 2, the rest 3
    logits = torch.tensor([2.0, 0.0, 1.0, 1.0]).log()
    noise = torch.tensor([0.0, 0.49, 0.51, 0.74, 0.76, 1 - 2.0**-24])
    drawn = sample(logits.expand(6, -1).requires_grad_(), noise)
    assert drawn.tolist() == [0, 0, 2, 2, 3, 3] and not drawn.requires_grad
    # whatever a row holds that does not count, there is an id
    assert 0 <= int(sample(torch.full((1, 4), torch.nan), noise[:1])) < 4


def test_no_number_is_no_wild_row():
    x = torch.tensor([[[torch.nan], [torch.inf], [-torch.inf]]])
    assert whole_numbers(x, (5,)).flatten().tolist() == [0, 4, 0]
