"""Targets: what a prediction is compared with."""
