"""The random-projection quantiser: fixed, blind to scale, and in even use."""

import pytest
import torch

from unlabeled.core.targets.codebooks.random_projection import RandomProjection
from unlabeled.core.targets.codebooks.use import counted, in_use, perplexity


def made(patch=6, size=32, width=5, seed=0):
    return RandomProjection(patch, size, width, seed)


def test_by_hand():
    # projected by the unit matrix, the code is the entry at the smallest angle
    q = made(2, 3, 2)
    q.projection.copy_(torch.eye(2))
    q.entries.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-0.6, -0.8]]))
    x = torch.tensor([[[3.0, 1.0], [1.0, 9.0]], [[-5.0, -5.0], [0.0, 0.0]]])
    assert q.codes(x).tolist() == [[0, 1], [2, 0]]
    assert q.size == 3


def test_of_unit_vectors_it_is_the_nearest():
    q, x = made().double(), torch.randn(4, 9, 6, dtype=torch.float64)
    unit = torch.nn.functional.normalize(x @ q.projection, dim=-1)
    torch.testing.assert_close(q.entries.norm(dim=1), torch.ones(32, dtype=torch.float64), atol=1e-6, rtol=0)
    assert torch.equal(q.codes(x), torch.cdist(unit.flatten(0, 1), q.entries).argmin(1).reshape(4, 9))


def test_a_positive_scale_changes_nothing():
    q, x = made().double(), torch.randn(4, 9, 6, dtype=torch.float64)
    for scale in (1e-3, 0.5, 2.0, 1024.0):
        assert torch.equal(q.codes(scale * x), q.codes(x))


def test_the_same_seed_gives_the_same_book_and_training_leaves_it():
    q, other = made(seed=3), made(seed=4)
    before = {name: b.clone() for name, b in q.state_dict().items()}
    assert all(torch.equal(b, before[name]) for name, b in made(seed=3).state_dict().items())
    assert not torch.equal(other.entries, q.entries)
    # ten steps beside a layer that learns: it has no parameter that an optimiser could move
    net = torch.nn.ModuleDict({"q": q, "head": torch.nn.Linear(6, 32)})
    optimiser = torch.optim.AdamW(net.parameters(), lr=0.1)
    x = torch.randn(20, 6)
    for _ in range(10):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(net["head"](x), q.codes(x)).backward()
        optimiser.step()
    assert not list(q.parameters())
    assert all(torch.equal(b, before[name]) for name, b in q.state_dict().items())
    other.load_state_dict(q.state_dict())
    assert torch.equal(other.codes(x), q.codes(x))


def test_autocast_changes_no_code():
    q, x = made(), torch.randn(64, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = q.codes(x)
    assert torch.equal(found, q.codes(x))


@pytest.mark.parametrize("seed", [0, 1])
def test_most_codes_are_in_use(seed):
    # 20,000 vectors of N(0, I) in 256 dimensions, 1024 codes of width 256: 909 to 921 at three seeds. With equally likely
    # codes the expected plug-in perplexity would be 1024 exp(-(K - 1) / 2n) = 998; real cells are of unequal size.
    q = made(256, 1024, 256, seed)
    x = torch.randn(20_000, 256, generator=torch.Generator().manual_seed(seed))
    counts = counted(q.codes(x), torch.ones(20_000), 1024)
    assert perplexity(counts).item() == pytest.approx(915, abs=25)
    assert in_use(counts) > 0.995
