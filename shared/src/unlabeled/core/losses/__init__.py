"""Losses: pure functions in at least fp32, one equation each."""
