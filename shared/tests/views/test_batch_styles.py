"""One style for a batch: amplitudes of one item, phases of each."""

import pytest
import torch

from unlabeled.core import ranks
from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Batch, Dense
from unlabeled.core.contracts.domain import Domain
from unlabeled.core.contracts.recipe import View
from unlabeled.core.streams import Draw
from unlabeled.core.testing.method import MethodContract, noisy
from unlabeled.core.testing.ranks import assert_same, share
from unlabeled.core.testing.sync import NoWaiting
from unlabeled.core.views.batch_styles import batch_styles


def spec(axes=("y", "x"), **changes):
    n = len(axes)
    return InputSpec(
        layout="dense", channels=("a", "b"), units=("", ""), axes=axes, unit="px", spacing=(1.0,) * n
    ).model_copy(update=changes)


def items(*shape, seed=0):
    x = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 1
    return Dense(
        x, torch.ones(shape[0], 1, *shape[2:], dtype=torch.bool), torch.ones(shape[0], len(shape) - 2), whole=True
    )


def draws(n, scope="view1", epoch=0, first=0):
    return Draw(0, epoch, torch.arange(first, first + n), scope)


def spectrum(x):
    return torch.fft.fftn(x, dim=tuple(range(2, x.ndim)))


def low_band(shape, share):
    """Where every frequency is below the side of the band, as a share of the highest (1/2 cycle per cell)."""
    side = share ** (1 / len(shape))
    ones = [2 * torch.fft.fftfreq(n, dtype=torch.float64).abs() < side for n in shape]
    return torch.stack(torch.meshgrid(*ones, indexing="ij")).all(0)


@pytest.mark.parametrize(("shape", "axes"), [((24,), ("t",)), ((8, 9), ("y", "x")), ((6, 8, 5), ("z", "y", "x"))])
def test_amplitudes_of_one_item_and_phases_of_each(shape, axes):
    x = items(5, 2, *shape)
    with NoWaiting():
        found = batch_styles(x, draws(5), spec(axes), low=0.3, high=0.3)
    before, after, band = spectrum(x.values), spectrum(found.values), low_band(shape, 0.3)
    style = draws(5).uniform("style", 3)[:, 0].argmin()
    # the band is the style's in every item; torch's Fourier transform is the oracle
    torch.testing.assert_close(
        after.abs()[..., band], before.abs()[style, ..., band].expand(5, -1, -1), rtol=1e-9, atol=1e-9
    )
    torch.testing.assert_close(after[..., ~band], before[..., ~band], rtol=1e-9, atol=1e-9)
    turned = (after / before).angle()
    torch.testing.assert_close(turned, torch.zeros_like(turned), rtol=0, atol=1e-9)
    # 0.3 of 8 x 9: sides of 0.5477, so below 2.19 of 4 and 2.46 of 4.5 cycles: 5 x 5 frequencies
    if shape == (8, 9):
        assert band.sum() == 25
    assert not torch.allclose(found.values, x.values)
    torch.testing.assert_close(found.values[style], x.values[style], rtol=0, atol=1e-12)


def test_twice_is_once_and_a_share_of_nothing_is_nothing():
    x = items(6, 2, 8, 8)
    once = batch_styles(x, draws(6), spec())
    torch.testing.assert_close(batch_styles(once, draws(6), spec()).values, once.values, rtol=0, atol=1e-12)
    assert not torch.allclose(once.values, x.values)
    assert torch.equal(batch_styles(x, draws(6), spec(), low=0, high=0).values, x.values)
    assert torch.equal(batch_styles(x, draws(6), spec(), probability=0).values, x.values)


def test_means_alone_below_the_first_frequency():
    # 0.01 of 8 x 8: sides of 0.1, 0.4 cycles: only the mean is low; its amplitude is its size, its phase its sign
    x = items(4, 2, 8, 8)
    x.values[1] *= -1
    found = batch_styles(x, draws(4), spec(), low=0.01, high=0.01).values
    style = draws(4).uniform("style", 3)[:, 0].argmin()
    before, after = x.values.mean((2, 3)), found.mean((2, 3))
    torch.testing.assert_close(after, before[style].abs() * before.sign(), rtol=0, atol=1e-12)
    torch.testing.assert_close(found - after[..., None, None], x.values - before[..., None, None], rtol=0, atol=1e-12)


def test_every_batch_and_view_has_a_style_of_its_own():
    def style(draw):
        x = items(16, 1, 8)
        moved = (batch_styles(x, draw, spec(("t",)), low=0.5, high=0.5).values - x.values).abs().amax((1, 2))
        assert (moved > 1e-9).sum() == 15
        return int(moved.argmin())

    found = [style(draws(16, f"view{v}", epoch)) for v in range(2) for epoch in range(20)]
    assert len(set(found)) > 8
    # each of 16 items is the style with the same chance: of 40 batches none has it more than 10 times (mean 2.5)
    assert max(found.count(i) for i in set(found)) <= 10


def test_rows_that_hold_nothing_are_never_the_style_and_spoil_nothing():
    x, draw = items(6, 2, 8, 8), draws(6)
    order = draw.uniform("style", 3)[:, 0].argsort()
    gone = order[:2]
    x.valid[gone] = False
    spoiled = x.values.clone()
    spoiled[gone] = torch.nan
    plain = batch_styles(Dense(x.values, x.valid, x.spacing), draw, spec(), low=0.3, high=0.3)
    found = batch_styles(Dense(spoiled, x.valid, x.spacing), draw, spec(), low=0.3, high=0.3)
    assert torch.equal(found.values[order[2:]], plain.values[order[2:]])
    torch.testing.assert_close(found.values[order[2]], x.values[order[2]], rtol=0, atol=1e-12)
    assert found.values[gone].isnan().all() and torch.equal(plain.values[gone], x.values[gone])


