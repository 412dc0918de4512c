"""What the contract of methods needs."""

import torch

from unlabeled.core.testing.fixtures import two_ranks as two_ranks

torch.set_num_threads(1)
