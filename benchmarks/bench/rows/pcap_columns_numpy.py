"""From a capture to the columns of its packets, without numba."""

from __future__ import annotations

import dataclasses
from functools import partial

from bench.rows import pcap_columns

ROW = dataclasses.replace(
    pcap_columns.ROW,
    difference="As `pcap-columns`, where ours is numpy alone.",
    target=0.33,
    make=partial(pcap_columns.pair, fast=False),
)
