"""The study of continued pretraining: its second set, its branches, and that the committed page follows from committed results."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray

from unlabeled.core.contracts import RequestError

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(autouse=True)
def continued(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`import continued` as `tools/continued` makes it possible; one thread, as there."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write_idx(path: Path, values: NDArray[np.uint8]) -> None:
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + values.tobytes()))


def write_fashion(folder: Path, pool: int = 120, test: int = 60) -> Path:
    """Four files like Fashion-MNIST's, of noise, which says nothing of clothes; every class equally often."""
    folder.mkdir()
    for part, count in (("train", pool), ("t10k", test)):
        images = np.random.default_rng(count).integers(0, 256, (count, 28, 28), np.uint8)
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", (np.arange(count) % 10).astype(np.uint8))
    return folder


def tiny(folder: Path, **changes: Any) -> Path:
    """The committed budget with four steps a set, of which the last decays, and two seeds."""
    values = yaml.safe_load((BENCHMARKS / "continued" / "budget.yaml").read_text())
    values["schedules"]["cosine"] |= {"warmup": 1}
    values["schedules"]["infinite"] |= {"warmup": 1, "cooldown": 1, "decay": 1}
    values |= {"steps": 4, "seeds": [0, 1], "fashion": {"seed": 0, "pool": 120, "test": 60}, **changes}
    path = folder / "budget.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def call(*words: object) -> int:
    from continued.__main__ import main

    return main([str(w) for w in words])


def newest() -> Any:
    return json.loads(max((BENCHMARKS / "results").glob("*-continued.json")).read_text())


def test_an_idx_file_is_read_as_its_header_says(tmp_path: Path) -> None:
    from continued.idx import read_idx

    # written out by hand: type 8, two axes, 2 rows of 3
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 255])))
    assert read_idx(path).tolist() == [[1, 2, 3], [4, 5, 255]]
    values = np.random.default_rng(0).integers(0, 256, (300, 2, 3), np.uint8)  # more than a byte of sizes
    write_idx(path, values)
    assert np.array_equal(read_idx(path), values)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is not there; --fashion names the folder of the four files"),
        (b"no gzip at all", "cannot be read as gzip"),
        (gzip.compress(bytes(40))[:-9], "cannot be read as gzip"),
        (gzip.compress(bytes([0, 0, 13, 1, 0, 0, 0, 0])), "no idx file of unsigned bytes"),
        (gzip.compress(bytes([0, 0, 8])), "no idx file of unsigned bytes"),
        (gzip.compress(bytes([0, 0, 8, 2, 0, 0, 0, 2])), "no idx file of unsigned bytes"),
        (gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 3, 1, 2])), "holds 2 values where its header says 3"),
    ],
    ids=["absent", "other", "cut off", "floats", "no axes", "no sizes", "short"],
)
def test_what_is_no_idx_file_is_named(tmp_path: Path, content: bytes | None, said: str) -> None:
    from continued.idx import read_idx

    if content is not None:
        (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(RequestError, match=said):
        read_idx(tmp_path / "a.gz")


def test_clothes_become_images_like_the_digits() -> None:
    from continued.sets import small

    image = np.zeros((1, 28, 28), np.uint8)
    image[0, :2] = image[0, :, :2] = 255  # the border that is cut off
    image[0, 2:5, 2:5] = 255  # a whole cell
    image[0, 5, 2:5] = 255  # a third of the one below it
    image[0, 23:26, 23:26] = 51  # the last cell, a fifth as light
    found = small(image)
    assert found.shape == (1, 8, 8) and found.dtype == np.float32
    expected = np.zeros((8, 8))
    expected[0, 0], expected[1, 0], expected[7, 7] = 16, 16 / 3, 3.2
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)


def test_pool_and_test_are_drawn_by_lot_and_stay_apart(tmp_path: Path) -> None:
    from continued import budget, sets

    plan = budget.Fashion(seed=0, pool=100, test=50)
    both = sets.read(write_fashion(tmp_path / "fashion"), plan, budget.data())
    digits, fashion = both["digits"], both["fashion"]
    assert len(digits.pool) == 1281 and len(digits.test) == 516 and digits.grey.max() == 16
    assert fashion.grey.shape == (150, 8, 8) and fashion.grey.min() >= 0 and fashion.grey.max() <= 16
    assert np.array_equal(np.concatenate([fashion.pool, fashion.test]), np.arange(150))
    assert len(np.unique(fashion.grey.reshape(150, -1), axis=0)) == 150  # each once
    assert np.bincount(fashion.block).tolist() == [10] * 5
    # the same again, and others under another seed
    again = sets.fashion(tmp_path / "fashion", plan)
    other = sets.fashion(tmp_path / "fashion", plan.model_copy(update={"seed": 1}))
    assert np.array_equal(again.grey, fashion.grey) and not np.array_equal(other.grey, fashion.grey)


def test_other_files_and_another_budget_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_fashion(tmp_path / "fashion")
    few = ("-o", tmp_path / "runs", "--fashion", folder, "--to", tmp_path)
    assert call(*few, "--budget", tiny(tmp_path, fashion={"seed": 0, "pool": 121, "test": 60})) == 2
    assert "not 121 or more images of 28 x 28 with a label each" in capsys.readouterr().err
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "pixels-seed-0.json").write_text('{"settings": {}}')
    assert call(*few, "--budget", tiny(tmp_path)) == 2
    assert "came of another budget; choose another folder, or remove it" in capsys.readouterr().err
    write_idx(folder / "t10k-labels-idx1-ubyte.gz", np.zeros(59, np.uint8))
    assert call(*few, "--budget", tiny(tmp_path)) == 2
    assert "t10k holds images (60, 28, 28) and labels (59,)" in capsys.readouterr().err
    assert call("-o", tmp_path / "runs", "--fashion", tmp_path / "nothing", "--budget", tiny(tmp_path)) == 2
    assert "train-images-idx3-ubyte.gz is not there" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["simclr", "mae"])
