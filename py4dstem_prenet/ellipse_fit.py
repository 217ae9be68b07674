"""The elliptical distortion, measured without a network: from the direct beam's own shape and from rings.

Both fits look at the pooled pattern on an ideal polar grid and ask which ellipse and center make it depend on
the radius alone. What is left depends on the azimuth: an ellipse that is still there shows as cos 2 phi and
sin 2 phi times the slope of the radial profile, a wrong center as cos phi and sin phi times it. Both are
solved for by weighted linear least squares beside brightness that varies smoothly with the azimuth, and the
pattern is read again with the new ellipse until nothing is left. No ring is chosen and no window drawn: radii
count by their slope.

Conventions: x = qx = row, y = qy = column; theta from +qx toward +qy; vector = (eps cos 2 theta, eps sin 2
theta), eps = a/b - 1; measured = center + R(theta) diag(sqrt(a/b), sqrt(b/a)) R(theta)^T ideal.

What consumers make of it: an ideal radius rho is an ellipse with semi-axes a rho and b rho on the detector, a
= sqrt(1 + eps), b = 1 / a. `BraggVectors.cal` and `PolarDatacube` divide the a axis by a/b and leave the b axis
alone, so that rings come back at b rho; the older `process.utils.elliptical_coords` returns a rho. A pixel
size calibrated from geometric-mean radii must be multiplied by sqrt(a/b) = a once the ellipse is set.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import convolve1d, gaussian_filter, map_coordinates, spline_filter
from scipy.stats import chi2 as chi2_law

from .errors import PrenetError
from .polar import ellipse_matrix

SECTORS = 12  # pairs of opposite azimuth sectors for the jackknife: Friedel pairs are one observation
DISK_BLUR = 0.5  # px, smoothing that makes a sharp edge readable between pixels
DISK_PHI = 128
RING_PHI = 256
RING_INFLATION = 2.5  # of the ring covariance, from pulls on simulated glasses and powders
STRAIN = 0.03  # sigma of what strain and orientation of a few grains do to an ellipse
NOTHING_KNOWN = np.eye(2)  # covariance of an estimate that is none: eps is known to be below 1


@dataclass(frozen=True)
class DiskFit:
    """Ellipse from the shape of the direct beam, a round aperture supposed.

    `vector` (2,), `covariance` (2, 2): with the systematic sigma in it. `center`: (x, y) px in the pooled
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


@dataclass(frozen=True)
class RingFit:
    """Ellipse from all that lies outside the direct beam.

    `vector` (2,), `covariance` (2, 2). `center`: (x, y) px in the pooled frame, `center_covariance` (2, 2).
    `improved`: the corrected profile is sharper than at the start; where it is False the start vector is
    returned. `continuity`: 0 to 1, the part of the azimuth that carries the signal: near 1 for rings, some
    0.1 for one crystal's spots, whose lattice cannot tell strain from ellipse whatever the covariance says.
    """

    vector: np.ndarray
    covariance: np.ndarray
    center: tuple[float, float]
    center_covariance: np.ndarray
    improved: bool
    continuity: float


