"""A view of the toy waves."""

from dataclasses import replace

from torch import where

from unlabeled.core.contracts import InputSpec
from unlabeled.core.contracts.batch import Dense
from unlabeled.core.streams import Draw


def noise(x: Dense, draw: Draw, spec: InputSpec, amount: float = 0.1) -> Dense:
    values = x.values + amount * draw.normal("noise", *x.values.shape[1:])
    return replace(x, values=where(x.valid, values, 0))
