"""Options of the reader: the recipe's `data.options`."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class ReaderOptions(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="names of the wanted channels, in order; none: every column that is not time, "
        "recording, subject or side",
    )
    units: dict[str, str] = Field(
        default_factory=dict,
        description="unit of each channel by name or pattern (`acc_*: g`), where the file says none",
    )
    rate: float | None = Field(
        None, gt=0, le=1e5, description="sampling rate in Hz; none: from the time column or the file's own metadata"
    )
    time_unit: Literal["s", "ms", "us", "ns"] = Field("s", description="unit of a numeric time column")
    delimiter: str = Field(",", min_length=1, max_length=1, description="what separates the columns of a CSV")
    max_gap: float = Field(
        60.0,
        gt=0,
        description="seconds; a longer gap between two rows splits the recording, a shorter one is marked invalid",
    )
    subject_pattern: str | None = Field(
        None, description="regular expression with one group, searched in the relative path, that gives the subject"
    )
    one_file_one_subject: bool = Field(
        False,
        description="every file is a subject of its own; untrue, it lets one person stand on both sides of a split",
    )
    source: str = Field("wrist", min_length=1, description="name of the sensor where the files name none")
    unit_gate: bool = Field(
        True, description="accelerometers must measure about 1 g at rest; false where gravity was removed"
    )

    @field_validator("channels")
    @classmethod
    def _once(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if names and len(set(names)) < len(names):
            raise ValueError("a channel is named twice")
        return names

    @field_validator("subject_pattern")
    @classmethod
    def _one_group(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            try:
                groups = re.compile(pattern).groups
            except re.error as error:
                raise ValueError(f"not a regular expression ({error})") from None
            if groups != 1:
                raise ValueError(f"the pattern has {groups} groups and needs one, as in '(s[0-9]+)'")
        return pattern
