"""Speckle: its law by moments and by scipy, in every unit, under every normaliser."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from scipy.special import psi
from torch import Tensor

from unlabeled.core.contracts import Constants, InputSpec, Normaliser, RequestError
from unlabeled.core.contracts.batch import Dense
from unlabeled.core.streams import Draw
from unlabeled.earth.speckle import log_gamma, speckle

N = 512


def spec(unit: str, *constants: tuple[float, float]) -> InputSpec:
    known = {f"s{i}": Constants(offset=(o, o), scale=(s, s)) for i, (o, s) in enumerate(constants)}
    return InputSpec(
        channels=("VV", "VH"),
        units=(unit, unit),
        axes=("y", "x"),
        unit="m",
        spacing=(10.0, 10.0),
        normaliser=Normaliser(method="standard", constants=known) if known else Normaliser(),
    )


def seen(values: Tensor | float, s: InputSpec, items: int = 1, size: int = N, **options: float) -> Tensor:
    """Values (B, 2, size, size) after speckle."""
    x = torch.as_tensor(values, dtype=torch.float32).expand(items, 2, size, size).clone()
    dense = Dense(x, torch.ones(items, 1, size, size, dtype=torch.bool), torch.full((items, 2), 10.0))
    return speckle(dense, Draw(1, 0, torch.arange(items), "view1"), s, **options).values.double()


@pytest.mark.parametrize(("looks", "bias"), [(1.0, -2.507), (4.0, -0.565), (4.4, -0.512)])
def test_the_mean_in_decibels_is_below_zero_by_theory(looks: float, bias: float) -> None:
    # E[10 log10 G] = (10 / ln 10)(psi(L) - ln L); 2 * 512^2 draws of deviation (10 / ln 10) sqrt(psi'(L)), 5.57 dB at most
    db = seen(0.0, spec("dB"), looks=looks)
    expected = 10 / math.log(10) * (psi(looks) - math.log(looks))
    assert expected == pytest.approx(bias, abs=5e-4)
    assert db.mean().item() == pytest.approx(expected, abs=4 * 5.57 / math.sqrt(2 * N**2))


@pytest.mark.parametrize("looks", [1.0, 2.0, 4.4, 10.0])
def test_equivalent_number_of_looks(looks: float) -> None:
    # mean^2 / var of homogeneous ground of power 0.3, each band; the mean stays to 4 / sqrt(L * 512^2)
    power = seen(0.3, spec("power"), looks=looks)[0].flatten(1)
    assert ((power.mean(1) ** 2 / power.var(1)) / looks - 1).abs().max() < 0.03
    assert (power.mean(1) / 0.3 - 1).abs().max() < 4 / math.sqrt(looks) / N


@pytest.mark.parametrize("looks", [1.0, 1.7, 4.0, 100.0])
def test_it_is_scipys_gamma_and_neighbours_are_independent(looks: float) -> None:
    power = seen(1.0, spec("power"), looks=looks)[0]
    # Kolmogorov and Smirnov over 512^2 draws: a p of 1e-4 is a distance of 0.0043
    assert stats.kstest(power[0].flatten().numpy(), stats.gamma(looks, scale=1 / looks).cdf).pvalue > 1e-4
    centred = (power - power.mean()) / power.std()
    for other in (centred[:, :, 1:] * centred[:, :, :-1], centred[:, 1:] * centred[:, :-1], centred[0] * centred[1]):
        assert abs(other.mean()) < 5 / N


def test_the_series_is_the_quantile_at_the_normals_own() -> None:
    z = torch.linspace(-5.77, 5.77, 4001, dtype=torch.float64)
    for looks in (1.0, 1.5, 4.4, 50.0):
        gamma, normal = stats.gamma(looks, scale=1 / looks), stats.norm
        low = gamma.ppf(normal.cdf(z[z < 0].numpy()))
        high = gamma.isf(normal.sf(z[z >= 0].numpy()))
        expected = torch.cat([torch.from_numpy(low), torch.from_numpy(high)]).log()
        torch.testing.assert_close(log_gamma(z, looks), expected, rtol=0, atol=2e-6)
        # in single precision too
        torch.testing.assert_close(log_gamma(z.float(), looks).double(), expected, rtol=1e-5, atol=2e-5)


def test_units_agree() -> None:
    # one and the same G: power times G, amplitude times sqrt(G), decibels plus 10 log10 G
    power = seen(0.3, spec("power"), size=32) / 0.3
    torch.testing.assert_close((seen(0.3, spec("amplitude"), size=32) / 0.3) ** 2, power, rtol=1e-5, atol=0)
    torch.testing.assert_close(10 ** ((seen(-14.0, spec("dB"), size=32) + 14) / 10), power, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("unit", "value"), [("power", 0.3), ("amplitude", 0.3), ("dB", -14.0)])
def test_the_normaliser_is_undone_and_redone(unit: str, value: float) -> None:
    plain = seen(value, spec(unit), size=32)
    normalised = seen((value - 0.7) / 3.0, spec(unit, (0.7, 3.0), (0.7, 3.0)), size=32)
    torch.testing.assert_close(normalised * 3.0 + 0.7, plain, rtol=0, atol=2e-6 if unit != "dB" else 2e-5)


def test_each_item_and_view_has_its_own() -> None:
    out = seen(1.0, spec("power"), items=3, size=8)
    assert len(out.flatten().unique()) > 370  # of 384 draws
    assert torch.equal(seen(1.0, spec("power"), items=1, size=8)[0], out[0])
    assert torch.equal(seen(1.0, spec("power"), items=3, size=16)[..., :8, :8], out)


@pytest.mark.parametrize(
    ("s", "looks", "says"),
    [
        (spec("1"), 4.0, "the view speckle is for dB, amplitude, power, and VV is in 1"),
        (spec(""), 4.0, "VV is in no unit; leave it out, or say the unit under data.options.units"),
        (spec("dB"), 0.5, "speckle.looks is 0.5; a radar image has one look or more"),
        (spec("dB", (0.0, 1.0), (0.0, 2.0)), 4.0, "the view speckle works in physical units"),
        (spec("power", (0.0, 1.0), (0.5, 1.0)), 4.0, "the sources s0, s1 differently"),
    ],
)
def test_wrong_requests(s: InputSpec, looks: float, says: str) -> None:
    with pytest.raises(RequestError) as caught:
        seen(1.0, s, size=4, looks=looks)
    assert says in str(caught.value)