@np.errstate(divide="ignore", invalid="ignore")  # where there is no disk, NaN comes out and callers refuse it
def fit_disk(pooled, radius, start_vector=(0.0, 0.0), systematic=0.003):
    """Ellipse of the pooled, recentered direct beam.

    The blur of pixel and interpolation is round on the detector, not in ideal coordinates, and pulls the
    estimate toward zero by up to a fifth for a small disk. A soft disk of the radius and edge found is
    therefore drawn and
    fitted in the same way, and what that fit misses is added: what is left is below 0.001.
    Brightness that varies as cos 2 phi across the disk is allowed for as far as the data ask for it.

    Args:
        pooled: `Pooled`. radius: px, within 30 % of the disk's.
        start_vector: where to start; systematic: sigma of each component for an aperture that is not quite
            round
            and for dynamical structure that all parts of the scan share.

    Returns: `DiskFit`; its covariance is that of ignorance where less than half of the edge can be seen.
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
        return _fit(_smooth(image, mask, DISK_BLUR), origin, vector, radii, DISK_PHI, _DiskModel(around, freedom))

    # the disk's own edge first: the steepest descent near the radius given
    radii = np.arange(max(0.6 * radius - 1, 0.5), 1.4 * radius + 2, 0.25)
    polar, usable = _read(_smooth(pooled.mean[crop], good, DISK_BLUR), center, start_vector, radii, DISK_PHI)
    if usable.mean() < 0.5:
        return DiskFit(np.zeros(2), NOTHING_KNOWN, tuple(pooled.center), radius, np.nan, np.nan)
    profile = _profile(polar, usable)
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
        (_smooth(image[crop], weight[crop] > 0, DISK_BLUR), weight[crop].sum())
        for image, weight in zip(pooled.parts, pooled.parts_weight, strict=True)
    ]
    scatter = [_over_parts(fit[0], parts) for fit in (stiff, soft)]
    if len(parts) >= 4:
        c_stiff, c_soft, c_between = (_jackknife(s)[:2, :2] for s in (*scatter, scatter[1] - scatter[0]))
    else:
        c_stiff, c_soft = (_jackknife(_over_sectors(fit[0]))[:2, :2] for fit in (stiff, soft))
        c_between = c_soft
    between = soft[1] - stiff[1]
    share = _share(between, c_between)
    vector = stiff[1] + share * between
    covariance = (1 - share) * c_stiff + share * c_soft + share * (1 - share) * np.outer(between, between)
    fit = soft[0] if share > 0.5 else stiff[0]
    positions = max(pooled.positions, 1)
    noise = np.clip(fit.profile, 1e-3 * fit.profile.max(), None) / positions / (4 * np.pi * DISK_BLUR**2)
    chi = float(np.sqrt(np.average(fit.residual**2 / noise, weights=fit.usable)))
    return DiskFit(
        vector,
        covariance + systematic**2 * np.eye(2),
        tuple(float(c) for c in fit.center + corner),
        float(stiff[2]),
        float(stiff[3]),
        chi,
    )


def refine_rings(pooled, start_vector=(0.0, 0.0), inner=None, start_center=None, reach=2.0, systematic=0.001):
    """Ellipse and center that make the pooled pattern outside the direct beam sharpest as a function of the
    radius.

    The azimuthal variance at fixed ideal radius, weighted by what noise, speckle and spots leave at that
    radius, is minimized over ellipse and center, from coarse (blurred) to fine. The covariance is the larger
    of two jackknifes: over parts of the scan, and over pairs of opposite azimuth sectors, which a few spots
    cannot pass.

    Args:
        pooled: `Pooled`. start_vector: from the network or the disk.
        inner: px, smallest radius used, outside the direct beam and its tails; None finds where these end.
        start_center: (x, y) px in the pooled frame, None = `pooled.center`. reach: px, how far off it may be.
        systematic: sigma added to each component.

    Returns: `RingFit`.
    """
    mask = pooled.weight > 0
    center = np.array(pooled.center if start_center is None else start_center, float)
    start = np.asarray(start_vector, float)
    outer = _outer_radius(mask, center)
    if inner is None:
        inner = _tail_end(pooled.mean, mask, center, outer)
    if not outer > inner + 12:
        raise PrenetError("Rings need at least 12 px of radius between the direct beam and the detector's edge.")
    step = max(0.5, (outer - inner) / 200)
    radii = np.arange(inner, outer, step)
    fine = max(0.7, 0.7 * step)
    picture = _smooth(pooled.mean, mask, fine)
    parts = [
        (_smooth(image, weight > 0, fine), weight.sum())
        for image, weight in zip(pooled.parts, pooled.parts_weight, strict=True)
    ]
    stiff, soft = _RingModel(radii, 0), _RingModel(radii, 3)
    at_start = _fit(picture, center, start, radii, RING_PHI, stiff, steps=0)
    # from the start itself, and from coarse to fine, which finds its way from some pixels off
    starts = [(center, start)]
    middle, vector = center, start
    for blur in (2 * reach, reach):
        if blur > 1.5 * fine:
            coarse = _fit(_smooth(pooled.mean, mask, blur), middle, vector, radii, RING_PHI, soft)
            if _sane(coarse, center, reach):
                middle, vector = coarse.center, coarse.vector
    starts += [(middle, vector)]
    found = [_fit(picture, m, v, radii, RING_PHI, model) for m, v in starts for model in (stiff, soft)]
    found = [f for f in found if f.converged and _sane(f, center, reach)]
    best = min(found, key=lambda f: f.misfit(at_start.variance), default=None)
    if best is None or best.misfit(at_start.variance) >= at_start.misfit(at_start.variance):
        nothing = NOTHING_KNOWN.copy()
        return RingFit(start, nothing, tuple(map(float, center)), nothing * reach**2, False, _continuity(at_start))
    # both models from there: the softer says what smooth brightness may have done to the stiffer
    fits = [_fit(picture, best.center, best.vector, radii, RING_PHI, model) for model in (stiff, soft)]
    fits = [f for f in fits if f.converged and _sane(f, center, reach)] or [best]
    estimate = np.r_[fits[0].vector, fits[0].center]
    covariance = _ring_covariance(_over_sectors(fits[0]), _over_parts(fits[0], parts))
    if len(fits) == 2:
        other = np.r_[fits[1].vector, fits[1].center]
        softer = _ring_covariance(_over_sectors(fits[1]), _over_parts(fits[1], parts))
        apart = _ring_covariance(
            _over_sectors(fits[1]) - _over_sectors(fits[0]),
            _over_parts(fits[1], parts) - _over_parts(fits[0], parts),
        )
        share = _share(other[:2] - estimate[:2], apart[:2, :2])
        gap = other - estimate
        estimate = estimate + share * gap
        covariance = (1 - share) * covariance + share * softer + share * (1 - share) * np.outer(gap, gap)
    continuity = _continuity(fits[0])
    strain = STRAIN * np.clip((0.6 - continuity) / 0.3, 0, 1)
    return RingFit(
        estimate[:2],
        covariance[:2, :2] + (systematic**2 + strain**2) * np.eye(2),
        (float(estimate[2]), float(estimate[3])),
        covariance[2:, 2:],
        True,
        continuity,
    )


def combine(sources):
    """Join estimates by inverse covariance.

    Args:
        sources: dict name -> (vector (2,), covariance (2, 2)).

    Returns: (vector, covariance, agree, chi2). `agree`: chi2 of the sources about their mean, with 2 (n - 1)
    degrees of freedom, is one that chance exceeds in more than one case in a thousand. Where chi2 exceeds its
    degrees of freedom the covariance is scaled up by their ratio.
    """
    if not sources:
        raise PrenetError("There is no ellipse estimate to combine.")
    vectors = [np.asarray(v, float) for v, _ in sources.values()]
    precisions = [np.linalg.inv(np.asarray(c, float)) for _, c in sources.values()]
    covariance = np.linalg.inv(np.sum(precisions, 0))
    vector = covariance @ np.sum([p @ v for p, v in zip(precisions, vectors, strict=True)], 0)
    chi2 = float(sum((v - vector) @ p @ (v - vector) for p, v in zip(precisions, vectors, strict=True)))
    freedom = 2 * (len(vectors) - 1)
    if not freedom:
        return vector, covariance, True, 0.0
    return vector, covariance * max(1.0, chi2 / freedom), bool(chi2 < chi2_law.ppf(0.999, freedom)), chi2


# What both fits share


@dataclass
class _Fit:
    vector: np.ndarray
    center: np.ndarray
    radii: np.ndarray
    profile: np.ndarray
    residual: np.ndarray  # (n_phi, n_r) about the radial profile
    usable: np.ndarray
    variance: np.ndarray  # (n_r,)
    weight: np.ndarray  # (n_phi, n_r) of the last solution
    columns: np.ndarray  # (n_phi, n_r, k): ellipse and center first, then the brightness terms
    ridge: np.ndarray
    converged: bool

    def misfit(self, variance):
        """Robust mean of the residuals' squares in units of `variance`: what sharpening lowers."""
        z = self.residual**2 / variance
        return float(np.average(np.log1p(z / 4), weights=self.usable))


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


