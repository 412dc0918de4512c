"""DetCon."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from lightly.loss import DetConSLoss

from unlabeled.core.build import Chain
from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.batch import Dense
from unlabeled.core.losses.contrastive import nt_xent
from unlabeled.core.methods.base import unchanged
from unlabeled.core.methods.detcon import DetCon
from unlabeled.core.nn.convnet import ConvNet
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.nn.pooling import mean_pool, share_pool
from unlabeled.core.testing.method import CTX, Grids, MethodContract, noisy
from unlabeled.core.testing.ranks import assert_same, share, step_and_gradients


class TestDetCon(MethodContract):
    name = "detcon"
    encoder = ("convnet", {"channels": (8, 12), "kernels": (5, 3), "strides": (2, 2)})
    options = {"projector": (12, 8), "moving": 0, "regions": {"name": "grid", "parts": 3}, "count": 2}


class TestDetConTokens(MethodContract):
    name = "detcon"
    encoder = ("tokens", {"width": 16, "depth": 1, "heads": 2, "patch": (2, 2)})
    options = {
        "projector": (12, 8),
        "moving": 0,
        "regions": {"name": "kmeans", "size": 4, "steps": 4},
        "negatives": "other_items",
    }
    shape = (8, 8)


def made(like=TestDetConTokens, views=noisy, **options):
    m = like.method()
    return DetCon(m.encoder, m.specs, DetCon.Options(**like.options | options), views).double()


def whole(like=TestDetConTokens):
    """A batch in which every cell is valid and every item counts."""
    batch = like.batch()
    x = batch.inputs["x"]
    return replace(batch.with_inputs(x=replace(x, valid=torch.ones_like(x.valid))), weight=torch.ones(8))


@pytest.mark.parametrize("like", [TestDetCon, TestDetConTokens])
def test_one_region_is_simclr_on_mean_pooled_features(like):
    m = made(like, regions={"name": "grid", "parts": 1}, temperature=0.3, negatives="all")
    views = m.on_batch(like.batch(), CTX)
    weight = views[0].batch.weight
    features = [m.encoder(v.batch.inputs) for v in views]
    z = [m.projector(mean_pool(f.tokens, f.valid), weight) for f in features]
    torch.testing.assert_close(m.step(views, CTX)["loss"], nt_xent(*z, 0.3, weight), rtol=0, atol=1e-12)


def test_it_agrees_with_lightly():
    # their loss is the sum over the two views of means over items and regions, ours the mean over both
    m = made(regions={"name": "grid", "parts": 2}, negatives="all").eval()
    views = m.on_batch(whole(), CTX)
    assert all(v.shares.shape == (8, 16, 4) for v in views)
    z = []
    for v in views:
        tokens = m.encoder(v.batch.inputs).tokens
        z.append(m.projector(share_pool(tokens, v.shares).flatten(0, 1)).unflatten(0, (8, 4)))
    masks = torch.arange(4).expand(8, 4)
    theirs = DetConSLoss(temperature=0.1, gather_distributed=False)(*z, masks, masks)
    torch.testing.assert_close(2 * m.step(views, CTX)["loss"], theirs, rtol=0, atol=1e-5)
    assert theirs > 1


@pytest.mark.parametrize(
    ("negatives", "others"), [("all", 2 * (8 * 4 - 1)), ("other_items", 2 * 4 * 7), ("other_records", 2 * 4 * 4)]
)
def test_collapsed_regions_cost_the_log_of_those_they_meet(negatives, others):
    # 8 items of 4 regions, two records of 4 items: the positive and all that repel, all alike
    m = made(regions={"name": "grid", "parts": 2}, negatives=negatives)
    torch.nn.init.zeros_(m.projector.layers[-1].weight)
    torch.nn.init.ones_(m.projector.layers[-1].bias)
    loss = m.step(m.on_batch(whole(), CTX), CTX)["loss"]
    assert loss.item() == pytest.approx(torch.tensor(1.0 + others, dtype=torch.float64).log().item(), abs=1e-12)


def flipped(x, draw):
    return replace(x, values=x.values.flip(-1), valid=x.valid.flip(-1))


def shifted(x, draw, by):
    """Moved by half a cell: every cell is the mean of two."""
    values = by * x.values.roll(1, -1) + (1 - by) * x.values
    return replace(x, values=values)


def brighter(x, draw):
    return replace(x, values=x.values + 3)


def chain(*functions):
    return Chain(tuple((str(i), "x", f) for i, f in enumerate(functions)))


def test_regions_move_with_the_item():
    plain = made(regions={"name": "grid", "parts": 2}, views=unchanged).on_batch(whole(), CTX)[0].shares
    turned = made(regions={"name": "grid", "parts": 2}, views=chain(flipped, brighter), moving=1)
    view = turned.on_batch(whole(), CTX)[1]
    # the same regions, each in the mirrored tokens; and the item is mirrored and brighter
    assert torch.equal(view.shares.view(8, 4, 4, 4), plain.view(8, 4, 4, 4).flip(2))
    torch.testing.assert_close(
        view.batch.inputs["x"].values, whole().inputs["x"].values.flip(-1) + 3, rtol=0, atol=1e-12
    )
    # a region that is not counted as moving stays where it was
    still = made(regions={"name": "grid", "parts": 2}, views=chain(flipped, brighter), moving=0)
    assert torch.equal(still.on_batch(whole(), CTX)[1].shares, plain)


@pytest.mark.parametrize(("by", "lost"), [(0.5, 2), (0.4, 0), (0.6, 0)])
def test_a_cell_belongs_to_who_holds_more_than_half_of_it(by, lost):
    # two halves of 8 columns: after a move by half a cell columns 0 and 4 belong to both alike, and to none
    m = made(regions={"name": "grid", "parts": 2}, views=chain(partial(shifted, by=by)), moving=1)
    view = m.on_batch(whole(), CTX)[0]
    assert view.shares.sum().item() == 8 * (64 - 8 * lost) / 4


class Half:
    """Views of which the second shows only the left half of every item."""

    def __call__(self, batch, draw):
        if draw.scope == "view1":
            return batch
        x = batch.inputs["x"]
        return batch.with_inputs(x=replace(x, valid=x.valid & (torch.arange(8) < 4)))


def test_what_one_view_does_not_show_takes_no_part():
    # of four boxes two are seen in both views: as if there were no others
    m = made(regions={"name": "grid", "parts": 2}, views=Half(), negatives="all", temperature=0.3)
    views = m.on_batch(whole(), CTX)
    seen = views[1].shares.sum(1) > 0
    assert (seen.sum(1) == 2).all()
    z = []
    for v in views:
        tokens = m.encoder(v.batch.inputs).tokens
        rows = share_pool(tokens, v.shares)[seen]
        z.append(m.projector(rows))
    torch.testing.assert_close(m.step(views, CTX)["loss"], nt_xent(*z, 0.3), rtol=0, atol=1e-12)


def mapped(batch, ids):
    """With a map as a second input: values (8, 1, 8, 8)."""
    x = batch.inputs["x"]
    valid = torch.ones(8, 1, 8, 8, dtype=torch.bool)
    return batch.with_inputs(organs=Dense(ids.double(), valid, x.spacing))


def with_map(**options):
    specs = Grids((8, 8)).specs
    specs["organs"] = specs["x"].model_copy(update={"channels": ("organ",), "units": ("",)})
    o = DetCon.Options(**TestDetConTokens.options | {"regions": "organs"} | options)
    left = DetCon.encodes(specs, o)
    assert list(left) == ["x"]
    torch.manual_seed(0)
    encoder = TokenEncoder(left, TokenEncoder.Options(width=16, depth=1, heads=2, patch=(2, 2)))
    return DetCon(encoder, specs, o, unchanged).double()


def test_a_map_may_come_with_the_item():
    m = with_map()
    ids = torch.tensor([5.0, 300, -1, 9]).repeat_interleave(2).view(1, 1, 1, 8).expand(8, 1, 8, 8)
    view = m.on_batch(mapped(whole(), ids), CTX)[0]
    # two columns of tokens belong to the regions 5 and 9, one each; 300 and -1 are none
    columns = view.shares.view(8, 4, 4, 16)
    assert (view.shares.sum(1) > 0).sum(1).tolist() == [2] * 8
    assert (columns.sum(-1) == torch.tensor([1.0, 0, 0, 1])).all()
    assert m.step((view, view), CTX)["loss"].isfinite()


def test_at_most_so_many_regions_are_drawn_for_each_item_and_step():
    m = with_map(count=16)
    ids = torch.arange(64.0).view(1, 1, 8, 8).expand(8, 1, 8, 8)
    shares = [m.on_batch(mapped(whole(), ids), replace(CTX, epoch=e))[0].shares for e in (1, 2)]
    assert all(s.shape == (8, 16, 16) and (s.sum(1) == 0.25).all() for s in shares)
    assert not torch.equal(*shares) and not torch.equal(shares[0][0], shares[0][1])
    # both views have the same ones
    one, other = m.on_batch(mapped(whole(), ids), CTX)
    assert torch.equal(one.shares, other.shares)


def test_it_says_what_does_not_fit():
    m = TestDetConTokens.method()
    with pytest.raises(RequestError, match=r"method\.regions: 'organs' is unknown"):
        DetCon(m.encoder, m.specs, DetCon.Options(regions="organs", moving=0))
    with pytest.raises(RequestError, match=r"method\.moving: these views cannot be cut"):
        DetCon(m.encoder, m.specs, DetCon.Options(moving=1), noisy)

    def halved(x, draw):
        return replace(x, values=x.values[..., :4], valid=x.valid[..., :4])

    cut = made(views=chain(halved), moving=0)
    with pytest.raises(RequestError, match="a view after the first 0 changes the grid of 'x'; count it too"):
        cut.on_batch(whole(), CTX)
    assert made(views=chain(halved), moving=1).on_batch(whole(), CTX)[0].shares.shape == (8, 8, 4)
    specs = Grids((8, 8)).specs
    two = {"x": specs["x"], "y": specs["x"]}
    encoder = TokenEncoder(two, TokenEncoder.Options(width=16, depth=1, heads=2, patch=(2, 2)))
    with pytest.raises(RequestError, match="regions need an encoder of one input whose tokens lie on a grid"):
        DetCon(encoder, two, DetCon.Options(moving=0))


def test_regions_of_many_layers_and_strides_fit_their_tokens():
    # an odd grid: 9 cells and a stride of 4 make 3 tokens, the last of one cell
    specs = Grids((9, 10)).specs
    encoder = ConvNet(specs, ConvNet.Options(channels=(4, 4), kernels=(3, 3), strides=(2, 2)))
    m = DetCon(encoder, specs, DetCon.Options(moving=0, projector=(8,)))
    x = Dense(torch.randn(4, 2, 9, 10), torch.ones(4, 1, 9, 10, dtype=torch.bool), torch.ones(4, 2))
    at = torch.arange(4)
    batch = replace(whole(), inputs={"x": x}, index=at, record=at, group=at, weight=torch.ones(4))
    view = m.on_batch(batch, CTX)[0]
    assert view.shares.shape[1] == m.encoder(batch.inputs).tokens.shape[1] == 9
    assert view.shares.sum().item() == pytest.approx(4 * 90 / 16)


def on_rank():
    m = with_map(negatives="other_records")
    ids = (torch.arange(64.0).view(1, 1, 8, 8) // torch.arange(4.0, 12).view(8, 1, 1, 1)).floor()
    return step_and_gradients(m, share(mapped(TestDetConTokens.batch(), ids)), CTX)


def test_two_ranks_equal_one(two_ranks):
    assert_same(two_ranks.run(f"{__file__}:on_rank"), on_rank(), tolerance=1e-9)
