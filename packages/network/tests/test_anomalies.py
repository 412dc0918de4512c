"""Anomalies: the measures against scikit-learn, the distances against scipy, planted anomalies, leaks, and the verb."""

import csv
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from unlabeled.core.cli.shell import make_app, run
from unlabeled.core.contracts import Leakage, RequestError
from unlabeled.core.contracts.recipe import Recipe, validated
from unlabeled.core.pretraining import pretrain
from unlabeled.network.anomaly.anomalies import anomalies
from unlabeled.network.anomaly.detection import METRICS, average_precision, compared, found_at_few_alarms, tally
from unlabeled.network.anomaly.scores import distances, find, whitened

from .data import logs

NAMES = ["ours", "random weights", "statistics", "statistics, isolation forest"]


# the measures


@pytest.mark.parametrize("ties", [False, True])
def test_measures_equal_those_of_scikit_learn(ties):
    """Per group counts add up to all; ties between anomalies and normal records count half."""
    rng = np.random.default_rng(0)
    anomaly = rng.random(3000) < 0.1
    score = rng.normal(0, 1, 3000) + anomaly
    score = score.round(1) if ties else score
    counts = tally(score, anomaly, rng.integers(0, 7, 3000))
    assert counts.sum() == 3000 and counts.shape[:2] == (7, 2)
    found = {name: float(of(counts.sum(0))) for name, of in METRICS.items()}
    false, true, _ = roc_curve(anomaly, score, drop_intermediate=False)
    assert found["auroc"] == pytest.approx(roc_auc_score(anomaly, score), abs=1e-12)
    assert found["auprc"] == pytest.approx(average_precision_score(anomaly, score), abs=1e-12)
    assert found["tpr_at_fpr_0.001"] == pytest.approx(true[false <= 1e-3].max(), abs=1e-12)


def test_measures_by_hand():
    """Scores 4 3 2 1, anomalies 4 and 2: 3 of 4 pairs in order; precision 1 and 2/3; one of two before a false alarm."""
    counts = tally(np.array([4.0, 3, 2, 1]), np.array([1, 0, 1, 0], bool), np.zeros(4, int)).sum(0)
    assert [float(of(counts)) for of in METRICS.values()] == pytest.approx([3 / 4, (1 + 2 / 3) / 2, 1 / 2])
    same = tally(np.ones(4), np.array([1, 0, 1, 0], bool), np.zeros(4, int)).sum(0)
    assert [float(of(same)) for of in METRICS.values()] == [0.5, 0.5, 0.0]  # nothing is told apart
    for anomaly in (np.ones(4, bool), np.zeros(4, bool)):
        counts = tally(np.arange(4.0), anomaly, np.zeros(4, int)).sum(0)
        assert all(np.isnan(of(counts)) for of in METRICS.values())


def test_found_at_few_alarms_allows_one_in_a_thousand():
    """2,000 normal records: 2 of them may pass. Anomalies lie below the 2nd and below the 3rd highest: half is found."""
    score = np.concatenate([np.arange(2000.0), [1997.5, 1996.5]])
    counts = tally(score, np.arange(2002) >= 2000, np.zeros(2002, int)).sum(0)
    assert found_at_few_alarms(counts) == 0.5
    assert average_precision(counts) == pytest.approx((1 / 3 + 2 / 5) / 2)


def test_many_anomalies_share_bins():
    """2,500 scores of anomalies in 1,000 bins: off by less than a thousandth."""
    rng = np.random.default_rng(1)
    anomaly = np.arange(6000) < 2500
    score = rng.normal(0, 1, 6000) + anomaly
    counts = tally(score, anomaly, np.zeros(6000, int)).sum(0)
    assert counts.shape[1] <= 2001
    assert float(METRICS["auroc"](counts)) == pytest.approx(roc_auc_score(anomaly, score), abs=1e-3)


def test_comparison_is_paired():
    """A score against itself differs by nothing in every resample; against its reverse by 1 where it is perfect."""
    anomaly, group = np.arange(40) % 4 == 0, np.arange(40) // 10
    found = compared({"ours": anomaly * 1.0, "same": anomaly * 2.0, "none": anomaly * -1.0}, anomaly, group)
    for metric in METRICS:
        assert found["ours"][metric] == {"score": 1.0, "low": 1.0, "high": 1.0}
        same = found["same"][metric]
        assert (same["ours_minus"], same["ours_minus_low"], same["ours_minus_high"]) == (0, 0, 0)
    assert found["none"]["auroc"]["ours_minus"] == 1.0
    alone = compared({"ours": anomaly * 1.0}, anomaly, np.zeros(40, int))
    assert alone["ours"]["auroc"] == {"score": 1.0, "low": None, "high": None}  # one group tells nothing of another


# the distances


