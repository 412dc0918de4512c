"""The codebook of directions: unit entries, the straight-through gradient, its update in closed form, dead entries."""

import math

import pytest
import torch
import torch.nn.functional as F

from unlabeled.core.targets.codebooks.cosine import CosineCodebook


def some(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def made(width=5, size=12, **options):
    return CosineCodebook(width, size, **options).double()


def unit_length(q):
    torch.testing.assert_close(q.entries.norm(dim=1), torch.ones(q.size, dtype=torch.float64), rtol=0, atol=1e-6)


def test_the_nearest_is_the_most_alike_and_length_does_not_count():
    q, x = made(), some(4, 7, 5)
    out = q(x)
    assert torch.equal(out.ids, torch.cdist(F.normalize(x, dim=-1), q.entries).argmin(-1))
    assert torch.equal(out.ids, q.codes(3 * x))


def test_forward_gives_the_entry_and_backward_passes_the_choice_by():
    q, x = made(), some(4, 7, 5).requires_grad_()
    out = q(x)
    torch.testing.assert_close(out.values, q.entries[out.ids], rtol=0, atol=1e-15)
    # the gradient of any function of the entries is that of the same function of the unit vectors, here linear
    w = some(4, 7, 5, seed=1)
    (out.values * w).sum().backward()
    (F.normalize(x2 := x.detach().clone().requires_grad_(), dim=-1) * w).sum().backward()
    torch.testing.assert_close(x.grad, x2.grad)


def test_the_distance_pulls_the_feature_and_not_the_entry():
    # at an angle a the squared distance of unit vectors is 2 - 2 cos a
    q = made(2, 1)
    q.entries.copy_(torch.tensor([[1.0, 0.0]]))
    angle = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    out = q(torch.stack([5 * angle.cos(), 5 * angle.sin()])[None])
    assert out.distance.item() == pytest.approx(2 - 2 * math.cos(0.7), abs=1e-12)
    out.distance.sum().backward()
    assert angle.grad.item() == pytest.approx(2 * math.sin(0.7), abs=1e-12)
    assert not q.entries.requires_grad


def test_an_update_by_hand():
    # entry (1, 0) gets the directions of 30 and 60 degrees at lengths that do not count: their mean points to 45 degrees.
    # l2(.99 (1, 0) + .01 (cos 45, sin 45)) has the angle atan2(.01 sin 45, .99 + .01 cos 45). (0, -1) gets none
    q = made(2, 2, dead=0.0)
    q.entries.copy_(torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
    angles = torch.tensor([30.0, 60.0], dtype=torch.float64).deg2rad()
    x = torch.stack([angles.cos(), angles.sin()], 1) * torch.tensor([[4.0], [0.1]])
    q.update(x, torch.ones(2), 0)
    s = math.sqrt(0.5)
    got = math.atan2(q.entries[0, 1].item(), q.entries[0, 0].item())
    assert got == pytest.approx(math.atan2(0.01 * s, 0.99 + 0.01 * s), abs=1e-12)
    assert q.entries[1].tolist() == [0.0, -1.0]
    unit_length(q)
    torch.testing.assert_close(q.use, torch.tensor([0.02, 0.0], dtype=torch.float64))


def test_entries_stay_on_the_sphere_whatever_comes():
    q = made(3, 8)
    zero = torch.zeros(4, 3, dtype=torch.float64)
    q.start(some(20, 3), torch.ones(20), 0)
    unit_length(q)
    for step, x in enumerate(
        [1e6 * some(20, 3, seed=1), zero, 1e-6 * some(20, 3, seed=2), torch.cat([zero, some(2, 3)])]
    ):
        q.update(x, torch.ones(len(x)), step)
        unit_length(q)
        assert q.entries.isfinite().all()


def test_opposite_directions_have_no_mean():
    # a single entry gets v and -v: it stays
    q = made(2, 1)
    q.entries.copy_(torch.tensor([[1.0, 0.0]]))
    q.update(torch.tensor([[0.0, 1.0], [0.0, -1.0]], dtype=torch.float64), torch.ones(2), 0)
    assert q.entries.tolist() == [[1.0, 0.0]]


def test_dead_entries_start_anew_in_the_batch():
    # all features lie near (1, 0, 0), 63 of 64 entries elsewhere: with revival the codes in use grow, without they do not
    x = F.normalize(torch.tensor([1.0, 0, 0], dtype=torch.float64) + 0.1 * some(256, 3), dim=1)
    alive = {}
    for dead in (0.0, 0.01):
        q = made(3, 64, dead=dead)
        q.entries[:] = torch.tensor([-1.0, 0.0, 0.0])
        q.entries[0] = torch.tensor([1.0, 0.0, 0.0])
        for step in range(10):
            q.update(x, torch.ones(256), step)
        alive[dead] = len(q.codes(x).unique())
        unit_length(q)
    assert alive[0.0] == 1 and alive[0.01] > 40


def test_forward_changes_no_buffer():
    q = made()
    before = {name: b.clone() for name, b in q.state_dict().items()}
    for mode in (True, False):
        q.train(mode)(some(9, 5))
    assert all(torch.equal(b, before[name]) for name, b in q.state_dict().items())
    assert set(before) == {"entries", "use"} and not list(q.parameters())
