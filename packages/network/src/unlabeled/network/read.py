"""Files -> Samples: one for each flow of a capture, each row of a flow table, each URL of a list."""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from unlabeled.core.contracts import BadInput, Input, Sample
from unlabeled.core.contracts.sample import UNIT_OF_IDS
from unlabeled.network import kinds
from unlabeled.network.flow.assemble import flows_of
from unlabeled.network.flow.fields import CHANNELS
from unlabeled.network.flow.flows import Flows
from unlabeled.network.flow.shards import open_shard
from unlabeled.network.options import ReaderOptions

log = logging.getLogger(__name__)

KEPT_BYTES = 1 << 30  # of flows of captures that are kept; a flow takes about 1 kB


class Reader:
    """Reads captures (one Sample for each flow), tables of flows (each row) and lists of URLs (each line).

    A flow's input `x` is packed: (L, 3) bytes `field`, `high`, `low` of its tokens, at (burst, packet, place). Its key is
    the capture's path relative to the folder given to `files`, without endings, then # and the flow's number. No address,
    port or name is in an input or a key. meta, which is never written: `statistics` and `shortcuts` (see there), `start`.
    """

    def __init__(self, options: ReaderOptions | None = None, root: Path | None = None) -> None:
        self.options = options or ReaderOptions()
        self._root = root.parent if root and root.is_file() else root
        self._kept: OrderedDict[Path, tuple[Flows, tuple[str, ...]]] = OrderedDict()
        self._rows: tuple[Path, Sequence[Sample]] | None = None

    def files(self, root: Path) -> list[Path]:
        """Every readable file below `root`, sorted; keys are relative to it. Raises RequestError for mixed kinds."""
        self._root = root.parent if root.is_file() else root
        return kinds.files(root, self.options)

    def read(self, path: Path) -> Iterator[Sample]:
        """The flows or URLs of one file, in its order.

        Raises BadInput in one sentence that names the file, the fault and the mend.
        """
        if kinds.kind(path) != "captures":
            yield from self._table(path)
            return
        flows, flags = self._flows(path)
        wanted = np.flatnonzero(flows.packets.sum(1) >= self.options.min_packets)
        if len(wanted) < len(flows):
            flags = (
                *flags,
                f"{len(flows) - len(wanted)} flows of less than {self.options.min_packets} packets left out",
            )
        if not len(wanted):  # there is no record to hang the flags on
            log.warning("%s: %s", self._name(path), "; ".join(["no flow in this capture", *flags]))
        for n, at in enumerate(wanted):
            yield self._flow(path, flows, int(at), () if n else flags)

    def part(self, path: Path, part: int) -> Sample:
        """Record `part` of a file. Raises BadInput where the file no longer has it."""
        if kinds.kind(path) != "captures":
            rows = self._table(path)
            if part < len(rows):
                return rows[part]
        else:
            flows, _ = self._flows(path)
            if part < len(flows):
                return self._flow(path, flows, part, ())
        raise BadInput(f"{self._name(path)} changed since it was scanned; scan it again")

    def flows(self, path: Path) -> Flows:
        """All that is known of the flows of a capture, addresses too; row n is record n. Raises BadInput as `read`."""
        return self._flows(path)[0]

    def key(self, path: Path, number: int) -> str:
        """The key of a flow by its number in its capture."""
        return f"{kinds.stem(self._name(path))}#{number}"

    def _name(self, path: Path) -> str:
        root = self._root
        return path.relative_to(root).as_posix() if root and path.is_relative_to(root) else path.name

    def _table(self, path: Path) -> Sequence[Sample]:
        """The rows of a table or list; those of the last file are kept."""
        if self._rows is None or self._rows[0] != path:
            from unlabeled.network.table import rows as tables
            from unlabeled.network.url import lists as url_lists

            read = url_lists.read if kinds.kind(path) == "urls" else tables.read
            self._rows = path, read(path, self._name(path), self.options)
        return self._rows[1]

    def _flows(self, path: Path) -> tuple[Flows, tuple[str, ...]]:
        """The flows of a capture or shard, and what is to be said of it; those read last are kept."""
        if path in self._kept:
            self._kept.move_to_end(path)
            return self._kept[path]
        if path.name.endswith(kinds.SHARD):
            made: tuple[Flows, tuple[str, ...]] = open_shard(path), ()
        else:
            flows, counts, said = flows_of(path, self.options)
            made = flows, (*said, *(f"{what}: {n}" for what, n in sorted(counts.items())))
        self._kept[path] = made
        while len(self._kept) > 1 and sum(_size(f) for f, _ in self._kept.values()) > KEPT_BYTES:
            self._kept.popitem(last=False)
        return made

    def _flow(self, path: Path, flows: Flows, at: int, flags: tuple[str, ...]) -> Sample:
        tokens = slice(int(flows.offsets[at]), int(flows.offsets[at + 1]))
        values, valid = flows.tokens[tokens], flows.valid[tokens]
        start = int(flows.start[at])
        about = (start, int(flows.end[at]), *flows.bytes[at].tolist())
        return Sample(
            inputs={
                "x": Input(
                    data=values[:, :3],
                    channels=CHANNELS,
                    units=(UNIT_OF_IDS,) * len(CHANNELS),
                    layout="packed",
                    unit="place",
                    valid=None if valid.all() else valid,
                    coords=values[:, 3:].astype(np.float64),
                )
            },
            key=self.key(path, int(flows.number[at])),
            group=self.group(path, start),
            index=at,
            meta={
                "flags": list(flags),
                "statistics": flows.statistics[at],
                "shortcuts": flows.shortcuts[at],
                "start": start,
                # look-ups of one name look all alike; the same packets in two files do not differ by a nanosecond
                "identity": repr(about).encode(),
            },
        )

    def group(self, path: Path, start: int) -> str:
        """What a flow that begins at `start` ns shares with those that may stand on no other side of a split.

        Raises BadInput where options.group_pattern is not found in the path.
        """
        name, options = self._name(path), self.options
        if options.group_pattern is not None:
            found = re.search(options.group_pattern, name)
            if not found or not found[1]:
                raise BadInput(
                    f"{name}: options.group_pattern finds no group in this path; correct the pattern or the file's name"
                )
            return found[1]
        if options.group == "folder":
            return str(Path(name).parent)
        capture = kinds.stem(name)
        return f"{capture}@{int(start // (options.slot * 1e9))}" if options.group == "slot" else capture


def _size(flows: Flows) -> int:
    return sum(getattr(flows, name).nbytes for name in flows.__dataclass_fields__)
