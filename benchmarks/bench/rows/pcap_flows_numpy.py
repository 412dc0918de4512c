"""From a capture to flows with bursts, without numba."""

from __future__ import annotations

import dataclasses
from functools import partial

from bench.rows import pcap_flows

ROW = dataclasses.replace(
    pcap_flows.ROW,
    difference="As `pcap-flows`, where ours is numpy alone.",
    target=0.5,
    make=partial(pcap_flows.pair, fast=False),
)
