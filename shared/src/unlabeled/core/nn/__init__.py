"""Encoders, predictors, heads, and norms that reduce over ranks."""
