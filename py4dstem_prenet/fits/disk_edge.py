"""Elliptical distortion from the shape of the direct beam; the aperture is assumed to be round.

Conventions are those of `core.geometry`.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import convolve1d, gaussian_filter

from ..core import PrenetError, cubic_kernel, ellipse_matrix, jackknife_covariance
from .polar_fit import (
    MAP_AZIMUTHS,
    MIN_JACKKNIFE_PARTS,
    UNKNOWN_COVARIANCE,
    fit_polar,
    leave_out_parts,
    leave_out_sectors,
    radial_profile,
    read_polar,
    shrinkage_weight,
    smooth_image,
)

DISK_BLUR_PX = 0.5  # pixels, 1 sigma; smoothing that a sharp edge needs to be interpolated
# Set on 450 simulated probe disks of 4 to 60 px radius and multislice scans (benchmarks/disk_shapes.py):
DISK_INFLATION = 1.5  # factor on the covariance, for the scatter that a jackknife does not include
DISK_SYSTEMATIC = 0.0005  # sigma of each component of the ellipse vector, for an aperture that is not exactly round
EDGE_SYSTEMATIC_PX = 0.007  # pixels; sigma of the position of the edge, from interpolation and blur
# Brightness that varies near the edge shifts the edge by a fraction of its width. The two factors below, times the
# width of the edge in radii, give the sigma of each component of the ellipse vector:
STRUCTURE_SIGMA = 0.5  # factor on the rms structure in the disk, relative to the disk's brightness
FREEDOM_SIGMA = 2.8  # factor on the change of the ellipse vector when the brightness terms are left free
MAX_EDGE_WIDTH = 0.2  # radii; upper bound of the width of the edge in these estimates
MAX_DISK_OFFSET_PX, MAX_DISK_OFFSET_RADII = 0.5, 0.1  # pixels, radii; largest distance of the disk from the origin


@dataclass(frozen=True)
class DiskFit:
    """Ellipse from the shape of the direct beam.

    Attributes
    ----------
    vector : numpy.ndarray, shape (2,)
        Ellipse vector.
    covariance : numpy.ndarray, shape (2, 2)
        Covariance of the vector, including systematic errors.
    center : tuple of float
        Center (x, y) in pixels of the pooled frame.
    radius : float
        Geometric mean of the semi-axes in pixels.
    edge : float
        Width of the edge in pixels, 1 sigma, not including the averaging over a pixel.
    chi : float
        Rms of the residuals in units of counting noise; much larger than 1 if the disk has structure.
    """

    vector: np.ndarray
    covariance: np.ndarray
    center: tuple[float, float]
    radius: float
    edge: float
    chi: float


@np.errstate(divide="ignore", invalid="ignore")  # without a disk the result is NaN, which the callers refuse
def fit_disk(pooled, radius, start_vector=(0.0, 0.0), systematic=DISK_SYSTEMATIC):
    """Fit the ellipse of the pooled direct beam.

    Parameters
    ----------
    pooled : Pooled
        Pooled patterns.
    radius : float
        Approximate radius of the disk in pixels, within 30 %.
    start_vector : array_like, shape (2,), optional
        Start of the ellipse vector.
    systematic : float, optional
        Systematic error of each component of the vector, 1 sigma.

    Returns
    -------
    DiskFit
        The ellipse. If less than half of the edge is on the detector, or the fitted disk does not lie at the origin,
        its covariance is that of an unknown vector.

    Raises
    ------
    PrenetError
        If `radius` is not positive.

    Notes
    -----
    The blur by pixels and interpolation is round on the detector, not in ideal coordinates, and biases the ellipse of a
    small disk toward zero by up to a fifth. To correct this, a soft disk with the fitted radius and edge is simulated
    and fitted in the same way, and the difference is added to the vector; the remaining bias is below 0.001. Brightness
    that varies as cos 2 phi across the disk is fitted only as far as the data require it (`shrinkage_weight`).

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.fits import fit_disk, pool_arrays
    >>> x, y = np.indices((48, 48)) - 23.5
    >>> image = 1000 / (1 + np.exp(4 * (np.hypot(x / 1.02, y * 1.02) - 8)))  # a / b = 1.04
    >>> fit = fit_disk(pool_arrays([image] * 4, 4 * [23.5], 4 * [23.5]), radius=8.5)
    >>> round(float(fit.vector[0]), 2), round(fit.radius, 1)
    (0.04, 8.0)
    """
    if not radius > 0:
        raise PrenetError(f"The probe radius must be positive, not {radius}; measure the origin first.")
    radius = float(radius)
    half = int(np.ceil(1.5 * radius + 12))
    middle = np.round(pooled.center).astype(int)
    crop = tuple(slice(max(m - half, 0), m + half + 1) for m in middle)
    corner = np.array([c.start for c in crop])
    image, good = pooled.mean[crop], pooled.weight[crop] > 0
    center = np.array(pooled.center) - corner
    # Find the disk's edge first: the steepest descent of the profile near the given radius.
    radii = np.arange(max(0.6 * radius - 1, 0.5), 1.4 * radius + 2, 0.25)
    polar, usable = read_polar(smooth_image(image, good, DISK_BLUR_PX), center, start_vector, radii, MAP_AZIMUTHS)
    if usable.mean() < 0.5:
        return DiskFit(np.zeros(2), UNKNOWN_COVARIANCE, tuple(pooled.center), radius, np.nan, np.nan)
    profile = radial_profile(polar, usable)
    radius = float(radii[np.argmax(-np.gradient(profile, radii))])

    stiff, soft = (_fit_corrected(image, good, center, start_vector, radius, ridge) for ridge in (1e2, 1e-3))
    parts = [
        (smooth_image(part[crop], weight[crop] > 0, DISK_BLUR_PX), weight[crop].sum())
        for part, weight in zip(pooled.parts, pooled.parts_weight, strict=True)
    ]
    stiff_covariance, soft_covariance, gap_covariance = _disk_covariances(stiff[0], soft[0], parts)
    gap = soft[1] - stiff[1]
    mix = shrinkage_weight(gap, gap_covariance)
    vector = stiff[1] + mix * gap
    covariance = (1 - mix) * stiff_covariance + mix * soft_covariance + mix * (1 - mix) * np.outer(gap, gap)
    fit = soft[0] if mix > 0.5 else stiff[0]
    positions = max(pooled.positions, 1)
    noise = np.clip(fit.profile, 1e-3 * fit.profile.max(), None) / positions / (4 * np.pi * DISK_BLUR_PX**2)
    chi = float(np.sqrt(_mean(fit.residual**2 / noise, fit.usable)))
    # Variance in excess of counting noise is dynamical structure, which may look like an ellipse.
    excess = _mean(soft[0].residual**2 - noise, soft[0].usable)
    structure = np.sqrt(max(excess, 0)) / max(soft[0].profile.max(), 1e-12)
    ellipse_change = mix * np.hypot(*gap)
    width = min(float(np.sqrt(stiff[3] ** 2 + 1 / 12 + DISK_BLUR_PX**2)) / radius, MAX_EDGE_WIDTH)
    edge_sigmas = STRUCTURE_SIGMA * structure * width, FREEDOM_SIGMA * ellipse_change * width
    systematic_variance = systematic**2 + (EDGE_SYSTEMATIC_PX / radius) ** 2 + edge_sigmas[0] ** 2 + edge_sigmas[1] ** 2
    if np.hypot(*(fit.center - center)) > max(MAX_DISK_OFFSET_PX, MAX_DISK_OFFSET_RADII * radius):
        systematic_variance = 1.0
    return DiskFit(
        vector,
        DISK_INFLATION * covariance + systematic_variance * np.eye(2),
        tuple(float(c) for c in fit.center + corner),
        float(stiff[2]),
        float(stiff[3]),
        chi,
    )


def _fit_corrected(image, good, center, start_vector, radius, ridge):
    """Fit an ellipse and correct the bias of the blur: (PolarFit, corrected vector, radius, edge sigma)."""

    def fit_edge(image, mask, center, vector):
        radii = np.arange(max(0.5, radius - 3), radius + 2.5, 0.25)
        picture = smooth_image(image, mask, DISK_BLUR_PX)
        return fit_polar(picture, center, vector, radii, MAP_AZIMUTHS, _DiskModel(radius, ridge))

    fit = fit_edge(image, good, center, np.asarray(start_vector, float))
    measured_radius, measured_width = _edge(fit.profile, fit.radii)
    true_radius, blur_squared = measured_radius, max(measured_width - DISK_BLUR_PX**2 - 1 / 12, 0.0)
    vector = fit.vector.copy()
    floor = max(fit.profile[-3:].mean() / max(fit.profile.max(), 1e-12), 0.0)
    for _ in range(3):  # the remaining bias of the blur is below 0.001
        drawn = _draw_disk(true_radius, vector, np.sqrt(blur_squared), fit.center, good.shape) + floor
        drawn_fit = fit_edge(drawn, good, fit.center, vector)
        drawn_radius, drawn_width = _edge(drawn_fit.profile, drawn_fit.radii)
        vector = vector + fit.vector - drawn_fit.vector
        true_radius = true_radius + measured_radius - drawn_radius
        blur_squared = max(blur_squared + measured_width - drawn_width, 0.0)
    return fit, vector, true_radius, np.sqrt(blur_squared)


def _disk_covariances(stiff, soft, parts):
    """Jackknife covariances (2, 2) of the ellipse vectors of two fits and of their difference."""
    if len(parts) >= MIN_JACKKNIFE_PARTS:
        scatter = [leave_out_parts(fit, parts) for fit in (stiff, soft)]
        return tuple(jackknife_covariance(s)[:2, :2] for s in (*scatter, scatter[1] - scatter[0]))
    stiff_covariance, soft_covariance = (jackknife_covariance(leave_out_sectors(fit))[:2, :2] for fit in (stiff, soft))
    return stiff_covariance, soft_covariance, soft_covariance


def _mean(values, weights):
    return (values * weights).sum() / weights.sum()  # numpy.average raises where all weights are zero


class _DiskModel:
    """Weights and brightness terms of the direct beam, for `fit_polar`."""

    student_dof, slope_blur, damping, tolerance = None, 0.0, 1.0, 2e-5

    def __init__(self, radius, ridge):
        self.radius, self.ridge = radius, ridge

    def variance(self, profile, residual, usable):
        return np.clip(profile, 0, None) + 0.1 * profile.max()

    def brightness(self, radii, profile):
        scaled = radii / self.radius
        return [(order, term) for order in (1, 2)
                for term in (profile * scaled**order, scaled**order * profile.max())]


def _edge(profile, radii):
    """Position in px and variance in px^2 of the edge of a radial profile."""
    descent = -np.gradient(profile, radii)
    near_edge = np.abs(radii - radii[np.argmax(descent)]) < 1.8
    descent = np.clip(descent - 0.05 * descent.max(), 0, None) * near_edge
    radius = (descent * radii).sum() / descent.sum()
    return radius, (descent * (radii - radius) ** 2).sum() / descent.sum()


def _draw_disk(radius, vector, blur, center, shape):
    """Simulate a soft elliptical disk, blurred by pixels and by the interpolation of `pool` (mean over its phase)."""
    k = 5 if radius < 12 else 3  # samples along each side of a pixel
    offsets = (np.arange(k) + 0.5) / k - 0.5
    x, y = ((np.arange(n)[:, None] + offsets).ravel() - c for n, c in zip(shape, center, strict=True))
    inverse = np.linalg.inv(ellipse_matrix(vector))
    ideal_x, ideal_y = (inverse[i, 0] * x[:, None] + inverse[i, 1] * y for i in (0, 1))
    rho = np.hypot(ideal_x, ideal_y) + 1e-9
    steepness = np.hypot(*(inverse[0, i] * ideal_x + inverse[1, i] * ideal_y for i in (0, 1))) / rho
    image = np.clip(0.5 - (rho - radius) / steepness * k, 0, 1)
    if blur > 0:
        image = gaussian_filter(image, blur * k, truncate=4)
    kernel = np.convolve(cubic_kernel(np.abs(np.arange(-2 * k, 2 * k + 1) / k)), np.ones(k))
    kernel /= kernel.sum()
    return convolve1d(convolve1d(image, kernel, 0), kernel, 1)[k // 2 :: k, k // 2 :: k]
