"""Points: which they are, through which window each is seen, and what a window around one should give."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.batch import Dense
from unlabeled.core.contracts.domain import domain
from unlabeled.core.contracts.recipe import Recipe
from unlabeled.core.data.corpus import Corpus
from unlabeled.core.data.items import covering
from unlabeled.core.data.loading import Loader
from unlabeled.core.data.plans import InOrder
from unlabeled.core.downstream.alike import fitted
from unlabeled.core.downstream.points import around, central, drawn, log_probabilities_at, tokens_at
from unlabeled.core.nn.base import Encoder, Features
from unlabeled.core.studies.readings import Records, covered
from unlabeled.core.studies.run import planned
from unlabeled.core.studies.units import of_points, points
from unlabeled.core.tokens.patches import patchify


@pytest.fixture(scope="module")
def corpus(ground_recipe: Recipe) -> Corpus:
    return Corpus.open(domain("ground"), ground_recipe.data)


def studying(recipe: Recipe, **changes: Any) -> Recipe:
    return recipe.model_copy(update={"study": recipe.study.model_copy(update=changes)})


@pytest.mark.parametrize("every", [1, 2, 3])
def test_points_are_every_nth_labelled_and_valid_cell(
    ground_recipe: Recipe, ground: Path, corpus: Corpus, every: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = points(studying(ground_recipe, every=every), corpus, corpus)
    expected = []
    for record, row in enumerate(corpus.rows):
        if row.key == "bare/r0":
            continue
        mask = np.load(ground / f"{row.key.replace('/', '-')}.npy")
        values = np.load(ground / "data" / f"{row.key}.npy")
        expected += [
            (record, f"{row.key}@{y},{x}", (y, x), str(mask[y, x]))
            for y in range(16)
            for x in range(16)
            if y % every == every // 2 and x % every == every // 2
            if mask[y, x] >= 0 and not np.isnan(values[:, y, x]).any()
        ]
    assert found.record.tolist() == [e[0] for e in expected]
    assert list(found.keys) == [e[1] for e in expected]
    assert found.at is not None and [tuple(at) for at in found.at.tolist()] == [e[2] for e in expected]
    assert [found.classes[c] for c in found.labels] == [e[3] for e in expected]
    # class 7 lies in cell 0, 0 only, which is a point of every = 1 and of no other
    assert found.classes == (("0", "1", "2", "7") if every == 1 else ("0", "1", "2"))
    assert ("no point of study.every" in caplog.text) == (every > 1)


def test_one_class_is_not_enough(ground_recipe: Recipe, corpus: Corpus) -> None:
    # every 16th cell of 16 x 16: the one at 8, 8
    few = corpus.only([r.group for r in corpus.rows if r.key == "e0/r0"])
    with pytest.raises(RequestError, match=r"the 1 labelled points have 1 class\(es\), and two are needed"):
        points(studying(ground_recipe, every=16), corpus, few)


def test_labels_may_be_of_records_that_are_not_used(ground_recipe: Recipe, corpus: Corpus) -> None:
    groups = tuple(r.group for r in corpus.rows if r.key[:2] in ("w1", "w2", "e1", "e2"))
    data = ground_recipe.data.model_copy(update={"groups": groups})
    plan, _ = planned(ground_recipe.model_copy(update={"data": data}))
    assert {k.partition("@")[0] for k in plan.keys} == {"w1/r0", "w2/r0", "e1/r0", "e2/r0"}
    assert len(plan.keys) == 4 * 64
    assert [len(f.test) for f in plan.folds] == [2, 2]


def random_points(corpus: Corpus) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    return rng.integers(0, len(corpus), 200), rng.integers(0, 16, (200, 2))


@pytest.mark.parametrize(("window", "stride"), [((80, 80), (40, 40)), ((60, 100), (50, 30)), ((200, 80), (200, 80))])
def test_every_point_is_seen_by_the_window_nearest_to_it(
    corpus: Corpus, window: tuple[float, ...], stride: tuple[float, ...]
) -> None:
    record, at = random_points(corpus)
    items = covering(corpus, window, stride)
    assert items.size is not None
    found = central(items, record, at)
    for m in range(200):
        mine = np.flatnonzero(items.record == record[m])
        distance = ((items.start[mine] + (np.array(items.size) - 1) / 2 - at[m]) ** 2).sum(1)
        item = found.item[m]
        own = ((found.items.start[item] + (np.array(items.size) - 1) / 2 - at[m]) ** 2).sum()
        assert found.items.record[item] == record[m]
        assert own == distance.min()
        assert (found.items.start[item] + found.cell[m]).tolist() == at[m].tolist()
        assert (found.cell[m] >= 0).all() and (found.cell[m] < np.minimum(items.size, 16)).all()
    # no window that holds no point
    assert set(found.item) == set(range(len(found.items)))
    some = found.take(np.array([5, 3]))
    assert len(some.items) == 2 - (found.item[5] == found.item[3])
    assert (some.items.start[some.item] + some.cell).tolist() == at[[5, 3]].tolist()


def test_whole_records_are_their_own_window(corpus: Corpus) -> None:
    record, at = random_points(corpus)
    found = central(covering(corpus, None), record, at)
    assert found.items.record[found.item].tolist() == record.tolist()
    assert found.cell.tolist() == at.tolist()
    assert around(corpus, None, record, at).size is None


class First(Encoder):
    """Tokens of 3 x 2 cells that are their first cell's two channels and the number of the patch in the window."""

    def __init__(self, corpus: Corpus) -> None:
        super().__init__(corpus.specs, 3, 3)
        self.patch = {"x": (3, 2)}
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, inputs: Any) -> Features:
        x = inputs["x"]
        assert isinstance(x, Dense) and not self.training
        height, width = (-n % p for n, p in zip(x.values.shape[2:], (3, 2), strict=True))
        padded = torch.nn.functional.pad(x.values, (0, width, 0, height))
        tokens = patchify(padded, (3, 2))[:, :, :2]
        number = torch.arange(tokens.shape[1]).expand(len(tokens), -1)[..., None]
        tokens = torch.cat([tokens, number], 2)
        return Features(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool), tokens.mean(1))