def test_distances_equal_brute_force_on_whitened_values(monkeypatch):
    rng = np.random.default_rng(2)
    normal, tested = rng.normal(0, (1, 10, 100), (60, 3)), rng.normal(0, (1, 10, 100), (25, 3))
    a, b = whitened(normal, tested)
    expected = np.sort(cdist(b, a), 1)[:, :4].mean(1)
    np.testing.assert_allclose(distances(normal, tested, 4), expected, rtol=1e-9)
    monkeypatch.setattr("unlabeled.network.anomaly.scores.CELLS", 60 * 7)  # 7 rows at a time
    np.testing.assert_allclose(distances(normal, tested, 4), expected, rtol=1e-9)


def test_whitening():
    """Of many records: no mean, unit variance and no correlation, whatever the scale and however correlated they were.

    The shrinkage of Ledoit and Wolf tends to 0 as 1 / N.
    """
    rng = np.random.default_rng(3)
    x = rng.normal(0, 1, (20_000, 4)) @ rng.normal(0, 1, (4, 4)) * (1e-3, 1, 1e3, 1) + 5
    a, _ = whitened(x, x)
    np.testing.assert_allclose(a.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(np.cov(a.T), np.eye(4), atol=0.02)
    # a constant column says nothing, and divides by nothing
    b, c = whitened(np.c_[x[:50], np.full(50, 7.0)], np.c_[x[:5], np.full(5, 7.0)])
    assert np.isfinite(b).all() and np.isfinite(c).all()


# the way from files to scores


@pytest.fixture(autouse=True)
def key(tmp_path, monkeypatch):
    (tmp_path / "key").write_text("0123456789abcdef" * 4)
    monkeypatch.setenv("UNLABELED_KEY", str(tmp_path / "key"))


def folder(root, names, strange=0, busy=50.0, n=40):
    """Logs of web-like flows; in each the last `strange` flows send `busy` times as much as clients do."""
    root.mkdir()
    for i, name in enumerate(names):
        seed = 100 * sum(map(ord, name)) + i
        rows = [*logs.flows(n - strange, seed), *logs.flows(strange, seed + 50, busy)]
        logs.zeek(root / f"{name}.log", rows)
    return root


def labels(path, names, strange, n=40, words=("anomaly", "normal")):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("key", "label"))
        writer.writerows((f"{name}#{i}", words[i < n - strange]) for name in names for i in range(n))
    return path


@pytest.fixture
def bundle(tmp_path):
    """Three steps on four logs: the encoder is as good as random, and reads the table's two inputs."""
    data = folder(tmp_path / "pretraining", ["p0", "p1", "p2", "p3"], n=12)
    values = {
        "domain": "network",
        "data": {"path": data, "normaliser": "standard"},
        "method": {"name": "masked_tokens"},
        "encoder": {"name": "tokens", "width": 16, "depth": 1, "heads": 2, "vocabulary": {"kind": [2, 256]}},
        "batch_size": 8,
        "max_steps": 3,
        "trainer": {"loop": "plain", "threads": 1, "save_every": 3, "tensorboard": False, "accelerator": "cpu"},
    }
    return pretrain(validated(Recipe, values, "recipe"), tmp_path / "run")


TESTED = ["t0", "t1", "t2", "t3"]


def test_planted_anomalies_are_found(tmp_path, bundle):
    """A tenth of the flows sends 50 times as much: distances tell them apart, AUROC above .9, and trees, on one of 40
    columns, above .7."""
    tested = folder(tmp_path / "tested", TESTED, strange=4)
    normal = folder(tmp_path / "normal", ["n0", "n1", "n2"])
    found = find(bundle, tested, normal, tmp_path / "s.parquet", labels(tmp_path / "l.csv", TESTED, 4))
    assert (found["records"], found["normal_records"], found["anomalies"], found["labelled"]) == (160, 120, 16, 160)
    assert list(found["scores"]) == NAMES and found["groups"] == 4 and found["seen_in_pretraining"] == []
    for name in NAMES:
        auroc = found["scores"][name]["auroc"]
        assert auroc["score"] > (0.7 if "forest" in name else 0.9), name
        assert 0 <= auroc["low"] <= auroc["score"] <= auroc["high"] <= 1
    assert "ours_minus" in found["scores"]["statistics"]["auprc"]
    table = pq.read_table(tmp_path / "s.parquet").to_pydict()
    assert list(table) == ["key", "group", "score", *NAMES[1:]]
    assert table["key"][:2] == ["t0#0", "t0#1"] and len(set(table["group"])) == 4
    truth = np.array([int(k.partition("#")[2]) >= 36 for k in table["key"]])
    for column, name in zip(["score", *NAMES[1:]], NAMES, strict=True):  # what is written is what was scored
        assert roc_auc_score(truth, table[column]) == pytest.approx(found["scores"][name]["auroc"]["score"])


