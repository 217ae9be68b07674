"""Where the direct beam is in every pattern of a scan, and the smooth descan through these positions.

1. Sums over blocks of the scan, where electrons are plentiful, go through the coarse network: it says whether there
   is a beam, where it is and how large. A surface through the blocks' answers is the first guess; blocks in which
   another disk was taken for the direct beam are outliers of it.
2. The mean direct beam of a few hundred recentered patterns gives the aperture as this detector sees it.
3. The fine network looks at a window around the guess in every pattern, with that aperture beside it, and gives the
   offset with its covariance.

What is reported is the direct beam, not the center of rings; in real data the two can differ by pixels.
Coordinates are py4DSTEM's: qx0 along rows, qy0 along columns, a pixel's centre on its integer index.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.ndimage import map_coordinates
from scipy.special import erfc

from . import batches
from .ellipse_fit import fit_disk
from .errors import PrenetError
from .networks.center import WINDOW, coarse_position, normalize
from .networks.weights import load, pick_device
from .noise import NoiseModel, estimate_noise, sample_positions, stabilize
from .polar import ellipse_matrix
from .pooling import pool
from .surface import fit_pair, jumps

FIELD = 128  # largest side of a coarse field, pixels
BLOCKS = 8  # blocks along each side of the scan
PER_BLOCK = 16  # patterns that are summed in a block
LARGEST = 13.0  # disk radius that a window holds, pixels; larger disks are binned
APERTURE_SAMPLE = 256  # patterns whose mean shows the aperture
VAGUE, VAGUE_PART = 2.0, 0.2  # sigma in pixels, and in disk radii, from which a beam counts as hidden or absent
REACH = 3.0  # offsets beyond this are measured again in a window moved there, pixels


@dataclass(frozen=True)
class OriginMap:
    """The measured direct beam. Maps have the scan's shape (Rx, Ry); lengths are detector pixels.

    qx0, qy0: position, finite wherever a beam is in the data at all. sigma_qx0, sigma_qy0: one standard deviation.
    valid: False where a position shows no beam. radius: of the direct disk. found: False where the scan has no
    beam; the maps are NaN then. reason: why, in one sentence.
    """

    qx0: np.ndarray
    qy0: np.ndarray
    sigma_qx0: np.ndarray
    sigma_qy0: np.ndarray
    valid: np.ndarray
    radius: float
    found: bool
    reason: str


@dataclass(frozen=True)
class OriginFit:
    """A smooth descan surface. Maps have the scan's shape (Rx, Ry); lengths are detector pixels.

    residual_qx0, residual_qy0: measured less fitted. sigma_qx0, sigma_qy0: of the surface. model: the one chosen.
    accepted: whether the surface describes the positions. reason: sentences about what remains.
    """

    qx0: np.ndarray
    qy0: np.ndarray
    residual_qx0: np.ndarray
    residual_qy0: np.ndarray
    sigma_qx0: np.ndarray
    sigma_qy0: np.ndarray
    model: str
    accepted: bool
    reason: str


@dataclass(frozen=True)
class Aperture:
    """The direct disk as the detector sees it: radius and edge width in pixels, ellipse vector."""

    radius: float
    edge: float
    vector: np.ndarray


def measure_origin(data, noise: NoiseModel | None = None, mask=None, device="auto", progress=True) -> OriginMap:
    """Measure the direct beam in every pattern of a scan.

    Args:
        data: a DataCube, or an array-like (Rx, Ry, Qx, Qy) in memory or on disk.
        noise: the detector's noise model; estimated from the scan by default.
        mask: (Qx, Qy) bool, True where a detector pixel is good, False behind a beam stop and the like.
        device: "auto", "cpu", "cuda" or "mps".
        progress: show a progress bar.

    Raises:
        PrenetError: data that cannot be calibrated (`batches.check`), a mask of another shape, no weights.
    """
    batches.check(data)
    network = load("center", pick_device(device))
    noise = with_mask(noise or estimate_noise(data), mask)
    scan = batches.shape_of(data)[:2]
    if not noise.dose > 0:
        return _no_beam(scan, "No electrons are seen above the read-out noise: there is no beam in this scan.")
    guess, radius, reason = coarse_origin(network.coarse, data, noise)
    if reason:
        return _no_beam(scan, reason)
    aperture = measure_aperture(network.fine, data, noise, guess, radius)
    offset, sigma, signal = _measure(network.fine, data, noise, guess, aperture,
                                     progress="origin" if progress else None)
    found = guess + offset
    valid = _beam_is_there(signal, sigma, aperture.radius)
    if not valid.any():
        return _no_beam(scan, "No position shows a beam that can be located.")
    blank = int((~valid).sum())
    reason = f"{blank} of {valid.size} positions show no beam." if blank else "The direct beam was found everywhere."
    maps = [m.reshape(scan) for m in (found[:, 0], found[:, 1], sigma[:, 0], sigma[:, 1], valid)]
    return OriginMap(*maps, float(aperture.radius), True, reason)


def _no_beam(scan, reason) -> OriginMap:
    nothing = [np.full(scan, np.nan) for _ in range(4)]
    return OriginMap(*nothing, np.zeros(scan, bool), float("nan"), False, reason)


def fit_origin(origin: OriginMap, model: str = "auto") -> OriginFit:
    """Fit a smooth surface (constant, plane, parabola or spline) to measured origins.

    Weighted by their sigmas, robust against disks taken for the direct beam, and chosen by held-out residuals
    unless `model` names one. Raises PrenetError for an unknown model.
    """
    x, y = fit_pair(origin.qx0, origin.qy0, origin.sigma_qx0, origin.sigma_qy0, origin.valid, model)
    steps = [f"{name}: {sentence}" for name, values, sigma in (("qx0", origin.qx0, origin.sigma_qx0),
                                                               ("qy0", origin.qy0, origin.sigma_qy0))
             for sentence in jumps(values, sigma, origin.valid)]
    reason = "; ".join([f"qx0: {x.reason}", f"qy0: {y.reason}", *steps])
    return OriginFit(x.values, y.values, x.residual, y.residual, x.sigma, y.sigma, x.model,
                     x.accepted and y.accepted, reason)


def with_mask(noise: NoiseModel, mask) -> NoiseModel:
    """The noise model with the pixels that a user's mask (True = good) excludes among its bad ones."""
    if mask is None:
        return noise
    mask = np.asarray(mask)
    if mask.shape != noise.bad_pixels.shape or mask.dtype != bool:
        raise PrenetError(f"The mask must be a boolean array of the pattern's shape {noise.bad_pixels.shape}, "
                          f"True where a pixel is good; this one has shape {mask.shape} and type {mask.dtype}.")
    return replace(noise, bad_pixels=noise.bad_pixels | ~mask)


