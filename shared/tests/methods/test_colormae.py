"""ColorMAE: its contract, and that it is MAE with other masks."""

import pytest
import torch

from unlabeled.core.methods.colormae import ColorMAE
from unlabeled.core.methods.mae import MAE
from unlabeled.core.testing.method import CTX, MethodContract
from unlabeled.core.tokens.schemes import FilteredNoise

DECODER = {"width": 16, "depth": 1, "heads": 2}


class TestColorMAE(MethodContract):
    name = "colormae"
    shape = (16, 16)
    encoder = ("tokens", {"width": 16, "depth": 2, "heads": 2, "patch": (2, 2)})
    options = {"decoder": DECODER}


class TestColorMAEVolumes(MethodContract):
    name = "colormae"
    shape = (8, 8, 8)
    encoder = ("tokens", {"width": 16, "depth": 1, "heads": 2, "patch": (2, 2, 2)})
    options = {"decoder": DECODER, "mask": {"name": "noise", "color": "red"}, "rounding": "mask"}


def test_green_noise_hides_three_quarters_by_default():
    options = ColorMAE.Options()
    assert options.mask == FilteredNoise(color="green") and options.mask_ratio == 0.75
    m = TestColorMAE.method().double()
    masks = m._masked(TestColorMAE.batch(), CTX)[1]
    # 8 x 8 tokens, int(64 / 4) = 16 stay; of the row whose right half is invalid int(32 / 4) = 8
    assert masks["x"].keep_valid.sum(1)[[0, 1]].tolist() == [16, 8]


def test_it_does_not_look_at_the_data():
    m, batch = TestColorMAE.method().double(), TestColorMAE.batch()
    once = m._masked(batch, CTX)[1]["x"]
    batch.inputs["x"].values.mul_(-3).add_(1)
    assert torch.equal(once.hide, m._masked(batch, CTX)[1]["x"].hide)


@pytest.mark.parametrize("mask", ["random", "block"])
def test_with_the_masks_of_mae_it_is_mae(mask):
    m = TestColorMAE.method(mask=mask).double()
    options = MAE.Options(decoder=DECODER, mask=mask)
    plain = MAE(m.encoder, m.specs, options, m.views).double()
    plain.predictor = m.predictor
    batch = TestColorMAE.batch()
    ours, theirs = (x.step(x.on_batch(batch, CTX), CTX)["loss"] for x in (m, plain))
    assert torch.equal(ours, theirs)