def test_the_token_of_a_point_is_that_of_its_patch(corpus: Corpus) -> None:
    # 8 x 7 cells are 3 x 4 patches of 3 x 2, the last of each axis not full
    record, at = random_points(corpus)
    seen = central(covering(corpus, (80, 70), (40, 30)), record, at)
    encoder = First(corpus).train()
    found = tokens_at(encoder, seen)
    assert encoder.training and found.shape == (200, 3) and found.dtype == np.float32
    for m in range(200):
        patch = seen.cell[m] // (3, 2)
        y, x = seen.items.start[seen.item[m]] + patch * (3, 2)
        values = corpus.record(int(record[m])).inputs["x"].data[:, y, x]
        assert found[m].tolist() == [*values.tolist(), patch[0] * 4 + patch[1]]


def test_windows_around_points_lie_inside(corpus: Corpus) -> None:
    record, at = random_points(corpus)
    items = around(corpus, (8, 5), record, at)
    assert items.record.tolist() == record.tolist()
    for start, (y, x) in zip(items.start.tolist(), at.tolist(), strict=True):
        assert start == [min(max(y - 4, 0), 8), min(max(x - 2, 0), 11)]
    # longer than the record: it is one item, as short as it is
    assert (around(corpus, (20, 8), record, at).start[:, 0] == 0).all()


def test_a_window_is_asked_for_every_drawn_point_inside_of_it_and_for_no_other_cell(corpus: Corpus) -> None:
    record, at = random_points(corpus)
    once = np.unique(np.concatenate([record[:, None], at], 1), axis=0)
    record, at = once[:, 0], once[:, 1:]
    label = np.arange(len(record)) % 3
    items = around(corpus, (8, 5), record, at)
    loader = Loader(items, corpus.specs, InOrder(len(items), 16), seed=0)
    wanted = torch.cat([drawn(items, record, at, label)(b) for _, b in loader.batches(0, loader.plan.steps(0))])
    assert wanted.shape == (len(record), 8, 5)
    expected = np.full((len(record), 8, 5), -1)
    for i in range(len(record)):
        for m in range(len(record)):
            y, x = at[m] - items.start[i]
            if record[m] == record[i] and 0 <= y < 8 and 0 <= x < 5:
                expected[i, y, x] = label[m]
    assert np.array_equal(wanted.numpy(), expected)
    assert (expected[np.arange(len(record)), *(at - items.start).T] == label).all()


def test_a_model_learns_cells_from_points(ground_recipe: Recipe, ground: Path, corpus: Corpus) -> None:
    # classes lie 2 or more apart in values with noise of 0.5, and a token of 2 x 2 cells is of one class
    from unlabeled.core.build import build_encoder

    normal = corpus.normalised("standard")
    units = points(ground_recipe, corpus, corpus)
    assert units.at is not None
    some = np.arange(0, len(units.labels), 5)
    record, at, label = units.record[some], units.at[some], units.labels[some]
    items = around(normal, (8, 8), record, at)
    encoder = build_encoder(ground_recipe, domain("ground"), normal.specs, 0)
    model = fitted(encoder, items, label, 3, lr=1e-2, steps=40, seed=0, batch=24, cells=drawn(items, record, at, label))
    assert model.kind == "segmentation"
    seen = central(covering(normal, (80, 80), (40, 40)), units.record, units.at)
    log_p = log_probabilities_at(model, seen)
    np.testing.assert_allclose(np.exp(log_p).sum(1), 1, atol=1e-5)
    assert (log_p.argmax(1) == units.labels).mean() > 0.9


def test_baselines_are_fitted_on_records_read_one_by_one(corpus: Corpus) -> None:
    records = Records(corpus, np.array([2, 0, 1]))
    assert [s.key for s in records] == [corpus.rows[i].key for i in (2, 0, 1)]
    assert [s.key for s in records[1:]] == [corpus.rows[i].key for i in (0, 1)]


def test_requests_that_points_cannot_answer(ground_recipe: Recipe, corpus: Corpus) -> None:
    for task, why in (("regress", "choose one of classify, segment"), ("segmant", "did you mean 'segment'")):
        with pytest.raises(RequestError, match=f"study.task: .*{why}"):
            of_points(studying(ground_recipe, task=task))
    wide = ground_recipe.model_copy(
        update={"evaluation": ground_recipe.evaluation.model_copy(update={"stride": (90, 80)})}
    )
    with pytest.raises(RequestError, match=r"evaluation\.stride is larger than the window"):
        covered(wide, corpus)
    flat = ground_recipe.model_copy(update={"encoder": ground_recipe.encoder.model_copy(update={"name": "flat"})})
    flat = flat.model_copy(update={"encoder": type(flat.encoder)(name="flat")})
    with pytest.raises(RequestError, match="tokens of a Flat lie on no grid"):
        planned(flat)
    with pytest.raises(RequestError, match="0 is neither a number of points per class"):
        planned(studying(ground_recipe, budgets=(0,)))