def test_branches_are_of_the_infinite_run_and_a_cosine_begins_anew(tmp_path: Path, method: str) -> None:
    """On the first set a branch is the run that decays within its steps; on the second the rate is the constant one."""
    from continued import budget, regimes, sets

    from unlabeled.core.testing import toys

    plan = budget.read(tiny(tmp_path))
    source = np.random.default_rng(0).random((2, 96, 8, 8)).astype(np.float32)
    pools = {"digits": sets.Images(source[0]), "fashion": sets.Images(source[1])}
    recipe = plan.recipe(method, 0).model_copy(update={"batch_size": 48})
    trainer = recipe.trainer.model_copy(update={"log_every": 1})
    runs = regimes.Runs(recipe.model_copy(update={"trainer": trainer}), plan.schedules.infinite, pools, tmp_path)
    ends = regimes.infinite(runs) | regimes.cosine(runs)
    whole = runs.train("whole", pools["digits"], schedule=plan.schedules.infinite).exported
    assert toys.identical(ends[regimes.INFINITE_FIRST].state_dict(), whole.state_dict())
    assert not toys.identical(ends[regimes.INFINITE_BOTH].state_dict(), whole.state_dict())
    lines = {name: toys.lines(tmp_path / name) for name in ("trunk", "decayed", "on", "first", "again")}
    steps = {name: [line["step"] for line in of] for name, of in lines.items()}
    assert steps == {
        "trunk": [0, 1, 2, 3],
        "decayed": [3],
        "on": [4, 5, 6, 7],
        "first": [0, 1, 2, 3],
        "again": [0, 1, 2, 3],
    }
    # up to .002, down to a half of it; the last step to a hundredth
    assert [line["lr"] for line in lines["trunk"]] == pytest.approx([2e-3, 1e-3, 1e-3, 1e-3])
    assert [line["lr"] for line in lines["on"]] == pytest.approx([1e-3, 1e-3, 1e-3, 2e-5])
    assert [line["lr"] for line in lines["again"]] == [line["lr"] for line in lines["first"]]
    # a run from weights begins with them: under a rate of nearly nothing a step leaves them as they were
    weights = runs.train("origin", pools["digits"]).state_dict()
    still = recipe.optimiser.model_copy(update={"lr": 1e-12})
    after = runs.train("still", pools["fashion"], weights=weights, optimiser=still, max_steps=1)
    for name, parameter in after.named_parameters():
        torch.testing.assert_close(parameter.detach(), weights[name], rtol=0, atol=1e-9)


@pytest.mark.slow
def test_a_tiny_study_runs_whole_and_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, to = tmp_path / "runs", tmp_path / "to"
    to.mkdir()
    words = ("-o", out, "--fashion", write_fashion(tmp_path / "fashion"), "--budget", tiny(tmp_path), "--to", to)
    assert call(*words) == 0
    said = capsys.readouterr()
    assert "21/21 mae mixed, seed 1" in said.err and "there already" not in said.err
    assert said.out == (to / "continued.md").read_text() + "\n"
    (result,) = (to / "results").iterdir()
    found = json.loads(result.read_text())
    for method in ("simclr", "mae"):
        ends = found["predictions"][method]
        assert len(ends) == 7
        assert all([len(d) for d in ends[e]["digits"]] == [5, 5] and len(ends[e]["fashion"][1][4]) == 60 for e in ends)
        assert len({json.dumps(of) for of in ends.values()}) == 7  # no end is another one
    lost = out / "simclr-infinite-seed-1.json"
    before = json.loads(lost.read_text())
    lost.unlink()
    assert call(*words) == 0
    assert capsys.readouterr().err.count("there already") == 20
    assert json.loads(lost.read_text()) | {"cpu_seconds": 0} == before | {"cpu_seconds": 0}


def test_a_run_that_fails_takes_its_ends_with_it(tmp_path: Path) -> None:
    from continued.report import page

    found = newest()
    method = found["budget"]["methods"][0]
    found["budget"]["methods"] = [method]
    for of in found["predictions"][method].values():  # one draw of each seed is enough here
        of.update({name: [draws[:1] for draws in made] for name, made in of.items()})
    found["failed"] = [{"job": [method, "scratch", 1], "why": "all items fall on one point"}]
    del found["predictions"][method]["from scratch on fashion"]["digits"][1]
    text = page(found)
    assert "Failed: scratch, seed 1: all items fall on one point" in text
    assert "minus from scratch on fashion | digits | a run failed | |" in text


@pytest.mark.slow
def test_the_committed_page_is_made_of_the_committed_results() -> None:
    from continued.report import page

    assert page(newest()) == (BENCHMARKS / "continued.md").read_text()


def test_the_committed_results_are_whole_and_of_the_committed_budget() -> None:
    from continued import budget
    from continued.rule import RULE

    found, plan = newest(), budget.read()
    assert found["budget"] == budget.settings(plan) and found["rule"] == RULE
    assert len(plan.seeds) == 5 and found["failed"] == []
    assert {n: len(s["truth"]) for n, s in found["sets"].items()} == {"digits": 516, "fashion": 1000}
    for method in plan.methods:
        for of in found["predictions"][method].values():
            for name, made in of.items():
                assert np.shape(made) == (5, 5)
                assert {len(row) for draws in made for row in draws} == {len(found["sets"][name]["truth"])}
