"""The one exception for input that cannot be used."""


class PrenetError(ValueError):
    """Bad input. The message is one sentence: the fault, and what to do about it."""
