"""The decoder of ARM: a query sees what it may see, and its place."""

import torch

from unlabeled.core.nn.causal_decoder import CausalDecoder


def given():
    torch.manual_seed(0)
    decoder = CausalDecoder(6, 5, CausalDecoder.Options(width=8, depth=2, heads=2)).double()
    position = torch.arange(4.0, dtype=torch.float64)[None, :, None].expand(2, -1, -1)
    sees = torch.arange(4) < torch.arange(4)[:, None]  # query m sees the features before m
    return decoder, torch.randn(2, 4, 6, dtype=torch.float64), sees.expand(2, -1, -1), position


def test_a_query_depends_on_what_it_sees_alone():
    decoder, features, sees, position = given()
    for query in range(4):
        x = features.clone().requires_grad_()
        out = decoder(x, sees, position)
        assert out.shape == (2, 4, 5)
        out[:, query].square().sum().backward()
        assert (x.grad.abs().sum(-1) > 0).tolist() == [[n < query for n in range(4)]] * 2


def test_a_query_that_sees_nothing_knows_its_place():
    decoder, features, sees, position = given()
    out = decoder(features, torch.zeros_like(sees), position)
    assert out.isfinite().all()
    # other features change nothing, another place does
    assert torch.equal(out, decoder(features + 1, torch.zeros_like(sees), position))
    assert (out[:, 0] != out[:, 1]).any()


def test_queries_do_not_see_each_other():
    decoder, features, sees, position = given()
    alone = decoder(features, sees[:, 2:3], position[:, 2:3])
    torch.testing.assert_close(decoder(features, sees, position)[:, 2:3], alone, rtol=0, atol=1e-12)
