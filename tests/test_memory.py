"""Memory of batches is used again, and given back at the end."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import numpy as np
from py4dstem_prenet import memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        arrays = [np.ones(2**19) for _ in range(6)]
        del arrays
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

alone = faults()
memory.keep()
faults()
kept = faults()
held = resident()
memory.give_back()
print(alone, kept, held - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_of_batches_is_used_again_and_given_back():
    run = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    alone, kept, given = map(int, run.stdout.split())
    assert alone > 1000  # pages of 4 kB: each array has a thousand
    assert kept < 100
    assert given > 15e6
