"""The elliptical distortion from the direct beam's own shape, a round aperture supposed. Conventions: `polar`."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import convolve1d, gaussian_filter

from ..core import PrenetError, ellipse_matrix
from .polar_fit import (
    NOTHING_KNOWN,
    fit_polar,
    jackknife,
    over_parts,
    over_sectors,
    radial_profile,
    read_polar,
    share_of,
    smooth,
)

DISK_BLUR = 0.5  # px, smoothing that makes a sharp edge readable between pixels
DISK_PHI = 128
# Set on simulations (benchmarks/acceptance.py):
INFLATION = 1.6  # of the covariance, for what the scatter of sixteen parts misses
STRUCTURE = 0.12  # sigma of each component per structure left in the disk, in units of its brightness
FREED = 0.3  # sigma of each component per change of the ellipse that freeing the brightness inside makes
ASTRAY, ASTRAY_PART = 0.5, 0.1  # px, and disk radii, from the origin, from which what was fitted is not the disk
SYSTEMATIC = 0.002  # sigma of each component: an aperture not quite round, structure that all parts share


@dataclass(frozen=True)
class DiskFit:
    """Ellipse from the shape of the direct beam, a round aperture supposed.

    `vector` (2,), `covariance` (2, 2): with systematic sigmas in it. `center`: (x, y) px in the pooled
    frame. `radius`: px, geometric mean of the semi-axes. `edge`: px, Gaussian sigma of the edge without the
    pixel's own blur. `chi`: rms of what the fit leaves in units of counting noise; far above 1 means
    structure in the disk.
    """

    vector: np.ndarray
    covariance: np.ndarray
    center: tuple[float, float]
    radius: float
    edge: float
    chi: float


@np.errstate(divide="ignore", invalid="ignore")  # where there is no disk, NaN comes out and callers refuse it
def fit_disk(pooled, radius, start_vector=(0.0, 0.0), systematic=SYSTEMATIC):
    """Ellipse of the pooled, recentered direct beam.

    The blur of pixel and interpolation is round on the detector, not in ideal coordinates, and pulls the
    estimate toward zero by up to a fifth for a small disk. A soft disk of the radius and edge found is
    therefore drawn and
    fitted in the same way, and what that fit misses is added: what is left is below 0.001.
    Brightness that varies as cos 2 phi across the disk is allowed for as far as the data ask for it.

    Args:
        pooled: `Pooled`. radius: px, within 30 % of the disk's.
        start_vector: where to start. systematic: sigma of each component that no scatter shows.

    Returns: `DiskFit`; its covariance is that of ignorance where less than half of the edge can be seen, or where what
    was fitted does not lie at the origin.
    """
    if not radius > 0:
        raise PrenetError(f"The probe radius must be positive, not {radius}; measure the origin first.")
    radius = float(radius)
    half = int(np.ceil(1.5 * radius + 12))
    middle = np.round(pooled.center).astype(int)
    crop = tuple(slice(max(m - half, 0), m + half + 1) for m in middle)
    corner = np.array([c.start for c in crop])
    good = pooled.weight[crop] > 0
    center = np.array(pooled.center) - corner

    def look(image, mask, origin, vector, around, freedom):
        radii = np.arange(max(0.5, around - 3), around + 2.5, 0.25)
        return fit_polar(smooth(image, mask, DISK_BLUR), origin, vector, radii, DISK_PHI, _DiskModel(around, freedom))

    # the disk's own edge first: the steepest descent near the radius given
    radii = np.arange(max(0.6 * radius - 1, 0.5), 1.4 * radius + 2, 0.25)
    polar, usable = read_polar(smooth(pooled.mean[crop], good, DISK_BLUR), center, start_vector, radii, DISK_PHI)
    if usable.mean() < 0.5:
        return DiskFit(np.zeros(2), NOTHING_KNOWN, tuple(pooled.center), radius, np.nan, np.nan)
    profile = radial_profile(polar, usable)
    radius = float(radii[np.argmax(-np.gradient(profile, radii))])

    def corrected(freedom):
        """(raw fit, vector with the blur's pull taken out, radius, edge sigma)."""
        fit = look(pooled.mean[crop], good, center, np.asarray(start_vector, float), radius, freedom)
        seen, width = _edge(fit.profile, fit.radii)
        true, blur2, vector = seen, max(width - DISK_BLUR**2 - 1 / 12, 0.0), fit.vector.copy()
        floor = max(fit.profile[-3:].mean() / max(fit.profile.max(), 1e-12), 0.0)
        for _ in range(3):
            drawn = _draw_disk(true, vector, np.sqrt(blur2), fit.center, good.shape) + floor
            again = look(drawn, good, fit.center, vector, radius, freedom)
            seen_again, width_again = _edge(again.profile, again.radii)
            vector = vector + fit.vector - again.vector
            true, blur2 = true + seen - seen_again, max(blur2 + width - width_again, 0.0)
        return fit, vector, true, np.sqrt(blur2)

    stiff, soft = corrected(1e2), corrected(1e-3)
    parts = [
        (smooth(image[crop], weight[crop] > 0, DISK_BLUR), weight[crop].sum())
        for image, weight in zip(pooled.parts, pooled.parts_weight, strict=True)
    ]
    scatter = [over_parts(fit[0], parts) for fit in (stiff, soft)]
    if len(parts) >= 4:
        c_stiff, c_soft, c_between = (jackknife(s)[:2, :2] for s in (*scatter, scatter[1] - scatter[0]))
    else:
        c_stiff, c_soft = (jackknife(over_sectors(fit[0]))[:2, :2] for fit in (stiff, soft))
        c_between = c_soft
    between = soft[1] - stiff[1]
    share = share_of(between, c_between)
    vector = stiff[1] + share * between
    covariance = (1 - share) * c_stiff + share * c_soft + share * (1 - share) * np.outer(between, between)
    fit = soft[0] if share > 0.5 else stiff[0]
    positions = max(pooled.positions, 1)
    noise = np.clip(fit.profile, 1e-3 * fit.profile.max(), None) / positions / (4 * np.pi * DISK_BLUR**2)
    chi = float(np.sqrt(_mean(fit.residual**2 / noise, fit.usable)))
    # what counting does not explain: dynamical structure, of which some looks like an ellipse
    left = _mean(soft[0].residual**2 - noise, soft[0].usable)
    structure = np.sqrt(max(left, 0)) / max(soft[0].profile.max(), 1e-12)
    freed = share * np.hypot(*between)
    unseen = systematic**2 + (STRUCTURE * structure) ** 2 + (FREED * freed) ** 2
    if np.hypot(*(fit.center - center)) > max(ASTRAY, ASTRAY_PART * radius):
        unseen = 1.0
    return DiskFit(
        vector,
        INFLATION * covariance + unseen * np.eye(2),
        tuple(float(c) for c in fit.center + corner),
        float(stiff[2]),
        float(stiff[3]),
        chi,
    )


def _mean(values, weights):
    return (values * weights).sum() / weights.sum()  # numpy.average raises where nothing is usable


class _DiskModel:
    """Weights and brightness terms of the direct beam."""

    robust, slope_blur, damping, enough = None, 0.0, 1.0, 2e-5

    def __init__(self, radius, freedom):
        self.radius, self.freedom = radius, freedom

    def variance(self, profile, residual, usable):
        return np.clip(profile, 0, None) + 0.1 * profile.max()

    def brightness(self, radii, profile):
        scaled = radii / self.radius
        return [(m, g) for m in (1, 2) for g in (profile * scaled**m, scaled**m * profile.max())]


def _edge(profile, radii):
    """(radius, variance in px^2) of the profile's descent."""
    descent = -np.gradient(profile, radii)
    near = np.abs(radii - radii[np.argmax(descent)]) < 1.8
    descent = np.clip(descent - 0.05 * descent.max(), 0, None) * near
    radius = (descent * radii).sum() / descent.sum()
    return radius, (descent * (radii - radius) ** 2).sum() / descent.sum()


def _draw_disk(radius, vector, blur, center, shape):
    """A soft elliptical disk as pooling shows it: blurred by pixel and interpolation, averaged over their
    phases."""
    k = 5 if radius < 12 else 3
    inside = (np.arange(k) + 0.5) / k - 0.5
    x, y = ((np.arange(n)[:, None] + inside).ravel() - c for n, c in zip(shape, center, strict=True))
    inverse = np.linalg.inv(ellipse_matrix(vector))
    ideal_x, ideal_y = (inverse[i, 0] * x[:, None] + inverse[i, 1] * y for i in (0, 1))
    rho = np.hypot(ideal_x, ideal_y) + 1e-9
    steepness = np.hypot(*(inverse[0, i] * ideal_x + inverse[1, i] * ideal_y for i in (0, 1))) / rho
    image = np.clip(0.5 - (rho - radius) / steepness * k, 0, 1)
    if blur > 0:
        image = gaussian_filter(image, blur * k, truncate=4)
    distance = np.abs(np.arange(-2 * k, 2 * k + 1) / k)
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    kernel = np.convolve(np.where(distance <= 1, near, far), np.ones(k))
    kernel /= kernel.sum()
    return convolve1d(convolve1d(image, kernel, 0), kernel, 1)[k // 2 :: k, k // 2 :: k]
