"""How much memory reading may hold."""

import os
from pathlib import Path

import psutil

from .errors import PrenetError

MEMORY = "PY4DSTEM_PRENET_MEMORY"


def budget():
    """Bytes that reading may hold: a quarter of what is free, or PY4DSTEM_PRENET_MEMORY (GiB)."""
    given = os.environ.get(MEMORY)
    if given is None:
        return _free() // 4
    try:
        size = int(float(given) * 2**30)
    except (ValueError, OverflowError):
        size = 0
    if size <= 0:
        raise PrenetError(f"{MEMORY} must be a positive number of GiB, not {given!r}.")
    return size


def _free():
    """Bytes of free memory, of the machine or of the control group (a container's, a batch job's) we run in."""
    free = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    try:
        free = min(free, int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # no such group, or no limit ("max")
        pass
    return max(free, 2**26)
