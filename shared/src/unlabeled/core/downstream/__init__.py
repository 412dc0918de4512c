"""Downstream: tasks learned on top of an encoder, from labels to predictions."""
