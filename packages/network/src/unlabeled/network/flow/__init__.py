"""Packets to flows: bursts, statistics, tokens, shards."""
