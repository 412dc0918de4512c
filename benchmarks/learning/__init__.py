"""Learning, not only running: every method on scikit-learn's digits at one budget, beside random weights and lightly."""
