"""Image of the probe in vacuum, from the direct beam of a scan.

The positions nearest to vacuum are chosen (`thin`), each pattern is shifted by its own origin, and a disk fitted to the
mean gives the center. The image is cut to the disk with a smooth edge, and the background around it is subtracted. The
image is drawn from the aperture instead, as a disk with the fitted radius, ellipse and edge, in three cases: the mean
disk is uneven and many electrons are scattered (no position is thin enough), the mean disk is noisy, or the edge of the
detector cuts it.
"""

from __future__ import annotations

from dataclasses import replace
from numbers import Real

import numpy as np
from scipy.special import erfc

from ..core import (
    MIN_RADIUS_SIGMA,
    Decision,
    Flag,
    NoiseModel,
    PrenetError,
    ProbeImage,
    as_scan,
    ellipse_matrix,
    semi_angle,
)
from ..fits import fit_disk, pool
from .thin import INNER_PART, choose_thin

MAX_MEAN_UNEVEN = 0.02  # fraction of the mean; largest rms of the brightness inside the mean disk of an even probe
MIN_VACUUM_PART = 0.9  # fraction of the electrons; smallest part in the direct disk if it is that of vacuum
# Electrons in the mean disk; with fewer, Bragg disks are found better with a drawn disk (benchmarks/probe.py).
MIN_PROBE_ELECTRONS = 3e5
MAX_CUT = 0.02  # fraction of the disk's pixels; largest part without data
TAPER_PX = 2.0  # pixels; width of the smooth edge of the image
MAX_CENTER_SIGMA_PX = 0.05  # pixels; largest standard error of the center for which the mean disk is used
GROUPS = 4  # groups of parts of the scan, each left out once for the standard errors of center and radius