def test_anomalies_that_are_none_are_not_found(tmp_path, bundle):
    """Called an anomaly at random among flows of one kind: AUROC .5, within 4 deviations of sqrt(201 / (12 * 40 * 160)) = .051."""
    tested, normal = folder(tmp_path / "tested", TESTED, n=50), folder(tmp_path / "normal", ["n0", "n1"], n=60)
    found = find(bundle, tested, normal, tmp_path / "s.parquet", labels(tmp_path / "l.csv", TESTED, 10, n=50))
    for name in NAMES:
        assert abs(found["scores"][name]["auroc"]["score"] - 0.5) < 4 * np.sqrt(201 / (12 * 40 * 160)), name


def test_without_labels_there_are_scores_alone_and_order_changes_none(tmp_path, bundle):
    tested, normal = folder(tmp_path / "tested", TESTED[:1]), folder(tmp_path / "normal", ["n0"])
    found = find(bundle, tested, normal, tmp_path / "a.parquet")
    assert "scores" not in found and "anomalies" not in found
    find(bundle, tested, normal, tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert torch.is_grad_enabled()


def test_leaks(tmp_path, bundle):
    """A file name on both sides, the same flows under another name, and logs that pretraining saw; nothing is written."""
    normal, to = folder(tmp_path / "normal", ["n0", "t1"]), tmp_path / "s.parquet"
    with pytest.raises(Leakage, match="1 of 2 groups were also in training"):
        find(bundle, folder(tmp_path / "a", ["t1", "t0"]), normal, to)
    copied = folder(tmp_path / "b", ["t2"])
    (copied / "t3.log").write_bytes((normal / "n0.log").read_bytes())
    with pytest.raises(Leakage, match=r"40 records of .* are among the normal ones"):
        find(bundle, copied, normal, to)
    with pytest.raises(Leakage, match=r"2 of 3 groups of .* were seen in pretraining"):
        find(bundle, folder(tmp_path / "c", ["p0", "p2", "t2"]), normal, to)
    assert not to.exists()
    found = find(bundle, tmp_path / "c", normal, to, allow_seen=True)
    assert len(found["seen_in_pretraining"]) == 2 and to.exists()


def test_wrong_requests(tmp_path, bundle):
    tested, normal = folder(tmp_path / "tested", TESTED[:2]), folder(tmp_path / "normal", ["n0"], n=6)
    to = tmp_path / "s.parquet"
    with pytest.raises(RequestError, match="holds 6 records, and 6 neighbours need more"):
        find(bundle, tested, normal, to, neighbours=6)
    wrong = labels(tmp_path / "l.csv", TESTED[:2], 4, words=("bad", "good"))
    with pytest.raises(RequestError, match=r"its labels are bad, good; write anomaly and normal, or 1 and 0"):
        find(bundle, tested, normal, to, wrong)
    one = labels(tmp_path / "one.csv", TESTED[:2], 0)
    with pytest.raises(RequestError, match=r"have 1 class\(es\), and two are needed"):
        find(bundle, tested, normal, to, one)
    assert not to.exists()
    find(bundle, tested, normal, to, labels(tmp_path / "n.csv", TESTED[:2], 4, words=("1", "0")))
    with pytest.raises(RequestError, match="exists; choose another name"):
        find(bundle, tested, normal, to)


def test_records_without_a_label_are_scored_and_not_counted(tmp_path, bundle):
    tested, normal = folder(tmp_path / "tested", TESTED[:2], strange=4), folder(tmp_path / "normal", ["n0"])
    found = find(bundle, tested, normal, tmp_path / "s.parquet", labels(tmp_path / "l.csv", TESTED[:1], 4))
    assert (found["records"], found["labelled"], found["anomalies"], found["groups"]) == (80, 40, 4, 1)


def test_the_verb(tmp_path, bundle, capsys):
    """Exit codes 0, 4 and 2, JSON and table; no address in what is said or written."""
    app = make_app("unlabeled-network", "")
    app.command("anomalies")(anomalies)
    tested, normal = folder(tmp_path / "tested", TESTED[:2], strange=4), folder(tmp_path / "normal", ["n0"])
    file = labels(tmp_path / "l.csv", TESTED[:2], 4)

    def verb(*more):
        return run(app, ["anomalies", str(bundle), *map(str, more)])

    assert verb(tested, "--normal", normal, "-o", tmp_path / "a.parquet", "--labels", file, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["anomalies"] == 8
    assert verb(tested, "--normal", normal, "-o", tmp_path / "b.parquet", "--labels", file) == 0
    said = capsys.readouterr()
    assert "8 anomalies among 80 labelled records of 2 groups" in said.out and "random weights" in said.out
    assert verb(normal, "--normal", normal, "-o", tmp_path / "c.parquet") == 4
    assert "records of" in capsys.readouterr().err and not (tmp_path / "c.parquet").exists()
    assert verb(tmp_path / "none", "--normal", normal, "-o", tmp_path / "c.parquet") == 2
    written = (tmp_path / "a.parquet").read_bytes() + said.out.encode() + said.err.encode()
    assert logs.CLIENT.encode() not in written and logs.SERVER.encode() not in written
