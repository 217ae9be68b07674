"""Free memory of the machine and of control groups; memory of batches that is used again and given back."""

import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from py4dstem_prenet.compute import allocator
from py4dstem_prenet.core import memory

FAULTS = """
import resource
import numpy as np
from py4dstem_prenet.compute import allocator

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
allocator.keep_memory()
faults()
kept = faults()
held = resident()
allocator.give_back_memory()
print(alone, kept, held - resident())
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.parametrize("wanted", [None, "0", "1"])
def test_memory_of_batches_is_kept_only_if_the_user_asks(wanted, monkeypatch):
    monkeypatch.delenv(allocator.KEEP_MEMORY, raising=False)
    if wanted is not None:
        monkeypatch.setenv(allocator.KEEP_MEMORY, wanted)
    run = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    before, after, returned = map(int, run.stdout.split())
    assert before > 1000  # pages of 4 kB: each array has a thousand
    assert after < 100 if wanted == "1" else after > 1000
    assert returned > 15e6 or wanted != "1"


GIB = 2**30


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A tree of `proc` and `sys` for a machine with 64 GiB free, and a function that writes a file of it."""
    monkeypatch.delenv(memory.MEMORY, raising=False)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=64 * GIB))

    def write(path, content):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f"{content}\n")

    return tmp_path, write


def test_without_control_groups_the_machine_counts(machine):
    root, write = machine
    assert memory.budget(root) == 16 * GIB
    write("proc/self/cgroup", "0::/user.slice\n12:cpu,cpuacct:/job")
    write("sys/fs/cgroup/user.slice/memory.max", "max")
    write("sys/fs/cgroup/user.slice/memory.current", 5 * GIB)
    assert memory.budget(root) == 16 * GIB


def test_the_smallest_of_nested_groups_v2_counts(machine):
    root, write = machine
    write("proc/self/cgroup", "0::/slurm/job_7/step_0")
    for group, limit, usage in ((".", 60, 20), ("slurm", 48, 18), ("slurm/job_7", 12, 4),
                                ("slurm/job_7/step_0", 32, 4)):
        write(f"sys/fs/cgroup/{group}/memory.max", limit * GIB)
        write(f"sys/fs/cgroup/{group}/memory.current", usage * GIB)
    assert memory.budget(root) == 2 * GIB
    write("sys/fs/cgroup/slurm/job_7/memory.stat", f"anon 5\ninactive_file {GIB}")  # cache that can be freed
    assert memory.budget(root) == 9 * GIB // 4
    write("sys/fs/cgroup/slurm/job_7/memory.current", 13 * GIB)
    assert memory.budget(root) == memory._MIN_FREE // 4


def test_groups_v1_count(machine):
    root, write = machine
    write("proc/self/cgroup", "11:cpuset:/slurm\n9:hugetlb,memory:/slurm/uid_1/job_7\n0::/unified")
    write("sys/fs/cgroup/memory/memory.limit_in_bytes", 2**63 - 4096)  # no limit
    write("sys/fs/cgroup/memory/memory.usage_in_bytes", 30 * GIB)
    write("sys/fs/cgroup/memory/slurm/uid_1/memory.limit_in_bytes", 10 * GIB)
    write("sys/fs/cgroup/memory/slurm/uid_1/memory.usage_in_bytes", 2 * GIB)
    assert memory.budget(root) == 2 * GIB
    write("sys/fs/cgroup/memory/slurm/uid_1/job_7/memory.limit_in_bytes", 6 * GIB)
    write("sys/fs/cgroup/memory/slurm/uid_1/job_7/memory.usage_in_bytes", 2 * GIB)
    assert memory.budget(root) == GIB


def test_a_container_sees_its_own_group_as_the_root(machine):
    root, write = machine
    write("proc/self/cgroup", "9:memory:/docker/4f2a")
    write("sys/fs/cgroup/memory/memory.limit_in_bytes", 8 * GIB)
    write("sys/fs/cgroup/memory/memory.usage_in_bytes", 4 * GIB)
    assert memory.budget(root) == GIB
