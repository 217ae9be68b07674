"""Quantities that users measure from diffraction patterns, as linear functionals of the counts.

The quantities are displacements of the disks (shift, strain, rotation) and intensities (total of the pattern, virtual
images, strongest disks). A functional is a weight for each pixel. It is computed from the mean of similar patterns
nearby and moves with the origin. Raw and denoised patterns of a position are measured with the same weights, so that
they can be compared.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.sparse.csgraph import connected_components

from ..core import ATTENUATED, EXAGGERATED, Flag, NoiseModel, Slope, slope_of_halves

DISPLACEMENTS = ("shift along qx", "shift along qy", "strain along qx", "strain along qy", "shear", "rotation")
INTENSITIES = ("pattern total", "bright-field image", "dark-field image", "strongest disks")
QUANTITIES = DISPLACEMENTS + INTENSITIES

SMOOTHING_PX = 1.0  # pixels, 1 sigma; Gaussian smoothing of means: it reduces noise and hardly blurs the edges of disks
GRADIENT_SIGMAS = 3.0  # sigmas of the noise of the mean; smallest gradient that is used
MAX_DISKS = 8  # number of strongest disks that are measured
MARGIN_PX = 1.5  # pixels; width of the margin around a disk that belongs to it
RIDGE = 1e-4  # ridge added to the normalized information matrix: without Bragg disks, strain is hardly determined

# Grouping of similar patterns: grains must not share a template, since their difference would look like strain.
GROUP_CELLS = 16  # number of cells along each side of a pattern, in which counts are summed
MIN_CELL_COUNTS = 10.0  # counts; smallest sum of a block in a cell that is compared
GROUP_DISTANCE = 0.03  # fraction of the counts; squared difference of patterns in one group, 3 % of them in Bragg disks
GROUP_SIGMAS = 5.0  # sigmas; smallest significant squared difference between patterns
MIN_GROUP_POSITIONS = 8  # positions; fewest in a group: the mean of fewer patterns is mostly noise


def measure_slopes(estimate, first, second, origins, noise: NoiseModel, blocks=None) -> dict[str, Slope]:
    """Measure from two halves of the counts how much of the variation of each quantity an estimate keeps.

    Parameters
    ----------
    estimate : numpy.ndarray, shape (n, Qx, Qy)
        Patterns estimated from the first half alone, electrons.
    first, second : numpy.ndarray, shape (n, Qx, Qy)
        Raw halves of the counts with independent noise and the same dose, electrons (`detector.split`).
    origins : numpy.ndarray, shape (n, 2), or None
        Origin at each position, pixels; the middle of the pattern if None.
    noise : NoiseModel
        Noise model of a half.
    blocks : numpy.ndarray of int, shape (n,), optional
        Block of neighboring positions to which each position belongs. Variation between blocks is not counted, since
        denoising averages only neighbors. One block by default.

    Returns
    -------
    dict
        `Slope` of each of `QUANTITIES`; "unknown" for fewer than 16 positions in groups of similar patterns.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.core import NoiseModel
    >>> from py4dstem_prenet.denoising import measure_slopes
    >>> rng = np.random.default_rng(0)
    >>> clean = np.linspace(2, 4, 64)[:, None, None] * np.ones((64, 32, 32))
    >>> noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((32, 32), bool), counting=True, dose=3072.0)
    >>> flat = 3 + 0.5 * (clean - 3)
    >>> slopes = measure_slopes(flat, rng.poisson(clean), rng.poisson(clean), None, noise)
    >>> slopes["pattern total"].status
    'attenuated'
    """
    shape = np.shape(first)[1:]
    count = len(first)
    origins = np.tile((np.array(shape) - 1) / 2, (count, 1)) if origins is None else np.asarray(origins, float)
    blocks = np.zeros(count, int) if blocks is None else np.asarray(blocks)
    readings: dict[str, list] = {name: [] for name in QUANTITIES}
    for block in np.unique(blocks):
        at = np.flatnonzero(blocks == block)
        for members, mean, middle in similar_groups(first[at], second[at], origins[at], noise):
            chosen = at[members]
            functionals = Functionals(mean, middle, len(chosen), noise)
            values, variance = functionals.read((estimate[chosen], first[chosen], second[chosen]), origins[chosen])
            scale = variance.mean(0)
            values -= values.mean(1, keepdims=True)
            for k in np.flatnonzero(scale > 0):
                # In units of the noise, groups are weighted by their information.
                readings[functionals.names[k]].append((*values[:, :, k] / scale[k] ** 0.5, variance[:, k] / scale[k]))
    slopes = {}
    for name, found in readings.items():
        # Of all groups: values of the estimate and of both halves, and the variance of these.
        columns = [np.concatenate(column) for column in zip(*found, strict=True)] or [np.zeros(0)] * 4
        slopes[name] = slope_of_halves(*columns)
    return slopes


def slope_flags(slopes) -> tuple[Flag, ...]:
    """Create flags for the quantities that an estimate attenuates or exaggerates.

    Parameters
    ----------
    slopes : dict
        Result of `measure_slopes`.

    Returns
    -------
    tuple of Flag
        One flag for each such quantity; empty if there is none.
    """
    flags = []
    for status, name in ((ATTENUATED, "denoising_attenuates"), (EXAGGERATED, "denoising_exaggerates")):
        flags += [Flag(name, {"quantity": quantity, "slope": slope.value, "sigma": slope.sigma})
                  for quantity, slope in slopes.items() if slope.status == status]
    return tuple(flags)


def similar_groups(first, second, origins, noise: NoiseModel):
    """Divide a block of positions into groups of similar patterns, such as grains.

    Parameters
    ----------
    first, second : numpy.ndarray, shape (n, Qx, Qy)
        Raw halves of the counts, electrons.
    origins : numpy.ndarray, shape (n, 2)
        Origins, pixels.
    noise : NoiseModel
        Noise model of a half.

    Yields
    ------
    members : numpy.ndarray of int, shape (m,)
        Indices of a group. Positions in groups of fewer than MIN_GROUP_POSITIONS are left out.
    mean : numpy.ndarray, shape (Qx, Qy)
        Mean of the patterns of the group about `middle`, both halves together, electrons.
    middle : numpy.ndarray, shape (2,)
        Mean origin of the group, pixels.

    Notes
    -----
    Two patterns are linked if the product of their differences in both halves is small or insignificant; this product
    is an unbiased estimate of the squared difference. Chains of links form a group (single linkage), so that smooth
    variation does not divide it. Noise has hardly any influence on the groups; otherwise it would correlate the halves.
    """
    middle = origins.mean(0)
    halves = [np.stack([_moved(pattern, middle - origin, 1) for pattern, origin in zip(half, origins, strict=True)])
              for half in (first, second)]
    good = ~noise.bad_pixels
    cells = [_cell_sums(half * good) for half in halves]
    variance = (cells[0] + cells[1]).mean(0) / 2 + (noise.readout / noise.gain) ** 2 * _cell_sums(good[None] * 1.0)[0]
    used = variance * len(first) > MIN_CELL_COUNTS
    a, b = (part[:, used] / np.sqrt(variance[used]) for part in cells)
    products = a @ b.T
    own = np.diag(products)
    squared = own[:, None] + own - products - products.T
    electrons = float((cells[0] + cells[1]).mean(0).sum()) / 2
    linked = squared < max(GROUP_DISTANCE * electrons, GROUP_SIGMAS * 2 * max(used.sum(), 1) ** 0.5)
    labels = connected_components(linked, directed=False)[1]
    for label in range(labels.max() + 1):
        members = np.flatnonzero(labels == label)
        if len(members) >= MIN_GROUP_POSITIONS:
            yield members, (halves[0][members] + halves[1][members]).mean(0), middle


class Functionals:
    """Functionals of the patterns of a group.

    Parameters
    ----------
    mean : numpy.ndarray, shape (Qx, Qy)
        Mean of the patterns of the group, electrons.
    middle : numpy.ndarray, shape (2,)
        Origin of `mean`, pixels.
    count : int
        Number of patterns in the mean.
    noise : NoiseModel
        Noise model of a half.

    Attributes
    ----------
    names : list of str
        Quantity measured by each functional; there is one functional for each of the strongest disks.

    Notes
    -----
    To first order, a displacement u changes a pattern by - gradient * u. Shift, strain, shear and rotation are fitted
    by least squares with Poisson weights, together with the intensities of bright and dark field, from the pixels in
    which the gradient of the mean is significant.
    """

    def __init__(self, mean, middle, count: int, noise: NoiseModel):
        self.middle, self.shape, self.good = middle, mean.shape, ~noise.bad_pixels
        self.readout_variance = (noise.readout / noise.gain) ** 2
        self.noise_variance = mean.mean().clip(min=1e-12) + 2 * self.readout_variance  # lower bound, for an unlit pixel
        smooth = ndimage.gaussian_filter(mean, SMOOTHING_PX).clip(min=0)
        gradient = np.stack([ndimage.gaussian_filter(mean, SMOOTHING_PX, order=order) for order in ((1, 0), (0, 1))])
        error = (smooth + 2 * self.readout_variance) / (8 * np.pi * SMOOTHING_PX**4 * count)
        significance = (gradient**2).sum(0) / np.maximum(error, 1e-30)
        gradient *= (1 - GRADIENT_SIGMAS**2 / np.maximum(significance, 1e-30)).clip(min=0)
        self.radius = _disk_radius(smooth, middle)
        disks = list(_strongest_disks(smooth, middle, self.radius))
        self.names = [*DISPLACEMENTS, *INTENSITIES[:3], *INTENSITIES[3:] * len(disks)]
        self.images = [ndimage.spline_filter(image) for image in (smooth, *gradient)]
        self.disks = np.reshape(disks, (-1, 2)) - middle

    def read(self, sets, origins):
        """Measure the functionals.

        Parameters
        ----------
        sets : sequence of numpy.ndarray, shape (n, Qx, Qy)
            Several sets of patterns of the same positions, electrons.
        origins : numpy.ndarray, shape (n, 2)
            Origins, pixels.

        Returns
        -------
        values : numpy.ndarray, shape (len(sets), n, k)
            Measured values: pixels (shift), strains, radians (rotation), electrons.
        variance : numpy.ndarray, shape (n, k)
            Variance of the noise of a raw half, from the mean of the last two sets.
        """
        values = np.empty((len(sets), len(origins), len(self.names)))
        variance = np.empty(values.shape[1:])
        for i, origin in enumerate(origins):
            weights = self.weights(origin)
            patterns = np.stack([np.asarray(part[i], float).ravel() for part in sets])
            values[:, i] = patterns @ weights.T
            squared = weights**2
            variance[i] = np.maximum(squared @ patterns[-2:].mean(0), 0) + squared.sum(1) * self.readout_variance
        return values, variance

    def weights(self, origin):
        """Compute the weights of the pixels for a pattern with a given origin.

        Parameters
        ----------
        origin : numpy.ndarray, shape (2,)
            Origin of the pattern, pixels.

        Returns
        -------
        numpy.ndarray, shape (k, Qx * Qy)
            Weights, with one row for each of `names`.
        """
        base, gx, gy = (_moved(image, origin - self.middle, 3) for image in self.images)
        x, y = (np.arange(side) - q for side, q in zip(self.shape, origin, strict=True))
        x, y = x[:, None], y[None]
        distance = np.hypot(x, y)
        inner = self.radius + MARGIN_PX
        bright = distance < inner
        outer = min(*origin, *(np.array(self.shape) - 1 - origin))
        dark = (distance > 2 * inner) & (distance < outer)
        disks = [(x - dx) ** 2 + (y - dy) ** 2 < inner**2 for dx, dy in self.disks]
        sums = np.stack([np.ones(self.shape, bool), bright, dark, *disks]) & self.good
        design = np.stack([-gx, -gy, -gx * x, -gy * y, -(gx * y + gy * x), gx * y - gy * x, base * bright,
                           base * ~bright])
        design = design.reshape(len(design), -1)
        precision = (self.good & ((gx != 0) | (gy != 0))) / (base.clip(min=0) + self.noise_variance)
        weighted = design * precision.ravel()
        information = weighted @ design.T
        scale = 1 / np.sqrt(np.diag(information).clip(min=1e-30))
        normalized = scale[:, None] * information * scale + RIDGE * np.eye(len(design))
        inverse = scale[:, None] * np.linalg.inv(normalized) * scale
        return np.concatenate([inverse[:6] @ weighted, sums.reshape(len(sums), -1)])


def _moved(image, shift, order):
    """Shift an image by pixels, one axis after the other; for order 3, `image` is given by its spline coefficients."""
    for axis, distance in enumerate(shift):
        reach = int(np.ceil(abs(distance))) + 1
        taps = np.arange(-reach, reach + 1) + distance
        image = ndimage.correlate1d(image, _spline(np.abs(taps), order), axis, mode="nearest")
    return image


def _spline(distance, order):
    """Value of the B-spline of order 1 or 3 at a distance from its middle, in pixels."""
    if order == 1:
        return (1 - distance).clip(min=0)
    return np.where(distance < 1, 2 / 3 - distance**2 * (1 - distance / 2), (2 - distance).clip(min=0) ** 3 / 6)


def _cell_sums(patterns):
    """Sums (n, cells) over GROUP_CELLS x GROUP_CELLS cells of patterns (n, Qx, Qy)."""
    edges = [np.unique(np.arange(GROUP_CELLS) * side // GROUP_CELLS) for side in patterns.shape[1:]]
    return np.add.reduceat(np.add.reduceat(patterns, edges[0], 1), edges[1], 2).reshape(len(patterns), -1)


def _disk_radius(smooth, middle):
    """Radius of the direct disk in pixels, from the area about the origin above half of its brightness."""
    at = tuple(np.clip(np.rint(middle).astype(int), 0, np.array(smooth.shape) - 1))
    brightness = smooth[tuple(slice(max(0, q - 1), q + 2) for q in at)].mean()
    labels = ndimage.label(smooth > 0.5 * brightness)[0]
    area = float((labels == labels[at]).sum()) if labels[at] else np.inf
    largest = min(smooth.shape) / 4
    radius = np.sqrt(area / np.pi)
    return radius if radius < largest else min(smooth.shape) / 16  # if no disk is at the origin


def _strongest_disks(smooth, middle, radius):
    """Positions (pixels) of the disks with the most counts outside the direct disk; they do not overlap."""
    x, y = (np.arange(side) - q for side, q in zip(smooth.shape, middle, strict=True))
    counts = ndimage.gaussian_filter(smooth, radius / 2) * (np.hypot(x[:, None], y[None]) > 2 * radius + MARGIN_PX)
    side = 2 * int(np.ceil(radius)) + 1
    peaks = np.argwhere((counts == ndimage.maximum_filter(counts, side)) & (counts > 0))
    return peaks[np.argsort(-counts[tuple(peaks.T)], kind="stable")[:MAX_DISKS]].astype(float)
