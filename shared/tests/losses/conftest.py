"""lightly's losses, as the answer of another library."""

import warnings
from collections.abc import Iterator
from types import ModuleType

import pytest


@pytest.fixture
def lightly() -> Iterator[ModuleType]:
    """`lightly.loss`, with its own warnings off: its DCLW copies a tensor with `torch.tensor`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import lightly.loss

        yield lightly.loss
