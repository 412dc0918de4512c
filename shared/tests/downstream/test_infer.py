"""How windows become one prediction per record: votes, means, blends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from unlabeled.core.contracts import BadInput, Input, InputSpec, Sample
from unlabeled.core.contracts.batch import Dense
from unlabeled.core.data.items import Items, covering
from unlabeled.core.downstream.infer import hat, predictions
from unlabeled.core.downstream.model import Model
from unlabeled.core.nn.base import Encoder, Features

SPECS = {"x": InputSpec(channels=("a",), units=("",), spacing=(1.0,))}


class Records:
    """A corpus of one channel at 1 Hz; the `bad` records cannot be read."""

    def __init__(self, *values: list[float], bad: tuple[int, ...] = ()) -> None:
        self.values, self.bad, self.specs = values, bad, SPECS

    def __len__(self) -> int:
        return len(self.values)

    def record(self, i: int) -> Sample:
        if i in self.bad:
            raise BadInput(f"record {i} is broken")
        x = Input(np.array([self.values[i]], np.float32), ("a",), ("",), unit="s", spacing=(1.0,))
        return Sample({"x": x}, key=str(i), group="g", index=i, record=i)

    stored = record

    def shape(self, i: int) -> tuple[int, ...]:
        return self.record(i).inputs["x"].shape

    def window(self, i: int, region: tuple[slice, ...]) -> Sample:
        sample, at = self.record(i), (slice(None), *region)
        x = sample.inputs["x"]
        return sample.with_(inputs={"x": x.with_(data=x.data[at], valid=None if x.valid is None else x.valid[at])})


class Echo(Encoder):
    """Tokens are the values themselves, pooled their first one."""

    stride = (1,)

    def __init__(self) -> None:
        super().__init__(SPECS, 1, 1)
        self.unused = torch.nn.Parameter(torch.zeros(()))

    def forward(self, inputs: Any) -> Features:
        x = inputs["x"]
        assert isinstance(x, Dense)
        tokens = x.values.transpose(1, 2)
        return Features(tokens, x.valid[:, 0], tokens[:, 0])


def echo(kind: str, outputs: int) -> Model:
    """Whose first output is the value v itself and whose others are 0."""
    model = Model(Echo(), kind, outputs)
    model.norm = torch.nn.Identity()  # type: ignore[assignment]
    with torch.no_grad():
        for p in model.head.parameters():
            p.zero_()
        model.head.linear.weight[0, 0] = 1  # type: ignore[union-attr,index]
    return model


def items(corpus: Any, record: list[int], start: list[int], size: int) -> Items:
    return Items(corpus, np.array(record), np.array(start)[:, None], (size,))


def test_windows_vote_by_the_mean_of_their_log_probabilities() -> None:
    # windows with logits (1, 0) and (3, 0): the mean of their log-probabilities is that of the logits (2, 0) but for a
    # constant, so the class has 1 / (1 + e^-2)
    corpus = Records([1.0, 3.0], [-4.0, -4.0])
    failed: dict[int, str] = {}
    found = dict(predictions(echo("classification", 2), items(corpus, [0, 0, 1, 1], [0, 1, 0, 1], 1), failed, 3))
    assert list(found) == [0, 1] and failed == {}
    np.testing.assert_allclose(found[0], [1 / (1 + np.exp(-2)), 1 / (1 + np.exp(2))], rtol=1e-6)
    np.testing.assert_allclose(found[1], [1 / (1 + np.exp(4)), 1 / (1 + np.exp(-4))], rtol=1e-6)


def test_labels_of_their_own_have_the_mean_of_the_windows_probabilities() -> None:
    # logits 1 and 3 give the first label the probabilities 1 / (1 + e^-1) and 1 / (1 + e^-3); the second's logit is 0
    corpus = Records([1.0, 3.0])
    ((_, found),) = predictions(echo("multilabel", 2), items(corpus, [0, 0], [0, 1], 1), {})
    np.testing.assert_allclose(found, [(1 / (1 + np.exp(-1)) + 1 / (1 + np.exp(-3))) / 2, 0.5], rtol=1e-6)


def test_values_are_averaged_in_the_labels_unit() -> None:
    # (1 + 3) / 2 = 2 deviations of 10 above 100
    model = echo("regression", 1)
    model.offset.fill_(100.0)
    model.scale.fill_(10.0)
    ((record, value),) = predictions(model, items(Records([1.0, 3.0]), [0, 0], [0, 1], 1), {})
    assert record == 0
    np.testing.assert_allclose(value, [120.0], rtol=1e-6)


def test_a_record_of_which_an_item_fails_is_named_and_gives_nothing() -> None:
    failed: dict[int, str] = {}
    corpus = Records([1.0, 1.0], [2.0, 2.0], [3.0, 3.0], bad=(1,))
    for size in (1, 2, 6):
        failed.clear()
        cut = items(corpus, [0, 0, 1, 1, 2, 2], [0, 1] * 3, 1)
        assert [r for r, _ in predictions(echo("regression", 1), cut, failed, size)] == [0, 2]
        assert failed == {1: "record 1 is broken"}
    everything = items(Records([1.0], bad=(0,)), [0], [0], 1)
    assert list(predictions(echo("segmentation", 2), everything, failed)) == []


def test_the_hat_falls_linearly_and_is_nowhere_zero() -> None:
    np.testing.assert_allclose(hat((4,)), [0.5, 1.5, 1.5, 0.5])
    np.testing.assert_allclose(hat((3,)), np.array([0.5, 1.5, 0.5]) * 4 / 3)
    np.testing.assert_allclose(hat((4, 2)), np.outer([0.5, 1.5, 1.5, 0.5], [1, 1]))
    assert (hat((7, 5, 3)) > 0).all()


def test_what_every_window_agrees_on_is_not_blended_away() -> None:
    """The logit of a cell is its own value whatever the window, so overlaps, ends and short records change nothing."""
    values = np.sin(np.arange(11.0)).tolist()
    corpus: Any = Records(values, values[:3])
    cut = covering(corpus, (4.0,), (3.0,))
    # 11 cells: starts 0, 3, 6 and the last full window at 7; 3 cells: one item, as short as it is
    assert cut.record.tolist() == [0, 0, 0, 0, 1] and cut.start[:, 0].tolist() == [0, 3, 6, 7, 0]
    found = dict(predictions(echo("segmentation", 2), cut, {}, batch_size=5))
    for record, n in ((0, 11), (1, 3)):
        assert found[record].shape == (2, n)
        np.testing.assert_allclose(found[record][0], 1 / (1 + np.exp(-np.array(values[:n]))), rtol=1e-6)
        np.testing.assert_allclose(found[record].sum(0), 1.0, rtol=1e-9)


def test_overlapping_windows_blend_by_the_hat() -> None:
    """Windows that disagree: cell 2 is in window 0 as its third of 4 (weight 1.5) and in window 2 as its first (0.5)."""

    class First(Echo):
        """Every cell has the value of its window's first one."""

        def forward(self, inputs: Any) -> Features:
            found = super().forward(inputs)
            tokens = found.pooled[:, None].expand_as(found.tokens)
            return Features(tokens, found.valid, found.pooled)

    model = echo("segmentation", 2)
    model.encoder = First()
    ((_, p),) = predictions(model, items(Records([0.0, 9.0, 2.0, 9.0, 9.0, 9.0]), [0, 0], [0, 2], 4), {})
    a, b = 0.5, 1 / (1 + np.exp(-2.0))
    expected = [a, a, (1.5 * a + 0.5 * b) / 2, (0.5 * a + 1.5 * b) / 2, b, b]
    np.testing.assert_allclose(p[0], expected, rtol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_stays(training: bool) -> None:
    model = echo("regression", 1).train(training)
    list(predictions(model, items(Records([1.0]), [0], [0], 1), {}))
    assert model.training is training


def test_windows_cover_grids_of_two_axes() -> None:
    corpus: Any = SimpleNamespace(
        specs={"x": InputSpec(channels=("a",), units=("",), axes=("y", "x"), spacing=(1.0, 2.0))},
        shape=lambda i: (5, 4),
    )

    class One(SimpleNamespace):
        def __len__(self) -> int:
            return 1

    cut = covering(One(specs=corpus.specs, shape=corpus.shape), (2.0, 6.0), (2.0, 6.0))  # type: ignore[arg-type]
    # 2 x 3 cells: rows 0, 2 and the last at 3; columns 0 and the last at 1
    assert cut.size == (2, 3)
    assert [tuple(s) for s in cut.start.tolist()] == [(0, 0), (0, 1), (2, 0), (2, 1), (3, 0), (3, 1)]
