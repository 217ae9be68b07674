"""Review of a calibrated scan: its calibration is measured again and judged, with verdicts, figures and a page.

`review` gathers the results, `report` writes them as an HTML page, and `show` draws the maps of the calibration.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
