"""The harness of benchmarks/methods.md: split, views, resume, and that the committed table follows from committed results."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from sklearn.datasets import load_digits

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(autouse=True)
def learning(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`import learning` as `tools/learn` makes it possible; one thread, as there."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny(folder: Path, **changes: Any) -> Path:
    """The committed budget with two steps and two seeds, and the methods every test here is about."""
    values = yaml.safe_load((BENCHMARKS / "learning" / "budget.yaml").read_text())
    values |= {"seeds": [0, 1], "batch": 16, "peers": ["simclr"], **changes}
    for family in values["families"].values():
        family["steps"] = 2
    path = folder / "budget.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def learn(*words: object) -> int:
    from learning.__main__ import main

    return main([str(w) for w in words])


def test_forms_are_the_printed_sequence_of_digits() -> None:
    # every form prints 0 ... 9 three times and then 0 9 5 5 6 5 0 9 8 9 8 4 1 7 7 3 5, but for a few digits left out
    from learning.digits import FORMS, IMAGES

    text = "".join(map(str, load_digits().target))
    assert len(text) == IMAGES
    ends = (*FORMS[1:], IMAGES)
    found = [text[a:b].find("0955650989841773") for a, b in zip(FORMS, ends, strict=True)]
    assert all(27 <= at <= 30 for at in found)
    assert [text[a:b].count("0955650989841773") for a, b in zip(FORMS, ends, strict=True)] == [1] * 14


def test_a_split_keeps_forms_whole_and_choosing_sees_no_test_image() -> None:
    from learning.digits import form_of, label_draws, split

    part, choosing = split(4, 2, 0), split(4, 2, 0, validate=True)
    assert len(part.pool) + len(part.test) == 1797
    assert set(form_of(part.pool)).isdisjoint(form_of(part.test)) and len(set(form_of(part.test))) == 4
    assert set(part.test).isdisjoint([*choosing.pool, *choosing.test])
    assert set(choosing.pool) | set(choosing.test) == set(part.pool) and len(set(form_of(choosing.test))) == 2
    labels = load_digits().target
    for drawn in label_draws(labels, part.pool, 5, 5, 0):
        assert np.bincount(labels[drawn]).tolist() == [5] * 10 and set(drawn) <= set(part.pool)


def test_no_two_images_are_equal() -> None:
    # nor nearly: the closest two are 5.29 grey levels apart, the square root of 28
    data = load_digits().data
    squares = (data**2).sum(1)
    distance = squares[:, None] + squares - 2 * data @ data.T
    assert distance[~np.eye(len(data), dtype=bool)].min() == pytest.approx(28)


def test_views_move_turn_and_zoom_what_they_say() -> None:
    from learning.digits import SPECS, Digits, affine, zoom

    from unlabeled.core.data.loading import Collate
    from unlabeled.core.streams import Draw

    source = Digits(np.arange(4), 1.0)
    x = Collate(SPECS)([source.sample(i) for i in range(4)]).inputs["x"]
    draw = Draw(0, 0, torch.arange(4))
    still = affine(x, draw, SPECS["x"], shift=0, degrees=0, scale=0)
    torch.testing.assert_close(still.values, x.values, rtol=1e-5, atol=1e-4)
    # a view of an item is the same whatever stands beside it
    moved = affine(x, draw, SPECS["x"], shift=2, degrees=20, scale=0.2, shear=0.2)
    alone = Collate(SPECS)([source.sample(2)]).inputs["x"]
    beside = affine(alone, Draw(0, 0, torch.tensor([2])), SPECS["x"], shift=2, degrees=20, scale=0.2, shear=0.2)
    torch.testing.assert_close(beside.values[0], moved.values[2])
    assert (moved.values - x.values).abs().amax((1, 2, 3)).min() > 1
    # a crop of the whole image, drawn with as many pixels, is the image
    torch.testing.assert_close(zoom(x, draw, SPECS["x"], size=8, out=8).values, x.values, rtol=1e-5, atol=1e-4)
    small = zoom(x, draw, SPECS["x"], size=4, out=4)
    assert small.values.shape == (4, 1, 4, 4) and small.valid.shape == (4, 1, 4, 4)


def test_confusions_hold_every_test_image_once_in_blocks_of_one_form() -> None:
    from learning.digits import form_of, split
    from learning.report import blocks, confusions

    test = split(4, 2, 0).test
    block = blocks(test)
    assert np.bincount(block).max() == 10
    assert all(len(set(form_of(test[block == b]))) == 1 for b in range(block.max() + 1))
    truth = load_digits().target[test]
    right = "".join(map(str, truth))
    made = confusions(test, [[right, "0" * len(test)]])
    assert made.shape == (1, 2, block.max() + 1, 10, 10)
    # all right lies on the diagonal; all zeros lie in the first column
    assert np.array_equal(made[0, 0].sum(0), np.diag(np.bincount(truth)))
    assert np.array_equal(made[0, 1].sum(0)[:, 0], np.bincount(truth))


def test_a_run_goes_on_where_it_stopped_and_refuses_another_budget(tmp_path: Path, capsys: Any) -> None:
    out, to = tmp_path / "runs", tmp_path / "benchmarks"
    to.mkdir()
    words = ("-o", out, "--budget", tiny(tmp_path), "--to", to, "--methods", "simclr", "--peer", "lightly")
    assert learn(*words) == 0
    said = capsys.readouterr()
    assert "7/7 lightly simclr, seed 1" in said.err and "there already" not in said.err
    assert "| simclr | convnet | 0." in said.out and "not the whole table" in said.err
    assert list(to.iterdir()) == []

    # one file lost: that job alone is done again, to the same bytes but for the clock
    lost = out / "simclr-seed-1.json"
    before = json.loads(lost.read_text())
    lost.unlink()
    assert learn(*words) == 0
    assert capsys.readouterr().err.count("there already") == 6
    again = json.loads(lost.read_text())
    assert before | {"cpu_seconds": 0} == again | {"cpu_seconds": 0}
    # and another seed is another run
    assert again["predictions"] != json.loads((out / "simclr-seed-0.json").read_text())["predictions"]

    assert learn("-o", out, "--budget", tiny(tmp_path, batch=32), "--methods", "simclr") == 2
    assert "came of another budget; choose another folder" in capsys.readouterr().err
    assert learn("-o", out, "--budget", tiny(tmp_path), "--methods", "simcrl") == 2
    assert "did you mean 'simclr'?" in capsys.readouterr().err


def test_methods_on_ids_read_grey_levels_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from learning import budget, digits, jobs

    grey = digits.Digits(np.arange(3), 1.0).sample(2).inputs["x"].data
    assert np.array_equal(grey[0], load_digits().images[2]) and grey.max() == 16
    scales = []
    made = digits.Digits.__init__

    def seen(self: Any, images: Any, scale: float) -> None:
        scales.append(scale)
        made(self, images, scale)

    monkeypatch.setattr(digits.Digits, "__init__", seen)
    out = ("-o", tmp_path / "runs", "--budget", tiny(tmp_path), "--to", tmp_path)
    assert learn(*out, "--methods", "masked_tokens") == 0
    said = capsys.readouterr().out
    assert "| random ids | ids | 0." in said and "| masked_tokens | ids | 0." in said
    assert scales and set(scales) == {1.0}
    # others are brought to unit deviation, and have the baselines of their own encoders
    scales.clear()
    assert learn(*out, "--methods", "mae") == 0
    assert "random ids" not in capsys.readouterr().out
    assert 5 < min(scales) == max(scales) < 7
    assert jobs.starts(budget.read(tiny(tmp_path)), ["mae"], False) == ["pixels", "random tokens", "mae"]


def test_a_method_without_a_row_is_named(tmp_path: Path, capsys: Any) -> None:
    values = yaml.safe_load((BENCHMARKS / "learning" / "budget.yaml").read_text())["methods"]
    del values["simclr"]
    assert learn("-o", tmp_path / "runs", "--budget", tiny(tmp_path, methods=values)) == 2
    assert "has no row for simclr; add one" in capsys.readouterr().err


def test_a_run_that_fails_is_a_row_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from learning import jobs

    from unlabeled.core.contracts import RunFailed

    def fails(*args: Any, **more: Any) -> Any:
        raise RunFailed("all items fall on one point")

    monkeypatch.setattr(jobs, "fit", fails)
    assert learn("-o", tmp_path / "runs", "--budget", tiny(tmp_path), "--to", tmp_path, "--methods", "simclr") == 0
    assert "| simclr | convnet | failed: all items fall on one point |" in capsys.readouterr().out


def test_every_peer_loses_its_loss_and_sees_our_first_batch() -> None:
    """Two steps of each of lightly's methods; SimCLR and BYOL begin with our encoder's very weights."""
    from learning import budget, digits, peers

    from unlabeled.core.build import build_encoder
    from unlabeled.core.data.loading import Loader
    from unlabeled.core.data.plans import Uniform

    plan = budget.read()
    source = digits.Digits(np.arange(96), 6.0)
    for name in plan.peers:
        recipe = plan.recipe(name, 0).model_copy(update={"max_steps": 2})
        peer = peers.PEERS[name](recipe)
        if name != "mae":
            ours = build_encoder(recipe, digits.DOMAIN, digits.SPECS, 0).state_dict()
            assert all(torch.equal(v, ours[k]) for k, v in peer.encoder.state_dict().items())
        encoder, loss = peers.train(recipe, Loader(source, digits.SPECS, Uniform(96, 96), 0))
        assert np.isfinite(loss)
        batch = next(Loader(source, digits.SPECS, Uniform(96, 96), 0).batches(0, 1))[1]
        assert encoder(batch.inputs).pooled.shape == (96, 64 if name == "mae" else 128)


@pytest.mark.slow
def test_the_committed_table_is_made_of_the_committed_results() -> None:
    from learning.__main__ import newest
    from learning.report import table

    found = newest(BENCHMARKS, "digits")
    assert table(found, newest(BENCHMARKS, "watch-study")) == (BENCHMARKS / "methods.md").read_text()


def test_the_committed_results_are_whole_and_show_what_the_readme_claims() -> None:
    """Every method of the core has its three seeds, at the committed budget; the claims hold by their rules."""
    from learning import budget, report
    from learning.__main__ import installed, newest

    from unlabeled.core.measures.intervals import difference

    found = newest(BENCHMARKS, "digits")
    plan = budget.read()
    assert found["budget"] == plan.model_dump(mode="json")
    assert set(installed(plan)) <= set(found["runs"])
    assert all(len(run["cpu_seconds"]) == 3 for name, run in found["runs"].items() if name != "pixels")
    test = np.array(found["test_images"])
    made = {n: report.confusions(test, r["predictions"]) for n, r in found["runs"].items() if r["predictions"]}
    for name, encoder in (("mae", "tokens"), ("simclr", "convnet")):
        assert difference(made[name], made[f"random {encoder}"], 0).low > 0
    for name in plan.peers:
        assert report.level(difference(made[name], made[f"lightly {name}"], 0)) in ("level", "above")


def test_level_with_the_peer_is_a_matter_of_the_interval() -> None:
    from learning.report import level

    from unlabeled.core.measures.intervals import Interval

    said = [level(Interval(mean, mean - 0.02, mean + 0.02)) for mean in (-0.03, -0.01, 0.01, 0.03)]
    assert said == ["below", "level", "level", "above"]
