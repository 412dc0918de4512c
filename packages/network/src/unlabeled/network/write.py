"""Predictions as labelled flows: a Parquet table, and a log as Zeek writes it.

Addresses are anonymised by default (Crypto-PAn), with the key in UNLABELED_NETWORK_KEY or, where that is not set, one that is
drawn for this output and forgotten. UNLABELED_NETWORK_ADDRESSES=plain writes them as they are.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unlabeled.core.contracts import RequestError
from unlabeled.core.downstream.model import Model
from unlabeled.core.downstream.write import Predictions, Record
from unlabeled.network import kinds
from unlabeled.network.capture.packets import ICMP, ICMP6, TCP, UDP
from unlabeled.network.flow.flows import Flows
from unlabeled.network.privacy.crypto_pan import CryptoPAn
from unlabeled.network.privacy.key_file import SIZE, VARIABLE, read_key
from unlabeled.network.read import Reader

ADDRESSES = "UNLABELED_NETWORK_ADDRESSES"
KNOWN = 1_000_000  # addresses whose images are kept
ZEEK = {
    **{"ts": "time", "uid": "string", "id.orig_h": "addr", "id.orig_p": "port", "id.resp_h": "addr", "id.resp_p": "port"},
    **{"proto": "enum", "service": "string", "duration": "interval", "orig_bytes": "count", "resp_bytes": "count"},
    **{"conn_state": "string", "orig_pkts": "count", "orig_ip_bytes": "count", "resp_pkts": "count", "resp_ip_bytes": "count"},
    **{"label": "string", "probability": "double"},
}  # fmt: skip
PROTOCOLS = {TCP: "tcp", UDP: "udp", ICMP: "icmp", ICMP6: "icmp"}


@dataclass(frozen=True)
class Labelled:
    """One flow with what is said of it. start, end: ns; ends, packets, bytes, payload: of the client, then of the server."""

    key: str
    start: int
    end: int
    protocol: int
    hosts: tuple[str, str]
    ports: tuple[int, int]
    packets: tuple[int, int]
    bytes: tuple[int, int]
    payload: tuple[int, int]
    label: str
    probability: float | None


def flows(model: Model, predictions: Predictions, out: Path) -> None:
    """`flows.parquet`: one row for each flow, in the order of the predictions. Raises RequestError where there are no flows."""
    rows = list(_labelled(predictions))
    both = {"packets": pa.int64(), "bytes": pa.int64(), "payload": pa.int64()}
    columns: dict[str, pa.Array] = {
        "key": pa.array([r.key for r in rows], pa.string()),
        "start": pa.array([r.start for r in rows], pa.timestamp("ns", "UTC")),
        "duration": pa.array([(r.end - r.start) / 1e9 for r in rows], pa.float64()),  # s
        "protocol": pa.array([r.protocol for r in rows], pa.uint8()),
    }
    for i, end in enumerate(("client", "server")):
        columns[end] = pa.array([r.hosts[i] for r in rows], pa.string())
        columns[f"{end} port"] = pa.array([r.ports[i] for r in rows], pa.uint16())
        columns |= {f"{end} {name}": pa.array([getattr(r, name)[i] for r in rows], kind) for name, kind in both.items()}
    columns["label"] = pa.array([r.label for r in rows], pa.string())
    columns["probability"] = pa.array([r.probability for r in rows], pa.float64())
    pq.write_table(pa.table(columns), out / "flows.parquet")


def zeek(model: Model, predictions: Predictions, out: Path) -> None:
    """`conn.log`, as Zeek's with two columns more: label and probability. uid is the key; service and conn_state are unset."""
    head = ["#separator \\x09", "#set_separator\t,", "#empty_field\t(empty)", "#unset_field\t-", "#path\tconn"]
    head += ["#fields\t" + "\t".join(ZEEK), "#types\t" + "\t".join(ZEEK.values())]
    with (out / "conn.log").open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(line + "\n" for line in head)
        for r in _labelled(predictions):
            proto = PROTOCOLS.get(r.protocol, "unknown_transport")
            probability = "-" if r.probability is None else f"{r.probability:.6f}"
            values = (
                *(f"{r.start // 10**9}.{r.start % 10**9 // 1000:06d}", _text(r.key)),
                *(r.hosts[0], r.ports[0], r.hosts[1], r.ports[1]),
                *(proto, "-", f"{(r.end - r.start) / 1e9:.6f}", *r.payload, "-"),
                *(r.packets[0], r.bytes[0], r.packets[1], r.bytes[1]),
                *(_text(r.label), probability),
            )
            file.write("\t".join(map(str, values)) + "\n")


def _text(value: str) -> str:
    """Without what would end a field or a line, as Zeek escapes it; a lone - or nothing would read as unset."""
    escaped = "".join(f"\\x{ord(c):02x}" if ord(c) < 32 or c == "\\" else c for c in value)
    return {"-": "\\x2d", "": "(empty)"}.get(escaped, escaped)


def _labelled(predictions: Predictions) -> Iterator[Labelled]:
    corpus = predictions.corpus
    if corpus is None or not isinstance(corpus.reader, Reader):
        raise RequestError("the formats flows and zeek need the captures that were read; choose parquet or csv")
    rows = {row.key: row for row in corpus.rows}
    mapping = _mapping()
    for record in predictions.records:
        row = rows[record.key]
        file = corpus.file(row)
        if kinds.kind(file) != "captures":
            raise RequestError("the formats flows and zeek are of captures; choose parquet or csv for tables and URLs")
        yield _one(corpus.reader.flows(file), row.part, record, mapping)


def _one(flows: Flows, at: int, record: Record, mapping: Callable[[bytes], bytes]) -> Labelled:
    pairs = [tuple(getattr(flows, name)[at].tolist()) for name in ("packets", "bytes", "payload")]
    said = record.prediction
    label = said if isinstance(said, str) else "" if said is None else f"{said:.6g}"
    version = int(flows.version[at])
    client, server = (_host(end[at].tolist(), version, mapping) for end in (flows.src, flows.dst))
    return Labelled(
        key=record.key,
        start=int(flows.start[at]),
        end=int(flows.end[at]),
        protocol=int(flows.protocol[at]),
        hosts=(client, server),
        ports=(int(flows.sport[at]), int(flows.dport[at])),
        packets=pairs[0],
        bytes=pairs[1],
        payload=pairs[2],
        label=label,
        probability=(record.probabilities or {}).get(label),
    )


def _mapping() -> Callable[[bytes], bytes]:
    """What the environment asks to be done with an address of 4 or 16 bytes."""
    asked = os.environ.get(ADDRESSES, "")
    if asked not in ("", "plain"):
        raise RequestError(f"{ADDRESSES}={asked} is unknown; set it to plain, or leave it out to anonymise addresses")
    if asked:
        return bytes
    image = CryptoPAn(read_key(None) if os.environ.get(VARIABLE) else secrets.token_bytes(SIZE))
    return lru_cache(KNOWN)(lambda address: image(np.frombuffer(address, np.uint8)[None])[0].tobytes())


def _host(halves: list[int], version: int, mapping: Callable[[bytes], bytes]) -> str:
    width = 4 if version == 4 else 16
    address = mapping((halves[0] << 64 | halves[1]).to_bytes(16, "big")[-width:])
    return str(IPv4Address(address) if width == 4 else IPv6Address(address))
