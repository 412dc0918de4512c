"""The plan `pruned`: when it chooses, from what, and that a run which uses it is exact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from unlabeled.core.contracts import RunFailed
from unlabeled.core.data.loading import Loader
from unlabeled.core.data.plans.pruned import Pruned
from unlabeled.core.testing import toys
from unlabeled.core.testing.ranks import RankPool
from unlabeled.core.training.fit import fit

BATCH, STEPS = 4, 30


class Lowest:
    """Keeps a half of the items, drawn by the round and, where asked for, the bits of the weights."""

    def __init__(self, items: int, by_weights: bool) -> None:
        self.items, self.by_weights, self.kept = items, by_weights, dict[int, NDArray[np.int64]]()
        self.made: list[tuple[int, float]] = []

    def make(self, round: int, method: Any) -> NDArray[np.int64]:
        seen = float(method.encoder.weight.detach().double().sum())
        self.made.append((round, seen))
        mixed = int(seen * 1e9) % 2**32 if self.by_weights else 0
        order = np.random.default_rng([round, mixed]).permutation(self.items)
        self.kept[round] = np.sort(order[: self.items // 2])
        return self.kept[round]

    def sha256(self, round: int) -> str:
        return ",".join(map(str, self.kept[round]))

    def read(self, round: int, sha256: str) -> NDArray[np.int64]:
        self.kept[round] = np.array([int(i) for i in sha256.split(",")])
        return self.kept[round]


def plan(items: int = 32, warmup: int = 1, every: int = 2, by_weights: bool = True) -> Pruned:
    return Pruned(items, BATCH, Pruned.Options(warmup=warmup, every=every), Lowest(items, by_weights))


def test_rounds() -> None:
    p = plan(warmup=2, every=3)
    # epochs 0 and 1 warm up; then 3 epochs a round
    assert [p.round_of(e) for e in range(9)] == [0, 0, 1, 1, 1, 2, 2, 2, 3]
    assert [p.known(e) for e in (0, 1, 2)] == [True, True, False]
    assert p.steps(0) == 8 and sorted(np.concatenate(p(0, 0))) == list(range(32))


def train(
    run: Path,
    resume: bool = False,
    stop: int | None = None,
    source: toys.Waves | None = None,
    by_weights: bool = True,
    **trainer: Any,
) -> Pruned:
    source = source or toys.Waves()
    p = plan(len(source), by_weights=by_weights)
    loader = Loader(source, toys.SPECS, p, seed=0)

    def cut(done: int, total: int, line: dict[str, Any]) -> None:
        if done == stop:
            raise RuntimeError("cut off")

    recipe = toys.recipe(STEPS, threads=1, **{"log_every": 1, **trainer})
    fit(toys.Denoiser(journal=run.with_suffix(".journal")), loader, recipe, run, resume=resume, on_progress=cut)
    return p


def test_it_chooses_at_its_epochs_and_trains_on_what_stays(tmp_path: Path) -> None:
    p = train(tmp_path / "run")
    # 8 steps on all 32; then 16 items make 4 steps an epoch, and 2 epochs a round: steps 8 to 15, 16 to 23, 24 on
    assert isinstance(p.choices, Lowest)
    assert [r for r, _ in p.choices.made] == [1, 2, 3]
    assert len({seen for _, seen in p.choices.made}) == 3  # each by other weights
    journal = [json.loads(line) for line in (tmp_path / "run.journal").read_text().splitlines()]
    for _, epoch, ids in journal:
        assert set(ids) <= set(p.rounds[p.round_of(epoch)].tolist())
    epochs = [line["epoch"] for line in toys.lines(tmp_path / "run")]
    assert epochs == [0] * 8 + [1] * 4 + [2] * 4 + [3] * 4 + [4] * 4 + [5] * 4 + [6] * 2
    for epoch in (1, 2):
        assert sorted(np.concatenate(p(0, epoch))) == list(p.choices.kept[1])
    assert not np.array_equal(np.concatenate(p(0, 1)), np.concatenate(p(0, 2)))


@pytest.mark.parametrize("stop", [7, 8, 11, 16, 23])
@pytest.mark.parametrize("loop", ["plain", "lightning"])
def test_a_resume_inside_and_at_the_end_of_an_interval_is_exact(tmp_path: Path, stop: int, loop: str) -> None:
    whole = train(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="cut off"):
        train(tmp_path / "cut", stop=stop, loop=loop, save_every=4)
    again = train(tmp_path / "cut", resume=True, loop=loop, save_every=4)
    assert toys.lines(tmp_path / "cut") == toys.lines(tmp_path / "whole")
    assert again.state() == whole.state()


def test_items_that_fail_leave_what_stays(tmp_path: Path) -> None:
    p = train(tmp_path / "run", source=toys.Waves(bad=(3, 5)))
    assert p.steps(1, {3, 5}) == len(set(p.rounds[1]) - {3, 5}) // BATCH
    assert not {3, 5} & set(np.concatenate(p(0, 1, {3, 5})).tolist())


def on_rank(run: Path) -> list[NDArray[np.int64]]:
    return train(run, by_weights=False).rounds


def test_two_ranks_train_on_the_same(two_ranks: RankPool, tmp_path: Path) -> None:
    alone = on_rank(tmp_path / "one")
    for rounds in two_ranks.run(f"{__file__}:on_rank", tmp_path / "two"):
        assert [r.tolist() for r in rounds] == [r.tolist() for r in alone]


def test_a_choice_that_is_gone_is_said(tmp_path: Path) -> None:
    from unlabeled.core.curate.choices import Choices

    choices = Choices(items=None, options=Pruned.Options(), seed=0, run=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(RunFailed, match=r"round-0001.parquet cannot be read .*; start the run anew"):
        choices.read(1, "x")
