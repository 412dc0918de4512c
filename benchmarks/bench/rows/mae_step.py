"""A training step of MAE with lightly's decoder on both sides."""

from __future__ import annotations

from functools import partial

from bench import mae
from bench.row import Row

ROW = Row(
    what="A whole training step of MAE in fp32: ViT-S/16 at 224 px, 75 % hidden, decoder 512 wide, 1 block, 16 heads; "
    "16 images on a CPU, 256 on a GPU.",
    peer_name="lightly's MAE example on timm's ViT-S",
    like_for_like=True,
    difference="Same tokens, same predictions, same loss. Ours projects visible patches only, lets only hidden tokens ask "
    "in the decoder's last block, and has the fused AdamW and the guard; the peer has torch's AdamW as it comes.",
    target=0.90,
    make=partial(mae.pair, decoder=mae.EXAMPLE),
)
