"""The command `prenet`: the functions of `DataCube.prenet`, for files.

Each command imports py4DSTEM and torch only when it needs them, because both take seconds to load. The docstring of a
command is its help text.
"""

from .commands import app, main

__all__ = ["app", "main"]
