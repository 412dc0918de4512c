"""Attention pooling."""

import torch

from unlabeled.core.nn.attention_pool import AttentionPool


def given():
    torch.manual_seed(0)
    return AttentionPool(16, 2, 2).double(), torch.randn(3, 5, 16, dtype=torch.float64)


def test_it_is_a_set():
    pool, x = given()
    out, order = pool(x, None), torch.tensor([3, 0, 4, 1, 2])
    assert out.shape == (3, 16)
    torch.testing.assert_close(pool(x[:, order], None), out, rtol=0, atol=1e-12)
    assert (pool(x.flip(2), None) - out).abs().max() > 1e-3


def test_invalid_tokens_are_not_there():
    pool, x = given()
    valid = torch.ones(3, 5, dtype=torch.bool)
    valid[:, 3:] = False
    torch.testing.assert_close(pool(x, valid), pool(x[:, :3], None), rtol=0, atol=1e-12)
    # without any token the learned one is left, and it is finite
    empty = pool(x, torch.zeros_like(valid))
    torch.testing.assert_close(empty[0], empty[1], rtol=0, atol=0)
    torch.testing.assert_close(empty, pool(x[:, :0], None), rtol=0, atol=1e-12)
