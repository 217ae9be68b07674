"""Choice of the direct beam among the disks of a crystal, with a probability of each candidate.

In thick crystals, diffracted disks may be brighter than the direct beam. Apart from the descan, the direct beam lies at
the same position in all grains, while lattice vectors differ from grain to grain. A candidate is a disk at the same
position in all blocks of the scan, followed along a plane of the descan. Four quantities distinguish candidates: the
brightness in the blocks where the disk is darkest, the scatter of its positions about a plane, the probability that the
coarse network assigns to its position in all blocks, and its distance from the middle of the detector, to which the
beam is aligned before a scan.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.fft import irfft2, next_fast_len, rfft2
from scipy.ndimage import gaussian_filter, maximum_filter

from ..core import NoiseModel, binned_sum
from ..networks import COARSE_CELL_PX
from . import MAX_FIELD_PX, OUTLIER_LIKELIHOOD, FirstGuess, block_of_positions

MAX_RANKED_BLOCKS = 36  # blocks; most that are compared, chosen for speed
MAX_RANKED_RADIUS = 0.16  # fraction of the frame; largest radius of disks that are compared: larger disks overlap
# Disk radii, radius of the region of a disk, inner radius of the ring around it, and width of the ring; pixels, its
# smallest width.
DISK_RADII, GAP_RADII, AROUND_RADII, AROUND_PX = 0.9, 1.25, 0.45, 2.0
MIN_RADIUS_RATIO = 0.9  # ratio; smallest radius relative to the network's, which is too small for disks of crystals
MIN_DISK_AREA = 0.6  # fraction of a disk; smallest part inside the frame and on good pixels
ABSENT_SIGMAS, SEEN_SIGMAS = 2.0, 6.0  # standard errors; significance of a disk that is absent, and that is visible
MIN_SEEN_BLOCKS = 0.25  # fraction of the blocks; fewest in which a candidate is visible
MIN_APART_RADII = 1.7  # disk radii; smallest distance between candidates: parts of a ring or a disk are closer
MAX_CANDIDATES = 12  # number; most candidates, those with the highest scores
FOLLOW_RADII, FOLLOW_ROUNDS = 0.8, 3  # disk radii, largest distance of a disk from the plane; rounds of the search
USED_WEIGHT, PLANE_SCALE_PX = 0.3, 0.7  # smallest weight of a used position; pixels, scale of the Cauchy weights
MAX_FOLLOWED_PX = 6.0  # pixels; largest distance of the plane from its mean: a steeper plane leads from disk to disk
SAME_FRAME_PX = 3.0  # pixels; smallest range of the first guess for which a constant position is also tried
FLAT_BRIGHTNESS, FLAT_SCATTER = 0.02, 0.03  # added to each quantity: smaller values are not used
DARKEST_QUANTILE = 0.1  # quantile over the blocks at which the brightness of a candidate is compared
# Weights of the logarithms of brightness, probability of the network, and scatter about the plane in radii: conditional
# logit of 277 scans of the seeds 0 to 95 of benchmarks/zone_axis.py.
BRIGHTNESS_WEIGHT, NETWORK_WEIGHT, SCATTER_WEIGHT = 0.35, 0.65, 0.4
# Weight of the difference of Friedel pairs, fitted with the other weights fixed: 164 scans and 511 single patterns of
# the seeds 0 to 58, and 63 simulated pictures of crystals. Number of pairs with the mean difference of all candidates,
# added to those of a candidate, which may have few.
PAIRS_WEIGHT, PRIOR_PAIRS = 4.4, 10
# Posterior probability; smallest of the most probable candidate for which the origin is not refused. Without Friedel
# pairs, in a cross-validation on the same 277 scans, none of 186 whose direct beam is the brightest in most patterns
# was wrong above it, and 6 were refused; of 100 others, 5 were wrong and 29 were refused.
MIN_RANKED_PROBABILITY = 0.7
# Fraction of the longer side, 1 sigma along each axis; distance of direct beams from the middle of the frame. Fraction
# of the beams that lie anywhere. The largest distance in 26 real patterns of benchmarks/real.csv with a visible beam is
# 0.11.
STEERED_SIGMA, ANYWHERE = 0.1, 0.1
# Disk radii, distance of the first guess from the plane; fraction of the blocks. If more blocks exceed the distance,
# the plane replaces the first guess.
MAX_OFF_RADII, MAX_OFF_BLOCKS = 0.5, 0.1


def ranked_beam(blocks, noise: NoiseModel, first: FirstGuess, scan_shape) -> FirstGuess | None:
    """Choose the direct beam among the disks of a scan.

    Parameters
    ----------
    blocks : tuple
        Sums over blocks of the scan, see `block_sums`.
    noise : NoiseModel
        Noise model of the detector.
    first : FirstGuess
        First guess of the coarse network.
    scan_shape : tuple of int
        (Rx, Ry).

    Returns
    -------
    FirstGuess or None
        The guess at the most probable candidate, with its probability; None if fewer than two disks are visible, or if
        the position of the first guess is hidden.
    """
    sums, counts, grid = blocks
    if first.cells is None or first.wide:
        return None
    block_of = block_of_positions(scan_shape, grid).ravel()
    shown = np.flatnonzero((np.bincount(block_of, first.shown) > 0) & (counts > 0))
    shown = shown[np.unique(np.linspace(0, len(shown) - 1, MAX_RANKED_BLOCKS).astype(int))]
    step = -(-max(sums.shape[1:]) // MAX_FIELD_PX)
    good = binned_sum((~noise.bad_pixels).astype(np.float32), step) >= step**2 / 2
    images = np.stack([binned_sum(np.where(noise.bad_pixels, 0.0, image), step) for image in sums[shown]])
    guess = np.stack([np.bincount(block_of, q)[shown] / np.bincount(block_of)[shown] for q in first.position.T], 1)
    guess = (guess - (step - 1) / 2) / step
    # A part of a ring, as in precession, looks like a smaller disk.
    radius = max(_radius(images, good, first.radius / step), MIN_RADIUS_RATIO * first.radius / step)
    if radius > MAX_RANKED_RADIUS * max(good.shape):
        return None
    readout = noise.readout / noise.gain * step * np.sqrt(counts[shown])
    maps = _disk_maps(images, good, radius, readout)
    at = np.stack([2 * (n + 0.5) / size - 1 for n, size in zip(np.divmod(shown, grid[1]), grid, strict=True)], 1)
    paths = _candidates(maps, at, guess, radius)
    # The first path is that of the first guess. Parts of a ring, as in precession, do not follow a plane.
    off = np.hypot(*(paths[0].plane - guess).T) > MAX_OFF_RADII * radius
    if len(paths) < 2 or not maps.visible[_pixels(guess, good.shape)].mean() > 1 - MIN_SEEN_BLOCKS:
        return None
    moves = np.rint(guess - np.median(guess, 0)).astype(int)
    total = np.sum([np.roll(image, -move, (0, 1)) for image, move in zip(images, moves, strict=True)], 0)
    centers = [np.median(path.plane - moves, 0) for path in paths]
    pairs = pair_differences(total, good, centers, radius, np.hypot.reduce(readout))
    probability = _probabilities(paths, pairs, maps.visible.shape, first.cells[shown], radius)
    best = int(probability.argmax())
    places = np.array([[*(np.median(path.plane, 0) * step + (step - 1) / 2), p]
                       for path, p in zip(paths, probability, strict=True)])[np.argsort(-probability)]
    position = first.position
    if best or (off.mean() > MAX_OFF_BLOCKS and paths[0].scatter < MAX_OFF_RADII * radius):
        plane = np.linalg.lstsq(np.c_[np.ones(len(at)), at], paths[best].plane, rcond=None)[0]
        axes = np.meshgrid(*(2 * (np.arange(n) + 0.5) / n - 1 for n in scan_shape), indexing="ij")
        position = np.stack([np.ones(axes[0].size), *(a.ravel() for a in axes)], 1) @ plane * step + (step - 1) / 2
    return replace(first, position=position, probability=float(probability[best]), places=places,
                   ranked=True)


@dataclass(frozen=True, eq=False)
class _DiskMaps:
    """Excess of a disk about each pixel of n images over the ring around it."""

    sigmas: np.ndarray  # (n, H, W), standard errors
    part: np.ndarray  # (n, H, W), fraction of the electrons of the image
    visible: np.ndarray  # (H, W), True where enough of a disk is inside the frame and on good pixels


@dataclass(frozen=True, eq=False)
class _Path:
    """A disk that is followed over n blocks."""

    plane: np.ndarray  # (n, 2), positions on the fitted plane
    part: np.ndarray  # (n,), fraction of the electrons in the disk
    scatter: float  # pixels, scatter of the positions about the plane


def _disk_maps(images, good, radius, readout):
    """Compare every disk with a ring around it."""
    shape = images.shape[1:]
    size = [next_fast_len(n + int(4 * radius) + 4, real=True) for n in shape]
    x, y = (np.minimum(np.arange(n), n - np.arange(n)) for n in size)
    distance = np.hypot(x[:, None], y).astype(np.float32)
    first, last = GAP_RADII * radius, GAP_RADII * radius + max(AROUND_PX, AROUND_RADII * radius)
    kernels = np.stack([(DISK_RADII * radius - distance + 0.5).clip(0, 1),
                        (distance - first + 0.5).clip(0, 1) * (last - distance + 0.5).clip(0, 1)])
    waves = rfft2(kernels)
    sums, areas = (irfft2(rfft2(a.astype(np.float32), s=size)[..., None, :, :] * waves, s=size)
                   [..., : shape[0], : shape[1]] for a in (np.where(good, images, 0), good))
    whole = kernels[0].sum()
    areas = areas.clip(1e-3)
    ratio = np.minimum(areas[0] / areas[1].clip(1), 3.0)
    visible = areas[0] > MIN_DISK_AREA * whole
    excess = sums[:, 0] - sums[:, 1] * ratio
    variance = sums[:, 0].clip(0) + sums[:, 1].clip(0) * ratio**2 + 1
    variance += np.reshape(readout, (-1, 1, 1)) ** 2 * (areas[0] + areas[1] * ratio**2)
    sigmas = np.where(visible, excess / np.sqrt(variance), 0.0)
    part = np.where(visible, excess * whole / areas[0], 0.0) / images[:, good].sum(1).clip(1)[:, None, None]
    return _DiskMaps(sigmas, part.clip(0, 1), visible)


def _radius(images, good, rough):
    """Radius in pixels at half of the height of the mean profile of the brightest disks of all images."""
    tops = _disk_maps(images, good, rough, np.zeros(len(images))).part.reshape(len(images), -1).argmax(1)
    side = int(2.6 * rough + 4)
    u, v = np.mgrid[-side : side + 1, -side : side + 1]
    distance = np.hypot(u, v).astype(int)
    profile, weight = np.zeros((2, side))
    for image, top in zip(images, tops, strict=True):
        row, column = np.divmod(top, image.shape[1])
        x, y = row + u, column + v
        used = (x >= 0) & (y >= 0) & (x < image.shape[0]) & (y < image.shape[1]) & (distance < side)
        used[used] = good[x[used], y[used]]
        values, ring = image[x[used], y[used]], distance[used]
        middle = ring <= 0.6 * rough
        level = values[middle].mean() if middle.any() else 0.0
        if level > 0:
            profile += np.bincount(ring, values / level, side) * level**0.5
            weight += np.bincount(ring, minlength=side) * level**0.5
    profile /= weight.clip(1e-9)
    half = (profile[:2].mean() + profile[int(1.3 * rough) :].min()) / 2
    below = np.flatnonzero(profile < half)
    if not len(below) or not below[0]:
        return rough
    k = below[0]
    return float(max(1.0, k + 0.5 - (half - profile[k]) / max(profile[k - 1] - profile[k], 1e-9)))


def _candidates(maps, at, guess, radius):
    """Paths of disks along the course of the first guess, or at a constant position; the first guess comes first."""
    visible = ((maps.sigmas - ABSENT_SIGMAS) / (SEEN_SIGMAS - ABSENT_SIGMAS)).clip(0, 1)
    bright = visible * maps.part
    visible = maximum_filter(visible, (1, 3, 3))
    middle = np.median(guess, 0)
    courses = [guess - middle]
    if np.ptp(guess, 0).max() > SAME_FRAME_PX:
        courses.append(np.zeros_like(guess))
    paths = [_followed(maps.sigmas, maps.part, at, guess, radius)]
    for course in courses:
        moved = np.rint(course).astype(int)
        visible_fraction, brightness = (
            np.mean([np.roll(image, -m, (0, 1)) for image, m in zip(images, moved, strict=True)], 0)
            for images in (visible, bright))
        score = gaussian_filter(visible_fraction, 0.35 * radius) + brightness / max(brightness.max(), 1e-9)
        top = (score == maximum_filter(score, 2 * int(1.2 * radius) + 1)) & (visible_fraction > MIN_SEEN_BLOCKS)
        places = np.argwhere(top)
        for place in places[np.argsort(-score[tuple(places.T)])][:MAX_CANDIDATES]:
            path = _followed(maps.sigmas, maps.part, at, place + course, radius)
            known_planes = (guess, *(other.plane for other in paths))
            if all(np.median(np.hypot(*(path.plane - other).T)) > MIN_APART_RADII * radius for other in known_planes):
                paths.append(path)
    return paths


def _followed(sigmas, part, at, start, radius):
    """Follow a disk over n images from a start (n, 2), along a plane in their scan positions `at` (n, 2)."""
    reach = int(np.ceil(max(2.0, FOLLOW_RADII * radius)))
    design, number = np.c_[np.ones(len(at)), at], np.arange(len(at))
    u, v = (a.ravel() for a in np.mgrid[-reach : reach + 1, -reach : reach + 1])
    plane = np.array(start, float)
    padded = np.pad(sigmas, ((0, 0), (1, 1), (1, 1)))
    for _ in range(FOLLOW_ROUNDS):
        x, y = (np.rint(plane[:, k, None]).astype(int) + w for k, w in enumerate((u, v)))
        inside = (x >= 0) & (y >= 0) & (x < sigmas.shape[1]) & (y < sigmas.shape[2])
        values = np.where(inside, sigmas[number[:, None], x * inside, y * inside], -np.inf)
        best = values.argmax(1)
        x, y, top = (np.where(inside.any(1), a[number, best], 0) for a in (x, y, values))
        weight = ((top - ABSENT_SIGMAS) / (SEEN_SIGMAS - ABSENT_SIGMAS)).clip(0, 1) * inside.any(1)
        position = np.stack([x, y], 1).astype(float)
        for axis, (dx, dy) in enumerate(((1, 0), (0, 1))):  # refine by the maximum of a parabola
            low, high = padded[number, x + 1 - dx, y + 1 - dy], padded[number, x + 1 + dx, y + 1 + dy]
            bend = np.minimum(low - 2 * top + high, -1e-6)
            position[:, axis] += (0.5 * (low - high) / bend).clip(-0.5, 0.5)
        if weight.sum() < 1e-3:
            return _Path(plane, np.zeros(len(at)), radius)
        robust = weight
        for _ in range(4):
            root = np.sqrt(robust)[:, None]
            plane = design @ np.linalg.lstsq(design * root, position * root, rcond=None)[0]
            distance = np.hypot(*(position - plane).T)
            robust = weight / (1 + (distance / PLANE_SCALE_PX) ** 2)
        mean = plane.mean(0)
        plane = plane.clip(mean - MAX_FOLLOWED_PX, mean + MAX_FOLLOWED_PX)
    used = weight > USED_WEIGHT
    scatter = np.sqrt((weight * distance**2)[used].sum() / weight[used].sum()) if used.any() else radius
    at_top = _pixels(np.where(used[:, None], position, plane), sigmas.shape[1:])
    return _Path(plane, part[(number, *at_top)], float(scatter))


def _pixels(places, shape):
    """Index of the pixels nearest to positions (n, 2)."""
    return tuple(np.rint(places.T).astype(int).clip(0, np.reshape(shape, (2, 1)) - 1))


def pair_differences(image, good, centers, radius: float, readout: float = 0.0) -> np.ndarray:
    """Measure how much Friedel pairs, which are disks opposite about a center, differ in brightness.

    The brightness of the median disk is added to each disk, so that the noise of weak disks does not count.

    Parameters
    ----------
    image : numpy.ndarray, shape (Qx, Qy)
        Sum of patterns in electrons.
    good : numpy.ndarray of bool, shape (Qx, Qy)
        True where a pixel is good.
    centers : array_like, shape (n, 2)
        Centers to compare, pixels.
    radius : float
        Radius of a disk, pixels.
    readout : float, optional
        Read-out noise of the sum in electrons, rms.

    Returns
    -------
    numpy.ndarray, shape (n,)
        Mean absolute logarithm of the ratio of the pairs about each center. Pairs with the mean difference of all
        centers are added to those of each center, which may have few.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.origin import pair_differences
    >>> x, y = np.indices((64, 64))
    >>> places = [(12 * h + 8, 12 * k + 8, 90 / (1 + np.hypot(h - 2, k - 2))) for h in range(5) for k in range(5)]
    >>> image = 1.0 + sum(height * (np.hypot(x - u, y - v) < 3) for u, v, height in places)
    >>> here, there = pair_differences(image, np.ones((64, 64), bool), [(32, 32), (32, 44)], 3.0)
    >>> bool(here < 0.5 * there)
    True
    """
    step = -(-max(image.shape) // MAX_FIELD_PX)
    usable = binned_sum(good.astype(np.float32), step) >= step**2 / 2
    radius, centers = radius / step, (np.reshape(centers, (-1, 2)) - (step - 1) / 2) / step
    maps = _disk_maps(binned_sum(np.where(good, image, 0.0), step)[None], usable, radius, np.array([readout * step]))
    part = maps.part[0]
    top = (part == maximum_filter(part, 2 * int(1.2 * radius) + 1)) & (maps.sigmas[0] > SEEN_SIGMAS)
    disks, brightness = np.argwhere(top), part[top]
    if not len(disks):
        return np.zeros(len(centers))
    level, near = np.median(brightness), maximum_filter(part, 3)
    differences = []
    for center in centers:
        opposite = np.rint(2 * center - disks).astype(int)
        paired = ((opposite >= 0) & (opposite < part.shape)).all(1) & (np.hypot(*(disks - center).T) > radius)
        paired[paired] = maps.visible[tuple(opposite[paired].T)]
        ratio = (brightness[paired] + level) / (near[tuple(opposite[paired].T)] + level)
        differences.append(np.abs(np.log(ratio)))
    everywhere = np.concatenate(differences)
    typical = everywhere.mean() if len(everywhere) else 0.0
    return np.array([(values.sum() + PRIOR_PAIRS * typical) / (len(values) + PRIOR_PAIRS) for values in differences])


def _probabilities(paths, pairs, shape, cells, radius):
    """Posterior probability of each path; `pairs` are the differences of Friedel pairs about it."""
    part = np.stack([path.part for path in paths])
    darkest = np.quantile(part / part.max(0).clip(1e-9), DARKEST_QUANTILE, axis=1)
    scatter = np.array([path.scatter for path in paths]) / radius
    network = _of_network(np.stack([path.plane for path in paths]), cells, radius)
    middle = (np.array(shape) - 1) / 2
    distance = np.array([np.hypot(*(np.median(path.plane, 0) - middle)) for path in paths]) / max(shape)
    steered = np.log(ANYWHERE + (1 - ANYWHERE) * np.exp(-0.5 * (distance / STEERED_SIGMA) ** 2))
    odds = (BRIGHTNESS_WEIGHT * np.log(darkest + FLAT_BRIGHTNESS) + NETWORK_WEIGHT * network
            - SCATTER_WEIGHT * np.log(scatter + FLAT_SCATTER) - PAIRS_WEIGHT * pairs + steered)
    return np.exp(odds - np.logaddexp.reduce(odds))


def _of_network(planes, cells, radius):
    """Mean logarithm of the network's probability near each path; `planes` (k, n, 2), `cells` (n, rows, columns).

    A cell counts for the nearest path only: spots of a dense lattice are closer together than the cells are wide.
    """
    reach = int(np.ceil(max(2.0, 0.5 * radius) / COARSE_CELL_PX))
    u, v = (a.ravel() for a in np.mgrid[-reach : reach + 1, -reach : reach + 1])
    places = (planes - (COARSE_CELL_PX - 1) / 2) / COARSE_CELL_PX
    x, y = (np.rint(places[..., k, None]).astype(int) + w for k, w in enumerate((u, v)))
    # Of the cells about each path from each path: (paths, paths, n, cells).
    distance = np.hypot(*(a[:, None] - places[None, ..., k, None] for k, a in enumerate((x, y))))
    nearest = distance.argmin(1) == np.arange(len(planes))[:, None, None]
    inside = (x >= 0) & (y >= 0) & (x < cells.shape[1]) & (y < cells.shape[2]) & nearest
    block = np.arange(len(cells))[:, None]
    probability = np.where(inside, cells[block, x * inside, y * inside], 0.0).sum(-1)
    return np.log(probability + OUTLIER_LIKELIHOOD).mean(-1)
