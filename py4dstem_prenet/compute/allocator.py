"""What glibc's allocator does with freed memory; on other systems nothing here does anything.

Left alone it hands the memory of every intermediate image back to the system and asks for it again, page by page, which
takes an eighth of the time of denoising; and it keeps pieces of every thread's memory for ever, which over hundreds of
blocks of ever other sizes grow to more than all that is in use.
"""

import ctypes
from functools import cache

KEPT = 2**28  # bytes, free at the end of a heap, that stay there until `give_back`
LARGE = 2**25  # bytes of an array from which it gets pages of its own; the most that glibc takes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


@cache
def keep():
    """Have freed memory kept for what comes next, in this process from now on."""
    mallopt = _function("mallopt")
    mallopt(_M_TRIM_THRESHOLD, KEPT)
    mallopt(_M_MMAP_THRESHOLD, LARGE)


def give_back():
    """Hand all memory that is free back to the system."""
    _function("malloc_trim")(0)


@cache
def _function(name):
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):  # not glibc
        return lambda *_: 0
