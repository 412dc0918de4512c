"""MaskFeat: its contract and oracles."""

from dataclasses import replace

import pytest
import torch

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Batch, Dense
from unlabeled.core.methods.maskfeat import MaskFeat
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.targets.gradients import gradients, magnitude
from unlabeled.core.targets.hog import hog
from unlabeled.core.testing.events import EVENTS
from unlabeled.core.testing.learning import descent
from unlabeled.core.testing.method import CTX, MethodContract

AXES = ("t", "y", "x")


class TestMaskFeat(MethodContract):
    name = "maskfeat"
    shape = (16, 16)
    encoder = ("tokens", {"width": 16, "depth": 2, "heads": 2, "patch": (4, 4)})


class TestMaskFeatOfGradients(MethodContract):
    name = "maskfeat"
    encoder = ("tokens", {"width": 16, "depth": 2, "heads": 2, "patch": (4,), "cls": True})
    options = {"target": "gradient"}


class TestMaskFeatOfVideo(MethodContract):
    name = "maskfeat"
    shape = (4, 8, 8)
    encoder = ("tokens", {"width": 16, "depth": 1, "heads": 2, "patch": (2, 4, 4)})
    options = {"cell": 2}


def method(patch, channels=3, width=16, **options):
    torch.manual_seed(0)
    names = tuple("abc"[:channels])
    spec = InputSpec(
        channels=names, units=("",) * channels, axes=AXES[-len(patch) :], unit="px", spacing=(1.0,) * len(patch)
    )
    encoder = TokenEncoder({"x": spec}, TokenEncoder.Options(width=width, depth=1, heads=2, patch=patch))
    return MaskFeat(encoder, {"x": spec}, MaskFeat.Options(**options))


def batch_of(x):
    n = torch.arange(len(x))
    dense = Dense(x, torch.ones_like(x[:, :1], dtype=torch.bool), torch.ones(len(x), x.ndim - 2), whole=True)
    return Batch({"x": dense}, n, n, n, torch.ones(len(x)), {})


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_108_numbers_and_78_of_196_patches():
    # 9 bins of 2 x 2 cells in 3 channels; int(196 * 0.4) = 78, where all but int(196 * 0.6) = 117 would be 79
    m = method((16, 16))
    assert m.outputs() == {"x": 108} and m.heads["x"].out_features == 108
    cut = m.on_batch(batch_of(noise(1, 3, 224, 224)), CTX)
    target, there = m.target("x", cut)
    assert target.shape == (1, 78, 108) and there.shape == (1, 78, 108) and there.all()
    # each of the 12 histograms of a patch has norm 1
    torch.testing.assert_close(target.square().sum(-1), torch.full((1, 78), 12.0))


def test_the_target_of_a_patch_is_that_of_its_cells():
    m = method((16, 8), channels=2, cell=4, bins=6)
    x = noise(2, 2, 32, 24)
    assert m.outputs() == {"x": 4 * 2 * 6 * 2}
    cut = m.on_batch(batch_of(x), CTX)
    target, _ = m.target("x", cut)
    cells, _ = hog(x, torch.ones(2, 1, 32, 24, dtype=torch.bool), (4, 4), bins=6)
    for item in range(2):
        for at, found in zip(cut.masks["x"].hide[item].tolist(), target[item], strict=True):
            row, column = divmod(at, 3)
            patch = cells[item, :, :, 4 * row : 4 * row + 4, 2 * column : 2 * column + 2]
            # cells in raster order, then channels, then bins
            torch.testing.assert_close(found, patch.permute(2, 3, 0, 1).flatten())


