"""The pool of ranks: answers in rank order, tracebacks of failures, no process left behind."""

import multiprocessing
import os
import time

import pytest
import torch

from unlabeled.core import ranks
from unlabeled.core.contracts.batch import Batch, Graph
from unlabeled.core.testing.ranks import RankFailed, RankPool, share


def rank_and_sum(value):
    return ranks.rank(), ranks.total(torch.tensor(float(value + ranks.rank()))).item(), os.getpid()


def fail_on_one(which):
    if ranks.rank() == which:
        raise KeyError("the cause")
    return ranks.total(torch.ones(1))  # waits for the rank that failed


def gathered(batch):
    mine = share(batch)
    return mine.inputs["x"], mine.index, ranks.gather(mine.weight)


def test_answers_come_in_rank_order_from_lasting_processes(two_ranks):
    # 10 + 0 and 10 + 1 sum to 21
    first = two_ranks.run(f"{__file__}:rank_and_sum", 10)
    second = two_ranks.run(f"{__file__}:rank_and_sum", 10)
    assert [answer[:2] for answer in first] == [(0, 21.0), (1, 21.0)]
    assert first == second
    assert os.getpid() not in {answer[2] for answer in first}


def test_a_module_can_be_named(two_ranks):
    assert two_ranks.run("unlabeled.core.ranks:world") == [2, 2]


def test_rows_of_a_graph_are_shared(two_ranks):
    # rows of 1, 2, 3 and 1 nodes: rank 1 has nodes 3 to 6, renumbered from 0
    graph = Graph(
        values=torch.arange(7.0)[:, None],
        valid=torch.ones(7, dtype=torch.bool),
        coords=torch.zeros(7, 1),
        offsets=torch.tensor([0, 1, 3, 6, 7]),
        edges=torch.tensor([[1, 3, 4], [2, 4, 5]]),
    )
    ids = torch.arange(4)
    answers = two_ranks.run(f"{__file__}:gathered", Batch({"x": graph}, ids, ids, ids, ids.float(), {}))
    assert [index.tolist() for _, index, _ in answers] == [[0, 1], [2, 3]]
    part = answers[1][0]
    assert part.values.flatten().tolist() == [3, 4, 5, 6]
    assert part.offsets.tolist() == [0, 3, 4]
    assert part.edges.tolist() == [[0, 1], [1, 2]]
    assert answers[0][2].tolist() == answers[1][2].tolist() == [0, 1, 2, 3]


def test_a_failure_shows_its_traceback_and_the_pool_recovers():
    before = set(multiprocessing.active_children())
    with RankPool(2) as pool:
        assert pool.run("unlabeled.core.ranks:rank") == [0, 1]
        start = time.monotonic()
        with pytest.raises(RankFailed, match=r"(?s)rank 1: Traceback.*in fail_on_one.*KeyError: 'the cause'"):
            pool.run(f"{__file__}:fail_on_one", 1)
        # rank 0 waits in its collective: it is not waited for until the timeout of a minute
        assert time.monotonic() - start < 30
        assert pool.run("unlabeled.core.ranks:rank") == [0, 1]
    assert set(multiprocessing.active_children()) == before
