"""CropMAE: its contract and oracles."""

from dataclasses import replace

import pytest
import torch

from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.batch import Dense
from unlabeled.core.methods.base import unchanged
from unlabeled.core.methods.cropmae import CropMAE
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.testing.events import EVENTS
from unlabeled.core.testing.method import CTX, Grids, MethodContract
from unlabeled.core.tokens.masks import kept

DECODER = {"width": 16, "depth": 1, "heads": 2}
# two of 16 patches are seen, 1 - 2 / 16
TWO = 0.875


class TestCropMAE(MethodContract):
    name = "cropmae"
    shape = (16, 16)
    encoder = ("tokens", {"width": 16, "depth": 2, "heads": 2, "patch": (4, 4)})
    options = {"decoder": DECODER, "mask_ratio": TWO}


class TestCropMAESignal(MethodContract):
    name = "cropmae"
    encoder = ("tokens", {"width": 16, "depth": 1, "heads": 2, "patch": (2,), "cls": True})
    options = {"decoder": DECODER, "mask_ratio": 0.8}


def ramp(items=200, n=16):
    """Items whose two channels are the middle of each cell along y and x, as shares of the item."""
    at = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    values = torch.stack(torch.meshgrid(at, at, indexing="ij")).expand(items, 2, n, n)
    ids = torch.arange(items)
    x = Dense(
        values, torch.ones(items, 1, n, n, dtype=torch.bool), torch.ones(items, 2, dtype=torch.float64), whole=True
    )
    batch = TestCropMAE.batch()
    return replace(batch, inputs={"x": x}, index=ids, record=ids, group=ids, weight=torch.ones(items))


def method(**options):
    m = TestCropMAE.method(**options).double()
    m.views = unchanged
    return m


def test_two_patches_are_seen():
    # the paper's 196 patches and ratio: int(196 * 0.015) = 2, where the other rounding would leave 196 - 193 = 3
    assert kept(196, CropMAE.Options().mask_ratio, CropMAE.Options().rounding) == 2
    assert kept(196, 0.985, "mask") == 3
    specs = Grids((56, 56)).specs
    encoder = TokenEncoder(specs, TokenEncoder.Options(width=16, depth=1, heads=2, patch=(4, 4)))
    pair = CropMAE(encoder, specs, CropMAE.Options()).on_batch(ramp(3, 56), CTX)
    assert [t["x"].patches.shape[1] for t in (pair.visible, pair.hidden, pair.reference)] == [2, 194, 196]
    # a smaller grid needs a smaller ratio, and says so
    pair = method().on_batch(ramp(), CTX)
    assert pair.visible["x"].patches.shape[1] == 2 and pair.hidden["x"].patches.shape[1] == 14
    with pytest.raises(RequestError, match=r"mask_ratio: 0\.985 with rounding keep keeps none of 16"):
        method(mask_ratio=0.985).on_batch(ramp(), CTX)


def test_the_local_crop_lies_in_the_global_one():
    # on a ramp the values are the places in the item: those of the local crop are within those of the global one, and
    # what they span is its share of it, but for the half cell at each end that is not a middle, and the border's clamp
    local, whole = (b.inputs["x"].values for b in method().pair(ramp(), CTX))
    assert (local.amin((2, 3)) >= whole.amin((2, 3)) - 0.5 / 16).all()
    assert (local.amax((2, 3)) <= whole.amax((2, 3)) + 0.5 / 16).all()

    def volume(x):
        return ((x.amax((2, 3)) - x.amin((2, 3))) * 16 / 15).prod(1)

    share = volume(local) / volume(whole)
    assert 0.25 < share.min() < 0.4 and 0.5 < share.max() < 0.7
    # global crops reach from a tenth of the item to all of it
    assert volume(whole).min() < 0.2 and volume(whole).max() > 0.9
    # no crop is mirrored: places grow along each axis
    for x in (local, whole):
        assert (x[:, 0].diff(dim=1) >= 0).all() and (x[:, 1].diff(dim=2) >= 0).all()


def test_crops_follow_the_item_and_the_epoch():
    m = method()
    once, later = (m.pair(ramp(8), replace(CTX, step=s)) for s in (3, 9))
    other = m.pair(ramp(8), replace(CTX, epoch=2))
    for one, same, new in zip(once, later, other, strict=True):
        assert torch.equal(one.inputs["x"].values, same.inputs["x"].values)
        assert not torch.equal(one.inputs["x"].values, new.inputs["x"].values)
    assert not torch.equal(*(b.inputs["x"].values for b in once))


def test_gradient_reaches_the_encoder_through_both_crops():
    m = method()
    pair = m.on_batch(ramp(4), CTX)
    seen = [t["x"].patches.clone().requires_grad_() for t in (pair.reference, pair.visible)]
    shown = replace(
        pair,
        reference={"x": replace(pair.reference["x"], patches=seen[0])},
        visible={"x": replace(pair.visible["x"], patches=seen[1])},
    )
    through = torch.autograd.grad(m.step(shown, CTX)["loss"], seen, retain_graph=True)
    assert all((g.abs().sum(2) > 0).all() for g in through)
    torch.nn.init.zeros_(m.predictor.transformer.blocks[0].cross.proj.weight)
    through = torch.autograd.grad(m.step(shown, CTX)["loss"], seen, materialize_grads=True)
    assert (through[0] == 0).all() and (through[1] != 0).any()


def test_inputs_without_a_grid_are_refused():
    specs = {"x": EVENTS}
    encoder = TokenEncoder(specs, TokenEncoder.Options(width=16, depth=1, heads=2))
    with pytest.raises(RequestError, match="method cropmae: the input 'x' has no grid to crop"):
        CropMAE(encoder, specs, CropMAE.Options())
