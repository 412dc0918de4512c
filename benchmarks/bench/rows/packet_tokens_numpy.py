"""From the packets of flows to tokens, without numba."""

from __future__ import annotations

import dataclasses
from functools import partial

from bench.rows import packet_tokens

ROW = dataclasses.replace(
    packet_tokens.ROW,
    difference="As `packet-tokens`, where ours is numpy alone.",
    target=None,
    make=partial(packet_tokens.pair, fast=False),
)