def measure_probe(data, qx0, qy0, radius, noise: NoiseModel, valid=None, pixel_size=None, voltage=None,
                  progress=True) -> ProbeImage:
    """Measure the image of the probe.

    Parameters
    ----------
    data : Scan, DataCube or array_like, shape (Rx, Ry, Qx, Qy)
        The scan.
    qx0, qy0 : array_like, shape (Rx, Ry)
        Fitted origin, pixels.
    radius : float or None
        Radius of the direct disk, pixels; None or NaN if it is hidden.
    noise : NoiseModel
        Noise model of the detector.
    valid : array_like of bool, shape (Rx, Ry), optional
        True where a position is used.
    pixel_size : float, optional
        Size of a detector pixel, 1/angstrom, for the convergence semi-angle.
    voltage : float, optional
        Acceleration voltage, V, for the convergence semi-angle.
    progress : bool, optional
        Whether to show a progress bar.

    Returns
    -------
    ProbeImage
        The image, with a sum of 1, and its center, radius and edge; refused if the direct beam is hidden.

    Raises
    ------
    PrenetError
        If there is no valid position, or a number is not positive.

    Examples
    --------
    >>> from py4dstem_prenet.core import NoiseModel
    >>> from py4dstem_prenet.simulation import simulate_nanobeam
    >>> made = simulate_nanobeam((8, 8), (48, 48), field=0.0, radius=6.0)
    >>> noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((48, 48), bool), counting=True, dose=1e4)
    >>> truth = made.truth
    >>> probe = measure_probe(made.counts(1e4), truth["qx0"], truth["qy0"], 6.0, noise, progress=False)
    >>> probe.accepted, probe.center, round(probe.radius, 1)
    (True, (24, 24), 6.0)
    """
    scan = as_scan(data)
    shape = scan.pattern_shape
    for name, value in (("pixel size", pixel_size), ("voltage", voltage)):
        if value is not None and not (isinstance(value, Real) and value > 0):
            raise PrenetError(f"The {name} must be a positive number, not {value!r}.")
    center = (shape[0] // 2, shape[1] // 2)
    if radius is None or not np.isfinite(radius):
        return ProbeImage(np.zeros(shape), center, float("nan"), float("nan"), float("nan"), 0, None,
                          Decision(False, (Flag("probe_hidden"),)))
    if not radius > 0:
        raise PrenetError(f"The probe radius must be positive, not {radius}; measure the origin first.")
    qx0, qy0 = (np.broadcast_to(np.asarray(q, float), scan.scan_shape) for q in (qx0, qy0))
    thin, direct = choose_thin(scan, qx0, qy0, radius, noise, valid, "probe" if progress else None)
    pooled = pool(scan, qx0, qy0, noise, valid=thin)
    disk = fit_disk(pooled, radius)
    offset = np.subtract(disk.center, pooled.center)
    if not (np.isfinite(offset).all() and np.isfinite([disk.radius, disk.edge]).all()):
        return ProbeImage(np.zeros(shape), center, float(radius), float("nan"), float("nan"), int(thin.sum()), None,
                          Decision(False, (Flag("probe_unknown"),)))
    sigma, radius_sigma = _standard_errors(pooled, radius)
    pooled = pool(scan, qx0 + offset[0], qy0 + offset[1], noise, valid=thin)
    mean, weight = (_cut(image, pooled.center, center, shape) for image in (pooled.mean, pooled.weight))
    edge = float(np.hypot(disk.edge, 12**-0.5))
    drawn, distance = draw_aperture(shape, center, disk.radius, edge, disk.vector)
    inside = distance < disk.radius
    inner = (distance < INNER_PART * disk.radius) & (weight > 0)
    cut = float((weight[inside] <= 0).mean()) if inside.any() else 1.0
    level = float(mean[inner].mean()) if inner.any() else 0.0
    uneven = _unevenness(mean[inner], weight[inner], level, noise)
    electrons = float((mean * weight)[inside].sum())
    margin = 3.0 * edge + 1.0  # pixels around the disk that belong to it
    flags = [Flag("probe_measured", {"positions": int(thin.sum()), "electrons": electrons})]
    cause = _defect(cut, uneven, direct, electrons, sigma)
    if cause:
        flags = [Flag("probe_from_aperture", {"radius": disk.radius, "edge": edge, "cause": cause})]
        image, sigma = drawn, 0.0
    else:
        surroundings = (distance > disk.radius + margin) & (distance < disk.radius + margin + 3) & (weight > 0)
        background = float(np.median(mean[surroundings])) if surroundings.any() else 0.0
        image = np.where(weight > 0, mean - background, drawn * (level - background))
        image = image * np.clip((disk.radius + margin + TAPER_PX - distance) / TAPER_PX, 0, 1)
    image = np.clip(image, 0, None)
    image = np.where(distance < disk.radius + margin + TAPER_PX, image, 0.0)
    numbers = {"direct": direct, "uneven": uneven, "cut": cut, "electrons": electrons}
    return ProbeImage(image / image.sum(), center, float(disk.radius), edge, sigma, int(thin.sum()),
                      semi_angle(disk.radius, pixel_size, voltage), Decision(True, tuple(flags), numbers),
                      float(np.hypot(radius_sigma, MIN_RADIUS_SIGMA * disk.radius)))


def draw_aperture(shape, center, radius: float, edge: float, vector=(0.0, 0.0)):
    """Draw the image of an aperture.

    Parameters
    ----------
    shape : tuple of int
        (Qx, Qy), pixels.
    center : tuple of float
        Center of the aperture, pixels.
    radius : float
        Geometric mean of the semi-axes, pixels.
    edge : float
        Standard deviation of the edge, pixels.
    vector : array_like, shape (2,), optional
        Ellipse vector.

    Returns
    -------
    image : numpy.ndarray, shape (Qx, Qy)
        1 inside, 0 outside.
    distance : numpy.ndarray, shape (Qx, Qy)
        Distance of each pixel from the center before the elliptical distortion, pixels.

    Examples
    --------
    >>> image, distance = draw_aperture((32, 32), (16, 16), 5.0, 0.5)
    >>> image[16, 16].item(), distance[16, 21].item(), image[16, 21].item()
    (1.0, 5.0, 0.5)
    """
    inverse = np.linalg.inv(ellipse_matrix(np.asarray(vector, float)))
    x, y = np.arange(shape[0])[:, None] - center[0], np.arange(shape[1])[None, :] - center[1]
    distance = np.hypot(*(row[0] * x + row[1] * y for row in inverse))
    return 0.5 * erfc((distance - radius) / (edge * 2**0.5)), distance


def _defect(cut, uneven, direct, electrons, sigma):
    """Why the mean disk cannot be the image of the probe; None if it can."""
    if cut > MAX_CUT:
        return "the edge of the detector or bad pixels cut the disk"
    if uneven > MAX_MEAN_UNEVEN and direct < MIN_VACUUM_PART:
        return "no position is thin enough"
    if electrons < MIN_PROBE_ELECTRONS:
        return "too few electrons pass the thin positions"
    if not sigma <= MAX_CENTER_SIGMA_PX:
        return "its center is uncertain"
    return None


def _standard_errors(pooled, radius):
    """Standard errors in pixels of center (along one axis) and radius of the disk, by a jackknife over parts."""
    group = np.arange(len(pooled.parts)) % GROUPS
    if len(pooled.parts) < GROUPS:
        return 0.0, np.nan
    disks = []
    for k in range(GROUPS):
        keep = group != k
        weight = pooled.parts_weight[keep].sum(0)
        mean = (pooled.parts[keep] * pooled.parts_weight[keep]).sum(0) / np.maximum(weight, 1)
        disks.append(fit_disk(replace(pooled, mean=mean, weight=weight, parts=pooled.parts[keep],
                                      parts_weight=pooled.parts_weight[keep]), radius))
    center = np.var([disk.center for disk in disks], axis=0)
    size = np.var([disk.radius for disk in disks])
    return tuple(float(np.sqrt((GROUPS - 1) * np.mean(v))) for v in (center, size))  # (n - 1) / n times the squares


def _unevenness(values, weight, level, noise):
    """Rms of the brightness in excess of counting noise, relative to its mean."""
    if not (values.size > 1 and level > 0):
        return np.inf
    variance = float(np.mean((np.clip(values, 0, None) + (noise.readout / noise.gain) ** 2) / np.maximum(weight, 1)))
    return float(np.sqrt(max(values.var() - variance, 0.0)) / level)


def _cut(image, middle, center, shape):
    """Cut an image to `shape` so that pixel `middle` becomes pixel `center`; pixels outside the image are zero."""
    result = np.zeros(shape)
    into, of = [], []
    for axis in (0, 1):
        start = round(middle[axis]) - center[axis]
        low, high = max(-start, 0), min(shape[axis], image.shape[axis] - start)
        into.append(slice(low, max(high, low)))
        of.append(slice(low + start, max(high, low) + start))
    result[tuple(into)] = image[tuple(of)]
    return result
