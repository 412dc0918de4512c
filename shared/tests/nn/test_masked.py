"""Masked-dense convolution: nets of any make and rank see the active sites and nothing else."""

import threading
from copy import deepcopy

import pytest
import torch
from timm.layers import BatchNormAct2d, LayerNorm2d
from torch import nn

from unlabeled.core import ranks
from unlabeled.core.contracts import RequestError
from unlabeled.core.nn.masked import MaskedDense, sites_at, upsampled
from unlabeled.core.nn.norms import RankBatchNorm
from unlabeled.core.testing.ranks import assert_same
from unlabeled.core.testing.sync import NoWaiting

PARTS = {
    1: (
        nn.Conv1d,
        nn.BatchNorm1d,
        nn.MaxPool1d,
        nn.AvgPool1d,
        nn.InstanceNorm1d,
        nn.AdaptiveAvgPool1d,
        nn.ConvTranspose1d,
    ),
    2: (
        nn.Conv2d,
        nn.BatchNorm2d,
        nn.MaxPool2d,
        nn.AvgPool2d,
        nn.InstanceNorm2d,
        nn.AdaptiveAvgPool2d,
        nn.ConvTranspose2d,
    ),
    3: (
        nn.Conv3d,
        nn.BatchNorm3d,
        nn.MaxPool3d,
        nn.AvgPool3d,
        nn.InstanceNorm3d,
        nn.AdaptiveAvgPool3d,
        nn.ConvTranspose3d,
    ),
}
SHAPES = {1: (16,), 2: (8, 12), 3: (4, 8, 4)}


class Net(nn.Module):
    """A user's net with a bit of everything: every norm, pools, a gate, a layer with channels last, an added constant."""

    def __init__(self, d):
        super().__init__()
        conv, batch, highest, mean, instance, everywhere, up = PARTS[d]
        self.first = nn.Sequential(conv(2, 4, 5, padding=2), batch(4), nn.SiLU(), highest(3, 2, 1))
        self.second = nn.Sequential(conv(4, 6, 3, 2, 1), nn.GroupNorm(2, 6), nn.Softplus(), instance(6, affine=True))
        self.gate = nn.Sequential(everywhere(1), conv(6, 6, 1), nn.Sigmoid())
        self.last = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 6))
        self.constant = nn.Parameter(torch.zeros(6, *[1] * d))
        self.up, self.norm, self.mean = up(6, 4, 2, 2), RankBatchNorm(4), mean(2, ceil_mode=True)
        for p in self.parameters():
            nn.init.normal_(p, std=0.4)

    def maps(self, x):
        a = self.first(x)
        b = self.second(a)
        b = b * self.gate(b) + self.constant
        b = b + self.last(b.movedim(1, -1)).movedim(-1, 1)
        c = self.norm(self.up(b) + a).relu()
        return [a, b, c, self.mean(c)]

    forward = maps


def net(d):
    torch.manual_seed(0)
    return Net(d).double()


