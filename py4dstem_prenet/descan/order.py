"""Faults of the order of acquisition: reversed or shifted rows, centered patterns, and a beam that jumps.

With such a fault, many positions differ by pixels from a smooth surface but agree with their neighbors in the order of
acquisition. A model of each fault predicts the scan position of every frame. A model is used if it explains most of the
outliers of the surface, and if its likelihood, which allows for outliers (Student's t), exceeds that of the surface by
more than the Bayesian information criterion. If no model explains outliers that agree with their neighbors in time but
not with those in space, the surface is refused. Scans may be acquired row by row or column by column: both are tried.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import numpy as np

from ..core import Decision, Flag, check_residuals
from . import (
    MIN_JUMPING_PX,
    MIN_OFF_FRACTION,
    MIN_ORDERED,
    MIN_REFUSED_FRACTION,
    Trial,
    agreeing_outliers,
    along_one_only,
    beam_runs,
    centered_before,
    lines_elsewhere,
    ordered_maps,
    reversed_rows,
    row_steps,
    shifted_frames,
    slipped_frames,
)

MIN_EVIDENCE = 20.0  # log likelihood ratio minus criterion; smallest that is accepted: false alarm with odds of e^-20
MIN_PAIRED_FRACTION = 0.3  # fraction of valid pairs of successive frames; in a sparser sample the order is undetermined
MIN_REFUSED_PX = 0.5  # pixels; smallest distance of outliers that refute a surface: specimens deflect the beam by less
MAX_LEFT_IN_TIME = 0.04  # fraction of the positions; most such outliers of a corrected order: 0 if it is correct


def reorder(maps, sigmas, valid, fits, model="auto"):
    """Search for an order of acquisition, or for jumps, that explain the outliers of a smooth surface.

    Parameters
    ----------
    maps : array_like, shape (2, Rx, Ry)
        Measured origins in pixels.
    sigmas : array_like, shape (2, Rx, Ry)
        Standard errors of the origins in pixels.
    valid : numpy.ndarray of bool, shape (Rx, Ry)
        True where a position is used.
    fits : sequence of SurfaceFit
        The smooth surfaces of both coordinates.
    model : str, optional
        Model of the surface, as for `surface.fit_pair`.

    Returns
    -------
    fits : tuple of SurfaceFit or None
        Surfaces for the corrected order, or refused surfaces; None if the given fits remain valid.
    flag : Flag or None
        The fault that was found.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.descan import fit_pair, reorder
    >>> rows, columns = np.indices((12, 12))
    >>> maps = np.stack([60 + 0.1 * rows, 50 + 0.5 * columns])
    >>> maps[:, 1::2] = maps[:, 1::2, ::-1]  # every second row was scanned backward
    >>> sigmas, valid = np.full(maps.shape, 0.05), np.ones((12, 12), bool)
    >>> fits, flag = reorder(maps, sigmas, valid, fit_pair(*maps, *sigmas, valid))
    >>> flag.name, bool(np.abs(fits[1].values - maps[1]).max() < 0.01)
    ('rows_reversed', True)
    """
    smooth = np.stack([fit.values for fit in fits])
    data = ordered_maps(maps, sigmas, valid, smooth, model)
    used = int(data.valid.sum())
    pairs = data.valid.ravel()[1:] & data.valid.ravel()[:-1]
    if min(data.valid.shape) < 4 or used < MIN_ORDERED or pairs.mean() < MIN_PAIRED_FRACTION:
        return None, None
    off = data.off(smooth)
    # Models that predict more positions come first: displaced lines keep the measured values, and runs follow any
    # motion in time.
    groups = ((reversed_rows, shifted_frames, slipped_frames, row_steps, centered_before), (lines_elsewhere,),
              (beam_runs,))
    faint = off.sum() < MIN_OFF_FRACTION * used and not any(data.lines_off(smooth, axis).any() for axis in (0, 1))
    if faint:  # with few electrons there are no outliers, but the residuals together may differ from noise
        taken = np.sum([fit.taken for fit in fits], axis=0)
        test = check_residuals(data.values - smooth, data.sigmas, data.valid, taken=taken)
        if not (test.correlated or test.large):
            return None, None
        groups = groups[:1]
    best = (MIN_EVIDENCE, None, None)
    smooth_loss = data.loss(smooth)
    for models in groups:
        trials = (trial for make in models for trial in make(data))
        by_columns = _by_columns(data) if models is groups[0] else ()
        for candidate, flag, parameters in chain(trials, by_columns):
            values = np.stack([fit.values for fit in candidate])
            evidence = smooth_loss - data.loss(values) - 0.5 * parameters * np.log(2 * used)
            # The correct order leaves no outliers that agree with their neighbors in time.
            if evidence > best[0] and _left_in_time(data, values) <= MAX_LEFT_IN_TIME:
                best = evidence, candidate, flag
        if best[1] is not None:
            break
    if best[1] is None and not faint:
        best = next(((0.0, candidate, flag) for candidate, flag, _ in lines_elsewhere(data, jointly=True)
                     if _left_in_time(data, np.stack([fit.values for fit in candidate])) <= MAX_LEFT_IN_TIME), best)
    if best[1] is not None:
        return best[1], best[2]
    fraction = _left_in_time(data, smooth)
    if fraction >= MIN_REFUSED_FRACTION:
        flag = Flag("order_unknown", {"percent": 100 * fraction})
        return tuple(replace(fit, decision=Decision(False, (flag,))) for fit in fits), None
    return None, None


def jumping(maps, sigmas, valid, surfaces):
    """Find positions that jump: they lie off the descan and do not agree with their neighbors along both scan axes.

    Parameters
    ----------
    maps, sigmas : array_like, shape (2, Rx, Ry)
        Measured origins and their standard errors in pixels.
    valid : numpy.ndarray of bool, shape (Rx, Ry)
        True where a position is used.
    surfaces : array_like, shape (2, Rx, Ry)
        The descan in pixels.

    Returns
    -------
    numpy.ndarray of bool, shape (Rx, Ry)
        True where a position is at least MIN_JUMPING_PX and OFF_SIGMAS standard deviations off. Parts of the specimen
        that deflect the beam are left out.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.descan import jumping
    >>> maps = np.zeros((2, 6, 6))
    >>> maps[0, 2, 3] = 4.0
    >>> np.argwhere(jumping(maps, np.full(maps.shape, 0.1), np.ones((6, 6), bool), np.zeros(maps.shape))).tolist()
    [[2, 3]]
    """
    data = ordered_maps(maps, sigmas, valid, surfaces)
    off = data.off(data.smooth, MIN_JUMPING_PX)
    alike = [agreeing_outliers(data, data.smooth, off, axis) for axis in (0, 1) if off.shape[axis] > 1]
    return off & ~np.logical_and.reduce(alike) if alike else off


def _left_in_time(data, values):
    """Fraction of the positions that deviate from a surface by MIN_REFUSED_PX and agree along one scan axis only."""
    off = data.off(values, MIN_REFUSED_PX)
    return max(along_one_only(data, values, off, axis) for axis in (0, 1))


def _by_columns(data):
    """Yield the trials of a scan that was acquired column by column."""
    maps = "values", "sigmas", "valid", "sigma", "smooth"
    turned = replace(data, **{name: np.swapaxes(getattr(data, name), -1, -2) for name in maps})
    of_columns = {"rows_reversed": "columns_reversed", "row_steps": "column_steps"}
    for make in (reversed_rows, row_steps):
        for fits, flag, parameters in make(turned):
            fits = tuple(replace(f, values=f.values.T, sigma=f.sigma.T, residual=f.residual.T) for f in fits)
            yield Trial(fits, replace(flag, name=of_columns[flag.name]), parameters)