class _RingModel:
    """Weights and brightness terms of everything outside: azimuthal variance found at each radius."""

    robust = 4.0  # degrees of freedom of Student's law: single spots must not rule
    freedom = 1e-3
    enough = 2e-4
    slope_blur, damping = 2.0, 0.6  # px; damped since the smoothed slope of a sharp ring is too small

    def __init__(self, radii, knots):
        at = np.linspace(radii[0], radii[-1], knots)
        width = at[1] - at[0] if knots > 1 else 1.0
        self.bumps = [np.clip(1 - np.abs(radii - a) / width, 0, None) for a in at]

    def variance(self, profile, residual, usable):
        row = (residual**2 * usable).sum(0) / np.maximum(usable.sum(0), 1)
        return np.maximum(gaussian_filter(row, 3), 1e-12 * max(row.max(), 1e-30))

    def brightness(self, radii, profile):
        level = profile - profile.min()
        level = gaussian_filter(level, len(radii) / 8) + 0.02 * level.max()
        return [(m, bump * level) for m in (1, 2) for bump in self.bumps]


def _fit(picture, center, vector, radii, n_phi, model, steps=20):
    """Gauss-Newton over ellipse and center. `steps` = 0 evaluates the start."""
    vector, center = np.array(vector, float), np.array(center, float)
    azimuth = np.arange(n_phi) * (2 * np.pi / n_phi)
    converged = False
    for step in range(steps + 1):
        polar, usable = _read(picture, center, vector, radii, n_phi)
        profile = _profile(polar, usable)
        residual = (polar - profile) * usable
        variance = model.variance(profile, residual, usable)
        weight = usable / variance
        if model.robust:
            weight = weight * (model.robust + 1) / (model.robust + residual**2 / variance)
            profile = _profile(polar, weight)
            residual = (polar - profile) * usable
        # smoothed, for what is read from one noisy profile must not be matched against its own noise
        blur = model.slope_blur / (radii[1] - radii[0])
        slope = np.gradient(gaussian_filter(profile, blur) if blur else profile, radii)
        waves = [slope * radii / 2, slope * radii / 2, slope, slope]
        turns = [np.cos(2 * azimuth), np.sin(2 * azimuth), np.cos(azimuth), np.sin(azimuth)]
        for m, g in model.brightness(radii, profile):
            waves += [g, g]
            turns += [np.cos(m * azimuth), np.sin(m * azimuth)]
        columns = np.stack(turns)[:, :, None] * np.stack(waves)[:, None, :]
        total = np.maximum(weight.sum(0), 1e-300)
        columns = np.moveaxis(columns - ((columns * weight).sum(1) / total)[:, None], 0, -1)
        ridge = np.r_[np.zeros(4), np.full(columns.shape[-1] - 4, model.freedom)]
        if step == steps or converged:
            break
        delta = np.linalg.solve(*_equations(columns, weight, residual, ridge))[:4]
        # a disk larger than the grid supposes is brighter at its edge by -slope times the difference
        vector = vector - model.damping * np.clip(delta[:2], -0.03, 0.03)
        center = center - ellipse_matrix(vector) @ (model.damping * np.clip(delta[2:], -1, 1))
        converged = bool(np.abs(delta[:2]).max() < model.enough and np.abs(delta[2:]).max() < 20 * model.enough)
    return _Fit(
        vector,
        center,
        radii,
        profile,
        residual,
        usable,
        variance,
        weight,
        columns,
        ridge,
        converged or steps == 0,
    )