def given(d, rows=3):
    """A batch and sites hidden by blocks of 4 cells; the second row has none, the first all but one block."""
    g = torch.Generator().manual_seed(1)
    grid = tuple(s // 4 for s in SHAPES[d])
    active = torch.rand(rows, *grid, generator=g) < 0.6
    active[0] = True
    active[0].view(-1)[0] = False
    active[1:2] = False
    return torch.randn(rows, 2, *SHAPES[d], generator=g, dtype=torch.float64), upsampled(active, SHAPES[d])


def run(model, x, sites):
    """Maps, loss gradients and buffers of one masked training step."""
    with MaskedDense(sites) as masked:
        maps = model.maps(masked.hide(x))
    sum(m.square().mean() for m in maps).backward()
    return [*(m.detach() for m in maps), *(p.grad for p in model.parameters()), *model.buffers()]


def close(found, wanted, tolerance=1e-12):
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("d", [1, 2, 3])
def test_with_every_site_active_the_net_is_dense(d, training):
    x, sites = given(d)
    plain, masked = net(d).train(training), net(d).train(training)
    maps = plain.maps(x)
    sum(m.square().mean() for m in maps).backward()
    dense = [*(m.detach() for m in maps), *(p.grad for p in plain.parameters()), *plain.buffers()]
    # deep sums of 1e2 in another order
    close(run(masked, x, torch.ones_like(sites)), dense, 1e-10)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_inactive_sites_are_zero_and_what_was_there_is_nothing(d):
    x, sites = given(d)
    found = run(net(d), x, sites)
    for m in found[:4]:
        at = sites_at(sites, m.shape[2:]).unsqueeze(1).expand_as(m)
        assert (m[~at] == 0).all() and (m[at] != 0).any()
    for spoil in (torch.nan, 1e6, -torch.inf):
        assert all(
            torch.equal(a, b)
            for a, b in zip(found, run(net(d), torch.where(sites.unsqueeze(1), x, spoil), sites), strict=True)
        )


@pytest.mark.parametrize("d", [1, 2, 3])
def test_an_item_alone_equals_itself_in_a_padded_batch(d):
    # 4 more cells along each axis, NaN; in evaluation, as batch norms see the others in training
    x, _ = given(d, rows=1)
    bigger = tuple(s + 4 for s in SHAPES[d])
    inside = (slice(None), slice(None), *map(slice, SHAPES[d]))
    padded, sites = (
        torch.full((1, 2, *bigger), torch.nan, dtype=torch.float64),
        torch.zeros(1, *bigger, dtype=torch.bool),
    )
    padded[inside], sites[(slice(None), *inside[2:])] = x, True
    model = net(d).eval()
    for alone, found in zip(model.maps(x), run(model, padded, sites)[:4], strict=True):
        torch.testing.assert_close(
            found[(slice(None), slice(None), *map(slice, alone.shape[2:]))], alone, rtol=0, atol=1e-12
        )


def norm_under(norm, x, sites):
    with MaskedDense(sites) as masked:
        return norm(masked.hide(x))


@pytest.mark.parametrize("ours", [nn.BatchNorm2d, RankBatchNorm, BatchNormAct2d])
def test_batch_norms_are_those_of_the_gathered_rows(ours):
    x, sites = given(2)
    # a large mean, where moments of a wrong count would show
    norm, rows = ours(2).double(), nn.BatchNorm1d(2).double()
    found = norm_under(norm, x + 3, sites).movedim(1, -1)[sites]
    wanted = rows((x + 3).movedim(1, -1)[sites])
    torch.testing.assert_close(found, wanted.relu() if ours is BatchNormAct2d else wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(norm.running_mean, rows.running_mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(norm.running_var, rows.running_var, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "norm", [nn.GroupNorm(2, 4), nn.GroupNorm(1, 4), nn.InstanceNorm2d(4, affine=True), LayerNorm2d(4)], ids=repr
)
def test_norms_of_an_item_are_those_of_its_gathered_sites(norm):
    _, sites = given(2)
    x = 3 + torch.randn(3, 4, *SHAPES[2], dtype=torch.float64)
    norm = deepcopy(norm).double()
    for p in norm.parameters():
        nn.init.normal_(p)
    found = norm_under(norm, x, sites)
    for row in (0, 2):
        # the active sites of one item, as a picture of one row
        gathered = x[row, :, sites[row]][None, :, None]
        torch.testing.assert_close(found[row, :, sites[row]], norm(gathered)[0, :, 0], rtol=0, atol=1e-12)
    assert (found[1] == 0).all()


def test_a_layer_norm_over_a_whole_map_counts_active_sites():
    # channels and sites together: zero mean and unit variance over the 4 * n active elements, of fp64 exact to 1e-12
    _, sites = given(2)
    found = norm_under(
        nn.LayerNorm((4, *SHAPES[2]), eps=0).double(), 5 * torch.randn(3, 4, *SHAPES[2]).double() + 3, sites
    )
    active = found[0, :, sites[0]]
    assert abs(active.mean()) < 1e-12 and abs(active.square().mean() - 1) < 1e-12


def test_pools_are_over_active_cells():
    # cells -4 -3 -2 -1 with only the first two active: pairs have the maxima -3 and none, the means -3.5 and none
    x = torch.tensor([[[-4.0, -3, -2, -1]]])
    sites = torch.tensor([[True, True, False, False]])
    with MaskedDense(sites) as masked:
        x = masked.hide(x)
        assert nn.MaxPool1d(2)(x).tolist() == [[[-3, 0]]]
        # one active of three cells in the second window; torch's own padding is -inf
        assert nn.MaxPool1d(3, 2, 1)(x).tolist() == [[[-3, 0]]]
        assert nn.AvgPool1d(2)(x).tolist() == [[[-3.5, 0]]]
        assert nn.AvgPool1d(4)(x).tolist() == [[[-3.5]]]
        # padding that counts as a zero: (0 - 4 - 3) / 3, and hidden cells count alike
        torch.testing.assert_close(nn.AvgPool1d(3, 2, 1)(x), torch.tensor([[[-7 / 3, 0]]]))
        assert nn.AdaptiveAvgPool1d(1)(x).tolist() == [[[-3.5]]]
        assert nn.AdaptiveMaxPool1d(1)(x).tolist() == [[[-3]]]
        assert x.mean(2).tolist() == x.mean(dim=-1).tolist() == [[-3.5]]
        assert x.amax(-1).tolist() == [[-3]]
        assert x.mean(1).tolist() == [[-4, -3, 0, 0]]  # over channels, so sites do not matter


def test_masks_are_upsampled_and_seen_at_every_resolution():
    active = torch.tensor([[[True, False], [False, False]]])
    sites = upsampled(active, (4, 8))
    assert sites.sum() == 2 * 4 and sites[0, :2, :4].all()
    assert torch.equal(sites_at(sites, (2, 2)), active)
    # one valid cell makes the site of its block
    one = torch.zeros(1, 4, 8, dtype=torch.bool)
    one[0, 3, 5] = True
    assert sites_at(one, (2, 4)).nonzero().tolist() == [[0, 1, 2]]
    assert sites_at(one, (3, 4)) is None


def test_nested_blocks_and_threads_do_not_disturb_each_other():
    x, sites = given(2)
    other = ~sites
    model = net(2).eval()
    alone = [run(deepcopy(model), x, s)[3] for s in (sites, other)]
    with MaskedDense(sites) as outer:
        with MaskedDense(other) as inner:
            nested = model.maps(inner.hide(x))[3]
        again = model.maps(outer.hide(x))[3]
    assert torch.equal(nested, alone[1]) and torch.equal(again, alone[0])

    # both threads are inside their blocks at every turn, with one net
    found, turn = {}, threading.Barrier(2)

    def work(name, mine):
        with MaskedDense(mine) as masked:
            for _ in range(3):
                turn.wait(timeout=30)
                found.setdefault(name, []).append(model.maps(masked.hide(x))[3].detach())

    threads = [threading.Thread(target=work, args=pair) for pair in ((0, sites), (1, other))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(m, alone[name]) for name in (0, 1) for m in found[name]) and len(found[1]) == 3


def test_nothing_is_left_behind_and_compiled_modules_go_on():
    x, sites = given(2)
    model = net(2).eval()
    before = [m.detach() for m in model.maps(x)]
    names = {name: len(module._forward_hooks) for name, module in model.named_modules()}
    stranger = torch.compile(nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU()).double(), backend="eager")
    wanted = stranger(x)
    with pytest.raises(ZeroDivisionError), MaskedDense(sites) as masked:
        model.maps(masked.hide(x))
        raise ZeroDivisionError
    close([m.detach() for m in model.maps(x)], before, 0)
    assert names == {name: len(module._forward_hooks) for name, module in model.named_modules()}
    assert torch.equal(stranger(x), wanted)


def test_a_masked_net_may_be_compiled():
    x, sites = given(2)
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Sigmoid(), nn.MaxPool2d(2)).double()
    compiled = torch.compile(model.eval(), backend="eager")
    for mine in (sites, ~sites):
        with MaskedDense(mine) as masked, torch.no_grad():
            torch.testing.assert_close(compiled(masked.hide(x)), model(masked.hide(x)), rtol=0, atol=0)


def test_other_modes_do_not_touch_our_norm():
    norm, x = RankBatchNorm(2), torch.randn(4, 2)
    wanted = deepcopy(norm)(x)
    with torch.device("cpu"):
        assert torch.equal(norm(x), wanted)


def test_a_step_does_not_wait_for_the_device():
    x, sites = given(3)
    model = net(3)
    with NoWaiting():
        run(model, x, sites)


def test_bfloat16_keeps_its_type_and_fp32_moments():
    # 8 bits: 1 % of values near 1
    x, sites = given(2)
    with torch.autocast("cpu", dtype=torch.bfloat16), MaskedDense(sites) as masked, torch.no_grad():
        half = nn.BatchNorm2d(2)(masked.hide(x.bfloat16()))
    wanted = norm_under(nn.BatchNorm2d(2).double(), x.bfloat16().double(), sites)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.double(), wanted, rtol=0.01, atol=0.01)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda x: nn.Conv2d(2, 2, 3)(x), "made a map of 6 x 10 from an input of 8 x 12; pad the input"),
        (lambda x: nn.AdaptiveAvgPool2d(2)(x), "adaptive pooling to 2 has no masked form"),
        (
            lambda x: nn.MultiheadAttention(12, 1)(x[:, 0], x[:, 0], x[:, 0]),
            "may not call multi_head_attention_forward",
        ),
        (lambda x: x @ x.mT, "may not call (matmul|__matmul__), which mixes sites"),
        (lambda x: nn.InstanceNorm2d(2, track_running_stats=True)(x), "set track_running_stats to False"),
    ],
)
def test_what_has_no_masked_form_is_refused(call, match):
    x, sites = given(2)
    with pytest.raises(RequestError, match=match), MaskedDense(sites) as masked:
        call(masked.hide(x).float())
    # without sites nothing is hidden, and nothing is refused
    with MaskedDense(None):
        call(x.float())


