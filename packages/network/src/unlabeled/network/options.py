"""Options of the reader: the recipe's `data.options`."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class ReaderOptions(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["captures", "tables", "urls"] | None = Field(
        None,
        description="what the files are: captures (and their shards), tables of flows, lists of URLs; none: by their endings",
    )
    group: Literal["capture", "folder", "slot"] = Field(
        "capture",
        description="what may not cross a split: the capture, the folder it lies in, or, within one long capture, the "
        "stretch of time a flow begins in; of URLs it is always the registered domain",
    )
    group_pattern: str | None = Field(
        None,
        description="regular expression with one group, searched in the relative path, that gives the group instead",
    )
    slot: float = Field(3600.0, gt=0, description="seconds of a stretch of time, for group: slot")
    bursts: int = Field(12, ge=1, le=255, description="of a flow, the first so many bursts become tokens")
    packets: int = Field(6, ge=1, le=255, description="of a burst, the first so many packets become tokens")
    gap: float = Field(0.01, ge=0, description="seconds; a longer gap within one direction begins a new burst")
    payload: bool = Field(
        False, description="the first 12 bytes of payload become tokens too; they may tell names and random numbers"
    )
    tcp_options: bool = Field(
        False, description="TCP options become tokens too; they hold clocks, which tell hosts apart"
    )
    min_packets: int = Field(1, ge=1, description="flows of fewer packets are left out, and counted")
    idle: float = Field(120.0, gt=0, description="seconds without a packet that end a TCP flow")
    idle_other: float = Field(60.0, gt=0, description="seconds without a packet that end any other flow")
    active: float = Field(1800.0, gt=0, description="seconds after which a flow ends, however busy")
    max_flows: int = Field(
        1_000_000, ge=1, description="flows that are kept open; beyond, the longest silent ones end, and are counted"
    )
    tunnels: bool = Field(
        True, description="look into GRE, VXLAN, IP in IP and 6in4; false: the outermost IP header counts"
    )
    tokenizer: str = Field("bytes", description="of URLs: bytes, or a tokenizer.json as the verb `tokenizer` makes it")
    length: int = Field(200, ge=8, description="of a URL, the first so many tokens")

    @field_validator("group_pattern")
    @classmethod
    def _one_group(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            try:
                groups = re.compile(pattern).groups
            except re.error as error:
                raise ValueError(f"not a regular expression ({error})") from None
            if groups != 1:
                raise ValueError(f"the pattern has {groups} groups and needs one, as in '(site[0-9]+)'")
        return pattern
