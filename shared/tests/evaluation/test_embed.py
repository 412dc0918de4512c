from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch

from unlabeled.core.contracts import BadInput, Input, InputSpec, Sample
from unlabeled.core.contracts.batch import Dense
from unlabeled.core.data.items import Items
from unlabeled.core.evaluation.embed import embed
from unlabeled.core.nn.base import Encoder, Features

N, T = 7, 12


def record(i: int) -> Sample:
    if i == 1:
        raise BadInput("record 1 vanished")
    data = (100 * i + np.arange(T, dtype=np.float32))[None]
    return Sample({"x": Input(data, ("a",), ("",), unit="s", spacing=(1.0,))}, key=str(i), group="g", record=i)


SPECS = {"x": InputSpec.of(record(0).inputs["x"])}


class Mean(Encoder):
    """The mean of each item, dropped at random in training."""

    def __init__(self) -> None:
        super().__init__(SPECS, 1, 1)
        self.drop = torch.nn.Dropout(0.9)
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, inputs: Any) -> Features:
        x = inputs["x"]
        assert isinstance(x, Dense)
        pooled = self.drop(x.values.mean(2) * self.scale)
        return Features(pooled[:, None], torch.ones(len(pooled), 1, dtype=torch.bool), pooled)


def window(i: int, region: tuple[slice, ...]) -> Sample:
    sample = record(i)
    x = sample.inputs["x"]
    return sample.map(x=x.with_(data=x.data[(slice(None), *region)]))


def test_items_keep_their_order_and_failed_ones_are_named() -> None:
    # windows of 4 at 0, 4, 8 of the records 0, 1 and 2; record 1 cannot be read
    items = Items(
        cast(Any, SimpleNamespace(window=window)),
        record=np.repeat([0, 1, 2], 3),
        start=np.tile([[0], [4], [8]], (3, 1)),
        size=(4,),
    )
    encoder = Mean().train()
    for batch_size in (2, 256):
        found = embed(encoder, items, SPECS, batch_size)
        # mean of 4 values from s on: s + 1.5
        np.testing.assert_allclose(found.values[:, 0], [1.5, 5.5, 9.5, 201.5, 205.5, 209.5])
        assert found.item.tolist() == [0, 1, 2, 6, 7, 8]
        assert found.record.tolist() == [0, 0, 0, 2, 2, 2]
        assert found.failed == {3: "record 1 vanished", 4: "record 1 vanished", 5: "record 1 vanished"}
        assert found.values.dtype == np.float32
    assert encoder.training
