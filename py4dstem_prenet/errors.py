"""The exceptions of this package."""

from .core.errors import PrenetError as PrenetError