def _equations(columns, weight, residual, ridge):
    """Normal matrix and right-hand side; the ridge is relative to each column's own size."""
    flat = columns.reshape(-1, columns.shape[-1])
    heavy = flat * weight.reshape(-1, 1)
    normal = flat.T @ heavy
    scale = np.diag(normal) + 1e-300
    return normal + np.diag((ridge + 1e-9) * scale), heavy.T @ residual.ravel()


def _over_parts(fit, parts):
    """(P, 4) estimates (ellipse, center) with one part left out, to first order, relative to all."""
    normal, _ = _equations(fit.columns, fit.weight, fit.residual, fit.ridge)
    share = np.array([w for _, w in parts])
    share = share / share.sum()
    single = []
    for picture, _ in parts:
        polar, usable = _read(picture, fit.center, fit.vector, fit.radii, len(fit.residual))
        residual = (polar - fit.profile) * usable * (fit.usable > 0)
        single.append(_equations(fit.columns, fit.weight, residual, fit.ridge)[1])
    single = -np.linalg.solve(normal, np.array(single).T).T[:, :4]
    whole = share @ single
    return (whole - share[:, None] * single) / (1 - share)[:, None] - whole if len(parts) > 1 else single * 0


def _over_sectors(fit):
    """(SECTORS, 4) estimates with one pair of opposite azimuth sectors left out, relative to all."""
    n_phi = len(fit.residual)
    sector = (np.arange(n_phi) * 2 * SECTORS // n_phi) % SECTORS
    whole = np.linalg.solve(*_equations(fit.columns, fit.weight, fit.residual, fit.ridge))[:4]
    out = []
    for k in range(SECTORS):
        weight = fit.weight * (sector != k)[:, None]
        total = np.maximum(weight.sum(0), 1e-300)
        columns = fit.columns - (fit.columns * weight[..., None]).sum(0) / total[:, None]
        residual = fit.residual - (fit.residual * weight).sum(0) / total
        out.append(whole - np.linalg.solve(*_equations(columns, weight, residual, fit.ridge))[:4])
    return np.array(out)


def _jackknife(estimates):
    spread = estimates - estimates.mean(0)
    return (len(spread) - 1) / len(spread) * spread.T @ spread


def _share(gap, covariance):
    """How much of a softer model to take: as far as its gap to the stiffer one exceeds noise (James and
    Stein)."""
    excess = gap @ np.linalg.solve(covariance + 1e-9 * np.eye(2), gap)
    return max(0.0, 1 - 4 / max(excess, 1e-12))


def _smooth(image, mask, sigma):
    """(spline coefficients of the image smoothed over good pixels, mask as float or None where all are
    good)."""
    if mask.all():
        return spline_filter(gaussian_filter(image.astype(float), sigma, truncate=4), order=3), None
    share = gaussian_filter(mask.astype(float), sigma, truncate=4)
    filled = gaussian_filter(np.where(mask, image, 0.0).astype(float), sigma, truncate=4) / np.maximum(share, 1e-3)
    return spline_filter(filled, order=3), mask.astype(float)


def _read(picture, center, vector, radii, n_phi):
    """(n_phi, n_r) map on the ideal polar grid, and 1 where it can be used."""
    coefficients, mask = picture
    azimuth = np.arange(n_phi) * (2 * np.pi / n_phi)
    ideal = np.stack([np.cos(azimuth)[:, None] * radii, np.sin(azimuth)[:, None] * radii])
    at = np.einsum("ij,jpr->ipr", ellipse_matrix(vector), ideal) + np.asarray(center, float)[:, None, None]
    polar = map_coordinates(coefficients, at, order=3, prefilter=False, mode="nearest")
    shape = np.array(coefficients.shape)[:, None, None]
    usable = ((at >= 1) & (at <= shape - 2)).all(0).astype(float)
    if mask is not None:
        usable *= map_coordinates(mask, at, order=1, cval=0.0) > 0.99
    return polar, usable


def _profile(polar, weight):
    """Radial mean; a radius that nothing covers takes its neighbors' value."""
    total = weight.sum(0)
    covered = total > 0
    if not covered.any():
        return np.zeros(polar.shape[1])
    mean = (polar * weight).sum(0)[covered] / total[covered]
    return np.interp(np.arange(len(total)), np.flatnonzero(covered), mean)


# The disk


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


# The rings


def _sane(fit, center, reach):
    return np.hypot(*fit.vector) < 0.3 and np.hypot(*(fit.center - center)) < 4 * reach + 1


def _ring_covariance(by_sectors, by_parts):
    """The larger of both jackknifes, scaled by what they were found to miss."""
    covariances = [_jackknife(by_sectors), *([_jackknife(by_parts)] if len(by_parts) >= 4 else [])]
    return RING_INFLATION * max(covariances, key=lambda c: np.trace(c[:2, :2]))


def _outer_radius(mask, center):
    """Largest radius at which a third of the azimuth is on the detector."""
    x = np.arange(mask.shape[0])[:, None] - center[0]
    y = np.arange(mask.shape[1])[None, :] - center[1]
    ring = np.hypot(x, y).astype(int)
    seen = np.bincount(ring.ravel(), mask.ravel())
    enough = seen > 2 * np.pi * (np.arange(len(seen)) + 0.5) / 3
    enough[: len(seen) // 8] = True  # a beam stop's hub
    return float(np.argmin(enough) if not enough.all() else len(seen)) - 1


def _tail_end(image, mask, center, outer):
    """Radius at which the direct beam's fall is over: where the log profile first falls no faster than its
    median."""
    radii = np.arange(1, outer, 0.5)
    polar, usable = _read(_smooth(image, mask, 1.0), center, (0.0, 0.0), radii, RING_PHI)
    profile = _profile(polar, usable)
    floor = 1e-4 * max(profile.max(), 1e-12)
    fall = -gaussian_filter(np.gradient(np.log(np.clip(profile, floor, None)), radii), 2)
    first = np.argmax(fall[: len(fall) // 2])
    slow = np.flatnonzero(fall[first:] < max(0.15 * fall[first], np.median(fall)))
    return float(radii[first + slow[0]] + 1) if len(slow) else 0.25 * outer


def _continuity(fit):
    """Participation ratio over the azimuth of what rises above the radial background."""
    background = np.minimum(gaussian_filter(fit.profile, len(fit.radii) / 8), fit.profile)
    rise = np.clip(fit.residual + fit.profile - background, 0, None) * fit.usable
    rise = gaussian_filter(rise, (1.5, 0), mode=("wrap", "nearest"))
    seen = np.maximum(fit.usable.sum(0), 1)
    mean, square = rise.sum(0) / seen, (rise**2).sum(0) / seen
    signal = np.clip(fit.profile - background, 0, None)
    ratio = mean**2 / np.maximum(square, 1e-300)
    return float(np.average(ratio, weights=signal)) if signal.sum() > 0 else 0.0