def task(sites_too):
    """One step on this rank's rows, of which rank 1 has far fewer active sites than rank 0."""
    x, sites = given(2, rows=4)
    sites[2] = False
    n = 4 // ranks.world()
    rows = slice(ranks.rank() * n, (ranks.rank() + 1) * n)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.GELU(), nn.Conv2d(3, 2, 1), RankBatchNorm(2)
    )
    model = model.double()
    with MaskedDense(sites[rows] if sites_too else None) as masked:
        out = model(masked.hide(x[rows]))
    scale = torch.linspace(-1, 1, 4 * out[0].numel(), dtype=out.dtype).reshape(4, *out.shape[1:])[rows]
    ranks.total((out.square() * scale).sum()).backward()
    # every rank's loss is the global one, so after the sum over ranks a gradient counts `world` times
    grads = {f"grad {name}": ranks.total(p.grad) / ranks.world() for name, p in model.named_parameters()}
    return grads | {"out": ranks.gather(out.detach())} | {name: b.clone() for name, b in model.named_buffers()}


@pytest.mark.parametrize("sites_too", [True, False])
def test_two_ranks_equal_one(two_ranks, sites_too):
    assert_same(two_ranks.run(f"{__file__}:task", sites_too), task(sites_too), tolerance=1e-10)
