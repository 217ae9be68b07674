"""Measured origins in the order of acquisition: outliers of a surface, and whether they agree with neighbors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..core import STUDENT_DOF, Flag
from . import LINE_OFF_SIGMAS, MIN_LINE_COUNT, MIN_LINE_OFF_PX, MIN_ORDERED, OFF_SIGMAS, SIGMA_FLOOR_PX, SurfaceFit

MIN_OFF_PX = 0.15  # pixels; smallest distance from the surface at which a position counts as an outlier


@dataclass(frozen=True)
class OrderedMaps:
    """Measured origins with their sigmas, prepared for the tests of the order.

    Attributes
    ----------
    values : numpy.ndarray, shape (2, Rx, Ry)
        Origins in pixels.
    sigmas : numpy.ndarray, shape (2, Rx, Ry)
        Their standard errors in pixels.
    valid : numpy.ndarray of bool, shape (Rx, Ry)
        True where a position is used.
    sigma : numpy.ndarray, shape (Rx, Ry)
        Larger standard error of a position in pixels, including SIGMA_FLOOR_PX.
    smooth : numpy.ndarray, shape (2, Rx, Ry)
        Smooth surface through them, in pixels.
    model : str
        Model of a surface that is fitted anew, as for `fit_pair`.
    """

    values: np.ndarray
    sigmas: np.ndarray
    valid: np.ndarray
    sigma: np.ndarray
    smooth: np.ndarray
    model: str

    @property
    def flat(self):
        """Origins (2, n) in the order of acquisition."""
        return self.values.reshape(2, -1)

    def off(self, fitted, least=MIN_OFF_PX):
        """Find the outliers of a surface.

        Parameters
        ----------
        fitted : numpy.ndarray, shape (2, Rx, Ry)
            Surface in pixels.
        least : float, optional
            Smallest distance of an outlier in pixels, in addition to OFF_SIGMAS of its standard errors.

        Returns
        -------
        numpy.ndarray of bool, shape (Rx, Ry)
            True where a used position is an outlier.
        """
        distance = np.hypot(*(self.values - fitted))
        return self.valid & (distance > np.maximum(least, OFF_SIGMAS * self.sigma))

    def lines_off(self, fitted, axis):
        """Find rows or columns whose mean deviates from a surface; residuals are clipped at OFF_SIGMAS.

        Parameters
        ----------
        fitted : numpy.ndarray, shape (2, Rx, Ry)
            Surface in pixels.
        axis : int
            0 for columns, 1 for rows.

        Returns
        -------
        numpy.ndarray of bool, shape (n,)
            True where a line deviates.
        """
        used = self.valid.sum(axis)
        residual = np.where(self.valid, self.values - fitted, 0.0)
        limit = OFF_SIGMAS * self.sigma
        clipped = np.clip(residual, -limit, limit)
        mean, pull = clipped.sum(axis + 1) / used.clip(1), (clipped / self.sigma).sum(axis + 1) / np.sqrt(used.clip(1))
        off = (np.abs(pull) > LINE_OFF_SIGMAS) & (np.abs(mean) > MIN_LINE_OFF_PX)
        return off.any(0) & (used >= MIN_LINE_COUNT)

    def loss(self, fitted):
        """Compute the negative log likelihood of all used positions.

        Parameters
        ----------
        fitted : numpy.ndarray, shape (2, Rx, Ry)
            Surface in pixels.

        Returns
        -------
        float
            Its negative log likelihood; Student's t distribution allows for outliers.
        """
        squared = ((self.values - fitted) ** 2).sum(0)
        terms = np.log1p(squared / (STUDENT_DOF * self.sigma**2))
        return float((STUDENT_DOF + 2) / 2 * terms[self.valid].sum())


class Trial(NamedTuple):
    """What a model of the order predicts.

    Attributes
    ----------
    fits : tuple of SurfaceFit
        Surfaces of both coordinates if the model is correct.
    flag : Flag or None
        The fault; None if the surfaces are refused and carry it.
    parameters : int
        Number of parameters of the model.
    """

    fits: tuple
    flag: Flag | None
    parameters: int


def ordered_maps(maps, sigmas, valid, smooth, model="auto"):
    """Prepare measured origins for the tests of the order.

    Parameters
    ----------
    maps, sigmas : array_like, shape (2, Rx, Ry)
        Measured origins and their standard errors in pixels.
    valid : array_like of bool, shape (Rx, Ry)
        True where a position is used.
    smooth : array_like, shape (2, Rx, Ry)
        Smooth surface through the origins, in pixels.
    model : str, optional
        Model of a surface that is fitted anew, as for `fit_pair`.

    Returns
    -------
    OrderedMaps
        The origins; positions that are not finite are not used.
    """
    maps, sigmas = np.asarray(maps, float), np.asarray(sigmas, float)
    valid = np.asarray(valid, bool) & np.isfinite(maps).all(0) & np.isfinite(sigmas).all(0)
    typical = float(np.median(sigmas[:, valid])) if valid.any() else 1.0
    # A wrong position may have a large stated sigma; the limit prevents it from being overlooked.
    sigma = np.hypot(np.minimum(np.where(valid, sigmas.max(0), typical), 3 * typical), SIGMA_FLOOR_PX)
    return OrderedMaps(np.where(valid, maps, 0.0), np.where(valid, sigmas, 1.0), valid, sigma,
                       np.asarray(smooth, float), model)


def along_one_only(data, smooth, off, axis=1):
    """Compute the fraction of the positions that are outliers and agree with a neighbor along one axis of the scan.

    Parameters
    ----------
    data : OrderedMaps
        Measured origins.
    smooth : numpy.ndarray, shape (2, Rx, Ry)
        Surface in pixels.
    off : numpy.ndarray of bool, shape (Rx, Ry)
        The outliers.
    axis : int, optional
        Axis of the scan along which neighbors are compared.

    Returns
    -------
    float
        The fraction; 0 if most of the outliers also agree with a neighbor along the other axis, as in grains.
    """
    along, across = (agreeing_outliers(data, smooth, off, a) for a in (axis, 1 - axis))
    if not along.any() or 2 * (along & across).sum() > along.sum():  # most are grains
        return 0.0
    return float(along.sum() / data.valid.sum())


def agreeing_outliers(data, smooth, off, axis):
    """Find outliers that agree with an adjacent outlier along an axis of the scan.

    Two positions agree if their step equals that of the surface or the most common step. The latter is needed because a
    flexible surface bends between jumps.

    Parameters
    ----------
    data : OrderedMaps
        Measured origins.
    smooth : numpy.ndarray, shape (2, Rx, Ry)
        Surface in pixels.
    off : numpy.ndarray of bool, shape (Rx, Ry)
        The outliers.
    axis : int
        Axis of the scan.

    Returns
    -------
    numpy.ndarray of bool, shape (Rx, Ry)
        True where an outlier agrees.
    """
    agreeing = np.zeros_like(off)
    a, b = ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:, :], np.s_[:-1, :]))[1 - axis]
    paired = off[a] & off[b]
    if not paired.any():
        return agreeing
    tolerance = OFF_SIGMAS * 2**0.5 * data.sigma[a]
    steps, expected = (values[(..., *a)] - values[(..., *b)] for values in (data.values, smooth))
    common_step = _usual_step(steps, data.valid[a] & data.valid[b], tolerance)
    alike = paired & (np.minimum(np.hypot(*(steps - expected)), np.hypot(*(steps - common_step))) < tolerance)
    agreeing[a] |= alike
    agreeing[b] |= alike
    return agreeing


def _usual_step(steps, valid, near):
    """Most common step between neighbors, as a plane over the scan, (2, m, n) pixels."""
    i, j = np.nonzero(valid)
    taken = np.unique(np.linspace(0, len(i) - 1, 300).astype(int))  # chosen for speed
    values = steps[:, i[taken], j[taken]]
    distance = np.hypot(*(values[:, :, None] - values[:, None]))
    common_step = values[:, (distance < near[i[taken], j[taken]]).sum(1).argmax()][:, None, None]
    u, v = (np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in valid.shape)
    plane = np.stack(np.broadcast_arrays(1.0, u[:, None], v), -1)
    for _ in range(3):
        close = valid & (np.hypot(*(steps - common_step)) < near)
        if close.sum() < MIN_ORDERED:
            break
        common_step = np.moveaxis(plane @ np.linalg.lstsq(plane[close], steps[:, close].T, rcond=None)[0], -1, 0)
    return common_step


def with_values(fit, values, sigma, measured, valid):
    """Give a fit other values.

    Parameters
    ----------
    fit : SurfaceFit
        The fit.
    values, sigma : numpy.ndarray, shape (Rx, Ry)
        Values of the surface and their standard errors in pixels.
    measured : numpy.ndarray, shape (Rx, Ry)
        Measured positions in pixels.
    valid : numpy.ndarray of bool, shape (Rx, Ry)
        True where a position is used.

    Returns
    -------
    SurfaceFit
        A fit with these values, and residuals from them.
    """
    return SurfaceFit(values, sigma, np.where(valid, measured - values, np.nan), fit.model, fit.scores, fit.decision,
                      fit.trials, fit.taken)
