"""From files to batches. Only `loading` and `plans` import torch."""
