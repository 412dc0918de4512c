"""Names of a flow table that become ids: the protocol, and the state of the connection."""

from __future__ import annotations

# the tokens of the input `kind`
KINDS = ("protocol", "state")
# IANA, Protocol Numbers: those that logs write as names
PROTOCOLS = {
    "icmp": 1, "igmp": 2, "ipip": 4, "tcp": 6, "udp": 17, "ipv6": 41, "gre": 47, "esp": 50, "ah": 51, "icmp6": 58,
    "ipv6-icmp": 58, "ospf": 89, "pim": 103, "vrrp": 112, "l2tp": 115, "sctp": 132,
}  # fmt: skip
# 0: unknown. Zeek's conn_state; then, where a log has TCP flags only, the last word among them
STATES = (
    "", "S0", "S1", "SF", "REJ", "S2", "S3", "RSTO", "RSTR", "RSTOS0", "RSTRH", "SH", "SHR", "OTH",
    "syn", "fin", "reset", "midstream",
)  # fmt: skip
# of an encoder: `vocabulary: {kind: [2, 256]}`
VOCABULARY = (len(KINDS), 256)
