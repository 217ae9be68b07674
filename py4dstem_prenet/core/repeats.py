"""Results of costly functions, remembered for the last few inputs, so that checks and reports do not repeat them."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import fields, is_dataclass
from functools import wraps

import numpy as np

MAX_REMEMBERED = 16  # results of a function; most that are kept, which are masks and numbers of some scans


def remembered(function):
    """Let a function return its previous result if it is called with equal arguments, for its last inputs.

    Parameters
    ----------
    function : callable
        A function whose result depends only on its arguments: arrays, dataclasses, and what `repr` shows in full. The
        result is shared, so callers must not change it.

    Returns
    -------
    callable
        The same function of positional arguments. It keeps the results and the SHA-256 of the arguments, not the
        arguments.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.core import remembered
    >>> calls = []
    >>> total = remembered(lambda values: calls.append(1) or values.sum())
    >>> total(np.arange(4)), total(np.arange(4)), total(np.arange(5)), len(calls)
    (6, 6, 10, 2)
    """
    results = OrderedDict()  # by the SHA-256 of the arguments

    @wraps(function)
    def _remembering(*arguments):
        content = hashlib.sha256()
        _add(content, arguments)
        key = content.digest()
        result = results.pop(key, None)
        if result is None:
            result = function(*arguments)
        results[key] = result  # the last one
        if len(results) > MAX_REMEMBERED:
            results.popitem(last=False)
        return result

    return _remembering


def _add(content, value):
    """Add a value to a hash, with its type or shape, so that different values differ."""
    if isinstance(value, np.ndarray):
        content.update(f"{value.dtype.str}{value.shape}".encode())
        content.update(value.tobytes())
    elif isinstance(value, (tuple, list)):
        content.update(f"{len(value)} values".encode())
        for part in value:
            _add(content, part)
    elif is_dataclass(value):
        _add(content, [getattr(value, field.name) for field in fields(value)])
    else:
        content.update(f"{value!r};".encode())
