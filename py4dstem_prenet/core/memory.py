"""Find out how much memory reading may use.

A batch job or a container may have less memory than the machine: Linux limits it by control groups, of which a process
has a nested path. The memory that is free is the least over the machine and all groups of that path, for version 1
(`memory.limit_in_bytes`) and version 2 (`memory.max`) of control groups.

Source: Linux kernel documentation, "Control Group v2" and "Memory Resource Controller" (v1); `man 7 cgroups`.
"""

import os
from pathlib import Path

import psutil

from . import PrenetError

MEMORY = "PY4DSTEM_PRENET_MEMORY"  # GiB; name of the environment variable with the largest memory for reading

_MIN_FREE = 2**26  # bytes; smallest free memory that is assumed, so that reading continues in small blocks
# Where the groups are mounted; names of the limit, of the usage, and in memory.stat of the page cache that can be freed
_V2 = ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file")
_V1 = ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def budget(root="/"):
    """Return the memory that reading may use.

    Parameters
    ----------
    root : str or pathlib.Path, optional
        Folder that holds `proc` and `sys`; another one than "/" is for tests.

    Returns
    -------
    int
        Bytes: the value of the environment variable PY4DSTEM_PRENET_MEMORY (GiB), or a quarter of the free memory.

    Raises
    ------
    PrenetError
        If PY4DSTEM_PRENET_MEMORY is not a positive number.

    Examples
    --------
    >>> budget() > 0
    True
    """
    limit_gib = os.environ.get(MEMORY)
    if limit_gib is None:
        return _free(Path(root)) // 4
    try:
        size = int(float(limit_gib) * 2**30)
    except (ValueError, OverflowError):
        size = 0
    if size <= 0:
        raise PrenetError(f"{MEMORY} must be a positive number of GiB, not {limit_gib!r}.")
    return size


def _free(root):
    """Return the free memory, bytes: the smallest of the machine's and of the process' control groups'."""
    free = min([psutil.virtual_memory().available, *(_free_in(*group) for group in _groups(root))])
    return max(free, _MIN_FREE)


def _groups(root):
    """Yield the control groups of this process up to each root, as (folder, names of the files and entries)."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        hierarchy, controllers, path = line.split(":", 2)
        if hierarchy == "0":
            mount, *names = _V2
        elif "memory" in controllers.split(","):
            mount, *names = _V1
        else:
            continue
        inside = Path(path.lstrip("/"))
        for group in (inside, *inside.parents):  # the last parent is ".", the root of the hierarchy
            yield root / mount / group, *names


def _free_in(folder, limit, usage, cache):
    """Return the bytes that a control group may still use; infinite if it has no limit or cannot be read."""
    try:
        free = int((folder / limit).read_text()) - int((folder / usage).read_text())
    except (OSError, ValueError):  # no such group (a container sees its own as the root), or "max"
        return float("inf")
    try:
        entries = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return free + int(entries.get(cache, 0))
    except (OSError, ValueError):
        return free
