"""Choices of dynamic pruning, made from an encoder's own features."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from unlabeled.core.build import seeded
from unlabeled.core.contracts import Input, InputSpec, RunFailed, Sample
from unlabeled.core.curate.choices import Choices
from unlabeled.core.data.loading import Loader
from unlabeled.core.data.plans.pruned import Pruned
from unlabeled.core.methods.simclr import SimCLR
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.testing import toys
from unlabeled.core.testing.method import noisy
from unlabeled.core.testing.ranks import RankPool
from unlabeled.core.training.fit import fit

SIZES = (1000, 100, 20, 4)


@dataclass(frozen=True)
class Blobs:
    """Series of 16 values: those of one kind are a wave of their own with little noise; kinds are of very unlike numbers."""

    at: NDArray[np.int64]

    @classmethod
    def all(cls, sizes: tuple[int, ...] = SIZES) -> Blobs:
        return cls(np.arange(sum(sizes)))

    @property
    def record(self) -> NDArray[np.int64]:
        return self.at

    def __len__(self) -> int:
        return len(self.at)

    def take(self, at: NDArray[np.int64]) -> Blobs:
        return replace(self, at=self.at[at])

    def sample(self, i: int) -> Sample:
        item = int(self.at[i])
        kind = int(kinds()[item])
        noise = np.random.default_rng(item).standard_normal((1, 16))
        wave = np.cos((kind + 1) * np.pi * (np.arange(16) + 0.5) / 16)[None]
        x = Input((4 * wave + 0.05 * noise).astype(np.float32), ("x",), ("",), unit="s", spacing=(1.0,))
        return Sample({"x": x}, key=f"item-{item}", group=f"g{item}", index=i, record=item)


def kinds() -> NDArray[np.int64]:
    return np.repeat(np.arange(len(SIZES)), SIZES)


SPECS = {"x": InputSpec.of(Blobs.all().sample(0).inputs["x"])}


def method() -> SimCLR:
    with seeded(0, "encoder"):
        encoder = TokenEncoder(SPECS, TokenEncoder.Options(width=16, depth=1, heads=2, patch=(4,)))
    with seeded(0, "method"):
        return SimCLR(encoder, SPECS, SimCLR.Options(projector=(8, 8)), noisy)


def choices(run: Path, **options: Any) -> Choices:
    made = Pruned.Options(**{"share": 0.1, "levels": (12, 4), "nearness": 0.5, **options})
    return Choices(Blobs.all(), made, seed=0, run=run)  # type: ignore[arg-type]


def entropy(ids: NDArray[np.int64]) -> float:
    share = np.bincount(kinds()[ids], minlength=len(SIZES)) / len(ids)
    return float(-(share[share > 0] * np.log(share[share > 0])).sum())


def test_the_entropy_rises_and_no_kind_starves(tmp_path: Path) -> None:
    kept = choices(tmp_path).make(1, method())
    counts = np.bincount(kinds()[kept])
    # 112 of 1,124: 28 of each kind, or all where there are fewer: 44, 44, 20, 4
    assert counts.tolist() == [44, 44, 20, 4] and len(kept) == 112
    # -(.8897 ln .8897 + .0890 ln .0890 + .0178 ln .0178 + .0036 ln .0036) = .411; kept: 2 x .3671 + .3076 + .1190 = 1.161
    assert entropy(np.arange(sum(SIZES))) == pytest.approx(0.411, abs=1e-3)
    assert entropy(kept) == pytest.approx(1.161, abs=1e-3)


def test_a_share_of_one_keeps_all(tmp_path: Path) -> None:
    assert choices(tmp_path, share=1.0).make(1, method()).tolist() == list(range(sum(SIZES)))


def test_a_subset_is_drawn_anew_each_round(tmp_path: Path) -> None:
    made = choices(tmp_path, subset=200, share=0.5)
    first, second = made.make(1, method()), made.make(2, method())
    assert len(first) == len(second) == 100 and set(first) != set(second)
    assert np.array_equal(choices(tmp_path / "again", subset=200, share=0.5).make(1, method()), first)


def test_what_was_chosen_is_read_and_what_was_altered_is_not(tmp_path: Path) -> None:
    made = choices(tmp_path)
    kept = made.make(1, method())
    assert np.array_equal(made.read(1, made.sha256(1)), kept)
    with pytest.raises(RunFailed, match=r"round-0001.parquet is not what the run was trained on; start the run anew"):
        made.read(1, "0" * 64)


def train(run: Path, resume: bool = False, stop: int | None = None) -> list[list[int]]:
    """30 steps of 16: 20 on 320 items, then on the tenth of them that stays, chosen every 3 epochs of 2 steps."""
    source = Blobs.all().take(np.arange(sum(SIZES) - 320, sum(SIZES)))
    options = Pruned.Options(warmup=1, every=3, share=0.1, levels=(12, 4))
    plan = Pruned(len(source), 16, options, Choices(source, options, seed=0, run=run))  # type: ignore[arg-type]

    def cut(done: int, total: int, line: dict[str, Any]) -> None:
        if done == stop:
            raise RuntimeError("cut off")

    recipe = toys.recipe(30, threads=1, precision="64", log_every=1).model_copy(update={"batch_size": 16})
    fit(method(), Loader(source, SPECS, plan, seed=0), recipe, run, resume=resume, on_progress=cut)
    return [r.tolist() for r in plan.rounds]


@pytest.mark.parametrize("stop", [20, 23, 27])
def test_a_resume_inside_an_interval_is_exact(tmp_path: Path, stop: int) -> None:
    whole = train(tmp_path / "whole")
    assert [len(r) for r in whole] == [320, 32, 32] and whole[1] != whole[2]
    with pytest.raises(RuntimeError, match="cut off"):
        train(tmp_path / "cut", stop=stop)
    assert train(tmp_path / "cut", resume=True) == whole
    assert toys.lines(tmp_path / "cut") == toys.lines(tmp_path / "whole")


def test_two_ranks_choose_the_same_items_as_one(two_ranks: RankPool, tmp_path: Path) -> None:
    alone = train(tmp_path / "one")
    for rounds in two_ranks.run(f"{__file__}:train", tmp_path / "two"):
        assert rounds == alone
    assert (tmp_path / "two" / "plans" / "round-0002.parquet").is_file()


def test_the_encoder_is_left_as_it_was(tmp_path: Path) -> None:
    m = method()
    before = {k: v.clone() for k, v in m.state_dict().items()}
    m.train()
    choices(tmp_path).make(1, m)
    assert m.encoder.training and toys.identical(dict(m.state_dict()), before)
