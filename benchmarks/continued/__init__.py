"""Continued pretraining: what is kept of a first real set, and learned of a second, under three schedules."""