def coarse_origin(network, data, noise: NoiseModel):
    """First guess of every origin, (Rx * Ry, 2); disk radius in pixels; and why there is none, or ""."""
    scan = batches.shape_of(data)[:2]
    sums, counts, grid = _block_sums(data, noise)
    step = -(-max(sums.shape[1:]) // FIELD)
    fields, good, readout = _fields(sums, counts, noise, step)
    device = next(network.parameters()).device
    with torch.inference_mode():
        z, scale = normalize(stabilize(fields, readout[:, None, None]), good)
        logits, size, presence = network(torch.stack([z, good.float()], 1).to(device), scale.to(device))
    if float(presence.median()) < 0:
        return None, None, "No beam was found in this scan: the sums over its blocks look like noise alone."
    at = (coarse_position(logits).cpu().numpy() + 0.5) * step - 0.5
    # A radius is the same everywhere; blocks that are surer of a beam say it better.
    radius = float(np.exp(np.median(size.cpu().numpy()))) * step
    x, y = (at[:, k].reshape(grid) for k in (0, 1))
    surfaces = fit_pair(x, y, max(0.5, 0.5 * step), max(0.5, 0.5 * step), True)
    blocks = np.stack([s.values for s in surfaces])
    where = [(np.arange(n) + 0.5) * g / n - 0.5 for n, g in zip(scan, grid, strict=True)]
    where = np.stack(np.meshgrid(*[np.clip(w, 0, g - 1) for w, g in zip(where, grid, strict=True)], indexing="ij"))
    guess = np.stack([map_coordinates(b, where, order=1, mode="nearest").ravel() for b in blocks], 1)
    return guess, radius, ""


def _block_sums(data, noise):
    """Sums of electrons over blocks, (blocks, Qx, Qy) float32; patterns in each; the grid of blocks."""
    scan = batches.shape_of(data)[:2]
    grid = tuple(min(n, BLOCKS) for n in scan)
    rows, columns = (np.minimum(np.arange(n) * g // n, g - 1) for n, g in zip(scan, grid, strict=True))
    block_of = (rows[:, None] * grid[1] + columns).ravel()
    chosen = np.sort(np.concatenate([
        members[np.linspace(0, len(members) - 1, min(len(members), PER_BLOCK)).astype(int)]
        for members in (np.flatnonzero(block_of == b) for b in range(grid[0] * grid[1]))]))
    sums = np.zeros((grid[0] * grid[1], *batches.shape_of(data)[2:]), np.float32)
    counts = np.zeros(len(sums), int)
    for index, patterns in batches.patterns(data, positions=chosen):
        electrons = (patterns.astype(np.float32) - noise.offset) / noise.gain
        for b in np.unique(block_of[index]):
            members = block_of[index] == b
            sums[b] += electrons[members].sum(0)
            counts[b] += members.sum()
    return sums, counts, grid


def _fields(sums, counts, noise, step):
    """Block sums binned by `step` and padded for the network: electrons, good pixels, read-out in electrons."""
    good = torch.from_numpy(~noise.bad_pixels)
    images, weight = torch.from_numpy(sums).masked_fill(~good, 0.0), good.float()
    for axis in (1, 2):
        images, weight = _extended(images, weight, axis, 32 * step)
    if step > 1:  # a bin counts as far as its pixels are good
        images = torch.nn.functional.avg_pool2d(images[None], step)[0] * step**2
        weight = torch.nn.functional.avg_pool2d(weight[None], step)[0]
        images = images / weight.clamp_min(0.25)
    readout = noise.readout / noise.gain * step * torch.from_numpy(np.sqrt(counts)).float()
    return images, (weight >= 0.5).expand_as(images), readout


def _extended(images, weight, axis, multiple):
    """Images (n, Qx, Qy) and weight (Qx, Qy) made longer along an axis, with shuffled pixels of the margin there.

    A blank band would look like the end of a pattern to the network, and noise beside it like one.
    """
    side = images.shape[axis]
    source = torch.randint(max(0, side - 8), side, (-side % multiple,), generator=torch.Generator().manual_seed(side))
    source = torch.cat([torch.arange(side), source])
    return images.index_select(axis, source), weight.index_select(axis - 1, source)


def measure_aperture(network, data, noise, guess, radius) -> Aperture:
    """The aperture as the detector sees it, from the mean of some hundred recentered patterns."""
    rough = Aperture(radius, 0.6, np.zeros(2))
    scan = batches.shape_of(data)[:2]
    sample = sample_positions(scan, APERTURE_SAMPLE)
    offset, _, _ = _measure(network, data, noise, guess[sample], rough, positions=sample)
    origins = guess.copy()
    origins[sample] += offset
    chosen = np.zeros(len(guess), bool)
    chosen[sample] = True
    x, y = origins.T.reshape(2, *scan)
    disk = fit_disk(pool(data, x, y, noise, valid=chosen.reshape(scan)), radius)
    # Where the pooled beam shows no disk worth the name, what the coarse network said has to serve.
    plausible = (0.6 < disk.radius / radius < 1.6 and np.hypot(*disk.vector) < 0.2 and
                 0 <= disk.edge < 0.5 * disk.radius + 1)
    return Aperture(disk.radius, float(np.hypot(disk.edge, 12**-0.5)), disk.vector) if plausible else rough


def cut_windows(patterns, corner, side: int):
    """Windows (n, side, side) from corners (n, 2), of patterns (n, Qx, Qy) or of one image; and what lies inside."""
    rows = corner[:, :1] + np.arange(side)
    columns = corner[:, 1:] + np.arange(side)
    shape = patterns.shape[-2:]
    inside = ((rows >= 0) & (rows < shape[0]))[:, :, None] & ((columns >= 0) & (columns < shape[1]))[:, None, :]
    rows, columns = rows.clip(0, shape[0] - 1)[:, :, None], columns.clip(0, shape[1] - 1)[:, None, :]
    if patterns.ndim == 2:
        return patterns[rows, columns], inside
    return patterns[np.arange(len(patterns))[:, None, None], rows, columns], inside


def _measure(network, data, noise, guess, aperture, positions=None, progress=None):
    """Offsets from the guess (n, 2), their sigmas (n, 2), and electrons in the window (n,), in order of position."""
    count = len(guess)
    offset, sigma, signal = np.zeros((count, 2)), np.zeros((count, 2)), np.zeros(count)
    rank = None if positions is None else {int(p): i for i, p in enumerate(positions)}
    for index, patterns in batches.patterns(data, progress=progress, positions=positions):
        rows = index if rank is None else np.array([rank[int(i)] for i in index])
        offset[rows], sigma[rows], signal[rows] = _look(network, patterns, guess[rows], noise, aperture)
        again = np.flatnonzero(np.abs(offset[rows]).max(1) > REACH * _binning(aperture))
        if len(again):
            far = rows[again]
            moved = offset[far]
            more, sigma[far], _ = _look(network, patterns[again], guess[far] + moved, noise, aperture)
            offset[far] = moved + more
    return offset, sigma, signal


def _binning(aperture) -> int:
    return max(1, int(np.ceil(aperture.radius / LARGEST)))


def _look(network, patterns, guess, noise, aperture, batch: int = 256):
    """The fine network on windows around the guesses, (n, ...) of patterns in detector units."""
    bins = _binning(aperture)
    side = WINDOW * bins
    # The window's middle lies between pixels: its first pixel is `side` / 2 before that.
    corner = np.floor(guess - side / 2 + 1).astype(int)
    reference = torch.from_numpy(_reference(aperture, bins))
    device = next(network.parameters()).device
    offsets, sigmas, signals = [], [], []
    readout = noise.readout / noise.gain * bins
    for start in range(0, len(guess), batch):
        part = slice(start, start + batch)
        values, inside = cut_windows(patterns[part], corner[part], side)
        good = inside & ~cut_windows(noise.bad_pixels, corner[part], side)[0]
        electrons = torch.from_numpy(values.astype(np.float32)).sub_(noise.offset).div_(noise.gain)
        good = torch.from_numpy(good)
        electrons = electrons.masked_fill(~good, 0.0)
        if bins > 1:
            electrons = torch.nn.functional.avg_pool2d(electrons[None], bins)[0] * bins**2
            weight = torch.nn.functional.avg_pool2d(good.float()[None], bins)[0]
            electrons, good = electrons / weight.clamp_min(0.25), weight >= 0.5
        with torch.inference_mode():
            z, scale = normalize(stabilize(electrons, readout), good)
            x = torch.stack([z, reference.expand_as(z), good.float()], 1)
            x = x.to(device, memory_format=torch.channels_last)
            found, factor = network(x, scale.to(device))
            spread = factor.square().sum(-1).sqrt()
        middle = corner[part] + (side - 1) / 2
        offsets.append(found.cpu().numpy() * bins + middle - guess[part])
        sigmas.append(spread.cpu().numpy() * bins)
        signals.append(electrons.sum((1, 2)).numpy())
    return np.concatenate(offsets), np.concatenate(sigmas), np.concatenate(signals)


def _reference(aperture, bins):
    """The aperture in the middle of a window, (WINDOW, WINDOW) float32."""
    axis = np.arange(WINDOW) - (WINDOW - 1) / 2
    at = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1) @ np.linalg.inv(ellipse_matrix(aperture.vector)).T
    distance = np.hypot(at[..., 0], at[..., 1]) - aperture.radius / bins
    edge = aperture.edge if bins == 1 else np.hypot(aperture.edge / bins, 12**-0.5)
    return (0.5 * erfc(distance / (edge * 2**0.5))).astype(np.float32)


def _beam_is_there(signal, sigma, radius):
    """False where a window is empty beside the others, or where what is seen in it has no place."""
    usual = np.median(signal)
    known = np.hypot(*sigma.T) < max(VAGUE, VAGUE_PART * radius)
    return (signal > 0.02 * usual) & (signal > 3) & known
