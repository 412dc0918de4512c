"""Whether shortcuts alone have the score."""
