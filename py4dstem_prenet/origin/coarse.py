"""First guess of the origin from sums of patterns over blocks of the scan.

The coarse network locates the direct beam in each block sum, which contains many electrons, and returns its radius and
the log odds of a beam. A smooth surface through the blocks gives the guess of every origin. If most blocks contain
several similar disks, the likelihoods of all blocks are multiplied.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import map_coordinates
from torch.nn.functional import avg_pool2d, grid_sample

from ..core import NoiseModel, Scan, stabilize
from ..descan import fit_pair
from ..networks import COARSE_CELL_PX, coarse_position, normalize

# Set on simulated scans:
MAX_FIELD_PX = 128  # pixels; largest side of the coarse network's input: larger patterns are binned
BEAM_BLOCKS = 8  # number of blocks along each side of the scan
MIN_BEAM_LOG_ODDS = 5.0  # log odds; smallest for a beam in a block: noise has up to 2, a beam of a hundred electrons 10
MIN_BEAM_BLOCKS_FRACTION = 1 / 8  # fraction of the blocks; fewest with a beam, which may be blanked in the other blocks
# Multiple of the range of the positions in the blocks, and pixels added to it; largest distance of a surface outside
# this range.
MAX_EXTRAPOLATION, EXTRAPOLATION_PX = 1.0, 2.0
PATTERNS_PER_BLOCK = 16  # patterns; number that is summed in a block
MIN_LOG_LIKELIHOOD_GAIN = 0.3  # mean log likelihood per block; smallest gain over the position favored by most blocks
OUTLIER_LIKELIHOOD = 1e-3  # smallest likelihood of the beam in a block, since the block may show a different object
FLOOR_PROBABILITY = 1e-6  # smallest probability of the beam in a cell
INDEPENDENT_BLOCKS = 4  # blocks; most that count as independent, since errors of the network are common to many blocks
MAX_PLACES, MIN_PLACE_PROBABILITY = 8, 0.01  # largest number, and smallest probability, of candidate positions
# Fraction of the rows; fewest constant rows of a faulty frame. Standard deviations of the read-out noise; smallest
# distance of the value of these rows from the offset.
MIN_ODD_ROWS, MIN_ODD_SIGMAS = 0.25, 4.0
MIN_BLOCK_BRIGHTNESS = 0.05  # fraction of the brightest block; in blocks with fewer electrons the beam may be blanked


@dataclass(frozen=True)
class FirstGuess:
    """First guess of the direct beam, from the coarse network or from the contour of the beam.

    Attributes
    ----------
    position : numpy.ndarray, shape (Rx * Ry, 2)
        Guess of every origin, pixels.
    radius : float
        Radius of the direct disk, pixels.
    shown : numpy.ndarray of bool, shape (Rx * Ry,)
        True where a position lies in a block that shows a beam.
    visible : float
        Log odds that the direct disk is visible, not behind a stop; median over the blocks.
    sigma : float
        Standard error of the position along one axis, pixels; median over the blocks.
    probability : float
        Posterior probability that the direct beam lies at this position, from all blocks together.
    places : numpy.ndarray, shape (k, 3)
        Candidate positions of the beam: median origin (qx0, qy0) in pixels, and posterior probability; the most
        probable candidate first.
    wide : bool
        Whether the disk is too large for the networks and was found by its contour (`wide_disk`).
    flat : bool
        Whether the beam saturates; position and radius are then those of its plateau (`saturated_disk`).
    cells : numpy.ndarray or None
        Probability of the direct beam in each cell of each block, (blocks, rows, columns).
    ranked : bool
        Whether the beam was chosen among several disks (`ranked_beam`).
    """

    position: np.ndarray
    radius: float
    shown: np.ndarray
    visible: float
    sigma: float
    probability: float
    places: np.ndarray
    wide: bool = False
    flat: bool = False
    cells: np.ndarray | None = None
    ranked: bool = False


def coarse_origin(network, scan: Scan, noise: NoiseModel, region=None, blocks=None) -> FirstGuess | None:
    """Guess every origin of a scan with the coarse network.

    Parameters
    ----------
    network : CoarseNet
        The network.
    scan : Scan
        The scan, or a sample of one.
    noise : NoiseModel
        Noise model of the detector.
    region : numpy.ndarray of bool, shape (Rx, Ry), optional
        Positions that are summed; all by default.
    blocks : tuple, optional
        Sums over blocks of the scan, see `block_sums`; computed by default.

    Returns
    -------
    FirstGuess or None
        The guess; None if no block shows a beam.
    """
    sums, counts, grid = block_sums(scan, noise, region=region) if blocks is None else blocks
    step = -(-max(sums.shape[1:]) // MAX_FIELD_PX)
    fields, good, readout = _fields(sums, counts, noise, step)
    device = next(network.parameters()).device
    with torch.inference_mode():
        z, scale = normalize(stabilize(fields, readout[:, None, None]), good)
        logits, size, presence, visible = network(torch.stack([z, good.float()], 1).to(device), scale.to(device))
    bright, presence = _bright_blocks(sums, counts, ~noise.bad_pixels), presence.cpu().numpy().ravel()
    if not bright.any():
        return None
    with_beam = bright & (presence > MIN_BEAM_LOG_ODDS)
    if with_beam.sum() < MIN_BEAM_BLOCKS_FRACTION * bright.sum():
        if np.median(presence[bright]) < 0:
            return None
        with_beam = bright & (presence >= 0)
    # The radius is the same in all blocks.
    radius = float(np.exp(np.median(size.cpu().numpy()[with_beam]))) * step
    block_of = block_of_positions(scan.scan_shape, grid).ravel()
    positions = coarse_position(logits)

    def _surface(positions):
        pixels = (positions.cpu().numpy() + 0.5) * step - 0.5
        return spread_blocks(pixels, grid, scan.scan_shape, max(0.5, 0.5 * step), with_beam)

    guess = _surface(positions)
    smooth = np.stack([np.bincount(block_of, g, len(positions)) for g in guess.T], 1) / np.bincount(block_of)[:, None]
    smooth = ((torch.from_numpy(smooth) + 0.5) / step - 0.5).to(positions)
    agreed = agreed_positions(logits, positions, smooth, torch.from_numpy(with_beam).to(device))
    if agreed is not None:
        guess = _surface(coarse_position(logits, agreed))
    at = positions if agreed is None else agreed
    sigma = float(np.median(_posterior_sigma(logits, at).cpu().numpy()[with_beam])) * step
    with_beam_t = torch.from_numpy(with_beam).to(device)
    places = _places(logits[with_beam_t], at[with_beam_t], radius / step)
    blocks = min(int(with_beam.sum()), INDEPENDENT_BLOCKS)
    places[:, 2] *= 1 / (1 + np.exp(-blocks * np.median(presence[with_beam])))  # the probability that there is a beam
    # The first candidate is the position of all blocks; its median is that of the surface.
    places[:, :2] = np.median(guess, axis=0) + (places[:, :2] - places[0, :2]) * step
    visible = float(np.median(visible.cpu().numpy()[with_beam]))
    return FirstGuess(guess, radius, with_beam[block_of], visible, sigma, float(places[0, 2]), places,
                      cells=torch.softmax(logits.flatten(1), 1).view_as(logits).cpu().numpy())


def _places(logits, positions, radius):
    """Candidate positions (k, 3) of the beam: shifts from positions (n, 2) in the maps of n blocks, and probabilities.

    The first candidate has no shift; the remaining ones are local maxima of the posterior.
    """
    logarithm = (torch.softmax(logits.flatten(1), 1).view_as(logits)[:, None] + FLOOR_PROBABILITY).log()
    log_likelihood = _moved(logarithm - np.log(FLOOR_PROBABILITY), positions) * min(len(logits), INDEPENDENT_BLOCKS)
    posterior = torch.softmax(log_likelihood.flatten(), 0).view_as(log_likelihood).cpu().numpy().astype(float)
    x, y = (np.arange(-(n // 2), n // 2 + 1) for n in posterior.shape)
    reach = max(2.0, 0.5 * radius / COARSE_CELL_PX)
    at, places = np.zeros(2), []
    while len(places) < MAX_PLACES:
        within_reach = np.hypot(x[:, None] - at[0], y - at[1]) <= reach
        places.append((*(at * COARSE_CELL_PX), posterior[within_reach].sum()))
        posterior[within_reach] = 0
        row, column = np.unravel_index(posterior.argmax(), posterior.shape)
        at = np.array([x[row], y[column]], float)
        if posterior[np.hypot(x[:, None] - at[0], y - at[1]) <= reach].sum() < MIN_PLACE_PROBABILITY:
            break
    return np.array(places)


def _posterior_sigma(logits, positions):
    """Standard deviation (n,) in pixels along one axis of the posterior of each block about positions (n, 2)."""
    probability = torch.softmax(logits.flatten(1), 1)
    rows, columns = logits.shape[1:]
    x = COARSE_CELL_PX * torch.arange(rows, device=logits.device) + (COARSE_CELL_PX - 1) / 2
    y = COARSE_CELL_PX * torch.arange(columns, device=logits.device) + (COARSE_CELL_PX - 1) / 2
    squared = ((x - positions[:, :1])[:, :, None] ** 2 + (y - positions[:, 1:])[:, None] ** 2).flatten(1)
    # The position within a cell is interpolated with an error of about a third of its side.
    return ((probability * (squared - COARSE_CELL_PX**2 / 6).clamp_min(0)).sum(1) / 2 + COARSE_CELL_PX**2 / 64).sqrt()


def agreed_positions(logits, positions, smooth, with_beam):
    """Find the maximum-likelihood beam position over all blocks.

    Most blocks may favor a wrong disk among several similar disks while the remaining blocks exclude it; the median of
    the positions is then wrong. The product of the likelihoods of independent patterns is not affected.

    Parameters
    ----------
    logits : torch.Tensor, shape (n, rows, columns)
        Log odds of each block for each cell of the coarse map.
    positions : torch.Tensor, shape (n, 2)
        Most likely position in each block, pixels.
    smooth : torch.Tensor, shape (n, 2)
        The smooth surface through these positions.
    with_beam : torch.Tensor of bool, shape (n,)
        True where a block shows a beam.

    Returns
    -------
    torch.Tensor or None
        Position in each block, (n, 2), pixels; None if most blocks already favor this position.
    """
    likelihood = torch.softmax(logits.flatten(1), 1).view_as(logits)[with_beam]
    likelihood = avg_pool2d(likelihood[:, None], 3, 1, 1, divisor_override=1)  # a cell and its neighbors
    likelihood = ((likelihood + OUTLIER_LIKELIHOOD) / OUTLIER_LIKELIHOOD).log()
    # If blocks favor different disks, the surface through them is not the descan: also try a constant position.
    constant = positions[with_beam].median(0).values.expand_as(positions)
    frames = smooth, constant
    log_likelihood = torch.stack([_moved(likelihood, frame[with_beam]) for frame in frames])
    rows, columns = logits.shape[1:]
    if log_likelihood.max() < log_likelihood[0, rows - 1, columns - 1] + MIN_LOG_LIKELIHOOD_GAIN:
        return None
    number, x, y = np.unravel_index(int(log_likelihood.argmax()), log_likelihood.shape)
    return frames[number] + COARSE_CELL_PX * torch.tensor([x - rows + 1, y - columns + 1]).to(positions)


def _moved(likelihood, positions):
    """Mean of log-likelihoods (n, 1, rows, columns) at positions (n, 2) in pixels, shifted by whole cells.

    Returns (2 rows - 1, 2 columns - 1), one value for each shift; outside the field the log-likelihood is 0.
    """
    cells = []
    for k, n in enumerate(likelihood.shape[2:]):
        cell = (positions[:, k, None] - (COARSE_CELL_PX - 1) / 2) / COARSE_CELL_PX
        cell = cell + torch.arange(-n + 1, n, device=positions.device)
        cells.append(2 * cell / (n - 1) - 1)
    grid = torch.stack(torch.broadcast_tensors(cells[1][:, None, :], cells[0][:, :, None]), -1)
    return grid_sample(likelihood, grid, align_corners=True).mean((0, 1))


def _bright_blocks(sums, counts, good):
    """Mask (blocks,) of blocks with patterns and with enough electrons for the beam to be on."""
    electrons = sums[:, good].sum(1) / np.maximum(counts, 1)
    brightest = electrons.max()
    return (counts > 0) & ((electrons >= MIN_BLOCK_BRIGHTNESS * brightest) | (brightest <= 0))


def spread_blocks(positions, grid, scan_shape, sigma, valid=True):
    """Fit a smooth surface to positions of blocks and evaluate it at every scan position.

    Parameters
    ----------
    positions : numpy.ndarray, shape (blocks, 2)
        Position in each block, pixels.
    grid : tuple of int
        Blocks along each side of the scan.
    scan_shape : tuple of int
        (Rx, Ry).
    sigma : float
        Standard error of the positions, pixels.
    valid : numpy.ndarray of bool, shape (blocks,), or bool, optional
        True where a block is used.

    Returns
    -------
    numpy.ndarray, shape (Rx * Ry, 2)
        The surface, pixels.
    """
    x, y = (positions[:, k].reshape(grid) for k in (0, 1))
    valid = np.broadcast_to(np.asarray(valid).reshape(-1), len(positions)).reshape(grid)
    blocks = np.stack([surface.values for surface in fit_pair(x, y, sigma, sigma, valid)])
    if valid.any():  # if few blocks show the beam, a surface extrapolated from them may leave the frame
        ends = np.quantile(np.stack([x, y])[:, valid], [0.05, 0.95], axis=1)[..., None, None]
        margin = MAX_EXTRAPOLATION * (ends[1] - ends[0]) + EXTRAPOLATION_PX
        blocks = np.clip(blocks, ends[0] - margin, ends[1] + margin)
    axes = [(np.arange(n) + 0.5) * g / n - 0.5 for n, g in zip(scan_shape, grid, strict=True)]
    points = np.stack(np.meshgrid(*[np.clip(a, 0, g - 1) for a, g in zip(axes, grid, strict=True)], indexing="ij"))
    return np.stack([map_coordinates(b, points, order=1, mode="nearest").ravel() for b in blocks], 1)


def block_of_positions(scan_shape, grid) -> np.ndarray:
    """Return the block number of each position of a scan.

    Parameters
    ----------
    scan_shape : tuple of int
        (Rx, Ry).
    grid : tuple of int
        Blocks along each side of the scan.

    Returns
    -------
    numpy.ndarray of int, shape (Rx, Ry)
        Number of the block of each position.

    Examples
    --------
    >>> from py4dstem_prenet.origin import block_of_positions
    >>> block_of_positions((4, 2), (2, 2)).tolist()
    [[0, 1], [0, 1], [2, 3], [2, 3]]
    """
    rows, columns = (np.arange(n) * g // n for n, g in zip(scan_shape, grid, strict=True))
    return rows[:, None] * grid[1] + columns


def block_sums(scan: Scan, noise: NoiseModel, blocks: int = BEAM_BLOCKS, region=None):
    """Sum a sample of the patterns of each block, in electrons, without saturated, lost and cut frames.

    Parameters
    ----------
    scan : Scan
        The scan, or a sample of one.
    noise : NoiseModel
        Noise model of the detector.
    blocks : int, optional
        Largest number of blocks along each side of the scan.
    region : numpy.ndarray of bool, shape (Rx, Ry), optional
        Positions that are summed; all by default.

    Returns
    -------
    sums : numpy.ndarray, shape (blocks, Qx, Qy)
        Sum of the electrons over each block, float32.
    counts : numpy.ndarray of int, shape (blocks,)
        Number of patterns that were summed; 0 if a sample contains none of the block.
    grid : tuple of int
        Blocks along each side of the scan.
    """
    grid = tuple(min(n, blocks) for n in scan.scan_shape)
    block_of = block_of_positions(scan.scan_shape, grid).ravel()
    available = scan.positions if region is None else scan.positions[region.ravel()[scan.positions]]
    chosen = np.sort(np.concatenate([
        members[np.linspace(0, len(members) - 1, min(len(members), PATTERNS_PER_BLOCK)).astype(int)]
        for members in (available[block_of[available] == b] for b in range(grid[0] * grid[1]))]))
    sums = np.zeros((grid[0] * grid[1], *scan.pattern_shape), np.float32)
    counts = np.zeros(len(sums), int)
    for index, patterns in scan.blocks(positions=chosen):
        low, high = patterns.min(2), patterns.max(2)
        # Constant rows whose value is not due to electrons: the frame is saturated, lost or cut.
        faulty = (low == high) & (np.abs(low.astype(np.float64) - noise.offset) > max(MIN_ODD_SIGMAS * noise.readout,
                                                                                      0.5 * noise.gain))
        lost = faulty.mean(1) > MIN_ODD_ROWS
        index, patterns = index[~lost], patterns[~lost]
        electrons = patterns.astype(np.float32)
        electrons -= noise.offset
        electrons /= noise.gain
        for b in np.unique(block_of[index]):
            members = block_of[index] == b
            sums[b] += electrons[members].sum(0)
            counts[b] += members.sum()
    return sums, counts, grid


def _fields(sums, counts, noise, step):
    """Bin block sums by `step` and pad them for the network: electrons, good pixels, read-out noise in electrons."""
    good = torch.from_numpy(~noise.bad_pixels)
    images, weight = torch.from_numpy(sums).masked_fill(~good, 0.0), good.float()
    for axis in (1, 2):
        images, weight = _extended(images, weight, axis, 32 * step)
    if step > 1:  # scale the sum over the good pixels of a bin to the whole bin
        images = torch.nn.functional.avg_pool2d(images[None], step)[0] * step**2
        weight = torch.nn.functional.avg_pool2d(weight[None], step)[0]
        images = images / weight.clamp_min(0.25)
    readout = noise.readout / noise.gain * step * torch.from_numpy(np.sqrt(counts)).float()
    return images, (weight >= 0.5).expand_as(images), readout


def _extended(images, weight, axis, multiple):
    """Extend images (n, Qx, Qy) and weight (Qx, Qy) along an axis by shuffled pixels of their margin.

    The network would mistake the boundary of a blank band for the edge of a detector.
    """
    side = images.shape[axis]
    source = torch.randint(max(0, side - 8), side, (-side % multiple,), generator=torch.Generator().manual_seed(side))
    source = torch.cat([torch.arange(side), source])
    return images.index_select(axis, source), weight.index_select(axis - 1, source)
