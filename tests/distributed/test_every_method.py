"""Every method under Lightning's DDP: two processes that hold half of each batch end where one process with all of it does.

The rank tests of a method average its gradients by hand. Here DDP does, which fails where a learned parameter gets no
gradient, waits where ranks reduce in another order, and would not see a gradient that comes late.
"""

from __future__ import annotations

import ast
import json
import os
import socket
import subprocess
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unlabeled.core.contracts import BadInput, Sample
from unlabeled.core.contracts.domain import methods
from unlabeled.core.data.loading import Loader
from unlabeled.core.data.plans import Uniform
from unlabeled.core.testing.method import BATCH, ITEMS, Grids, MethodContract
from unlabeled.core.testing.ranks import function
from unlabeled.core.testing.toys import lines
from unlabeled.core.training.fit import fit

SECONDS = 12  # a contract in two processes; it takes 1 where nothing else runs
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # the first one waits for all

ROOT = Path(__file__).parents[2]
STEPS = 4
CONTRACTS = {
    node.name: path
    for path in sorted(ROOT.glob("shared/tests/methods/test_*.py"))
    + sorted(ROOT.glob("packages/*/tests/methods/test_*.py"))
    for node in ast.parse(path.read_text()).body
    if isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("Contract") for base in node.bases)
}
PLAN = Uniform(ITEMS, BATCH)


class Flawed:
    """One epoch of batches: whole ones, one item that fails, all items of the second rank fail, half items."""

    def __init__(self, source: Grids) -> None:
        self.source = source
        batches = PLAN(0, 0, frozenset())
        self.bad = {int(batches[1][0]), *map(int, batches[2][BATCH // 2 :])}
        self.half = set(map(int, batches[3][::3]))

    def __len__(self) -> int:
        return len(self.source)

    def sample(self, i: int) -> Sample:
        sample = self.source.sample(i)
        if i in self.bad:
            raise BadInput(f"item {i} is broken")
        if i not in self.half:
            return sample
        x = sample.inputs["x"]
        valid = np.ones((1, *x.shape) if x.layout == "dense" else x.shape, dtype=bool)
        valid[..., x.shape[-1] // 2 :] = False
        return sample.map(x=replace(x, valid=valid))


def contract(name: str) -> type[MethodContract]:
    found: type[MethodContract] = function(f"{CONTRACTS[name]}:{name}")
    return found


def train(name: str, run: Path, **trainer: Any) -> dict[str, torch.Tensor]:
    """The contract's method after `STEPS` steps in fp64, where another order of sums shows in the 16th digit."""
    of = contract(name)
    method, source = of.method(), of.source()
    loader = Loader(Flawed(source), source.specs, PLAN, seed=0)
    recipe = of.recipe(threads=1, precision="64", **trainer).model_copy(update={"max_steps": STEPS})
    fit(method, loader, recipe, run, resume=False)
    return method.state_dict()


def serve(folder: Path, ports: dict[str, int]) -> None:
    """A rank's life: every method in turn, each in a process group of its own."""
    for name, port in ports.items():
        os.environ["MASTER_PORT"] = str(port)
        try:
            state = train(name, folder / name, loop="lightning", devices=2)
            if os.environ["LOCAL_RANK"] == "0":
                torch.save(state, folder / f"{name}.pt")
        except Exception:
            (folder / f"{name}.{os.environ['LOCAL_RANK']}.error").write_text(traceback.format_exc())
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()


def free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@pytest.fixture(scope="module")
def together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes leave of every method that is asked for: its run, NAME.pt, or the traceback of each rank."""
    wanted = {item.name for item in request.session.items if item.path == Path(__file__)}
    names = [name for name in CONTRACTS if any(f"[{name}]" in item for item in wanted)]
    folder = tmp_path_factory.mktemp("together")
    ports = json.dumps(dict(zip(names, free_ports(len(names)), strict=True)))
    shared = {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2", "NODE_RANK": "0", "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder), ports], env={**os.environ, **shared, "LOCAL_RANK": str(rank)}
        )
        for rank in range(2)
    ]
    try:
        for process in running:
            process.wait(timeout=60 + SECONDS * len(names))
    except subprocess.TimeoutExpired:
        pass  # a method at which the ranks wait for each other leaves no answer, and so do those after it
    finally:
        for process in running:
            process.kill()
            process.wait()
    return folder


def test_every_card_is_here() -> None:
    assert {contract(name).name for name in CONTRACTS} == {
        card.name for card in methods().values() if card.kind == "method"
    }


@pytest.mark.parametrize("name", CONTRACTS)
def test_two_processes_end_where_one_does(together: Path, name: str, tmp_path: Path) -> None:
    errors = [path.read_text() for path in sorted(together.glob(f"{name}.*.error"))]
    assert not errors, "\n".join(errors)
    state = train(name, tmp_path / "run", loop="plain")
    found = torch.load(together / f"{name}.pt", weights_only=True)
    alone, both = ([line["loss"] for line in lines(run)] for run in (tmp_path / "run", together / name))
    assert len(alone) == STEPS and len(set(alone)) == STEPS
    np.testing.assert_allclose(both, alone, rtol=1e-9)
    # Adam divides a gradient by its size plus 1e-8: where it is 0 but for its last digit, of 1e-13, that is 1e-5 of a
    # step of 3e-3 (the bias before a batch norm)
    torch.testing.assert_close(found, dict(state), rtol=1e-7, atol=1e-7)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), json.loads(sys.argv[2]))
