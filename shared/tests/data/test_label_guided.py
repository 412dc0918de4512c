"""Label-guided batches: one item of a cluster each, as many batches as can be, and a run that uses them."""

import json
from pathlib import Path

import numpy as np
import pytest

from unlabeled.core.contracts import RequestError, RunFailed
from unlabeled.core.contracts.recipe import Named, Recipe, Stage, read_recipe
from unlabeled.core.contracts.stages import expanded, resolved
from unlabeled.core.curate.assignments import Recorded
from unlabeled.core.data.plans.label_guided import LabelGuided
from unlabeled.core.data.plans.plain import Uniform
from unlabeled.core.streams import rng


def clusters(*sizes):
    return rng(0, "shuffle").permutation(np.repeat(np.arange(len(sizes)), sizes)).astype(np.int64)


@pytest.mark.parametrize("sizes", [(10,) * 8, (40, 3, 5, 2, 9, 9), (1,) * 30, (100, 1, 1, 1), (7, 7, 7, 1)])
def test_no_two_of_a_batch_are_of_one_cluster(sizes):
    of = clusters(*sizes)
    plan = LabelGuided(of, 4)
    for epoch in range(4):
        batches = plan(3, epoch)
        ids = np.concatenate(batches)
        assert len(batches) == plan.steps(epoch) and len(set(ids.tolist())) == len(ids)
        assert all(len(b) == 4 and len(set(of[b].tolist())) == 4 for b in batches)
        again = LabelGuided(of, 4)(3, epoch)
        assert all((a == b).all() for a, b in zip(batches, again, strict=True))
    assert sizes == (100, 1, 1, 1) or any((a != b).any() for a, b in zip(plan(3, 0), plan(3, 1), strict=True))


def test_as_many_batches_as_there_can_be():
    # T batches of 4 need sum(min(n, T)) >= 4 T. (40, 3, 5, 2, 9, 9): T = 8 gives 8 + 3 + 5 + 2 + 8 + 8 = 34 >= 32,
    # T = 9 gives 9 + 3 + 5 + 2 + 9 + 9 = 37 >= 36, T = 10 gives 10 + 3 + 5 + 2 + 9 + 9 = 38 < 40
    assert LabelGuided(clusters(40, 3, 5, 2, 9, 9), 4).steps(0) == 9
    assert LabelGuided(clusters(*[10] * 8), 4).steps(0) == 20  # everything
    assert LabelGuided(clusters(100, 1, 1, 1), 4).steps(0) == 1
    # every item gets its turn: those of the cluster of 40 are drawn 9 at a time
    plan = LabelGuided(clusters(40, 3, 5, 2, 9, 9), 4)
    assert set(np.concatenate([np.concatenate(plan(0, e)) for e in range(60)]).tolist()) == set(range(68))


def test_items_that_failed_or_lie_nowhere_are_left_out():
    of = clusters(*[6] * 5)
    of[7] = -1
    plan = LabelGuided(of, 5)
    without = {int(np.flatnonzero(of == 2)[0]), int(np.flatnonzero(of == 2)[1])}
    # the cluster of 4 that is left bounds the batches
    assert plan.steps(0, without) == 4 == len(plan(0, 0, without))
    assert not {7, *without} & set(np.concatenate(plan(0, 0, without)).tolist())
    assert plan.steps(0, set(np.flatnonzero(of == 2).tolist())) == 0
    assert plan(0, 0, set(np.flatnonzero(of == 2).tolist())) == []


def test_a_cluster_for_every_item_is_uniform():
    n, b, epochs = 11, 3, 2000
    plans = LabelGuided(np.arange(n), b), Uniform(n, b)
    assert plans[0].steps(0) == plans[1].steps(0) == 3
    drawn, together = np.zeros((2, n)), np.zeros((2, n, n))
    for p, plan in enumerate(plans):
        for e in range(epochs):
            for batch in plan(0, e):
                drawn[p, batch] += 1
                together[p][np.ix_(batch, batch)] += 1
    # an item is in an epoch with chance 9/11, a pair in a batch with chance 3 * 3 * 2 / (11 * 10) = 9/55
    sd = np.sqrt(epochs * 9 / 11 * 2 / 11), np.sqrt(epochs * 9 / 55 * 46 / 55)
    pairs = together[:, ~np.eye(n, dtype=bool)]
    assert np.abs(drawn - epochs * 9 / 11).max() < 4 * sd[0]
    assert np.abs(pairs - epochs * 9 / 55).max() < 4.5 * sd[1]


def test_more_than_there_are_clusters_is_refused():
    with pytest.raises(RequestError, match=r"there are 3 clusters for a batch_size of 4; set batch_size to 3 or lower"):
        LabelGuided(clusters(5, 5, 5), 4)


# where clusters come from


def recipe(folder: Path, **plan) -> Recipe:
    text = (
        "domain: d\ndata: {path: files}\nmethod: {name: mae}\nencoder: {name: tokens}\nplan: " + json.dumps(plan) + "\n"
    )
    (folder / "recipe.yaml").write_text(text)
    return read_recipe(folder / "recipe.yaml")


def test_paths_of_a_plan_are_beside_the_recipe_and_stages_become_folders(tmp_path):
    found = recipe(tmp_path, name="label_guided", file="clusters.csv")
    assert found.plan.options == {"file": str(tmp_path / "clusters.csv")}
    found = recipe(tmp_path, name="label_guided", bundle="one/bundle", clusters=3)
    assert found.plan.options == {"bundle": str(tmp_path / "one/bundle"), "clusters": 3}
    found = recipe(tmp_path, name="label_guided", bundle="stage:first", clusters=3)
    assert found.plan.options["bundle"] == "stage:first"
    with pytest.raises(RequestError, match=r"plan.bundle: 'first' is unknown, no stage comes before"):
        expanded(found)
    staged = found.model_copy(update={"stages": (Stage(name="first", method=Named(name="mae")),)})
    # a stage that comes before is not planned by its own features
    assert expanded(staged)["first"].plan == Named(name="uniform")
    assert resolved(staged, {"first": Path("run/first")}).plan.options == {"bundle": "run/first", "clusters": 3}
    kept = staged.model_copy(update={"plan": Named(name="mixture", shares={"*": 1.0})})
    assert expanded(kept)["first"].plan == kept.plan


def test_a_run_is_told_when_its_clusters_are_others():
    of = clusters(*[6] * 5)
    plan = Recorded(LabelGuided(of, 5), of)
    plan.restore(plan.state())
    other = of.copy()
    other[[0, 1]] = other[[1, 0]] + 1
    with pytest.raises(RunFailed, match=r"clusters.parquet is not what the run was trained on"):
        Recorded(LabelGuided(other, 2), other).restore(plan.state())
    assert plan.known(7) and plan.steps(0) == 6
    assert [b.tolist() for b in plan(0, 0)] == [b.tolist() for b in plan.plan(0, 0)]
