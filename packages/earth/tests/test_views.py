"""Views of scenes: where cells come from, what a mean keeps, draws that belong to the item alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor

from unlabeled.core.contracts import Constants, InputSpec, Normaliser, RequestError
from unlabeled.core.contracts.batch import Dense
from unlabeled.core.streams import Draw
from unlabeled.earth.photometry import blur, brightness, contrast, drop_bands, grey, scale_bands
from unlabeled.earth.speckle import speckle
from unlabeled.earth.views import crop, flip, resized_crop, rotate90

BANDS = 13


def spec(unit: str = "1", bands: int = BANDS, *constants: tuple[float, float]) -> InputSpec:
    """`bands` bands in one unit, with one (offset, scale) for each source."""
    known = {f"s{i}": Constants(offset=(o,) * bands, scale=(s,) * bands) for i, (o, s) in enumerate(constants)}
    return InputSpec(
        channels=tuple(f"B{i + 1}" for i in range(bands)),
        units=(unit,) * bands,
        axes=("y", "x"),
        unit="m",
        spacing=(10.0, 10.0),
        normaliser=Normaliser(method="standard", constants=known) if known else Normaliser(),
    )


SPEC = spec("power")
VIEWS: dict[str, Callable[..., Dense]] = {
    "crop": partial(crop, size=(16, 12)),
    "resized_crop": partial(resized_crop, size=(24, 24)),
    "flip": flip,
    "rotate90": rotate90,
    "brightness": brightness,
    "scale_bands": scale_bands,
    "contrast": contrast,
    "grey": partial(grey, p=0.5),
    "blur": partial(blur, sigma=(0.1, 2.0)),
    "drop_bands": drop_bands,
    "speckle": speckle,
}


def dense(values: Tensor, valid: Tensor | None = None) -> Dense:
    valid = torch.ones(len(values), 1, *values.shape[2:], dtype=torch.bool) if valid is None else valid
    return Dense(torch.where(valid, values, 0), valid, torch.tensor([[10.0, 10.0]]).repeat(len(values), 1))


def scene(items: int = 8, size: int = 32, dtype: torch.dtype = torch.float32) -> Tensor:
    return 0.2 + torch.rand(items, BANDS, size, size, generator=torch.Generator().manual_seed(0), dtype=dtype)


def places(items: int, high: int, wide: int) -> Tensor:
    """Two bands that hold the row and the column of each cell."""
    y, x = torch.meshgrid(torch.arange(float(high)), torch.arange(float(wide)), indexing="ij")
    return torch.stack([y, x]).expand(items, -1, -1, -1)


def draws(items: int = 8, seed: int = 3) -> Draw:
    return Draw(seed, 0, torch.arange(items), "view1")


# every view ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_of_an_item_does_not_know_its_batch(name: str) -> None:
    x = dense(scene())
    together = VIEWS[name](x, draws(), SPEC)
    before = x.values.clone()
    for i in (5, 0):
        row = Dense(x.values[i : i + 1], x.valid[i : i + 1], x.spacing[i : i + 1])
        alone = VIEWS[name](row, Draw(3, 0, torch.tensor([i]), "view1"), SPEC)
        assert torch.equal(alone.values[0], together.values[i]) and torch.equal(alone.valid[0], together.valid[i])
    assert torch.equal(x.values, before)
    assert not torch.equal(VIEWS[name](x, draws(seed=4), SPEC).values, together.values)
    assert not torch.equal(VIEWS[name](x, draws().within("other"), SPEC).values, together.values)


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_padding_changes_nothing(name: str, dtype: torch.dtype) -> None:
    x = dense(scene(dtype=dtype))
    wide = replace(x, values=F.pad(x.values, (0, 16, 0, 16), value=7.0), valid=F.pad(x.valid, (0, 16, 0, 16)))
    plain, padded = (VIEWS[name](a, draws(), SPEC) for a in (x, wide))
    high, long = plain.values.shape[2:]
    assert plain.values.dtype == dtype
    torch.testing.assert_close(padded.values[..., :high, :long], plain.values, rtol=0, atol=1e-6)
    assert torch.equal(padded.valid[..., :high, :long], plain.valid)
    assert not padded.valid[..., high:, :].any() and not padded.values[..., high:, :].any()


@pytest.mark.parametrize("name", VIEWS)
def test_what_is_invalid_is_read_by_nothing(name: str) -> None:
    # a hole, a collar and a whole missing band hold NaN; what is valid afterwards is finite, what is not is 0
    valid = torch.ones(64, BANDS, 32, 32, dtype=torch.bool)
    valid[:, :, :5], valid[:, :, 20:24, 9:14], valid[1::2, 4] = False, False, False
    values = scene(64).where(valid, torch.nan)
    x = Dense(values, valid, torch.full((64, 2), 10.0))
    out = VIEWS[name](x, draws(64), SPEC)
    assert out.valid.any() and out.values[out.valid].isfinite().all() and not out.values[~out.valid].any()
    # and nothing changes when the NaN are zeros
    same = VIEWS[name](dense(scene(64), valid), draws(64), SPEC)
    assert torch.equal(out.values, same.values) and torch.equal(out.valid, same.valid)
    missing = ~out.valid.flatten(2).any(2)
    if name == "grey":  # needs all bands
        assert (missing[1::2].all(1) | ~missing[1::2, 5]).all() and missing[1::2].all(1).any()
    else:
        assert missing[1::2, 4].all()


@pytest.mark.parametrize("name", VIEWS)
def test_an_item_with_nothing_in_it(name: str) -> None:
    x = dense(scene(), torch.zeros(8, 1, 32, 32, dtype=torch.bool))
    out = VIEWS[name](x, draws(), SPEC)
    assert not out.valid.any() and not out.values.any()


# the ground ---------------------------------------------------------------------------------------------------------


def test_crop_takes_cells_as_they_are_from_everywhere() -> None:
    out = crop(dense(places(2000, 10, 9)), draws(2000), spec(bands=2), size=(8, 8))
    first = out.values[:, :, :1, :1]
    assert torch.equal(out.values - first, places(2000, 8, 8)) and out.valid.all()
    # 3 x 2 places, 333.3 of each of 2000: 5 deviations are 5 * sqrt(2000 * 1/6 * 5/6) = 83
    counts = torch.bincount((first[:, 0] * 2 + first[:, 1]).long().flatten(), minlength=6)
    assert len(counts) == 6 and (counts - 2000 / 6).abs().max() < 83


def test_crop_stays_within_the_item() -> None:
    valid = torch.zeros(64, 1, 20, 20, dtype=torch.bool)
    valid[..., 7:17, 2:9] = True
    out = crop(dense(places(64, 20, 20), valid), draws(64), spec(bands=2), size=(6, 5))
    assert out.valid.all() and len(out.values[:, :, 0, 0].unique(dim=0)) > 5
    # larger than the item: all of it is in, the rest is invalid
    out = crop(dense(places(64, 20, 20), valid), draws(64), spec(bands=2), size=(16, 16))
    assert (out.valid.sum((1, 2, 3)) == 70).all()


def test_resized_crop_is_bilinear_on_a_ramp() -> None:
    # values are places: away from the item's edge neighbours differ by length / size, the same throughout
    out = resized_crop(dense(places(256, 40, 60).double()), draws(256), spec(bands=2), size=(16, 20), scale=(0.2, 0.5))
    step_y, step_x = out.values[:, 0, 2:-1, 0].diff(dim=1), out.values[:, 1, 0, 2:-1].diff(dim=1)
    for step in (step_y, step_x):
        torch.testing.assert_close(step, step[:, :1].expand_as(step), rtol=0, atol=1e-9)
    high, wide = step_y[:, 0] * 16, step_x[:, 0] * 20
    share, ratio = high * wide / (40 * 60), wide / high
    assert share.min() > 0.2 - 1e-9 and share.max() < 0.5 + 1e-9 and share.std() > 0.05
    # uniform in the logarithm between 3/4 and 4/3: its mean is 0 to 4 * 0.166 / sqrt(256)
    assert ratio.min() > 0.75 - 1e-9 and ratio.max() < 4 / 3 + 1e-9 and abs(ratio.log().mean()) < 0.042
    assert out.values.min() >= 0 and out.values[:, 0].max() <= 39 and out.values[:, 1].max() <= 59
    assert out.valid.all() and torch.equal(out.spacing, torch.full((256, 2), 10.0))


def test_resized_crop_of_all_is_torchs_bilinear() -> None:
    x = scene(2, 24, torch.float64)
    for size in ((48, 36), (12, 24)):
        out = resized_crop(dense(x), draws(2), SPEC, size=size, scale=(1.0, 1.0), ratio=(1.0, 1.0)).values
        torch.testing.assert_close(out, F.interpolate(x, size, mode="bilinear"), rtol=0, atol=1e-12)


def test_resized_crop_keeps_a_piece_that_would_stick_out_inside() -> None:
    # a share of 1 of 20 x 40 cells at any ratio is the whole
    out = resized_crop(dense(places(32, 20, 40)), draws(32), spec(bands=2), size=(20, 40), scale=(1.0, 1.0))
    torch.testing.assert_close(out.values, places(32, 20, 40), rtol=0, atol=1e-5)


def test_resized_crop_is_valid_where_all_it_reads_is() -> None:
    # twice as fine: cells at i / 2 - 1/4 read the two around them; a hole of one cell spoils 4 along each axis
    valid = torch.ones(1, 1, 20, 20, dtype=torch.bool)
    valid[..., 10, 10] = False
    out = resized_crop(
        dense(torch.ones(1, 2, 20, 20), valid),
        draws(1),
        spec(bands=2),
        size=(40, 40),
        scale=(1.0, 1.0),
        ratio=(1.0, 1.0),
    )
    expected = torch.ones(40, 40, dtype=torch.bool)
    expected[19:23, 19:23] = False
    assert torch.equal(out.valid[0, 0], expected)
    assert torch.equal(out.values[0, 0], expected.float())


def test_flip_mirrors_each_axis_half_of_the_time() -> None:
    x = dense(places(1000, 6, 4))
    out = flip(x, draws(1000), spec(bands=2))
    down, right = (out.values[:, i, 0, 0] > 0 for i in (0, 1))
    for i in range(1000):
        expected = x.values[i].flip([a for a, on in ((1, down[i]), (2, right[i])) if on])
        assert torch.equal(out.values[i], expected)
    # 5 deviations of 500 are 79, of 250 (both) 68
    assert abs(down.sum() - 500) < 79 and abs(right.sum() - 500) < 79 and abs((down & right).sum() - 250) < 68
    only = flip(x, draws(1000), spec(bands=2), axes=("x",), p=1.0)
    assert torch.equal(only.values, x.values.flip(3))


def test_rotate90_turns_by_each_quarter_and_takes_the_spacing_along() -> None:
    x = replace(dense(places(1000, 5, 5)), spacing=torch.tensor([[10.0, 20.0]]).repeat(1000, 1))
    out = rotate90(x, draws(1000), spec(bands=2))
    found = torch.stack([(out.values == x.values.rot90(k, (2, 3))).flatten(1).all(1) for k in range(4)])
    # exactly one of the four each, 250 times to 5 deviations of 13.7
    assert (found.sum(0) == 1).all() and (found.sum(1) - 250).abs().max() < 69
    odd = found[1] | found[3]
    assert torch.equal(out.spacing, torch.where(odd[:, None], x.spacing.flip(1), x.spacing))


def test_flip_and_rotate90_are_the_symmetries_of_the_square() -> None:
    x = dense(places(400, 4, 4))
    d = draws(400)
    out = rotate90(flip(x, d.within("a"), spec(bands=2)), d.within("b"), spec(bands=2)).values
    assert len(out.flatten(1).unique(dim=0)) == 8


# values -------------------------------------------------------------------------------------------------------------


def test_contrast_keeps_the_mean_of_every_band() -> None:
    valid = torch.ones(64, 1, 32, 32, dtype=torch.bool)
    valid[:, :, 10:20] = False
    x = dense(scene(64) + torch.arange(13.0)[:, None, None], valid)
    out = contrast(x, draws(64), SPEC, amount=0.4, p=1.0)
    means = [a.values.double().sum((2, 3)) / valid.sum((2, 3)) for a in (x, out)]
    torch.testing.assert_close(means[1], means[0], rtol=0, atol=1e-5)
    # one factor for all bands, in 0.6 to 1.4
    spread = [
        (a.values - m[..., None, None]).square().where(valid, 0).mean((2, 3)).sqrt()
        for a, m in zip((x, out), means, strict=True)
    ]
    factor = spread[1] / spread[0]
    torch.testing.assert_close(factor, factor[:, :1].expand_as(factor), rtol=1e-4, atol=0)
    assert 0.6 < factor.min() < 0.7 and 1.3 < factor.max() < 1.4


def test_brightness_is_a_factor_of_the_physical_values() -> None:
    physical = scene(256, dtype=torch.float64)
    for unit, by in (("1", 1.0), ("power", 1.0), ("amplitude", 0.5)):
        s = spec(unit, BANDS, (0.3, 0.2))
        out = brightness(dense((physical - 0.3) / 0.2), draws(256), s, p=1.0).values * 0.2 + 0.3
        ratio = (out / physical) ** (1 / by)
        torch.testing.assert_close(ratio, ratio[:, :1, :1, :1].expand_as(ratio), rtol=1e-9, atol=0)
        # 256 draws of a uniform in 0.6 to 1.4: mean to 4 * 0.8 / sqrt(12 * 256)
        assert 0.6 < ratio.min() < 0.62 and 1.38 < ratio.max() < 1.4 and abs(ratio.mean() - 1) < 0.058
    # in dB, normalised as (dB + 12) / 5, the same factor is an addition
    db = dense((10 * physical.log10() + 12) / 5)
    out = 10 ** ((brightness(db, draws(256), spec("dB", BANDS, (-12.0, 5.0)), p=1.0).values * 5 - 12) / 10)
    torch.testing.assert_close(out / physical, ratio, rtol=1e-6, atol=0)


def test_scale_bands_has_a_factor_for_each_band() -> None:
    x = dense(scene(512))
    ratio = scale_bands(x, draws(512), SPEC, amount=0.1).values / x.values
    factor = ratio[..., :1, :1]
    torch.testing.assert_close(ratio, factor.expand_as(ratio), rtol=1e-5, atol=0)
    # 6656 draws of a uniform in 0.9 to 1.1: deviation 0.2 / sqrt(12) = 0.0577 to 2 %, bands apart
    assert (
        abs(factor.std() - 0.0577) < 0.0012
        and abs(factor[:, 0].sub(1).mul(factor[:, 1].sub(1)).mean()) < 4 * 0.0033 / 22
    )


def test_p_is_the_share_of_items_that_change() -> None:
    x = dense(scene(1000, 4))
    for view, p in ((brightness, 0.8), (contrast, 0.8), (grey, 0.2), (blur, 0.5)):
        changed = (view(x, draws(1000), SPEC, p=p).values != x.values).flatten(1).any(1)
        # 5 deviations of 1000 draws are at most 0.079
        assert abs(changed.float().mean() - p) < 0.079, view
        assert torch.equal(view(x, draws(1000), SPEC, p=0.0).values, x.values), view


def test_grey_is_the_mean_of_all_bands_in_each() -> None:
    x = dense(scene())
    out = grey(x, draws(), SPEC, p=1.0).values
    assert (out == out[:, :1]).all()
    torch.testing.assert_close(out[:, 0], x.values.mean(1), rtol=0, atol=1e-6)
    # a cell without one band has no grey
    valid = torch.ones(8, BANDS, 32, 32, dtype=torch.bool)
    valid[:, 3, 4, 5] = False
    assert (~grey(dense(scene(), valid), draws(), SPEC, p=1.0).valid).sum((1, 2, 3)).tolist() == [13] * 8


def test_blur_is_scipys_away_from_edges() -> None:
    x = scene(2, 64, torch.float64)
    out = blur(dense(x), draws(2), SPEC, sigma=(1.5, 1.5), p=1.0).values
    # truncated at ceil(3 * 1.5) = 5 cells, as scipy's at 5 / 1.5 deviations
    expected = gaussian_filter(x.numpy(), (0, 0, 1.5, 1.5), truncate=5 / 1.5)
    np.testing.assert_allclose(out[..., 8:-8, 8:-8], expected[..., 8:-8, 8:-8], rtol=0, atol=1e-7)


def test_blur_keeps_a_constant_up_to_every_edge() -> None:
    valid = torch.rand(8, 1, 32, 32, generator=torch.Generator().manual_seed(1)) < 0.7
    out = blur(dense(torch.full((8, 2, 32, 32), 3.7), valid), draws(), spec(bands=2), p=1.0)
    assert torch.equal(out.valid, valid)
    torch.testing.assert_close(out.values, torch.where(valid, 3.7, 0.0).expand_as(out.values), rtol=1e-6, atol=0)
    # sigma is the item's own: how much of a point stays differs
    point = torch.zeros(64, 1, 33, 33)
    point[..., 16, 16] = 1
    left = blur(dense(point), draws(64), spec(bands=1), p=1.0).values[:, 0, 16, 16]
    assert left.max() > 0.9 and left.min() < 0.06  # sigma near 0.1 and near 2: 1 / (2 pi 2^2) = 0.04


def test_drop_bands_leaves_one() -> None:
    x = replace(dense(scene(2000, 2)), whole=True)
    out = drop_bands(x, draws(2000), SPEC, p=0.3)
    gone = ~out.valid.flatten(2).any(2)
    assert abs(gone.float().mean() - 0.3) < 0.015 and not out.whole
    # with p = 1 one band stays, each as often as the others: 2000 / 13 = 154 to 5 deviations of 11.9
    left = drop_bands(x, draws(2000), SPEC, p=1.0).valid.flatten(2).any(2)
    assert (left.sum(1) == 1).all() and (left.sum(0) - 2000 / 13).abs().max() < 60


@pytest.mark.parametrize(
    ("view", "of", "says"),
    [
        (partial(crop, size=(33, 8)), SPEC, "crop.size is 33 x 8 cells and the items have 32 x 32"),
        (partial(crop, size=(0, 8)), SPEC, "crop.size is 0 x 8 cells"),
        (partial(resized_crop, size=(0, 8)), SPEC, "resized_crop.size is 0 x 8 cells"),
        (
            partial(resized_crop, size=(8, 8), scale=(0.5, 1.5)),
            SPEC,
            "resized_crop.scale is [0.5, 1.5]; give two numbers",
        ),
        (partial(resized_crop, size=(8, 8), ratio=(2.0, 1.0)), SPEC, "the smaller one first"),
        (partial(blur, sigma=(0.0, 0.0)), SPEC, "blur.sigma is [0.0, 0.0]"),
        (partial(brightness, amount=1.0), SPEC, "brightness.amount is 1 and must lie in 0 to 1"),
        (partial(contrast, amount=-0.1), SPEC, "contrast.amount is -0.1"),
        (brightness, spec("1", BANDS, (1.0, 2.0), (0.5, 2.0)), "the sources s0, s1 differently"),
        (scale_bands, spec("dB", BANDS, (0.0, 2.0), (0.0, 1.0)), "the view scale_bands works in physical units"),
    ],
)
def test_wrong_requests(view: Callable[..., Dense], of: InputSpec, says: str) -> None:
    with pytest.raises(RequestError) as caught:
        view(dense(scene()), draws(), of)
    assert says in str(caught.value)


def test_rotate90_needs_squares() -> None:
    with pytest.raises(RequestError, match="rotate90 needs square items, these have 6 x 4 cells"):
        rotate90(dense(places(2, 6, 4)), draws(2), spec(bands=2))


def test_sources_that_differ_in_what_does_not_matter_are_fine() -> None:
    # without an offset a factor is a factor whatever the scale; decibels know no offset
    brightness(dense(scene()), draws(), spec("1", BANDS, (0.0, 2.0), (0.0, 1.0)))
    brightness(dense(scene()), draws(), spec("dB", BANDS, (-12.0, 5.0), (-20.0, 5.0)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", VIEWS)
def test_a_view_does_not_wait_for_the_device(name: str) -> None:
    x, draw = dense(scene()).to("cuda"), Draw(3, 0, torch.arange(8, device="cuda"), "view1")
    VIEWS[name](x, draw, SPEC)
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = VIEWS[name](x, draw, SPEC)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    here = VIEWS[name](dense(scene()), draws(), SPEC)
    torch.testing.assert_close(out.values.cpu(), here.values, atol=1e-4, rtol=1e-4)
