"""Freed memory stays with the process: counted in the kernel's page faults, in a process of its own."""

import subprocess
import sys

import pytest

CALL = """
import resource, torch
from unlabeled.core.training.memory import keep_freed
assert {keep} is False or keep_freed()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(12):  # an aligned piece needs a slightly larger one to be cut from, which neighbours make in time
    torch.ones(1 << 24).sum()
before = faults()
for _ in range(4):
    torch.ones(1 << 24).sum()
print(faults() - before)
"""


def faults(keep):
    """Page faults of four tensors of 64 MB, one after the other, after twelve."""
    done = subprocess.run([sys.executable, "-c", CALL.format(keep=keep)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_freed_memory_is_used_again():
    # 64 MB are 16,384 pages of 4 KB, or 32 of 2 MB where the kernel has large ones
    assert faults(keep=True) <= 16
    assert faults(keep=False) >= 4 * 32
