"""SiamMAE: its contract and oracles."""

from dataclasses import replace

import pytest
import torch

from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.batch import Dense
from unlabeled.core.methods.base import unchanged
from unlabeled.core.methods.siammae import SiamMAE
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.testing.method import CTX, Grids, MethodContract

DECODER = {"width": 16, "depth": 1, "heads": 2}


class TestSiamMAE(MethodContract):
    name = "siammae"
    shape = (6, 16, 16)
    encoder = ("tokens", {"width": 16, "depth": 2, "heads": 2, "patch": (1, 4, 4)})
    options = {"decoder": DECODER, "mask_ratio": 0.9, "gap": (1, 3)}


def method(**options):
    m = TestSiamMAE.method(**options).double()
    m.views = unchanged
    return m


def numbered(frames=6, items=8):
    """Clips in which every cell of a frame holds the frame's number."""
    batch = TestSiamMAE.batch()
    values = torch.arange(frames, dtype=torch.float64).view(1, 1, -1, 1, 1).expand(items, 2, frames, 16, 16)
    valid = torch.ones(items, 1, frames, 16, 16, dtype=torch.bool)
    return replace(
        batch.with_inputs(x=Dense(values, valid, torch.ones(items, 3, dtype=torch.float64))), weight=torch.ones(items)
    )


def test_a_later_frame_is_completed_from_an_earlier_one():
    m = method(mask_ratio=0.9)
    pair = m.on_batch(numbered(), CTX)
    # one frame of 16 patches each: int(16 * 0.1) = 1 seen, 15 hidden
    assert pair.visible["x"].patches.shape[1] == 1 and pair.hidden["x"].patches.shape[1] == 15
    later, earlier = pair.hidden["x"].patches[:, 0, 0], pair.reference["x"].patches[:, 0, 0]
    assert ((later - earlier >= 1) & (later - earlier <= 3)).all() and len(earlier.unique()) > 1
    for t, number in ((pair.hidden["x"], later), (pair.visible["x"], later), (pair.reference["x"], earlier)):
        assert (t.patches == number[:, None, None]).all()


def test_frames_are_told_no_time():
    # frame 0 of a clip is encoded as frame 5 of another is: the encoder is one of pictures
    m = method()
    pair = m.on_batch(numbered(), CTX)
    positions = [m.encoder.position("x", t.coords)[..., 0] for t in (pair.hidden["x"], pair.reference["x"])]
    assert all((p == 0).all() for p in positions)


def test_the_paper_hides_nineteen_of_twenty():
    # of 196 tokens int(196 * 0.05) = 9 stay
    specs = Grids((8, 56, 56)).specs
    encoder = TokenEncoder(specs, TokenEncoder.Options(width=16, depth=1, heads=2, patch=(1, 4, 4)))
    x = Dense(torch.zeros(1, 2, 8, 56, 56), torch.ones(1, 1, 8, 56, 56, dtype=torch.bool), torch.ones(1, 3), whole=True)
    one = torch.arange(1)
    batch = replace(TestSiamMAE.batch(), inputs={"x": x}, index=one, record=one, group=one, weight=torch.ones(1))
    pair = SiamMAE(encoder, specs, SiamMAE.Options()).on_batch(batch, CTX)
    assert [t["x"].patches.shape[1] for t in (pair.visible, pair.hidden, pair.reference)] == [9, 187, 196]
    assert all(t["x"].whole for t in (pair.visible, pair.hidden, pair.reference))


def test_a_clip_of_one_frame_is_completed_as_in_mae():
    m = method()
    batch = numbered(frames=1)
    batch = batch.with_inputs(x=replace(batch.inputs["x"], values=torch.randn(8, 2, 1, 16, 16, dtype=torch.float64)))
    pair = m.on_batch(batch, CTX)
    assert not pair.reference["x"].valid.any()
    wanted = m.step(pair, CTX)["loss"]
    torch.nn.init.zeros_(m.predictor.transformer.blocks[0].cross.proj.weight)
    torch.testing.assert_close(m.step(pair, CTX)["loss"], wanted, rtol=0, atol=1e-12)


def test_gradient_reaches_the_encoder_through_both_frames():
    m = method()
    pair = m.on_batch(TestSiamMAE.batch(), CTX)
    seen = [t["x"].patches.clone().requires_grad_() for t in (pair.reference, pair.visible)]
    shown = replace(
        pair,
        reference={"x": replace(pair.reference["x"], patches=seen[0])},
        visible={"x": replace(pair.visible["x"], patches=seen[1])},
    )
    through = torch.autograd.grad(m.step(shown, CTX)["loss"], seen)
    assert all((g[pair.weight > 0].abs().sum((1, 2)) > 0).all() for g in through)
    assert all((g[pair.weight == 0] == 0).all() for g in through)


def test_views_and_other_inputs_serve_where_there_is_no_time():
    specs = Grids((24,)).specs
    encoder = TokenEncoder(specs, TokenEncoder.Options(width=16, depth=1, heads=2, patch=(4,)))
    with pytest.raises(RequestError, match=r"method\.reference: the input 'x' has no frames"):
        SiamMAE(encoder, specs, SiamMAE.Options())
    m = SiamMAE(encoder, specs, SiamMAE.Options(reference="view", mask_ratio=0.8))
    assert m.pair(TestSiamMAE.batch(), CTX)[0].inputs["x"].rank == 3  # as CroCo: no frame is cut
    with pytest.raises(RequestError, match="'erlier' is unknown, did you mean 'earlier'"):
        SiamMAE(encoder, specs, SiamMAE.Options(reference="erlier"))
