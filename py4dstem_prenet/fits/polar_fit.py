"""Which ellipse and center make a pattern depend on the radius alone: what the disk fit and the ring fit share.

A pattern is read on an ideal polar grid. What is left there depends on the azimuth: an ellipse that is still
there shows as cos 2 phi and sin 2 phi times the slope of the radial profile, a wrong center as cos phi and sin
phi times it. Both are solved for by weighted linear least squares beside brightness that varies smoothly with
the azimuth, and the pattern is read again with the new ellipse until nothing is left. The radial profile is
free, so that no edge shape, ring or window is supposed: radii count by their slope.

Conventions: x = qx = row, y = qy = column; vector = (eps cos 2 theta, eps sin 2 theta), see `polar`.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates, spline_filter

from ..core import ellipse_matrix

SECTORS = 12  # pairs of opposite azimuth sectors for the jackknife: Friedel pairs are one observation
NOTHING_KNOWN = np.eye(2)  # covariance of an estimate that is none: eps is known to be below 1


@dataclass
class PolarFit:
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


def fit_polar(picture, center, vector, radii, n_phi, model, steps=20):
    """Gauss-Newton over ellipse and center. `steps` = 0 evaluates the start."""
    vector, center = np.array(vector, float), np.array(center, float)
    azimuth = np.arange(n_phi) * (2 * np.pi / n_phi)
    converged = False
    for step in range(steps + 1):
        polar, usable = read_polar(picture, center, vector, radii, n_phi)
        profile = radial_profile(polar, usable)
        residual = (polar - profile) * usable
        variance = model.variance(profile, residual, usable)
        weight = usable / variance
        if model.robust:
            weight = weight * (model.robust + 1) / (model.robust + residual**2 / variance)
            profile = radial_profile(polar, weight)
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
        delta = np.linalg.solve(*equations(columns, weight, residual, ridge))[:4]
        # a disk larger than the grid supposes is brighter at its edge by -slope times the difference
        vector = vector - model.damping * np.clip(delta[:2], -0.03, 0.03)
        center = center - ellipse_matrix(vector) @ (model.damping * np.clip(delta[2:], -1, 1))
        converged = bool(np.abs(delta[:2]).max() < model.enough and np.abs(delta[2:]).max() < 20 * model.enough)
    return PolarFit(
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


def equations(columns, weight, residual, ridge):
    """Normal matrix and right-hand side; the ridge is relative to each column's own size."""
    flat = columns.reshape(-1, columns.shape[-1])
    heavy = flat * weight.reshape(-1, 1)
    normal = flat.T @ heavy
    scale = np.diag(normal) + 1e-300
    return normal + np.diag((ridge + 1e-9) * scale), heavy.T @ residual.ravel()


def over_parts(fit, parts):
    """(P, 4) estimates (ellipse, center) with one part left out, to first order, relative to all."""
    normal, _ = equations(fit.columns, fit.weight, fit.residual, fit.ridge)
    share = np.array([w for _, w in parts])
    share = share / share.sum()
    single = []
    for picture, _ in parts:
        polar, usable = read_polar(picture, fit.center, fit.vector, fit.radii, len(fit.residual))
        residual = (polar - fit.profile) * usable * (fit.usable > 0)
        single.append(equations(fit.columns, fit.weight, residual, fit.ridge)[1])
    single = -np.linalg.solve(normal, np.array(single).T).T[:, :4]
    whole = share @ single
    return (whole - share[:, None] * single) / (1 - share)[:, None] - whole if len(parts) > 1 else single * 0


def over_sectors(fit):
    """(SECTORS, 4) estimates with one pair of opposite azimuth sectors left out, relative to all."""
    n_phi = len(fit.residual)
    sector = (np.arange(n_phi) * 2 * SECTORS // n_phi) % SECTORS
    whole = np.linalg.solve(*equations(fit.columns, fit.weight, fit.residual, fit.ridge))[:4]
    out = []
    for k in range(SECTORS):
        weight = fit.weight * (sector != k)[:, None]
        total = np.maximum(weight.sum(0), 1e-300)
        columns = fit.columns - (fit.columns * weight[..., None]).sum(0) / total[:, None]
        residual = fit.residual - (fit.residual * weight).sum(0) / total
        out.append(whole - np.linalg.solve(*equations(columns, weight, residual, fit.ridge))[:4])
    return np.array(out)


def jackknife(estimates):
    spread = estimates - estimates.mean(0)
    return (len(spread) - 1) / len(spread) * spread.T @ spread


def share_of(gap, covariance):
    """How much of a softer model to take: as far as its gap to the stiffer one exceeds noise (James and
    Stein)."""
    excess = gap @ np.linalg.solve(covariance + 1e-9 * np.eye(2), gap)
    return max(0.0, 1 - 4 / max(excess, 1e-12))


def smooth(image, mask, sigma, order=3):
    """(spline coefficients of the image smoothed over good pixels, mask or None where all are good, order)."""
    if mask.all():
        filled, mask = gaussian_filter(image.astype(float), sigma, truncate=4), None
    else:
        mask = mask.astype(float)
        filled = gaussian_filter(np.where(mask > 0, image, 0.0).astype(float), sigma, truncate=4)
        filled /= np.maximum(gaussian_filter(mask, sigma, truncate=4), 1e-3)
    return spline_filter(filled, order=order) if order > 1 else filled, mask, order


def read_polar(picture, center, vector, radii, n_phi):
    """(n_phi, n_r) map on the ideal polar grid, and 1 where it can be used. picture: from `smooth`."""
    coefficients, mask, order = picture
    azimuth = np.arange(n_phi) * (2 * np.pi / n_phi)
    ideal = np.stack([np.cos(azimuth)[:, None] * radii, np.sin(azimuth)[:, None] * radii])
    at = np.einsum("ij,jpr->ipr", ellipse_matrix(vector), ideal) + np.asarray(center, float)[:, None, None]
    polar = map_coordinates(coefficients, at, order=order, prefilter=False, mode="nearest")
    shape = np.array(coefficients.shape)[:, None, None]
    usable = ((at >= 1) & (at <= shape - 2)).all(0).astype(float)
    if mask is not None:
        usable *= map_coordinates(mask, at, order=1, cval=0.0) > 0.99
    return polar, usable


def radial_profile(polar, weight):
    """Radial mean; a radius that nothing covers takes its neighbors' value."""
    total = weight.sum(0)
    covered = total > 0
    if not covered.any():
        return np.zeros(polar.shape[1])
    mean = (polar * weight).sum(0)[covered] / total[covered]
    return np.interp(np.arange(len(total)), np.flatnonzero(covered), mean)
