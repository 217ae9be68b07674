"""Descan of a standard with the same settings, applied to a scan.

The shape of the surface is taken from the standard, such as a scan of vacuum; a plane fitted to the measured positions
is added, since the beam moves between two scans. The non-planar part of the shape is tested: its amplitude in the
measured positions must be one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.stats import norm

from ..core import Flag, OriginFit, OriginMap, jackknife_covariance
from ..descan import fit_origin
from . import Plan

DISAGREE_PROBABILITY_DESCAN = 1e-3  # probability that a correct descan is refused by chance
MIN_BENT_PX = 0.02  # pixels rms; smallest non-planar part that is tested: a smaller one is negligible
MAX_BLOCKS = 16  # number of blocks of scan positions in the jackknife: errors by the specimen are common to neighbors
MIN_TESTED_POSITIONS = 16  # positions; fewest for the test


def fit_with_descan(origin: OriginMap, plan: Plan) -> tuple[OriginFit | None, Flag]:
    """Fit a plane and the descan of the standard to a measured origin.

    Parameters
    ----------
    origin : OriginMap
        The measured origin.
    plan : Plan
        Quantities that are to be carried over.

    Returns
    -------
    fit : OriginFit or None
        The fit; None if the measured positions contradict the descan of the standard.
    flag : Flag
        The result of the test.
    """
    shape = descan_of(plan)
    amplitude, sigma = _amplitude(np.stack([origin.qx0, origin.qy0]), shape, origin.valid)
    if np.isfinite(amplitude):
        limit = norm.isf(DISAGREE_PROBABILITY_DESCAN / 2)
        numbers = {"amplitude": amplitude, "sigma": sigma}
        if abs(amplitude - 1) > limit * sigma:
            return None, Flag("descan_contradicted", numbers)
        flag = Flag("descan_agrees", numbers)
    else:
        flag = Flag("descan_untested")
    plane = fit_origin(replace(origin, qx0=origin.qx0 - shape[0], qy0=origin.qy0 - shape[1]), "plane")
    extra = 0.0 if np.isnan(plan.standard.uncertainty) else plan.standard.uncertainty / plan.binning
    sigmas = [np.hypot(s, extra) for s in (plane.sigma_qx0, plane.sigma_qy0)]
    return replace(plane, qx0=plane.qx0 + shape[0], qy0=plane.qy0 + shape[1], sigma_qx0=sigmas[0], sigma_qy0=sigmas[1],
                   model="plane", trials=()), flag


def descan_of(plan: Plan):
    """Return the descan of the standard minus its mean, in pixels of the scan.

    Parameters
    ----------
    plan : Plan
        Quantities that are to be carried over.

    Returns
    -------
    numpy.ndarray, shape (2, Rx, Ry)
        The surface.
    """
    origin = plan.standard.origin
    return (origin - origin.mean((1, 2), keepdims=True)) / plan.binning


def _amplitude(measured, shape, valid):
    """Amplitude of the non-planar part of the shape in the measured positions, and its sigma."""
    if valid.sum() < MIN_TESTED_POSITIONS:
        return np.nan, np.nan
    rows, columns = (i[valid] for i in np.indices(valid.shape))
    plane = np.stack([np.ones(len(rows)), rows, columns], 1)

    def without_plane(values):
        return values - plane @ np.linalg.lstsq(plane, values, rcond=None)[0]

    bent = np.stack([without_plane(s[valid]) for s in shape])
    if np.sqrt(np.mean(bent**2)) < MIN_BENT_PX:
        return np.nan, np.nan
    residual = np.stack([without_plane(m[valid]) for m in measured])
    scatter = 1.4826 * np.median(np.abs(residual - bent)) + 1e-9
    weight = np.abs(residual - bent) < 5 * max(scatter, MIN_BENT_PX)  # excludes disks mistaken for the direct beam
    block = np.arange(len(rows)) * min(MAX_BLOCKS, len(rows)) // len(rows)
    top = np.array([[(weight * bent * residual)[:, block == b].sum() for b in range(block.max() + 1)]])[0]
    bottom = np.array([(weight * bent**2)[:, block == b].sum() for b in range(block.max() + 1)])
    if not bottom.sum() > 0:
        return np.nan, np.nan
    left_out = (top.sum() - top) / np.maximum(bottom.sum() - bottom, 1e-12)
    return float(top.sum() / bottom.sum()), float(np.sqrt(jackknife_covariance(left_out[:, None])[0, 0]))
