"""Fit of the ellipse and center about which a pattern depends only on the radius; shared by the disk and ring fits.

A pattern is sampled on an ideal polar grid. A remaining ellipse changes the samples by cos 2 phi and sin 2 phi times
the slope of the radial profile; an error of the center changes them by cos phi and sin phi times that slope. Both are
solved for by weighted linear least squares, together with brightness that varies smoothly with the azimuth, and the
pattern is sampled again with the new ellipse until the fit converges. The radial profile is free, so that no shape of
an edge or a ring is assumed; each radius contributes in proportion to the slope of the profile.

Conventions: x = qx = row, y = qy = column; the ellipse is the vector (eps cos 2 theta, eps sin 2 theta) of
`core.geometry`.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates, spline_filter

from ..core import ellipse_matrix

MAP_AZIMUTHS = 192  # number of azimuths of a polar map, a multiple of all numbers of sectors
SECTOR_PAIRS = 12  # pairs of opposite azimuth sectors in the jackknife; in pairs, since Friedel pairs are correlated
MIN_JACKKNIFE_PARTS = 4  # parts of a scan; fewest for a jackknife over parts, otherwise only sectors are left out
UNKNOWN_COVARIANCE = np.eye(2)  # covariance of an ellipse vector that the data do not determine; eps is below 1


class SmoothImage(NamedTuple):
    """A smoothed image, ready to be interpolated.

    Attributes
    ----------
    coefficients : numpy.ndarray, shape (Qx, Qy)
        Spline coefficients of the image.
    mask : numpy.ndarray or None, shape (Qx, Qy)
        1 where a pixel is good, else 0; None if all are good.
    order : int
        Order of the spline.
    """

    coefficients: np.ndarray
    mask: np.ndarray | None
    order: int


@dataclass(frozen=True)
class PolarDesign:
    """Design matrix on a polar grid; each column is a function of the azimuth times a function of the radius.

    Normal equations are therefore computed from sums over the azimuth, without the columns on the grid.

    Attributes
    ----------
    angular : numpy.ndarray, shape (h, n_phi)
        Functions of the azimuth.
    harmonic : numpy.ndarray of int, shape (k,)
        Index of the function of the azimuth in each column.
    radial : numpy.ndarray, shape (k, n_r)
        Function of the radius in each column.
    ridge : numpy.ndarray, shape (k,)
        Ridge of each column, relative to the column's norm.
    """

    angular: np.ndarray
    harmonic: np.ndarray
    radial: np.ndarray
    ridge: np.ndarray

    def right(self, weight, residual):
        """Compute the right-hand side of a weighted regression.

        Columns are relative to their weighted mean at each radius, since the radial profile is free.

        Parameters
        ----------
        weight : numpy.ndarray, shape (n_phi, n_r)
            Weights.
        residual : numpy.ndarray, shape (n_phi, n_r)
            Data.

        Returns
        -------
        numpy.ndarray, shape (k,)
            Products of the columns with the weighted data.
        """
        weighted = weight * residual
        mean = (self.angular @ weight) / np.maximum(weight.sum(0), 1e-300)
        return (self.radial * (self.angular @ weighted - mean * weighted.sum(0))[self.harmonic]).sum(-1)

    def normal(self, weight):
        """Compute the normal matrix of a weighted ridge regression.

        Parameters
        ----------
        weight : numpy.ndarray, shape (n_phi, n_r)
            Weights.

        Returns
        -------
        numpy.ndarray, shape (k, k)
            Normal matrix of the columns relative to their weighted mean at each radius.
        """
        count = len(self.angular)
        first = self.angular @ weight
        pairs = (self.angular[:, None] * self.angular).reshape(count**2, -1)
        second = (pairs @ weight).reshape(count, count, -1)
        second -= first[:, None] * first / np.maximum(weight.sum(0), 1e-300)
        chosen = second[self.harmonic[:, None], self.harmonic]
        normal = (self.radial[:, None] * self.radial * chosen).sum(-1)
        return normal + np.diag((self.ridge + 1e-9) * (np.diag(normal) + 1e-300))


@dataclass
class PolarFit:
    """Result of `fit_polar`.

    Attributes
    ----------
    vector : numpy.ndarray, shape (2,)
        Ellipse vector.
    center : numpy.ndarray, shape (2,)
        Center (x, y) in pixels.
    radii : numpy.ndarray, shape (n_r,)
        Ideal radii in pixels.
    profile : numpy.ndarray, shape (n_r,)
        Radial profile.
    residual : numpy.ndarray, shape (n_phi, n_r)
        Residual about the radial profile.
    usable : numpy.ndarray, shape (n_phi, n_r)
        1 where a sample is usable, else 0.
    variance : numpy.ndarray, shape (n_r,)
        Assumed variance of the residual.
    weight : numpy.ndarray, shape (n_phi, n_r)
        Weights of the last solution.
    design : PolarDesign
        Design matrix: ellipse and center (4 columns), then the brightness terms.
    converged : bool
        Whether the iteration converged.
    """

    vector: np.ndarray
    center: np.ndarray
    radii: np.ndarray
    profile: np.ndarray
    residual: np.ndarray
    usable: np.ndarray
    variance: np.ndarray
    weight: np.ndarray
    design: PolarDesign
    converged: bool

    def misfit(self, variance):
        """Compute a robust mean of the squared residuals.

        Parameters
        ----------
        variance : numpy.ndarray, shape (n_r,)
            Unit of the squared residuals.

        Returns
        -------
        float
            The mean of log(1 + r**2 / (4 variance)).
        """
        z = self.residual**2 / variance
        return float(np.average(np.log1p(z / 4), weights=self.usable)) if self.usable.any() else np.inf


def fit_polar(picture, center, vector, radii, n_phi, model, steps=20):
    """Fit the ellipse and the center by Gauss-Newton steps.

    Parameters
    ----------
    picture : SmoothImage
        The pattern.
    center : array_like, shape (2,)
        Start of the center (x, y) in pixels.
    vector : array_like, shape (2,)
        Start of the ellipse vector.
    radii : numpy.ndarray, shape (n_r,)
        Ideal radii in pixels, evenly spaced.
    n_phi : int
        Number of azimuths.
    model : object
        Weights and brightness terms. Attributes: `student_dof`, degrees of freedom of Student's t distribution in
        robust weights, or None; `slope_blur`, smoothing of the profile before its slope is taken, in pixels; `ridge`,
        of the brightness terms; `damping`, factor of each step; `tolerance`, step of the ellipse below which the fit
        has converged. Methods: ``variance(profile, residual, usable)`` and ``brightness(radii, profile)``, which
        returns pairs of an azimuthal order and a function of the radius.
    steps : int, optional
        Largest number of Gauss-Newton steps; 0 evaluates the start.

    Returns
    -------
    PolarFit
        The fit.
    """
    vector, center = np.array(vector, float), np.array(center, float)
    azimuth = np.arange(n_phi) * (2 * np.pi / n_phi)
    converged = False
    for step in range(steps + 1):
        polar, usable = read_polar(picture, center, vector, radii, n_phi)
        profile = radial_profile(polar, usable)
        residual = (polar - profile) * usable
        variance = model.variance(profile, residual, usable)
        weight = usable / variance
        if model.student_dof:
            weight = weight * (model.student_dof + 1) / (model.student_dof + residual**2 / variance)
            profile = radial_profile(polar, weight)
            residual = (polar - profile) * usable
        design = _design(radii, profile, azimuth, model)
        if step == steps or converged:
            break
        delta = np.linalg.solve(design.normal(weight), design.right(weight, residual))[:4]
        # A disk that is larger than the grid assumes adds minus the slope times the difference in radius.
        vector = vector - model.damping * np.clip(delta[:2], -0.03, 0.03)
        center = center - ellipse_matrix(vector) @ (model.damping * np.clip(delta[2:], -1, 1))
        converged = bool(np.abs(delta[:2]).max() < model.tolerance and np.abs(delta[2:]).max() < 20 * model.tolerance)
    return PolarFit(
        vector,
        center,
        radii,
        profile,
        residual,
        usable,
        variance,
        weight,
        design,
        converged or steps == 0,
    )


def _design(radii, profile, azimuth, model) -> PolarDesign:
    """Design matrix: ellipse and center, then the brightness terms."""
    # The profile is smoothed before its slope is computed, so that its noise is not correlated with the residuals.
    blur = model.slope_blur / (radii[1] - radii[0])
    slope = np.gradient(gaussian_filter(profile, blur) if blur else profile, radii)
    brightness = model.brightness(radii, profile)
    orders = sorted({1, 2, *(order for order, _ in brightness)})
    angular = [function(order * azimuth) for order in orders for function in (np.cos, np.sin)]
    radial = [slope * radii / 2, slope * radii / 2, slope, slope]
    harmonic = [2 * orders.index(order) + part for order in (2, 1) for part in (0, 1)]
    for order, term in brightness:
        radial += [term, term]
        harmonic += [2 * orders.index(order), 2 * orders.index(order) + 1]
    ridge = np.r_[np.zeros(4), np.full(len(radial) - 4, model.ridge)]
    return PolarDesign(np.array(angular), np.array(harmonic), np.array(radial), ridge)


def leave_out_parts(fit, parts):
    """Estimate to first order how a fit changes if one part of the scan is left out.

    Parameters
    ----------
    fit : PolarFit
        The fit to all parts.
    parts : list of tuple
        (SmoothImage, weight) of each of P parts.

    Returns
    -------
    numpy.ndarray, shape (P, 4)
        Ellipse vector and center without each part, relative to the fit; zero for a single part.
    """
    fraction = np.array([weight for _, weight in parts])
    fraction = fraction / fraction.sum()
    changes = []
    for picture, _ in parts:
        polar, usable = read_polar(picture, fit.center, fit.vector, fit.radii, len(fit.residual))
        residual = (polar - fit.profile) * usable * (fit.usable > 0)
        changes.append(fit.design.right(fit.weight, residual))
    changes = -np.linalg.solve(fit.design.normal(fit.weight), np.array(changes).T).T[:, :4]
    total = fraction @ changes
    return (total - fraction[:, None] * changes) / (1 - fraction)[:, None] - total if len(parts) > 1 else changes * 0


def leave_out_sectors(fit):
    """Estimate how a fit changes if one pair of opposite azimuth sectors is left out.

    Parameters
    ----------
    fit : PolarFit
        The fit to all azimuths.

    Returns
    -------
    numpy.ndarray, shape (SECTOR_PAIRS, 4)
        Ellipse vector and center without each pair, relative to the fit.
    """
    n_phi = len(fit.residual)
    sector = (np.arange(n_phi) * 2 * SECTOR_PAIRS // n_phi) % SECTOR_PAIRS

    def _change(weight):
        return np.linalg.solve(fit.design.normal(weight), fit.design.right(weight, fit.residual))[:4]

    total_change = _change(fit.weight)
    changes = [total_change - _change(fit.weight * (sector != k)[:, None]) for k in range(SECTOR_PAIRS)]
    return np.array(changes)


def shrinkage_weight(gap, covariance):
    """Compute the weight of a flexible model's estimate relative to that of a stiff model.

    Parameters
    ----------
    gap : numpy.ndarray, shape (2,)
        Difference between the two estimates.
    covariance : numpy.ndarray, shape (2, 2)
        Covariance of the difference if both models are correct.

    Returns
    -------
    float
        Weight of the flexible model, 0 to 1. It increases as the difference exceeds its noise (positive-part estimator
        of James and Stein, 1961).

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.fits.polar_fit import shrinkage_weight
    >>> [round(shrinkage_weight(np.array([gap, 0.0]), np.eye(2)), 2) for gap in (1.0, 4.0, 20.0)]
    [0.0, 0.75, 0.99]
    """
    excess = gap @ np.linalg.solve(covariance + 1e-9 * np.eye(2), gap)
    return max(0.0, 1 - 4 / max(excess, 1e-12))


def smooth_image(image, mask, sigma, order=3):
    """Smooth an image over its good pixels and prepare it for interpolation.

    Parameters
    ----------
    image : numpy.ndarray, shape (Qx, Qy)
        The image.
    mask : numpy.ndarray of bool, shape (Qx, Qy)
        True where a pixel is good.
    sigma : float
        Width of the Gaussian filter in pixels.
    order : int, optional
        Order of the interpolating spline.

    Returns
    -------
    SmoothImage
        Spline coefficients of the smoothed image.
    """
    if mask.all():
        filled, mask = gaussian_filter(image.astype(float), sigma, truncate=4), None
    else:
        mask = mask.astype(float)
        filled = gaussian_filter(np.where(mask > 0, image, 0.0).astype(float), sigma, truncate=4)
        filled /= np.maximum(gaussian_filter(mask, sigma, truncate=4), 1e-3)
    return SmoothImage(spline_filter(filled, order=order) if order > 1 else filled, mask, order)


def read_polar(picture, center, vector, radii, n_phi):
    """Sample a smoothed image on an ideal polar grid.

    Parameters
    ----------
    picture : SmoothImage
        The image.
    center : array_like, shape (2,)
        Center (x, y) in pixels.
    vector : array_like, shape (2,)
        Ellipse vector that is corrected.
    radii : numpy.ndarray, shape (n_r,)
        Ideal radii in pixels.
    n_phi : int
        Number of azimuths.

    Returns
    -------
    polar : numpy.ndarray, shape (n_phi, n_r)
        The polar map.
    usable : numpy.ndarray, shape (n_phi, n_r)
        1 where a sample lies on good pixels of the image, else 0.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.fits.polar_fit import read_polar, smooth_image
    >>> x, y = np.indices((32, 32)) - 16.0
    >>> picture = smooth_image(np.hypot(x, y), np.ones((32, 32), bool), sigma=0.5)
    >>> polar, usable = read_polar(picture, (16, 16), (0.0, 0.0), np.array([4.0, 8.0]), n_phi=16)
    >>> polar.mean(0).round(1).tolist(), bool(usable.all())
    ([4.0, 8.0], True)
    """
    coefficients, mask, order = picture
    azimuth = np.arange(n_phi) * (2 * np.pi / n_phi)
    ideal = np.stack([np.cos(azimuth)[:, None] * radii, np.sin(azimuth)[:, None] * radii])
    at = np.einsum("ij,jpr->ipr", ellipse_matrix(vector), ideal) + np.asarray(center, float)[:, None, None]
    polar = map_coordinates(coefficients, at, order=order, prefilter=False, mode="nearest")
    shape = np.array(coefficients.shape)[:, None, None]
    usable = ((at >= 1) & (at <= shape - 2)).all(0).astype(float)
    if mask is not None and not _covers(mask, at):
        usable *= map_coordinates(mask, at, order=1, cval=0.0) > 0.99
    return polar, usable


def _covers(mask, at):
    """Return whether all pixels from which samples at positions (2, n_phi, n_r) are interpolated are good."""
    low, high = at.min((1, 2)), at.max((1, 2))
    if not np.isfinite([low, high]).all():
        return False
    low, high = (np.floor(end).clip(0, mask.shape).astype(int) for end in (low, high))
    return mask[low[0] : high[0] + 2, low[1] : high[1] + 2].all()


def radial_profile(polar, weight):
    """Compute the weighted mean of a polar map over the azimuth.

    Parameters
    ----------
    polar : numpy.ndarray, shape (n_phi, n_r)
        The polar map.
    weight : numpy.ndarray, shape (n_phi, n_r)
        Weights.

    Returns
    -------
    numpy.ndarray, shape (n_r,)
        The profile; interpolated at radii with zero weight, and zero if all weights are zero.
    """
    total = weight.sum(0)
    covered = total > 0
    if not covered.any():
        return np.zeros(polar.shape[1])
    mean = (polar * weight).sum(0)[covered] / total[covered]
    return np.interp(np.arange(len(total)), np.flatnonzero(covered), mean)
