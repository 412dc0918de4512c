"""Tables of results in a package's README follow from the committed study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def rows(study: dict[str, Any]) -> list[str]:
    """A line of the table for every start: mean and 95 % interval at each budget."""

    def text(score: dict[str, float]) -> str:
        mean, low, high = (f"{score[k]:.3f}".replace("0.", ".", 1) for k in ("mean", "low", "high"))
        return f"{mean} [{low}, {high}]"

    titles = [b["title"] for b in study["budgets"]]
    return [f"| {start} | {' | '.join(text(of[t]) for t in titles)} |" for start, of in study["scores"].items()]


@pytest.mark.parametrize(("package", "result"), [("earth", "landsat-study"), ("network", "services-study")])
def test_the_table_is_the_committed_study(package: str, result: str) -> None:
    newest = max((ROOT / "benchmarks" / "results").glob(f"*-{result}.json"))
    expected = rows(json.loads(newest.read_text())["study"])
    readme = (ROOT / "packages" / package / "README.md").read_text().splitlines()
    assert [line for line in readme if line in expected] == expected
    assert newest.name in "\n".join(readme)
