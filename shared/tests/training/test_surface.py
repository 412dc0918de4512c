"""What the trainer's section offers: accumulation, compilation, loggers, a schedule of the weight decay."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.recipe import Named, Optimiser
from unlabeled.core.methods.base import Context
from unlabeled.core.nn.transformer import Transformer
from unlabeled.core.testing.ranks import RankPool
from unlabeled.core.testing.toys import Denoiser, Distiller, Waves, identical, lines, loader, recipe
from unlabeled.core.training.compiling import blocks, compile_blocks
from unlabeled.core.training.fit import fit
from unlabeled.core.training.loggers import make_loggers
from unlabeled.core.training.optim import adamw, schedule
from unlabeled.core.training.step import Step, floating

CPU = torch.device("cpu")
STILL = Denoiser.Options(dropout=0.0)


def gradients(accumulate: int, weight: list[float], precision: str = "64") -> dict[str, Tensor]:
    """Loss and gradients of one step on 7 items with these weights."""
    step = Step(Denoiser(STILL), recipe(20, accumulate=accumulate, precision=precision))
    ((epoch, batch),) = loader(batch_size=7).batches(0, 1)
    out = step(0, epoch, replace(batch, weight=torch.tensor(weight)), CPU, torch.autograd.backward, lambda: None)
    found = {name: p.grad for name, p in step.method.named_parameters() if p.grad is not None}
    return found | {"loss": out["loss"], "embedding": out["embedding"], **out["parts"]}


@pytest.mark.parametrize("n", [2, 3, 7, 9])
@pytest.mark.parametrize("weight", [[1.0] * 7, [1, 0, 0, 1, 1, 0, 1.0], [1, 1, 1, 1, 0, 0, 0.0]])
def test_parts_give_the_gradient_of_the_whole(n: int, weight: list[float]) -> None:
    # 7 rows in 2 parts are 4 and 3, whose losses count by their rows of weight 1: also where one part has none
    torch.testing.assert_close(gradients(n, weight), gradients(1, weight), rtol=1e-12, atol=1e-12)


def test_plain_means_of_unequal_parts_would_not() -> None:
    # the weighting matters: the mean of the parts' losses is another number
    ((_, batch),) = loader(batch_size=7).batches(0, 1)
    method, weight = Denoiser(STILL).double(), torch.tensor([1, 1, 1, 1, 1, 0, 0.0])
    batch = floating(replace(batch, weight=weight), torch.float64)
    ctx = Context(0, 0, 0, 20)
    parts = [method.step(p, ctx)["loss"].item() for p in batch.parts(2)]
    assert sum(parts) / 2 != pytest.approx(method.step(batch, ctx)["loss"].item(), rel=1e-3)


@pytest.mark.parametrize("loop", ["plain", "lightning"])
def test_a_run_in_parts_equals_one_in_whole(loop: str, tmp_path: Path) -> None:
    runs = []
    for n in (1, 2):
        method = Denoiser(STILL)
        fit(method, loader(), recipe(12, loop=loop, accumulate=n, precision="64"), tmp_path / str(n), resume=False)
        runs.append(dict(method.state_dict()))
    torch.testing.assert_close(runs[0], runs[1], rtol=1e-9, atol=1e-9)
    assert [line["loss"] for line in lines(tmp_path / "1")] == pytest.approx(
        [line["loss"] for line in lines(tmp_path / "2")]
    )


def train(run: Path) -> dict[str, Tensor]:
    method = Denoiser(STILL)
    fit(method, loader(Waves(34)), recipe(10, accumulate=2, precision="64"), run, resume=False)
    return {k: v.clone() for k, v in method.state_dict().items()}


def test_parts_on_two_ranks_equal_one(two_ranks: RankPool, tmp_path: Path) -> None:
    alone = train(tmp_path / "one")
    for rank in two_ranks.run(f"{__file__}:train", tmp_path / "two"):
        torch.testing.assert_close(rank, alone, rtol=1e-9, atol=1e-9)


def test_parts_are_refused_where_items_are_compared() -> None:
    with pytest.raises(
        RequestError, match=r"trainer.accumulate is 2, .* toy computes: its batch norm takes the statistics"
    ):
        Step(Distiller(), recipe(accumulate=2))
    method = Denoiser()
    method.couples = "its loss compares items"
    with pytest.raises(RequestError, match="its loss compares items; set it to 1"):
        Step(method, recipe(accumulate=2))


def test_weight_decay_goes_along_half_a_cosine() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    made = recipe(101, optimiser={"weight_decay": 0.04, "weight_decay_final": 0.4})
    optimiser = adamw(net, made.optimiser)
    for step, expected in {0: 0.04, 50: 0.22, 100: 0.4}.items():  # at the middle the mean of both
        schedule(optimiser, made, step)
        decayed, free = optimiser.param_groups
        assert (decayed["weight_decay"], free["weight_decay"]) == (pytest.approx(expected), 0.0)
    schedule(optimiser, recipe(101), 50)
    assert optimiser.param_groups[0]["weight_decay"] == Optimiser().weight_decay


def test_blocks_are_the_repeated_layers() -> None:
    net = nn.ModuleDict({"body": Transformer(8, 3, 2, 2.0), "head": nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))})
    assert blocks(net) == list(net["body"].blocks)
    assert compile_blocks(nn.Linear(2, 2)) == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch's own, while it compiles
def test_compiled_blocks_compute_the_same_under_the_same_names() -> None:
    torch.manual_seed(0)
    net = Transformer(8, 2, 2, 2.0)
    x, valid = torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool)
    expected, names = net(x, valid), list(net.state_dict())
    assert compile_blocks(net) == 2
    torch.testing.assert_close(net(x, valid), expected, rtol=1e-4, atol=1e-5)
    assert list(net.state_dict()) == names


class Kept:
    """A logger that remembers; made by name."""

    made: "list[Kept]" = []

    def __init__(self, save_dir: str, tag: str = "") -> None:
        self.save_dir, self.tag = save_dir, tag
        self.seen: list[tuple[int, dict[str, float]]] = []
        self.ended: list[str] = []
        Kept.made.append(self)

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.seen.append((step, metrics))

    def finalize(self, status: str) -> None:
        self.ended.append(status)


@pytest.mark.parametrize("loop", ["plain", "lightning"])
def test_a_logger_is_told_what_the_log_writes(loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kept", sys.modules[__name__])
    Kept.made.clear()
    loggers = [{"name": "kept:Kept", "tag": "t"}, {"name": "csv"}]
    fit(Denoiser(), loader(), recipe(7, loop=loop, loggers=loggers, save_every=100), tmp_path, resume=False)
    (logger,) = Kept.made
    assert (logger.save_dir, logger.tag, logger.ended) == (str(tmp_path), "t", ["success"])
    table = lines(tmp_path)
    assert [step for step, _ in logger.seen] == [2, 5, 6]
    assert all(m["loss"] == table[s]["loss"] and m["parts/error"] == table[s]["parts"]["error"] for s, m in logger.seen)
    (file,) = tmp_path.rglob("metrics.csv")
    assert len(file.read_text().splitlines()) == 1 + 3


@pytest.mark.parametrize(
    ("logger", "said"),
    [
        ({"name": "cvs"}, "trainer.loggers.0.name: 'cvs' is unknown, did you mean 'csv'"),
        ({"name": "no_such_package:Logger"}, "needs the package no_such_package, which is not installed"),
        ({"name": "csv", "colour": "red"}, "csv cannot be made with these options: .*colour"),
        ({"name": "json:Nothing"}, "json:Nothing cannot be made"),
    ],
)
def test_a_logger_that_cannot_be_made_says_why(logger: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=said):
        make_loggers([Named.model_validate(logger)], tmp_path)


def test_a_run_in_parts_resumes_exactly(tmp_path: Path) -> None:
    class Crash(Exception):
        pass

    def crash(done: int, total: int, line: dict[str, Any]) -> None:
        if done == 9:
            raise Crash

    made = recipe(12, accumulate=2)
    whole, parts = Denoiser(), Denoiser()
    fit(whole, loader(), made, tmp_path / "whole", resume=False)
    with pytest.raises(Crash):
        fit(Denoiser(), loader(), made, tmp_path / "parts", resume=False, on_progress=crash)
    fit(parts, loader(), made, tmp_path / "parts", resume=True)
    assert identical(dict(whole.state_dict()), dict(parts.state_dict()))
    assert json.dumps(lines(tmp_path / "whole")) == json.dumps(lines(tmp_path / "parts"))
