"""Pretraining methods: one file is one paper, one short class that calls parts."""