def test_padding_changes_nothing_and_holes_keep_what_they_hold():
    x = items(4, 2, 8, 6)
    x = Dense(x.values, x.valid.clone(), x.spacing)
    x.valid[1, :, 5:] = False
    x.valid[2, :, 3, 3] = False
    x.values[2, :, 3, 3] = 50.0
    wide = Dense(
        torch.nn.functional.pad(x.values, (0, 5, 0, 3), value=9.0),
        torch.nn.functional.pad(x.valid, (0, 5, 0, 3)),
        x.spacing,
    )
    found, padded = (batch_styles(a, draws(4, "view2"), spec(), low=0.3, high=0.3) for a in (x, wide))
    torch.testing.assert_close(padded.values[..., :8, :6], found.values, rtol=0, atol=1e-12)
    assert (padded.values[..., 8:, :] == 9).all() and (padded.values[..., 6:] == 9).all()
    assert torch.equal(found.values[2, :, 3, 3], x.values[2, :, 3, 3])
    assert torch.equal(found.values[1, :, 5:], x.values[1, :, 5:]) and found.values.isfinite().all()
    # the item of 5 rows: its own spectrum, in cycles per its own extent
    style = draws(4, "view2").uniform("style", 3)[:, 0].argmin()
    assert style not in (1, 2)
    amplitude = (spectrum(found.values[1:2, :, :5]) / 30).abs()[0, :, 1, 1]
    torch.testing.assert_close(amplitude, (spectrum(x.values) / 48).abs()[style, :, 1, 1], rtol=0, atol=1e-12)


def test_a_frequency_that_is_not_there_gets_no_amplitude():
    x = items(3, 1, 16)
    first, last = draws(3).uniform("style", 3)[:, 0].argmin(), draws(3).uniform("style", 3)[:, 0].argmax()
    x.values[last] = 2.0
    found = batch_styles(x, draws(3), spec(("t",)), low=0.5, high=0.5).values
    # a constant has a mean and no wave: the mean becomes the style's, and no wave of rounding gets loud
    torch.testing.assert_close(found[last], x.values[first].mean().abs().expand(1, 16), rtol=0, atol=1e-12)


def test_wrong_requests_are_said():
    with pytest.raises(RequestError, match=r"low 0.5, high 0.2 and probability 1; they are shares"):
        batch_styles(items(2, 2, 8), draws(2), spec(("t",)), low=0.5)
    with pytest.raises(RequestError, match=r"needs an input on a regular grid"):
        batch_styles(items(2, 2, 8), draws(2), spec(("t",), layout="tokens"))


def test_any_domain_may_name_it():
    from unlabeled.core.build import build_views

    domain = Domain(name="d", title="D", summary="", reader="x:Y", options="x:Z", axes=("y", "x"))
    chain = build_views([View(name="batch_styles", high=0.4)], domain, {"x": spec()})
    x, n = items(4, 2, 8, 8), torch.zeros(4, dtype=torch.int64)
    batch = Batch({"x": x}, torch.arange(4), n, n, torch.ones(4), {})
    found = chain(batch, draws(4)).inputs["x"].values
    within = draws(4).within("0-batch_styles")
    assert torch.equal(found, batch_styles(x, within, spec(), high=0.4).values)


def styled(batch, draw):
    batch = noisy(batch, draw)
    return batch.with_inputs(x=batch_styles(batch.inputs["x"], draw.within("style"), spec(), low=0.1, high=0.4))


class TestSimCLRWithBatchStyles(MethodContract):
    """As a view of a method: neither ranks, nor padding, nor rows of weight 0 change a loss or a gradient."""

    name = "simclr"
    encoder = ("tokens", {"width": 16, "depth": 2, "heads": 2, "patch": (2, 2)})
    options = {"projector": (12, 8)}
    shape = (8, 8)
    views = staticmethod(styled)


def on_rank():
    """The style lies on the second rank, whose grid is the smaller one; one row of each rank holds nothing."""
    x = items(6, 2, 8, 6)
    x = Dense(x.values, x.valid.clone(), x.spacing)
    x.valid[[1, 5]] = False
    x.valid[3:, :, 7:] = False
    n = torch.zeros(6, dtype=torch.int64)
    batch = share(Batch({"x": x}, torch.arange(6), n, n, torch.ones(6), {}))
    mine = batch.inputs["x"]
    rows = 8 if ranks.world() == 1 or ranks.rank() == 0 else 7
    mine = Dense(mine.values[..., :rows, :], mine.valid[..., :rows, :], mine.spacing)
    found = batch_styles(mine, Draw(0, 0, batch.index, "view4"), spec(), low=0.2, high=0.9)
    return {
        "values": ranks.gather(torch.nn.functional.pad(found.values, (0, 0, 0, 8 - rows)).where(mine_valid(batch), 0))
    }


def mine_valid(batch):
    return batch.inputs["x"].valid


def test_two_ranks_equal_one(two_ranks):
    order = draws(6, "view4").uniform("style", 3)[:, 0].argsort().tolist()
    assert next(i for i in order if i not in (1, 5)) in (3, 4)
    assert_same(two_ranks.run(f"{__file__}:on_rank"), on_rank(), tolerance=1e-9)
