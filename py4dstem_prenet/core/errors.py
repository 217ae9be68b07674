"""The one exception for input that cannot be used."""


class PrenetError(ValueError):
    """Bad input. Its message is one clear sentence: what is wrong, and what to do about it."""
