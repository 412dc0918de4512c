"""Captures without addresses."""
