"""The queue: what enters, in which order, and that it is the same on all ranks."""

import torch

from unlabeled.core import ranks
from unlabeled.core.targets.queue import Queue
from unlabeled.core.testing.ranks import assert_same
from unlabeled.core.testing.sync import NoWaiting


def numbered(*numbers):
    """Rows (n, 2) that hold their number."""
    return torch.tensor(numbers, dtype=torch.float32)[:, None].expand(-1, 2)


def holds(queue):
    return [int(r) if v else None for r, v in zip(queue.rows[:, 0], queue.valid, strict=True)]


def test_the_oldest_rows_leave_first():
    queue = Queue(5, 2)
    assert holds(queue) == [None] * 5
    queue.put(numbered(1, 2, 3), torch.ones(3))
    assert holds(queue) == [1, 2, 3, None, None] and queue.place == 3
    queue.put(numbered(4, 5, 6), torch.ones(3))
    assert holds(queue) == [6, 2, 3, 4, 5] and queue.place == 1
    # of seven rows the last five, of which the oldest leaves next
    queue.put(numbered(*range(10, 17)), torch.ones(7))
    assert sorted(holds(queue)) == [12, 13, 14, 15, 16]
    queue.put(numbered(20), torch.ones(1))
    assert sorted(holds(queue)) == [13, 14, 15, 16, 20]


def test_rows_of_weight_zero_neither_enter_nor_push_out():
    queue = Queue(4, 2)
    given = numbered(1, 2, 3, 4).clone()
    given[[0, 2]] = torch.nan
    queue.put(given, torch.tensor([0.0, 1, 0, 0.5]))
    assert holds(queue) == [2, 4, None, None] and queue.place == 2
    queue.put(torch.full((3, 2), torch.nan), torch.zeros(3))
    assert holds(queue) == [2, 4, None, None] and queue.place == 2
    queue.put(numbered(5, 6, 7, 8, 9), torch.tensor([1.0, 1, 1, 0, 0]))
    assert holds(queue) == [7, 4, 5, 6] and queue.rows.isfinite().all()


def test_whole_numbers_stay_whole():
    # 2^53 + 1 is no double
    queue = Queue(2, 1, dtype=torch.int64).double()
    queue.put(torch.tensor([[2**53 + 1]]), torch.ones(1))
    assert queue.rows.tolist() == [[2**53 + 1], [0]]


def test_nothing_waits_for_the_device():
    with NoWaiting():
        Queue(4, 2).put(numbered(1, 2, 3), torch.tensor([1.0, 0, 1]))


def on_rank():
    """Two batches of six rows, of which a first rank has the first three."""
    queue, mine = Queue(8, 2), slice(ranks.rank() * 6 // ranks.world(), (ranks.rank() + 1) * 6 // ranks.world())
    for numbers, weight in (((1, 2, 3, 4, 5, 6), [1.0, 0, 1, 1, 1, 0]), ((7, 8, 9, 10, 11, 12), [0.0, 0, 0, 1, 1, 1])):
        queue.put(numbered(*numbers)[mine], torch.tensor(weight)[mine])
    return dict(queue.named_buffers())


def test_two_ranks_equal_one(two_ranks):
    alone = on_rank()
    assert alone["rows"][:, 0].tolist() == [1, 3, 4, 5, 10, 11, 12, 0]
    assert_same(two_ranks.run(f"{__file__}:on_rank"), alone, tolerance=0)
