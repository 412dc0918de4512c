"""SimCore."""

from itertools import combinations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unlabeled.core.contracts import RequestError
from unlabeled.core.curate.coreset import Coreset, nearest
from unlabeled.core.testing.collections import embedded


def clouds(classes, seed=0, width=8, spread=0.05):
    labels = np.asarray(classes)
    return np.eye(width)[labels] + spread * np.random.default_rng(seed).standard_normal((len(labels), width))


def target(path, values, keys=None):
    """A file as `embed` writes it."""
    values = np.asarray(values, np.float32)
    table = {
        "key": keys or [f"t{i}" for i in range(len(values))],
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1]),
    }
    pq.write_table(pa.table(table), path)
    return str(path)


def stays(c, kept=None, **options):
    kept = np.ones(len(c), bool) if kept is None else kept
    dropped = Coreset(Coreset.Options(**options)).run(c, kept)
    return np.setdiff1d(np.flatnonzero(kept), [d.item for d in dropped]).tolist()


def worth(cosines, rows):
    """Facility location: over the centroids, the sum of the greatest cosine."""
    return cosines[list(rows)].max(0).sum() if len(rows) else 0.0


def test_what_is_chosen_is_of_the_targets_class(tmp_path):
    """Of 5 classes at right angles the target is one: cosines inside it are near 1 and to others near 0.

    tau 0.9 then stops with the whole class (recall 1) and nothing else (precision 1): rounds of 3 take 39 of its 40, and
    the next would hold two others, with a mean cosine near 1/3; so the 40th stays out.
    """
    truth = np.tile(np.arange(5), 40)
    c = embedded(clouds(truth))
    wanted = target(tmp_path / "t.parquet", clouds([2] * 12, seed=1))
    chosen = stays(c, target=wanted, clusters=3, tau=0.9)
    assert (truth[chosen] == 2).all()
    assert len(chosen) == 39
    for budget in (1, 7, 38):
        few = stays(c, target=wanted, clusters=3, budget=budget)
        assert len(few) == budget
        assert (truth[few] == 2).all()


def test_the_first_round_is_the_optimum_and_later_ones_beat_lots():
    """With as many items as centroids every centroid has its nearest, so nothing is better; brute force agrees."""
    for seed in range(20):
        draw = np.random.default_rng(seed)
        cosines = draw.uniform(-1, 1, (9, 3))
        picked = nearest(cosines, 1.0, 3)
        assert len(set(picked.tolist())) == 3
        best = max(worth(cosines, rows) for rows in combinations(range(9), 3))
        assert worth(cosines, picked) == pytest.approx(best, abs=1e-12)
        # a part of a round takes its greatest cosines first: one item is the greatest of all
        assert nearest(cosines, 1.0, 1)[0] == cosines.max(1).argmax()
    draw = np.random.default_rng(0)
    cosines = draw.uniform(-1, 1, (500, 10))
    ours = nearest(cosines, 0.1, 30)
    for _ in range(200):
        assert worth(cosines, ours) >= worth(cosines, draw.choice(500, 30, replace=False))


def test_two_centroids_never_take_one_item():
    """Row 0 is nearest to both; the second column then takes its next best, row 2, and row 1 waits for the next round."""
    cosines = np.array([[0.9, 0.8], [0.5, 0.1], [0.2, 0.7], [0.1, 0.05]])
    assert nearest(cosines, 0.01, 2).tolist() == [0, 2]
    # what is left: row 1 for the first column with 0.5, row 3 for the second with 0.05
    assert nearest(cosines, 0.01).tolist() == [0, 2, 1, 3]


def test_it_stops_where_the_next_round_falls_below_tau():
    """One centroid, cosines 1.0, 0.97, 0.94, 0.96, 0.5 and tau 0.95: in falling order all down to 0.96 are taken."""
    cosines = np.array([[1.0], [0.97], [0.94], [0.96], [0.5]])
    assert nearest(cosines, 0.95).tolist() == [0, 1, 3]
    assert nearest(cosines, 0.93).tolist() == [0, 1, 3, 2]
    assert nearest(cosines, 0.4).tolist() == [0, 1, 3, 2, 4]
    assert nearest(cosines, 0.95, 2).tolist() == [0, 1]
    # below zero the limit lies below the first round too: -0.5 - 0.05 * 0.5
    assert nearest(np.array([[-0.5], [-0.52], [-0.53]]), 0.95).tolist() == [0, 1]
    assert nearest(np.zeros((0, 3)), 0.95).tolist() == []


def test_a_target_inside_the_collection_stays_and_chooses():
    """Keys `want/*` are of class 1; with a budget of 5 they stay, and 5 others of their class."""
    truth = np.array([1] * 6 + [0, 1, 2, 3] * 10)
    keys = [f"want/{i}.png" if i < 6 else f"open/{i}.png" for i in range(46)]
    c = embedded(clouds(truth), keys)
    chosen = stays(c, target="want/*", clusters=4, budget=5)
    assert chosen[:6] == [0, 1, 2, 3, 4, 5]
    assert len(chosen) == 11
    assert (truth[chosen] == 1).all()
    # what is gone is neither target nor chosen
    kept = np.ones(46, bool)
    kept[[0, chosen[6]]] = False
    again = stays(c, kept, target="want/*", clusters=4, budget=5)
    assert len(again) == 10
    assert not {0, chosen[6]} & set(again)


def test_the_target_as_a_file_of_keys_that_are_there_too(tmp_path):
    values = clouds([0] * 5 + [1] * 5)
    c = embedded(values)
    wanted = target(tmp_path / "t.parquet", values[5:7], [c.keys[5], c.keys[6]])
    assert stays(c, target=wanted, budget=2) == [5, 6, *sorted(set(stays(c, target=wanted, budget=2)) - {5, 6})]
    assert set(stays(c, target=wanted, budget=2)) <= {5, 6, 7, 8, 9}


def test_a_dropped_item_says_how_near_it_lies(tmp_path):
    c = embedded(np.array([[1, 0], [0, 1], [1, 1]]))
    wanted = target(tmp_path / "t.parquet", [[2.0, 0.0]])
    dropped = Coreset(Coreset.Options(target=wanted, budget=1)).run(c, np.ones(3, bool))
    assert [(d.item, round(d.score, 6)) for d in dropped] == [(1, 0.0), (2, round(2**-0.5, 6))]


def test_wrong_requests_say_what_to_do(tmp_path):
    c = embedded(clouds([0, 1]))
    wide = target(tmp_path / "wide.parquet", np.eye(3))
    (tmp_path / "text.parquet").write_text("no table")
    for named, message in (
        ("birds/*", "fits no key"),
        (wide, "width 3, the collection of 8"),
        (str(tmp_path / "text.parquet"), "is no file of `embed`"),
        (str(tmp_path / "none.parquet"), "is no file of `embed`"),
    ):
        with pytest.raises(RequestError, match=message):
            stays(c, target=named)
    with pytest.raises(RequestError, match="coreset needs embeddings"):
        stays(c.with_(None), target=wide)
