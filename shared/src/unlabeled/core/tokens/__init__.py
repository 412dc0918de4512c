"""Tokens of every modality: patches of any rank, positions from physical coordinates, masks."""
