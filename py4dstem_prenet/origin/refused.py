"""The origin of a scan in which none was found."""

from __future__ import annotations

import numpy as np

from ..core import Decision, Flag, OriginMap


def no_origin(scan_shape, *flags: Flag) -> OriginMap:
    """Create the `OriginMap` of a scan without an origin.

    Parameters
    ----------
    scan_shape : tuple of int
        (Rx, Ry).
    *flags : Flag
        Reasons why there is no origin.

    Returns
    -------
    OriginMap
        An origin that is NaN everywhere and not accepted.

    Examples
    --------
    >>> from py4dstem_prenet.core import Flag
    >>> from py4dstem_prenet.origin import no_origin
    >>> no_origin((2, 3), Flag("no_beam")).found
    False
    """
    maps = [np.full(scan_shape, np.nan) for _ in range(4)]
    return OriginMap(*maps, np.zeros(scan_shape, bool), float("nan"), Decision(False, flags))
