import pytest

from unlabeled.core.measures.intervals import Interval
from unlabeled.core.studies.verdict import word


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (0.001, 0.2, "paid"),
        (0.001, 0.005, "paid"),  # small, and certain
        (0.0, 0.2, "cannot tell"),  # 0 itself is not above 0
        (-0.1, 0.2, "cannot tell"),
        (-0.1, 0.01, "cannot tell"),  # a whole point is not excluded
        (-0.1, 0.0099, "did not pay"),
        (0.0, 0.0, "did not pay"),
        (-0.2, -0.1, "did not pay"),
    ],
)
def test_the_rule(low: float, high: float, says: str) -> None:
    assert word(Interval((low + high) / 2, low, high)) == says
