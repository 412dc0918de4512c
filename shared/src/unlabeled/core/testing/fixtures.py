"""Fixtures that test suites share. A conftest takes one by `from unlabeled.core.testing.fixtures import two_ranks as two_ranks`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from unlabeled.core.testing.ranks import RankPool


@pytest.fixture(scope="session")
def two_ranks() -> Iterator[RankPool]:
    """Two gloo processes, started once and only if a test asks."""
    with RankPool(2) as pool:
        yield pool
