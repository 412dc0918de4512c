"""Runs whose recipes name a plan or terms: what is kept, gone on with, and refused."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unlabeled.core.build import build_method
from unlabeled.core.bundle import read_bundle
from unlabeled.core.contracts import Absent, BadInput, RequestError, RunFailed
from unlabeled.core.contracts.recipe import Recipe, validated
from unlabeled.core.curate import assignments
from unlabeled.core.data.plans.label_guided import Clustered
from unlabeled.core.pretraining import pretrain, pretraining_items
from unlabeled.core.streams import rng
from unlabeled.core.training.log import read


@pytest.fixture
def pairs(tmp_path, monkeypatch):
    """12 images of 3 groups, and a CSV that puts them into 4 clusters; and the domain that reads them."""
    source = Path(__file__).with_name("pairs_domain.py")
    site = tmp_path / "site"
    (site / "pairs_domain-0.dist-info").mkdir(parents=True)
    (site / "pairs_domain.py").write_bytes(source.read_bytes())
    (site / "pairs_domain-0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: pairs-domain\nVersion: 0\n")
    (site / "pairs_domain-0.dist-info/entry_points.txt").write_text(
        "[unlabeled.domains]\npairs = pairs_domain:domain\n"
    )
    (site / "key").write_text("0123456789abcdef" * 4)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("UNLABELED_KEY", str(site / "key"))
    lines = ["key,cluster"]
    for i in range(12):
        path = tmp_path / f"data/g{i % 3}/r{i}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, (i % 4 + 0.1 * rng(0, "image", i).standard_normal((1, 8, 8))).astype(np.float32))
        lines.append(f"g{i % 3}/r{i},c{i % 4}")
    (tmp_path / "clusters.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def run_of(folder, plan, **changes):
    small = {"width": 16, "depth": 1, "heads": 2}
    values = {
        "domain": "pairs",
        "data": {"path": folder / "data", "normaliser": "standard", "options": {"inputs": ["image"]}},
        "method": {"name": "mae", "decoder": small},
        "encoder": {"name": "tokens", **small, "patch": [4, 4]},
        "trainer": {"loop": "plain", "accelerator": "cpu", "tensorboard": False, "threads": 1, "save_every": 2},
        "plan": plan,
        "batch_size": 4,
        "max_steps": 5,
    }
    return validated(Recipe, {**values, **changes}, "test")


def lines(run):
    return [(line["step"], line["loss"]) for line in read(run / "metrics.jsonl")]


def test_a_run_by_a_files_clusters(pairs, tmp_path):
    plan = {"name": "label_guided", "file": str(pairs / "clusters.csv")}
    pretrain(run_of(pairs, plan), tmp_path / "run")
    table = pq.read_table(tmp_path / "run/plans/clusters.parquet").to_pydict()
    keys = [row["key"] for row in pq.read_table(tmp_path / "run/manifest.parquet").to_pylist()]
    assert [int(k.split("/r")[1]) % 4 for k in keys] == table["cluster"] and table["item"] == list(range(12))
    # a run that was cut off goes on by what it kept, whatever became of the file
    pretrain(run_of(pairs, plan), tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut/bundle")
    (tmp_path / "cut/checkpoints/step-00000005.pt").unlink()
    (pairs / "clusters.csv").unlink()
    pretrain(run_of(pairs, plan), tmp_path / "cut")
    assert lines(tmp_path / "cut") == lines(tmp_path / "run") and len(lines(tmp_path / "run")) == 5
    # what it kept is named in its checkpoints
    shutil.rmtree(tmp_path / "cut/bundle")
    (tmp_path / "cut/checkpoints/step-00000005.pt").unlink()
    table["cluster"][:2] = table["cluster"][1::-1]
    pq.write_table(pa.table(table), tmp_path / "cut/plans/clusters.parquet")
    with pytest.raises(RunFailed, match=r"clusters.parquet is not what the run was trained on; start the run anew"):
        pretrain(run_of(pairs, plan), tmp_path / "cut")


def test_a_run_by_the_clusters_of_a_stage(pairs, tmp_path):
    small = {"width": 16, "depth": 1, "heads": 2}
    stage = {"name": "first", "method": {"name": "mae", "decoder": small}, "max_steps": 2}
    plan = {"name": "label_guided", "bundle": "stage:first", "clusters": 4}
    recipe = run_of(pairs, plan, stages=[stage], start="stage:first")
    bundle = pretrain(recipe, tmp_path / "run")
    table = pq.read_table(tmp_path / "run/plans/clusters.parquet").to_pydict()
    keys = [row["key"] for row in pq.read_table(tmp_path / "run/manifest.parquet").to_pylist()]
    # the images are four constants with noise: k-means of any encoder's features finds the four
    found = {(int(k.split("/r")[1]) % 4, c) for k, c in zip(keys, table["cluster"], strict=True)}
    assert len(found) == 4 == len({c for _, c in found})
    assert read_bundle(bundle).about["recipe"]["plan"] == plan
    assert not (tmp_path / "run/stages/first/plans").exists()


def test_mistakes_show_before_a_folder_is_made(pairs, tmp_path):
    file = {"file": str(pairs / "clusters.csv")}
    for plan, changes, said in (
        ({}, {}, "give either plan.bundle or plan.file"),
        ({"clusters": 3} | file, {}, "plan.clusters: it says into how many"),
        ({"bundle": "b"}, {}, "plan.clusters: it says into how many"),
        ({"bundle": "b", "clusters": 3}, {}, "there are 3 clusters for a batch_size of 4"),
        ({"fil": "x"}, {}, "plan: fil: 'fil' is unknown, did you mean 'file'"),
        (file, {"batch_size": 13}, "12 items fill no batch; set batch_size to 12 or lower"),
    ):
        with pytest.raises(RequestError, match=said):
            pretrain(run_of(pairs, {"name": "label_guided", **plan}, **changes), tmp_path / "run")
        assert not (tmp_path / "run").exists()
    (pairs / "clusters.csv").write_text("key,cluster\ng0/r0,a\n")
    with pytest.raises(RequestError, match=r"it names no cluster for 11 records .g0/r3, g0/r6, g0/r9.; add them"):
        pretrain(run_of(pairs, {"name": "cluster_balanced", **file}), tmp_path / "a")
    (pairs / "clusters.csv").write_text("key,label\ng0/r0,a\n")
    with pytest.raises(RequestError, match=r"gives no clusters .*columns key and cluster"):
        pretrain(run_of(pairs, {"name": "cluster_balanced", **file}), tmp_path / "b")
    with pytest.raises(Absent, match=r"plan.bundle: .*nowhere is absent here"):
        pretrain(run_of(pairs, {"name": "cluster_balanced", "bundle": "nowhere", "clusters": 3}), tmp_path / "c")


def test_the_other_plans_train_too(pairs, tmp_path):
    for name, options in (
        ("mixture", {"shares": {"g0/*": 0.5, "*": 0.5}}),
        ("cluster_balanced", {"file": str(pairs / "clusters.csv")}),
    ):
        pretrain(run_of(pairs, {"name": name, **options}), tmp_path / name)
        assert len(lines(tmp_path / name)) == 5


def test_terms_of_a_recipe_are_trained(pairs, tmp_path):
    recipe = run_of(pairs, {"name": "uniform"}, terms=[{"name": "rotation", "weight": 0.5}, {"name": "jigsaw"}])
    pretrain(recipe, tmp_path / "run")
    last = read(tmp_path / "run/metrics.jsonl")[-1]
    assert {"rotation", "jigsaw"} < set(last["parts"])
    own = sum(v for k, v in last["parts"].items() if k not in ("rotation", "jigsaw"))
    assert last["loss"] == pytest.approx(own + 0.5 * last["parts"]["rotation"] + last["parts"]["jigsaw"], rel=1e-5)


def test_other_ranks_read_what_the_first_one_made(pairs, tmp_path, monkeypatch):
    recipe, options = run_of(pairs, {"name": "uniform"}), Clustered(file=str(pairs / "clusters.csv"))
    items, _ = pretraining_items(recipe)
    made = assignments.assigned(recipe, items, tmp_path, options)
    (pairs / "clusters.csv").unlink()
    monkeypatch.setenv("RANK", "1")
    assert np.array_equal(assignments.assigned(recipe, items, tmp_path, options), made)
    with pytest.raises(RunFailed, match=r"clusters.parquet is not of the 11 items of this run"):
        assignments.assigned(recipe, items.take(np.arange(11)), tmp_path, options)


def test_an_item_that_cannot_be_read_is_in_no_cluster(pairs, tmp_path, monkeypatch):
    recipe = run_of(pairs, {"name": "uniform"})
    bundle = pretrain(recipe, tmp_path / "run")
    items, _ = pretraining_items(recipe)
    import pairs_domain

    read_whole = pairs_domain.Reader.read

    def broken(self, path):
        if path.stem == "r4":
            raise BadInput("r4 is broken")
        return read_whole(self, path)

    monkeypatch.setattr(pairs_domain.Reader, "read", broken)
    at = [row.key for row in items.corpus.rows].index("g1/r4")
    (tmp_path / "own").mkdir()
    found = assignments.assigned(recipe, items, tmp_path / "own", Clustered(bundle=str(bundle), clusters=4))
    assert found[at] == -1 and (np.delete(found, at) >= 0).all() and found.max() == 3


def test_a_view_of_the_batch_keeps_the_batch_whole(pairs):
    recipe = run_of(pairs, {"name": "uniform"}, views=[{"name": "batch_styles", "input": "image"}])
    items, _ = pretraining_items(recipe)
    corpus = items.corpus
    assert "batch_styles" in build_method(recipe, corpus.domain, corpus.specs).couples
    assert not build_method(recipe.model_copy(update={"views": ()}), corpus.domain, corpus.specs).couples
