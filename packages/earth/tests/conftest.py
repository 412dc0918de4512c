"""What every test of this package shares."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    # rasterio 1.4 multiplies affine transforms by `*`, which affine 3.1 will deprecate; nothing of ours to mend
    config.addinivalue_line("filterwarnings", "ignore:Use `@` matmul:PendingDeprecationWarning")
