"""The old place of `disk_fit` and `ring_fit`."""

from .disk_fit import fit_disk  # noqa: F401
