"""What would wait for a GPU is found on the CPU."""

import pytest
import torch

from unlabeled.core.testing.sync import NoWaiting

X, MASK = torch.arange(12.0).view(4, 3), torch.tensor([True, False, True, True])

WAIT = {
    "item": lambda: X[0, 0].item(),
    "bool": lambda: bool((X > 0).all()),
    "mask": lambda: X[MASK],
    "mask beside a slice": lambda: X[:, torch.tensor([True, False, True])],
    "assignment by mask": lambda: X.clone().__setitem__(MASK, torch.zeros(3, 3)),
    "nonzero": lambda: MASK.nonzero(),
    "masked_select": lambda: X.masked_select(MASK[:, None]),
    "unique": lambda: X.unique(),
    "equal": lambda: torch.equal(X, X),
    "allclose": lambda: torch.allclose(X, X),
    "bincount": lambda: torch.bincount(MASK.long()),
    "repeat_interleave": lambda: torch.repeat_interleave(X, MASK.long(), 0),
}
GO_ON = {
    "index": lambda: X[torch.tensor([0, 2])],
    "assignment": lambda: X.clone().__setitem__(torch.tensor([0, 2]), torch.zeros(2, 3)),
    "where": lambda: torch.where(MASK[:, None], X, 0),
    "masked_fill": lambda: X.masked_fill(~MASK[:, None], 0),
    "repeats": lambda: X.repeat_interleave(2, 0),
    "repeats of a known sum": lambda: torch.repeat_interleave(torch.arange(4), MASK.long(), output_size=3),
}


@pytest.mark.parametrize("name", WAIT)
def test_it_waits(name):
    with pytest.raises(AssertionError, match="waits for the device"), NoWaiting():
        WAIT[name]()


@pytest.mark.parametrize("name", GO_ON)
def test_it_goes_on(name):
    with NoWaiting():
        GO_ON[name]()