def test_a_video_has_the_first_frame_of_each_patch():
    m = method((2, 8, 8), channels=1, cell=4)
    assert m.outputs() == {"x": 4 * 9}
    x = noise(1, 1, 4, 16, 16)
    cut = m.on_batch(batch_of(x), CTX)
    target, _ = m.target("x", cut)
    other = x.clone()
    other[:, :, 1::2] = 7.0  # frames 1 and 3
    changed = replace(cut, inputs=batch_of(other).inputs)
    assert torch.equal(m.target("x", changed)[0], target)
    cells, _ = hog(x[:, :, 2], torch.ones(1, 1, 16, 16, dtype=torch.bool), (4, 4))
    for at, found in zip(cut.masks["x"].hide[0].tolist(), target[0], strict=True):
        if at >= 4:  # of 2 x 2 x 2 patches the last four are of frames 2 and 3
            row, column = divmod(at - 4, 2)
            patch = cells[0, 0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            torch.testing.assert_close(found, patch.permute(1, 2, 0).flatten())


@pytest.mark.parametrize("shape", [(24,), (8, 12), (4, 8, 8)])
def test_gradients_of_any_rank(shape):
    m = method((4,) * len(shape), channels=2, target="gradient")
    x = noise(2, 2, *shape)
    cut = m.on_batch(batch_of(x), CTX)
    found, _ = m.target("x", cut)
    size = magnitude(gradients(x, torch.ones_like(x[:, :1], dtype=torch.bool))[0])
    dense = m.encoder.tokenise(batch_of(size).inputs)["x"]
    torch.testing.assert_close(found, cut.masks["x"].hidden(dense).patches, rtol=0, atol=0)


def silenced(m, value=0.0):
    torch.nn.init.zeros_(m.heads["x"].weight), torch.nn.init.constant_(m.heads["x"].bias, value)
    return m


def test_predicting_nothing_costs_a_ninth_and_a_constant_image_the_squared_prediction():
    # a histogram of norm 1 over 9 bins has a mean square of 1 / 9; that of a constant is 0
    m = silenced(method((8, 8)))
    loss = m.step(m.on_batch(batch_of(noise(4, 3, 32, 32)), CTX), CTX)["loss"]
    torch.testing.assert_close(loss, torch.tensor(1 / 9), rtol=0, atol=1e-6)
    flat = silenced(method((8, 8)), 0.5)
    loss = flat.step(flat.on_batch(batch_of(torch.full((4, 3, 32, 32), 0.3)), CTX), CTX)["loss"]
    assert loss == 0.25


def test_contrast_changes_no_target():
    # what a normaliser does to an image: a scale and an offset for each channel
    m = method((8, 8))
    x = noise(2, 3, 32, 32).double()
    cut = m.on_batch(batch_of(x), CTX)
    other = 3.7 * x * torch.tensor([0.5, 1, 4])[:, None, None] - 2
    changed = replace(cut, inputs=batch_of(other).inputs)
    torch.testing.assert_close(m.target("x", changed)[0], m.target("x", cut)[0], rtol=0, atol=2e-7)


def test_small_patches_are_one_cell_and_a_cell_divides_its_patch():
    assert method((2, 2)).outputs() == {"x": 27}
    with pytest.raises(RequestError, match=r"method.cell: 8 pixels do not divide the patch of 12 .* such as 4"):
        method((16, 12))


def test_what_has_no_histogram_is_refused():
    with pytest.raises(RequestError, match=r"'x' has one axis, .* set target: gradient"):
        method((4,))
    encoder = TokenEncoder({"e": EVENTS}, TokenEncoder.Options(width=16, depth=1, heads=2))
    with pytest.raises(RequestError, match="'e' is packed and has no gradients; choose simmim"):
        MaskFeat(encoder, {"e": EVENTS}, MaskFeat.Options(target="gradient"))


def test_it_learns():
    # stripes of two directions, of which visible patches tell: the loss falls far below 1 / 9 of predicting nothing
    m = method((8, 8), channels=1, width=32)
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    phase = 6.28 * torch.rand(16, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    along = torch.where(torch.arange(16).view(-1, 1, 1, 1) % 2 == 0, x, y)
    images = torch.sin(0.8 * along + phase)
    losses = descent(m, batch_of(images), 60, lr=3e-3)
    assert losses[-1] < 0.25 / 9
