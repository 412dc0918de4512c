"""Downstream: tasks learned on top of an encoder."""
