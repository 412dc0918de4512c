"""Evaluation: what frozen embeddings are worth, by neighbours and by small heads."""
