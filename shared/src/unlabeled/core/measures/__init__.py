"""Measures: pure functions of predictions and embeddings, used live and after."""
