"""The projector with a norm at its output."""

import torch

from unlabeled.core.nn.normed_projector import NormedProjector


def test_its_output_has_mean_zero_and_variance_one():
    torch.manual_seed(0)
    make = NormedProjector(4, (8, 3)).double()
    x, weight = torch.randn(40, 4, dtype=torch.float64), (torch.arange(40) % 4 > 0).double()
    out = make(x, weight)[weight > 0]
    torch.testing.assert_close(out.mean(0), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12)
    # var / (var + 1e-5), below 1 by 1e-5 / var
    torch.testing.assert_close(out.var(0, unbiased=False), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-3)
    torch.testing.assert_close(out, make(x[weight > 0]), rtol=0, atol=1e-12)


def test_nothing_is_learned_at_the_output():
    make = NormedProjector(4, (8, 3))
    learned = {name: p.numel() for name, p in make.named_parameters() if p.requires_grad}
    # two layers without bias, and the scale and shift of the norm between them
    assert learned == {"layers.0.weight": 32, "layers.1.weight": 24, "norms.0.weight": 8, "norms.0.bias": 8}
