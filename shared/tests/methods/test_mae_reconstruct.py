"""What the report draws of MAE: original, masked and predicted, in the places they come from."""

import pytest
import torch

from unlabeled.core.contracts import InputSpec
from unlabeled.core.contracts.batch import Batch, Dense
from unlabeled.core.methods.base import Context
from unlabeled.core.methods.mae import MAE
from unlabeled.core.nn.encoder import TokenEncoder

CTX = Context(seed=0, step=0, epoch=0, max_steps=1)


def made(shape, patch, value, **options):
    """A method that predicts `value` everywhere, and a batch of 3 items on a grid of `shape`, its last row invalid."""
    axes = ("depth", "height", "width")[: len(shape)]
    spec = {"x": InputSpec(channels=("a", "b"), units=("", ""), axes=axes, unit="mm", spacing=(1.0,) * len(shape))}
    encoder = TokenEncoder(spec, TokenEncoder.Options(width=12, depth=1, heads=2, patch=patch))
    method = MAE(encoder, spec, MAE.Options(decoder={"width": 12, "depth": 1, "heads": 2}, **options))
    torch.nn.init.zeros_(method.predictor.heads["x"].weight)
    torch.nn.init.constant_(method.predictor.heads["x"].bias, value)
    values = torch.randn(3, 2, *shape, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(3, 1, *shape, dtype=torch.bool)
    valid[:, :, -1] = False
    ids = torch.arange(3)
    x = Dense(torch.where(valid, values, 0), valid, torch.ones(3, len(shape)))
    return method, Batch({"x": x}, ids, ids, ids, torch.ones(3), {})


@pytest.mark.parametrize(("shape", "patch"), [((10,), (2,)), ((9, 6), (3, 2)), ((5, 4, 4), (2, 2, 2))])
def test_visible_places_stay_and_hidden_ones_are_predicted(shape, patch):
    method, batch = made(shape, patch, 7.0, norm_target=False)
    with torch.inference_mode():
        out = method.reconstruct(batch, CTX)
    x = batch.inputs["x"]
    assert set(out) == {"x.original", "x.masked", "x.predicted"}
    valid = x.valid.expand_as(x.values)
    assert all(part.shape == x.values.shape for part in out.values())  # a padded last patch is cut off again
    torch.testing.assert_close(out["x.original"], torch.where(valid, x.values, torch.nan), equal_nan=True)
    visible, hidden = valid & ~out["x.masked"].isnan(), valid & out["x.masked"].isnan()
    assert torch.equal(out["x.masked"][visible], x.values[visible])
    assert torch.equal(out["x.predicted"][visible], x.values[visible])
    assert (out["x.predicted"][hidden] == 7.0).all()
    assert out["x.predicted"][~valid].isnan().all()
    # three quarters of the valid patches are hidden, and the mask is the one that a step sees
    cut = method.on_batch(batch, CTX)
    assert hidden.sum() == (cut.hidden["x"].elements).sum()
    assert torch.equal(
        out["x.masked"][visible].sort().values, cut.visible["x"].patches[cut.visible["x"].elements].sort().values
    )


def test_a_normalised_prediction_of_0_shows_the_patch_mean():
    method, batch = made((8,), (2,), 0.0)
    with torch.inference_mode():
        out = method.reconstruct(batch, CTX)
    # the valid patches of item 0 are cells 0-1, 2-3, 4-5 and the half patch 6; hidden ones show the mean over both channels
    x, hidden = batch.inputs["x"].values[0], out["x.masked"][0, 0].isnan()
    for cells in ([0, 1], [2, 3], [4, 5], [6]):
        if hidden[cells].all():
            expected = x[:, cells].mean().expand(2, len(cells))
            torch.testing.assert_close(out["x.predicted"][0][:, cells], expected, atol=1e-6, rtol=0)
    assert hidden[:7].any()
