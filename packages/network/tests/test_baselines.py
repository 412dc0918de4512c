from pathlib import Path

import numpy as np
import pytest

from unlabeled.core.contracts import RequestError, Sample
from unlabeled.core.contracts.domain import domain
from unlabeled.core.contracts.recipe import Data
from unlabeled.core.evaluation.heads import Boosting, head_of, suits
from unlabeled.network.baselines import Ports, Statistics
from unlabeled.network.flow.statistics import NAMES, SHORTCUTS


def sample(statistics: list[float], ports: tuple[int, int]) -> Sample:
    shortcuts = np.full(len(SHORTCUTS), -7, np.float32)
    shortcuts[[SHORTCUTS.index("port least"), SHORTCUTS.index("port most")]] = ports
    return Sample({}, "k", "g", meta={"statistics": np.array(statistics, np.float32), "shortcuts": shortcuts})


def test_statistics_are_compressed_and_finite() -> None:
    # sign(v) log(1 + |v|): e - 1 gives 1, -(e^2 - 1) gives -2
    e = float(np.e)
    found = Statistics().fit([]).features([sample([e - 1, 0, 1 - e**2, np.nan, np.inf], (1, 2))])
    np.testing.assert_allclose(found, [[1, 0, -2, 0, 0]], atol=1e-6)
    assert len(set(NAMES)) == len(NAMES)


def test_ports_are_the_two_numbers_and_nothing_else() -> None:
    found = Ports().fit([]).features([sample([0], (53, 60000)), sample([0], (443, 443))])
    assert found.tolist() == [[53, 60000], [443, 443]]


@pytest.mark.parametrize(
    ("name", "suited"), [("a.pcap", True), ("a.pcapng.gz", True), ("a.urls", False), ("conn.log", False)]
)
def test_both_suit_captures_alone(tmp_path: Path, name: str, suited: bool) -> None:
    (tmp_path / name).write_bytes(b"")
    data = Data(path=tmp_path)
    cards = {c.name: c for c in domain("network").baselines if c.target.startswith("unlabeled.network.baselines:")}
    assert set(cards) == {"statistics+logreg", "statistics+boosting", "ports+forest"}
    assert {suits(card, data) for card in cards.values()} == {suited}
    assert isinstance(head_of(cards["statistics+boosting"]), Boosting)


def test_wrong_options_are_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="kindd"):
        Ports.suits(Data(path=tmp_path, options={"kindd": "urls"}))
