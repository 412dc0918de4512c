import numpy as np

from unlabeled.core.evaluation.heads import Forest, Logistic, Ridge
from unlabeled.core.evaluation.probe import choose, probe, splits, vote

# 2 classes, 2 records each, 6 windows a record
RECORD = np.repeat([4, 7, 9, 11], 6)
LABEL = np.repeat([0, 0, 1, 1], 6)


def test_whole_records_are_held_out_where_every_class_has_two() -> None:
    # fewest records of a class: 2, so two folds, each with one record of each class outside
    found = splits(LABEL, RECORD)
    assert len(found) == 2
    for inside, outside in found:
        assert not set(RECORD[inside]) & set(RECORD[outside])
        assert sorted(LABEL[outside]) == [0] * 6 + [1] * 6
    assert sorted(np.concatenate([o for _, o in found])) == list(range(24))


def test_stretches_of_time_are_held_out_where_a_class_has_one_record() -> None:
    # records 4 and 9 alone: windows 0-1, 2-3, 4-5 of each are held out in turn
    record, label = np.repeat([4, 9], 6), np.repeat([0, 1], 6)
    held = [sorted(o.tolist()) for _, o in splits(label, record)]
    assert held == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]


def test_points_of_one_record_are_held_out_together_though_they_differ_in_class() -> None:
    # 6 records with 4 points of class 0 and 4 of class 1 each, and class 2 in two of them: two folds of whole records,
    # with class 2 inside of both
    record = np.repeat(np.arange(6), 9)
    label = np.tile([0, 1, 0, 1, 0, 1, 0, 1, 0], 6)
    label[[8, 17]] = 2
    found = splits(label, record)
    assert len(found) == 2
    for inside, outside in found:
        assert not set(record[inside]) & set(record[outside])
        assert set(label[inside]) == {0, 1, 2} == set(label[outside])
    assert sorted(np.concatenate([o for _, o in found])) == list(range(54))


def test_a_class_of_one_record_keeps_points_of_it_on_both_sides() -> None:
    # class 2 lies in record 3 only: stretches of each record are held out, and all its points once
    record, label = np.repeat(np.arange(4), 6), np.tile([0, 1, 0, 1, 0, 1], 4)
    label[[18, 20, 22]] = 2
    found = splits(label, record)
    assert [sorted(set(record[outside])) for _, outside in found] == [[0, 1, 2, 3]] * 3
    assert all(2 in label[inside] and 2 in label[outside] for inside, outside in found)


def test_noise_is_regularised_and_signal_is_not() -> None:
    # labels that no feature knows: the held-out loss is least where the head says 1/2; a wide gap: where it is bold
    rng = np.random.default_rng(0)
    record, label = np.repeat(np.arange(12), 4), np.repeat(np.arange(12) % 2, 4)
    noise = rng.normal(size=(48, 20))
    gap = noise + 8.0 * (2 * label[:, None] - 1)
    for head in (Logistic(), Ridge()):
        assert choose(noise, label, record, 2, head) == head.grid[0]
    assert choose(gap, label, record, 2, Logistic()) >= 1.0


def test_nothing_can_be_chosen_from_one_window_per_class() -> None:
    found = probe(np.array([[0.0], [1.0]]), np.array([0, 1]), np.array([0, 1]), np.array([[-3.0], [4.0]]), 2)
    assert found.choice == Logistic().grid[2]
    assert found.scores.argmax(1).tolist() == [0, 1]
    assert (
        probe(np.array([[0.0], [1.0]]), np.array([0, 1]), np.array([0, 1]), np.zeros((1, 1)), 2, Forest()).choice
        is None
    )


def test_a_grid_of_one_is_taken_as_it_is() -> None:
    x = LABEL[:, None] + np.linspace(0, 0.1, 24)[:, None]
    assert probe(x, LABEL, RECORD, x, 2, Logistic(grid=(0.3,))).choice == 0.3


def test_units_do_not_matter() -> None:
    # standardised with the labelled windows' own mean and deviation: any positive scale and offset per column cancels
    rng = np.random.default_rng(1)
    x, test = rng.normal(size=(24, 3)) + LABEL[:, None], rng.normal(size=(10, 3))
    a, b = np.array([1e-3, 1.0, 50.0]), np.array([7.0, 0.0, -3.0])
    one, two = probe(x, LABEL, RECORD, test, 2), probe(x * a + b, LABEL, RECORD, test * a + b, 2)
    assert one.choice == two.choice
    np.testing.assert_allclose(one.scores, two.scores, atol=1e-6)


def test_a_test_window_is_scored_alone() -> None:
    # nothing of the tested windows goes into mean, deviation, choice or fit, so one alone scores as among others
    rng = np.random.default_rng(3)
    x, test = rng.normal(size=(24, 3)) + LABEL[:, None], 5 + 3 * rng.normal(size=(10, 3))
    for head in (Logistic(), Ridge(), Forest()):
        among = probe(x, LABEL, RECORD, test, 2, head).scores[:1]
        np.testing.assert_allclose(probe(x, LABEL, RECORD, test[:1], 2, head).scores, among, atol=1e-12)


def test_a_constant_column_changes_nothing() -> None:
    rng = np.random.default_rng(2)
    x, test = rng.normal(size=(24, 3)) + LABEL[:, None], rng.normal(size=(10, 3))
    flat = probe(np.hstack([x, np.full((24, 1), 0.1)]), LABEL, RECORD, np.hstack([test, np.full((10, 1), 0.1)]), 2)
    np.testing.assert_allclose(flat.scores, probe(x, LABEL, RECORD, test, 2).scores, atol=1e-6)


def test_windows_vote_by_their_mean() -> None:
    # record 5: (0.9 + 0.2 + 0.2) / 3 for class 0 against (0.1 + 0.8 + 0.8) / 3; record 2 has one window
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.2, 0.8]])
    votes = vote(scores, np.array([5, 5, 2, 5]), np.array([2, 5]))
    np.testing.assert_allclose(votes, [[0.6, 0.4], [1.3 / 3, 1.7 / 3]])
