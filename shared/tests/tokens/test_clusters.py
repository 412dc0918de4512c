"""Causal order by clusters."""

import torch

from unlabeled.core.tokens.clusters import attends, cluster_order, clusters


def grid(*shape):
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in shape], indexing="ij")
    return torch.stack([a.flatten() for a in axes], -1)[None]


def test_clusters_are_boxes_of_patches():
    # 4 x 6 patches in boxes of 2 x 3: two rows of two
    at = clusters(grid(4, 6), (2, 3))[0]
    assert at[:, 0].tolist() == [0] * 12 + [1] * 12
    assert at[:6, 1].tolist() == [0, 0, 0, 1, 1, 1]
    order = cluster_order(grid(4, 6), (2, 3))[0]
    assert torch.equal(order.unique(return_inverse=True)[1], (at * torch.tensor([2, 1])).sum(-1))


def test_places_grow_in_raster_order_on_three_axes():
    order = cluster_order(grid(3, 4, 5), (1, 1, 1))[0]
    assert (order.diff() > 0).all() and len(order) == 60


def test_places_before_the_origin_come_first():
    assert (cluster_order(torch.tensor([[[-3.0], [-1.0], [0.0], [2.0]]]), (1,))[0].diff() > 0).all()


def test_attended_to_are_valid_tokens_of_no_later_number_and_oneself():
    order = torch.tensor([[0, 0, 1, 2]])
    valid = torch.tensor([[True, False, True, True]])
    assert attends(order, valid)[0, 0].long().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 1, 1]]
