"""Regions of an item."""

import pytest
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ValidationError
from scipy.cluster.vq import kmeans2

from unlabeled.core.contracts.batch import Dense
from unlabeled.core.nn.pooling import mean_pool, share_pool
from unlabeled.core.streams import uniform
from unlabeled.core.tokens.regions import Given, Grid, KMeans, Regions, chosen, grid_ids, kmeans_ids, shares


def dense(values, valid=None):
    valid = torch.ones_like(values[:, :1], dtype=torch.bool) if valid is None else valid
    return Dense(values, valid, torch.ones(len(values), values.ndim - 2))


def noise(items, *shape):
    return uniform(3, torch.arange(items), shape)


def test_a_grid_cuts_the_extent_of_an_item():
    valid = torch.ones(2, 1, 4, 6, dtype=torch.bool)
    valid[1, ..., :2] = False  # 4 x 4 cells are left: half of them each
    assert grid_ids(valid, 2)[0].tolist() == [[0, 0, 0, 1, 1, 1]] * 2 + [[2, 2, 2, 3, 3, 3]] * 2
    assert grid_ids(valid, 2)[1].tolist() == [[-1, -1, 0, 0, 1, 1]] * 2 + [[-1, -1, 2, 2, 3, 3]] * 2
    # an axis shorter than the parts leaves some of them empty: cells 0 and 1 of 2 begin at 0 / 4 and 2 / 4
    assert grid_ids(torch.ones(1, 1, 2, dtype=torch.bool), 4).tolist() == [[0, 2]]


def test_kmeans_tells_two_levels_apart_wherever_they_are():
    values = torch.zeros(3, 2, 8, 8)
    values[:, 1] = (noise(3, 8, 8) > 0.6).float()
    starts = noise(3, 8, 8)
    for i in range(3):  # it may begin with two equal cells, and then one region stays; so both are among the first
        starts[(i, *values[i, 1].nonzero()[0])] = -2
        starts[(i, *(values[i, 1] == 0).nonzero()[0])] = -1
    assert torch.equal(kmeans_ids(dense(values), 2, 0.0, 3, starts), 1 - values[:, 1].long())


@pytest.mark.parametrize("shape", [(40,), (7, 9), (3, 4, 5)])
def test_kmeans_is_lloyds_with_its_start(shape):
    values = torch.randn(4, 2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    start = noise(4, *shape)
    found = kmeans_ids(dense(values), 5, 0.7, 6, start)
    place = torch.stack(torch.meshgrid(*[torch.linspace(0, 1, n) for n in shape], indexing="ij")).flatten(1).T.double()
    for i in range(4):
        parts = [x - x.mean(0) for x in (values[i].flatten(1).T, place)]
        colour, where = (x / x.square().sum(1).mean().sqrt() for x in parts)
        cells = torch.cat([colour, 0.7 * where], 1).numpy()
        first = cells[start[i].flatten().argsort()[:5].numpy()]
        # scipy gives the labels that its last move was made of, so it moves once more
        _, labels = kmeans2(cells, first, iter=7, minit="matrix")
        assert found[i].flatten().tolist() == labels.tolist()


def test_kmeans_of_few_alike_or_no_cells():
    values = torch.ones(3, 1, 6)
    valid = torch.ones(3, 1, 6, dtype=torch.bool)
    valid[1, :, 2:] = False
    valid[2] = False
    values[2] = torch.nan
    ids = kmeans_ids(dense(values, valid), 4, 1.0, 5, noise(3, 6))
    assert ids[2].tolist() == [-1] * 6  # nothing is there
    assert ids[1, 2:].tolist() == [-1] * 4 and len(ids[1, :2].unique()) == 2  # each cell a region, and not 4
    assert (ids[0] >= 0).all() and len(ids[0].unique()) > 1  # alike cells are told apart by place
    assert (kmeans_ids(dense(values, valid), 4, 0.0, 5, noise(3, 6))[0] == 0).all()


@pytest.mark.parametrize("kind", [Grid(parts=3), KMeans(size=4, steps=3)])
def test_padding_moves_no_region(kind):
    class Uniform:
        def uniform(self, name, *shape):
            return noise(5, *shape)

    x = dense(torch.randn(5, 2, 6, 8, dtype=torch.float64))
    far = (0, 5, 0, 3)
    wide = Dense(F.pad(x.values, far, value=9.0), F.pad(x.valid, far), x.spacing)
    small, large = (kind.ids(None, given, Uniform()) for given in (x, wide))
    assert torch.equal(large[:, :6, :8], small) and (large[:, 6:] == -1).all() and (large[:, :, 8:] == -1).all()
    assert small.max() < kind.count(2)


def test_regions_are_chosen_among_those_that_are_there():
    # 3 of 10 ids are present, of which 2 are taken, each pair of 3 about as often: 1000 each, deviation 26
    ids = torch.tensor([[7, 7, 2, -1, 4]]).expand(3000, -1)
    taken = chosen(ids, noise(3000, 10), 2)
    assert taken.shape == (3000, 2, 5) and (taken.sum(1) <= 1).all() and not taken[:, :, 3].any()
    pairs = torch.stack([taken[..., i].any(1) for i in (0, 2, 4)], 1)
    found, counts = pairs.unique(dim=0, return_counts=True)
    assert found.sum(1).tolist() == [2, 2, 2] and (counts - 1000).abs().max() < 110
    # of fewer than asked for all are there, and the other channels are empty
    some = chosen(ids[:1], noise(1, 10), 6)[0]
    assert some.shape == (6, 5) and some.any(1).sum() == 3 and some[:, [0, 2, 4]].any(0).all()


def test_shares_count_the_cells_of_a_patch():
    regions = torch.zeros(1, 2, 3, 4, dtype=torch.bool)
    regions[0, 0, 0] = True  # the first row
    regions[0, 1, 1:, 3] = True  # the last column below it
    # patches of 2 x 2 on a grid of 3 x 4, which is filled up to 4 x 4
    assert shares(regions, (2, 2))[0].tolist() == [[0.5, 0], [0.5, 0.25], [0, 0], [0, 0.25]]


def test_tokens_are_pooled_by_their_shares():
    tokens = torch.randn(2, 3, 5, dtype=torch.float64)
    part = torch.tensor([[1.0, 0, 0], [0.5, 0, 0], [0.5, 0.25, 0]]).expand(2, 3, 3)
    first, second, empty = share_pool(tokens, part).unbind(1)
    torch.testing.assert_close(first, tokens[:, 0] / 2 + tokens[:, 1] / 4 + tokens[:, 2] / 4)
    torch.testing.assert_close(second, tokens[:, 2])
    assert (empty == 0).all()
    valid = torch.tensor([[True, False, True]]).expand(2, 3)
    torch.testing.assert_close(share_pool(tokens, valid[..., None])[:, 0], mean_pool(tokens, valid))


def test_they_are_named_in_a_recipe():
    class Options(BaseModel):
        regions: Regions

    assert Options(regions="grid").regions == Grid(parts=4)
    assert Options(regions={"name": "kmeans", "size": 3}).regions == KMeans(size=3)
    assert Options(regions="organs").regions == Given(input="organs", size=256)
    assert Options(**Options(regions="organs").model_dump()).regions == Given(input="organs")
    for wrong, told in (
        ({"name": "kmean"}, "did you mean 'kmeans'"),
        ({}, "unknown"),
        ({"name": "grid", "parts": 0}, "1"),
    ):
        with pytest.raises(ValidationError, match=told):
            Options(regions=wrong)
