"""Pairs of frames of a clip."""

import pytest
import torch
import torch.nn.functional as F

from unlabeled.core.contracts.batch import Dense
from unlabeled.core.streams import uniform
from unlabeled.core.tokens.frames import frame_pair


def clips(frames, valid=None, items=2000, whole=False):
    """Every cell of a frame holds the frame's number."""
    values = torch.arange(frames, dtype=torch.float64).view(1, 1, -1, 1, 1).expand(items, 1, frames, 2, 2)
    valid = torch.ones(items, 1, frames, 2, 2, dtype=torch.bool) if valid is None else valid
    return Dense(values, valid, torch.ones(items, 3, dtype=torch.float64), whole)


def draws(items=2000):
    return uniform(7, torch.arange(items), (2,))


def test_gaps_are_uniform_and_frames_lie_in_the_clip():
    later, earlier = (x.values[:, 0, 0, 0, 0] for x in frame_pair(clips(10), draws(), (2, 5)))
    gap = later - earlier
    # 500 of 2000 each, deviation sqrt(2000 * 1/4 * 3/4) = 19
    assert sorted(gap.unique().tolist()) == [2, 3, 4, 5]
    assert all(abs((gap == g).sum() - 500) < 80 for g in (2, 3, 4, 5))
    assert earlier.min() == 0 and later.max() == 9


def test_a_short_clip_gives_its_first_and_last_frame():
    # the paper's 4 to 48 frames, of 4 frames
    later, earlier = frame_pair(clips(4), draws(), (4, 48))
    assert (later.values == 3).all() and (earlier.values == 0).all()
    assert later.valid.all() and earlier.valid.all()


def test_one_frame_has_no_earlier_one():
    later, earlier = frame_pair(clips(1, whole=True), draws(), (1, 3))
    assert later.valid.all() and not earlier.valid.any() and not earlier.whole
    assert all(x.whole for x in frame_pair(clips(2, whole=True), draws(), (1, 3)))


@pytest.mark.parametrize(("length", "frames"), [(2, 6), (2, 3), (3, 2)])
def test_pieces_of_several_frames_never_overlap(length, frames):
    # a piece is as long as the encoder's patch; clips too short for two pieces have no earlier one
    later, earlier = frame_pair(clips(frames), draws(), (1, 2), length)
    assert later.values.shape == (2000, 1, length, 2, 2)
    if frames >= 2 * length:
        gap = later.values[:, 0, 0, 0, 0] - earlier.values[:, 0, 0, 0, 0]
        assert (gap == 2).all() and earlier.valid.all()
    else:
        assert not earlier.valid.any()
    # a third frame that is not there is invalid
    assert later.valid[0, 0, :, 0, 0].tolist() == [True] * min(length, frames) + [False] * (
        length - min(length, frames)
    )


def test_padding_moves_no_frame():
    valid = torch.ones(50, 1, 7, 2, 2, dtype=torch.bool)
    valid[::2, :, :2] = valid[::3, :, 5:] = False  # some clips begin late or end early
    plain = clips(7, valid, 50)
    far = (0, 1, 0, 1, 3, 4)
    wide = Dense(F.pad(plain.values + 3, far) - 3, F.pad(valid, far), plain.spacing)
    for one, other in zip(*(frame_pair(x, draws(50), (1, 3)) for x in (plain, wide)), strict=True):
        assert torch.equal(F.pad(one.valid, (0, 1, 0, 1)), other.valid)
        assert torch.equal(one.values[one.valid], other.values[other.valid])
        assert one.valid.all()
