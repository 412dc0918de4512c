"""The domain `plain` comes in as any stranger's would: a distribution on the path, for the time of a module."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from unlabeled.core.testing.bundles import install


@pytest.fixture(scope="module", autouse=True)
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("site")
    install(root)
    (root / "key").write_text("0123456789abcdef" * 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root))
        patch.setenv("UNLABELED_KEY", str(root / "key"))
        yield root
