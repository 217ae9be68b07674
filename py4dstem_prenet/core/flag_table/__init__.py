"""The table of flags, a module for each stage.

A row holds the name, the severity ("info", "warning" or "refusal"), a sentence with places for numbers, and what the
user should do, if anything.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
