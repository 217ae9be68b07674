"""Located beams that are too uncertain to be used, since a beam stop covers or reaches them."""

from __future__ import annotations

import numpy as np

from ..core import Flag, NoiseModel, OriginMap, Scan
from . import block_sums, find_bar, no_origin

MIN_VAGUE_RATIO = 3.0  # ratio; smallest scatter of positions relative to counting for which a stop is searched for
# Pixels, and fraction of the frame; largest error of a beam that a stop covers in part for which its position is used.
MAX_COVERED_SIGMA_PX, MAX_COVERED_SIGMA_FRACTION = 2.5, 0.008
TIP_FRACTION = 0.08  # fraction of the frame; largest distance of the end of a stop from the positions


def check_stop(scan: Scan, noise: NoiseModel, origin: OriginMap, stopped: bool) -> OriginMap:
    """Refuse an origin if a beam stop covers most of the beam, or reaches a beam with scattered positions.

    The edges of a stop look like those of a disk.

    Parameters
    ----------
    scan : Scan
        The scan, or a sample of one.
    noise : NoiseModel
        Noise model of the detector; pixels behind a stop are bad.
    origin : OriginMap
        The measured origin.
    stopped : bool
        Whether a stop was found; if not, it is searched for at the positions.

    Returns
    -------
    OriginMap
        The given origin, or a refused one.
    """
    covered = [flag.numbers["sigma"] for flag in origin.flags if flag.name == "beam_covered"]
    if origin.found and covered and covered[0] > max(MAX_COVERED_SIGMA_PX,
                                                     MAX_COVERED_SIGMA_FRACTION * max(scan.pattern_shape)):
        return no_origin(scan.scan_shape, Flag("hidden_by_stop"))
    if not origin.found or not is_vague(origin):
        return origin
    if not stopped:
        sums, counts, _ = block_sums(scan, noise, 1)
        middle = [np.median(q[origin.valid]) for q in (origin.qx0, origin.qy0)]
        stopped = find_bar(sums[0], ~noise.bad_pixels, noise.readout / noise.gain * counts[0] ** 0.5, middle,
                           max(TIP_FRACTION * max(scan.pattern_shape), 2 * np.nan_to_num(origin.radius))) is not None
    return no_origin(scan.scan_shape, Flag("hidden_by_stop")) if stopped else origin


def is_vague(origin: OriginMap) -> bool:
    """Determine whether positions of the beam are much more uncertain than electron counting explains.

    Parameters
    ----------
    origin : OriginMap
        The measured origin.

    Returns
    -------
    bool
        True if the located object is not the image of a visible beam, or only a part of it.

    Examples
    --------
    >>> from py4dstem_prenet.core import Flag
    >>> from py4dstem_prenet.origin import is_vague, no_origin
    >>> is_vague(no_origin((1, 1), Flag("position_uncertain", {"sigma": 0.6, "counting": 0.02})))
    True
    """
    flag = next((flag for flag in origin.flags if flag.name == "position_uncertain"), None)
    return flag is not None and flag.numbers["sigma"] >= MIN_VAGUE_RATIO * flag.numbers["counting"]
