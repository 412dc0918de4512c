"""What the contract of methods needs."""

from collections.abc import Iterator

import pytest
import torch

from unlabeled.core.testing.ranks import RankPool

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def two_ranks() -> Iterator[RankPool]:
    """Two gloo processes, started once and only if a test asks."""
    with RankPool(2) as pool:
        yield pool
