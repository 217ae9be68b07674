"""Optionally keep freed memory in the process, to denoise faster on Linux.

glibc returns the memory of every large array to the system when the array is freed, and requests it again, page by
page, for the next one. With the environment variable PY4DSTEM_PRENET_KEEP_MEMORY=1 the process keeps it instead
(`mallopt`: M_TRIM_THRESHOLD and M_MMAP_THRESHOLD). The setting changes the allocator of the whole process, also for the
user's own arrays, and stays until the process ends; the process holds up to MAX_FREE_HEAP_BYTES per heap more than it
uses. Without the variable, and with other C libraries, the allocator is left as it is.

Source: glibc manual, "Malloc Tunable Parameters"; `man 3 mallopt`, `man 3 malloc_trim`.
"""

import ctypes
import os
from functools import cache

KEEP_MEMORY = "PY4DSTEM_PRENET_KEEP_MEMORY"  # name of the environment variable; "1" keeps freed memory
MAX_FREE_HEAP_BYTES = 2**28  # bytes; most free memory at the end of a heap that is kept until `give_back_memory`
MIN_MAPPED_BYTES = 2**25  # bytes; smallest array that gets pages of its own, the largest value that glibc accepts

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


@cache
def keep_memory():
    """Keep freed memory in this process from now on, if PY4DSTEM_PRENET_KEEP_MEMORY is 1."""
    if os.environ.get(KEEP_MEMORY) == "1":
        mallopt = _function("mallopt")
        mallopt(_M_TRIM_THRESHOLD, MAX_FREE_HEAP_BYTES)
        mallopt(_M_MMAP_THRESHOLD, MIN_MAPPED_BYTES)


def give_back_memory():
    """Return all free memory to the system; no setting is changed."""
    _function("malloc_trim")(0)


@cache
def _function(name):
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):  # not glibc
        return lambda *_: 0
