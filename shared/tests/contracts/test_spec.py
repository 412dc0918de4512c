"""InputSpec: what is refused, in which sentence, and what is converted to which numbers."""

import numpy as np
import pytest

from unlabeled.core.contracts import Constants, Incompatible, Input, InputSpec, Normaliser
from unlabeled.core.contracts.spec import resample, unit_factor

SPEC = InputSpec(channels=("acc_x", "gyro_x"), units=("g", "rad/s"), spacing=(0.02,))


def signal(channels=("acc_x", "gyro_x"), units=("g", "rad/s"), rate=50.0, length=100):
    data = np.arange(len(channels) * length, dtype=np.float32).reshape(len(channels), length)
    return Input(data, channels, units, unit="s", spacing=(1 / rate,), source="wrist")


def test_what_fits_passes_untouched() -> None:
    x = signal()
    adapted, log = SPEC.adapt(x)
    assert adapted is x
    assert log == ()


def test_order_is_taken_by_name_and_logged() -> None:
    x = signal(channels=("extra", "gyro_x", "acc_x"), units=("", "rad/s", "g"))
    adapted, log = SPEC.adapt(x)
    np.testing.assert_array_equal(adapted.data, x.data[[2, 1]])
    assert log == ("channels taken by name without extra",)


def test_units_are_converted_by_their_factor_and_logged() -> None:
    adapted, log = SPEC.adapt(signal(units=("m/s^2", "deg/s")))
    # 1 m/s^2 = 1/9.80665 g; 1 deg/s = pi/180 rad/s
    assert adapted.data[0, 10] == pytest.approx(10 / 9.80665, rel=1e-6)
    assert adapted.data[1, 0] == pytest.approx(100 * np.pi / 180, rel=1e-6)
    assert log == ("acc_x from m/s^2 to g", "gyro_x from deg/s to rad/s")


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (signal(channels=("acc_x", "temp")), "channel gyro_x is missing"),
        (signal(units=("counts", "rad/s")), "acc_x is in counts, the contract asks for g"),
        (signal(rate=32), "32 Hz, the contract asks for 50 Hz; resample the files or allow it with --convert rate"),
        (signal().with_(unit="mm"), "the grid is in mm, the contract asks for s"),
        (Input(np.zeros((5, 2)), ("acc_x", "gyro_x"), ("g", "rad/s"), layout="packed"), "the layout is packed"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(x: Input, sentence: str) -> None:
    with pytest.raises(Incompatible) as caught:
        SPEC.adapt(x, "walk.csv")
    assert sentence in str(caught.value)
    assert str(caught.value).startswith("walk.csv: ")
    assert "\n" not in str(caught.value)


def test_rate_is_converted_only_when_allowed() -> None:
    # 1 Hz sine at 100 Hz for 10 s -> 50 Hz: the mean of two neighbours keeps cos(pi/100) of the amplitude
    t = np.arange(1000) / 100
    x = Input(np.sin(2 * np.pi * t)[None].repeat(2, 0), SPEC.channels, SPEC.units, unit="s", spacing=(0.01,))
    adapted, log = SPEC.model_copy(update={"convert": ("rate",)}).adapt(x)
    assert adapted.shape == (500,)
    assert log == ("from 100 Hz to 50 Hz",)
    inner = slice(5, -5)
    expected = np.sin(2 * np.pi * (np.arange(500) / 50 - 0.005)) * np.cos(np.pi * 0.01)
    np.testing.assert_allclose(adapted.data[0][inner], expected[inner], atol=1e-5)


def test_resampling_upwards_hits_the_old_samples_and_keeps_gaps() -> None:
    x = signal(length=5).with_(valid=np.array([[True, True, False, True, True]]))
    up = resample(x, (0.01,))
    np.testing.assert_allclose(up.data[:, ::2], x.data)
    # position 2 is the gap; 1.5 and 2.5 lie beside it
    np.testing.assert_array_equal(up.valid, [[True, True, True, False, False, False, True, True, True]])


def test_a_normaliser_knows_its_sources() -> None:
    n = Normaliser(method="standard", constants={"wrist": Constants(offset=(1.0, 0.0), scale=(2.0, 4.0))})
    y = n.apply(signal(length=3))
    np.testing.assert_allclose(y.data, [[-0.5, 0.0, 0.5], [0.75, 1.0, 1.25]])
    with pytest.raises(Incompatible, match="no constants for the source 'ankle'"):
        n.apply(signal().with_(source="ankle"))


def test_invalid_positions_become_zero_whatever_they_held() -> None:
    x = signal(length=3).with_(valid=np.array([[True, False, True]]))
    x.data[:, 1] = np.nan
    np.testing.assert_array_equal(Normaliser().apply(x).data[:, 1], 0)


def test_units_know_their_inverse() -> None:
    assert unit_factor("V", "uV") == 1e6
    assert unit_factor("uV", "V") == 1e-6
    assert unit_factor("g", "uV") is None


def test_facts_are_held_to_the_same_contract() -> None:
    facts = {
        "layout": "dense",
        "channels": ["acc_x", "gyro_x"],
        "units": ["g", "rad/s"],
        "unit": "s",
        "shape": [100],
        "source": "",
    }
    SPEC.check({**facts, "spacing": [0.02]}, "a.csv")
    with pytest.raises(Incompatible, match="25 Hz"):
        SPEC.check({**facts, "spacing": [0.04]}, "a.csv")


def test_facts_of_an_unknown_source_are_refused_before_anything_is_read() -> None:
    spec = InputSpec.of(
        signal(), normaliser=Normaliser(method="sensor", constants={"wrist": Constants(offset=(0, 0), scale=(1, 1))})
    )
    facts = {"layout": "dense", "channels": ["acc_x", "gyro_x"], "units": ["g", "rad/s"], "unit": "s", "shape": [9]}
    spec.check({**facts, "spacing": [0.02], "source": "wrist"}, "a.csv")
    with pytest.raises(Incompatible, match=r"a\.csv: the normaliser has no constants for the source 'ankle'"):
        spec.check({**facts, "spacing": [0.02], "source": "ankle"}, "a.csv")
