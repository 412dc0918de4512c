"""A training step of MAE with our default decoder."""

from __future__ import annotations

from functools import partial

from bench import mae
from bench.row import Row

ROW = Row(
    what="As `mae-step`, but with our default decoder, 128 wide, 2 blocks.",
    peer_name="lightly's MAE example on timm's ViT-S",
    difference="The decoders differ: this says what a user of the defaults waits for, not who is faster.",
    make=partial(mae.pair, decoder=None),
)
