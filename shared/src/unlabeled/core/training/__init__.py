"""Training: the optimiser step and the two loops that drive it, checkpoints, guard, log."""
