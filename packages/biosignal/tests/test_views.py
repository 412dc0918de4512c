"""Views: known frequencies after a warp, norms after a rotation, draws that belong to the item alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from unlabeled.biosignal.views import centre, crop, jitter, rotate, scale
from unlabeled.core.contracts import InputSpec, Normaliser, RequestError
from unlabeled.core.contracts.batch import Dense
from unlabeled.core.streams import Draw

RATE = 50.0
CHANNELS = ("acc_x", "acc_y", "acc_z", "gyro_x", "gyro_y", "gyro_z")
SPEC = InputSpec(
    channels=CHANNELS,
    units=("g",) * 3 + ("rad/s",) * 3,
    unit="s",
    spacing=(1 / RATE,),
    normaliser=Normaliser(method="sensor"),
)
VIEWS: dict[str, Callable[..., Dense]] = {
    "crop": partial(crop, seconds=3.2, warp=0.2),
    "centre": partial(centre, seconds=3.2),
    "rotate": partial(rotate, degrees=15),
    "scale": partial(scale, amount=0.1),
    "jitter": partial(jitter, amount=0.05),
}


def dense(values: Tensor, valid: Tensor | None = None) -> Dense:
    valid = torch.ones(len(values), 1, values.shape[-1], dtype=torch.bool) if valid is None else valid
    return Dense(torch.where(valid, values, 0), valid, torch.full((len(values), 1), 1 / RATE))


def noise(items: int = 8, samples: int = 250, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(items, 6, samples, generator=torch.Generator().manual_seed(0), dtype=dtype)


def draws(items: int = 8, seed: int = 3) -> Draw:
    return Draw(seed, 0, torch.arange(items), "view1")


def test_warp_changes_the_frequency_by_the_drawn_factor() -> None:
    t = torch.arange(250, dtype=torch.float64) / RATE
    out = crop(dense(torch.sin(2 * math.pi * 2.0 * t).expand(8, 6, -1)), draws(), SPEC, seconds=3.2, warp=0.2)
    assert out.values.shape == (8, 6, 160) and out.valid.all()
    drawn = 0.2 * (2 * draws().uniform("warp").double() - 1)
    assert drawn.max() - drawn.min() > 0.1
    phase = np.unwrap(np.angle(_analytic(out.values[:, 0].numpy())))[:, 40:120]
    found = np.polyfit(np.arange(80) / RATE, phase.T, 1)[0] / (2 * math.pi)
    # the slope of the phase over 1.6 s of a Hann-windowed analytic signal is good to better than half a percent
    np.testing.assert_allclose(found, 2 * (1 + drawn.numpy()), rtol=5e-3)


def _analytic(x: np.ndarray) -> np.ndarray:
    spectrum = np.fft.fft(x * np.hanning(x.shape[-1]))
    spectrum[:, x.shape[-1] // 2 :] = 0
    return np.asarray(np.fft.ifft(2 * spectrum))


def test_crop_is_linear_interpolation_of_a_ramp() -> None:
    # value = sample number: a crop starts anywhere in the item and climbs by its pace 1 + w at every step
    ramp = torch.arange(250.0).expand(8, 6, -1)
    out = crop(dense(ramp), draws(), SPEC, seconds=3.2, warp=0.2).values[:, 0].double()
    pace = 1 + 0.2 * (2 * draws().uniform("warp").double() - 1)
    torch.testing.assert_close(out.diff(dim=1), pace[:, None].expand(-1, 159), atol=1e-4, rtol=0)
    assert out.min() >= 0 and out.max() <= 249 and out[:, 0].max() - out[:, 0].min() > 10


def test_crop_never_reads_padding() -> None:
    # 40 samples of padding hold 1e6 where a careless view would read them; the rest is 1
    values = torch.ones(64, 6, 250)
    valid = torch.ones(64, 1, 250, dtype=torch.bool)
    valid[..., 210:] = False
    spoiled = Dense(torch.where(valid, values, 1e6), valid, torch.full((64, 1), 1 / RATE))
    out = crop(spoiled, draws(64), SPEC, seconds=3.2, warp=0.2)
    # 210 valid samples hold any stretch of at most 159 * 1.2 + 1 = 191.8: all of every crop is valid
    assert out.valid.all() and (out.values == 1).all()
    # with 100 valid samples no stretch fits, and what is beyond them is invalid and 0
    valid[..., 100:] = False
    out = crop(Dense(torch.where(valid, values, 1e6), valid, spoiled.spacing), draws(64), SPEC, seconds=3.2, warp=0.2)
    assert torch.equal(out.values[:, :1] != 0, out.valid) and ((out.values == 0) | (out.values == 1)).all()
    # 100 samples at a pace of 0.8 to 1.2 are 82 to 124 samples of the crop
    assert out.valid.sum(-1).min() >= 82 and out.valid.sum(-1).max() <= 124


def test_a_hole_in_one_channel_stays_in_it() -> None:
    valid = torch.ones(8, 6, 250, dtype=torch.bool)
    valid[:, 2, 120:130] = False
    for name, view in VIEWS.items():
        out = view(dense(noise(), valid), draws(), SPEC)
        assert (out.values[~out.valid.expand_as(out.values)] == 0).all(), name
        holes = (~out.valid).flatten(2).any(-1)
        # a rotated accelerometer needs all three of its channels
        assert holes.tolist() == [[c < 3 if name == "rotate" else c == 2 for c in range(6)]] * 8, name


def test_centre_is_the_middle() -> None:
    out = centre(dense(torch.arange(250.0).expand(2, 6, -1)), draws(2), SPEC, seconds=3.2)
    # (250 - 160) / 2 = 45 samples before it
    assert torch.equal(out.values[0, 0], torch.arange(45.0, 205.0)) and out.valid.shape == (2, 1, 160)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_rotation_keeps_norms_and_turns_both_sensors_alike(dtype: torch.dtype, tolerance: float) -> None:
    x = dense(noise(64, dtype=dtype))
    out = rotate(x, draws(64), SPEC, degrees=15)
    assert out.values.dtype == dtype
    norms = [v.reshape(64, 2, 3, -1).norm(dim=2) for v in (x.values, out.values)]
    torch.testing.assert_close(norms[1], norms[0], rtol=tolerance, atol=0)
    # one rotation for both: the angle between accelerometer and gyroscope stays
    dots = [(v[:, :3] * v[:, 3:]).sum(1) for v in (x.values, out.values)]
    torch.testing.assert_close(dots[1], dots[0], rtol=0, atol=20 * tolerance)


def test_rotation_angles_are_those_asked_for() -> None:
    # on the unit vectors the view gives the columns of R, and trace R = 1 + 2 cos(angle), det R = 1
    basis = torch.eye(3, dtype=torch.float64).repeat(2, 1).expand(512, 6, 3)
    found = rotate(dense(basis), draws(512), SPEC, degrees=15).values[:, :3]
    cosine = (torch.einsum("bii->b", found) - 1) / 2
    drawn = (2 * draws(512).uniform("angle").double() - 1) * math.radians(15)
    torch.testing.assert_close(cosine, drawn.cos(), atol=1e-12, rtol=0)
    torch.testing.assert_close(torch.linalg.det(found), torch.ones(512, dtype=torch.float64), atol=1e-12, rtol=0)
    # the axis is uniform on the sphere: each coordinate has mean 0 and variance 1/3, in 512 draws to 4 / sqrt(512)
    skew = found - found.transpose(1, 2)
    axis = torch.stack([skew[:, 2, 1], skew[:, 0, 2], skew[:, 1, 0]], 1) / (2 * drawn.sin())[:, None]
    assert axis.mean(0).abs().max() < 4 / math.sqrt(512 * 3)
    torch.testing.assert_close((axis**2).mean(0), torch.full((3,), 1 / 3, dtype=torch.float64), atol=0.06, rtol=0)


def test_scale_is_one_factor_per_channel() -> None:
    x = dense(noise(512))
    ratio = scale(x, draws(512), SPEC, amount=0.1).values / x.values
    factor = ratio[..., :1]
    torch.testing.assert_close(ratio, factor.expand_as(ratio), rtol=1e-5, atol=0)
    # 3072 draws of N(1, 0.1): mean to 4 * 0.1 / sqrt(3072), deviation to 4 * 0.1 / sqrt(2 * 3072)
    assert abs(factor.mean() - 1) < 0.0073 and abs(factor.std() - 0.1) < 0.0052


def test_jitter_is_white_noise() -> None:
    x = dense(noise(8))
    added = jitter(x, draws(), SPEC, amount=0.05).values - x.values
    # 12,000 draws of N(0, 0.05): mean to 4 * 0.05 / sqrt(12000), deviation to 4 * 0.05 / sqrt(24000)
    assert abs(added.mean()) < 0.0019 and abs(added.std() - 0.05) < 0.0013
    neighbours = (added[..., 1:] * added[..., :-1]).mean() / added.var()
    assert abs(neighbours) < 4 / math.sqrt(12_000)


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_of_an_item_does_not_know_its_batch(name: str) -> None:
    x = dense(noise())
    together = VIEWS[name](x, draws(), SPEC)
    before = x.values.clone()
    for i in (5, 0):
        row = Dense(x.values[i : i + 1], x.valid[i : i + 1], x.spacing[i : i + 1])
        alone = VIEWS[name](row, Draw(3, 0, torch.tensor([i]), "view1"), SPEC)
        assert torch.equal(alone.values[0], together.values[i]) and torch.equal(alone.valid[0], together.valid[i])
    assert torch.equal(x.values, before)
    if name != "centre":
        assert not torch.equal(VIEWS[name](x, draws(seed=4), SPEC).values, together.values)
        assert not torch.equal(VIEWS[name](x, draws().within("view2"), SPEC).values, together.values)


@pytest.mark.parametrize(
    ("view", "spec", "says"),
    [
        (partial(crop, seconds=4.5), SPEC, "crop of 4.5 s with warp 0.2 needs items of 5.4 s or more, these have 5 s"),
        (partial(crop, seconds=3.2, warp=1.0), SPEC, "crop.warp is 1 and must lie in 0 to 1"),
        (partial(crop, seconds=0.001), SPEC, "crop.seconds 0.001 is less than one sample"),
        (partial(centre, seconds=5.1), SPEC, "centre of 5.1 s needs items of 5.1 s or more, these have 5 s"),
        (partial(centre, seconds=1.0), SPEC.model_copy(update={"spacing": None}), "centre needs one sampling rate"),
        (
            rotate,
            SPEC.model_copy(update={"channels": ("a", "b", "c", "d", "e", "f")}),
            "rotate found no complete acc_x",
        ),
        (rotate, SPEC.model_copy(update={"normaliser": Normaliser(method="standard")}), "set data.normaliser: sensor"),
    ],
)
def test_wrong_requests(view: Callable[..., Dense], spec: InputSpec, says: str) -> None:
    with pytest.raises(RequestError) as caught:
        view(dense(noise()), draws(), spec)
    assert says in str(caught.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", VIEWS)
def test_a_view_does_not_wait_for_the_device(name: str) -> None:
    x, draw = dense(noise()).to("cuda"), Draw(3, 0, torch.arange(8, device="cuda"), "view1")
    VIEWS[name](x, draw, SPEC)
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = VIEWS[name](x, draw, SPEC)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    here = VIEWS[name](dense(noise()), draws(), SPEC)
    torch.testing.assert_close(out.values.cpu(), here.values, atol=1e-4, rtol=1e-4)
