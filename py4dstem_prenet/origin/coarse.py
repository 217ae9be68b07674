"""The first guess: where the direct beam is in sums over blocks of the scan, how large it is, whether there is one."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import map_coordinates
from torch.nn.functional import avg_pool2d, grid_sample

from ..core import NoiseModel, Scan, stabilize
from ..descan import fit_pair
from ..networks import COARSE_CELL_PX, coarse_position, normalize

FIELD = 128  # largest side of a coarse field, pixels
BLOCKS = 8  # blocks along each side of the scan
CLEAR = 5.0  # log odds of a beam; sums of noise reach 2, those of a hundred electrons in a beam have 10 and more
FEWEST = 1 / 8  # of the blocks, that show a beam clearly: it may have been blanked in the others
PER_BLOCK = 16  # patterns that are summed in a block
AGREED = 0.3  # mean log-likelihood by which another place must be better than that which most blocks favor
SURPRISE = 1e-3  # likelihood of the direct beam where a block excludes it: the block may show something else


def coarse_origin(network, scan: Scan, noise: NoiseModel):
    """First guess of every origin, (Rx * Ry, 2); disk radius in pixels; which positions lie in blocks that show a beam,
    (Rx * Ry,) bool. None where no block shows a beam.

    """
    sums, counts, grid = block_sums(scan, noise)
    step = -(-max(sums.shape[1:]) // FIELD)
    fields, good, readout = _fields(sums, counts, noise, step)
    device = next(network.parameters()).device
    with torch.inference_mode():
        z, scale = normalize(stabilize(fields, readout[:, None, None]), good)
        logits, size, presence = network(torch.stack([z, good.float()], 1).to(device), scale.to(device))
    lit, presence = _lit(sums, counts, ~noise.bad_pixels), presence.cpu().numpy().ravel()
    seen = lit & (presence > CLEAR)
    if seen.sum() < FEWEST * lit.sum():
        if np.median(presence[lit]) < 0:
            return None
        seen = lit & (presence >= 0)
    # A radius is the same everywhere.
    radius = float(np.exp(np.median(size.cpu().numpy()[seen]))) * step
    block_of = _block_of(scan.scan_shape, grid).ravel()
    at = coarse_position(logits)

    def surface(at):
        return spread_blocks((at.cpu().numpy() + 0.5) * step - 0.5, grid, scan.scan_shape, max(0.5, 0.5 * step), seen)

    guess = surface(at)
    smooth = np.stack([np.bincount(block_of, g, len(at)) for g in guess.T], 1) / np.bincount(block_of)[:, None]
    smooth = ((torch.from_numpy(smooth) + 0.5) / step - 0.5).to(at)
    agreed = agreed_positions(logits, at, smooth, torch.from_numpy(seen).to(device))
    if agreed is not None:
        guess = surface(coarse_position(logits, agreed))
    return guess, radius, seen[block_of]


def agreed_positions(logits, at, smooth, seen):
    """Where all blocks together say that the direct beam is, (n, 2) pixels; None where that is where most of them say.

    Each block may be surer of some places than of others. Where most of them, unsure among many like disks, favor one
    that the others exclude, a vote would be wrong; the likelihoods of independent patterns multiply.

    Args:
        logits: (n, rows, columns) of the blocks. at: (n, 2) what each says. smooth: (n, 2) the surface through these.
        seen: (n,) bool, which say anything.
    """
    there = torch.softmax(logits.flatten(1), 1).view_as(logits)[seen]
    there = avg_pool2d(there[:, None], 3, 1, 1, divisor_override=1)  # a cell and those around it
    likelihood = ((there + SURPRISE) / SURPRISE).log()
    still = at[seen].median(0).values.expand_as(at)  # where rows show different disks no surface tells of the descan
    frames = smooth, still
    together = torch.stack([_moved(likelihood, frame[seen]) for frame in frames])
    rows, columns = logits.shape[1:]
    if together.max() < together[0, rows - 1, columns - 1] + AGREED:
        return None
    number, x, y = np.unravel_index(int(together.argmax()), together.shape)
    return frames[number] + COARSE_CELL_PX * torch.tensor([x - rows + 1, y - columns + 1]).to(at)


def _moved(likelihood, positions):
    """Mean of log-likelihoods (n, 1, rows, columns) at positions (n, 2), pixels, moved by whole cells each way,
    (2 rows - 1, 2 columns - 1); 0 off the field."""
    at = []
    for k, n in enumerate(likelihood.shape[2:]):
        cell = (positions[:, k, None] - (COARSE_CELL_PX - 1) / 2) / COARSE_CELL_PX
        cell = cell + torch.arange(-n + 1, n, device=positions.device)
        at.append(2 * cell / (n - 1) - 1)
    grid = torch.stack(torch.broadcast_tensors(at[1][:, None, :], at[0][:, :, None]), -1)
    return grid_sample(likelihood, grid, align_corners=True).mean((0, 1))


def _lit(sums, counts, good):
    """Blocks that hold patterns, and more than a twentieth of the electrons of the brightest: the beam may be off in
    others."""
    electrons = sums[:, good].sum(1) / np.maximum(counts, 1)
    brightest = electrons.max()
    return (counts > 0) & ((electrons >= 0.05 * brightest) | (brightest <= 0))


def spread_blocks(at, grid, scan, sigma, valid=True):
    """Positions of blocks (blocks, 2), sigma known, as a smooth surface at every scan position, (Rx * Ry, 2)."""
    x, y = (at[:, k].reshape(grid) for k in (0, 1))
    surfaces = fit_pair(x, y, sigma, sigma, np.broadcast_to(np.asarray(valid).reshape(-1), len(at)).reshape(grid))
    blocks = np.stack([s.values for s in surfaces])
    where = [(np.arange(n) + 0.5) * g / n - 0.5 for n, g in zip(scan, grid, strict=True)]
    where = np.stack(np.meshgrid(*[np.clip(w, 0, g - 1) for w, g in zip(where, grid, strict=True)], indexing="ij"))
    return np.stack([map_coordinates(b, where, order=1, mode="nearest").ravel() for b in blocks], 1)


def _block_of(scan, grid):
    """The number of the block in which each position lies, (Rx, Ry)."""
    rows, columns = (np.arange(n) * g // n for n, g in zip(scan, grid, strict=True))
    return rows[:, None] * grid[1] + columns


def block_sums(scan: Scan, noise, blocks=BLOCKS):
    """Sums of electrons over blocks, (blocks, Qx, Qy) float32; patterns in each (none, perhaps, in those of a
    sample); the grid of blocks."""
    grid = tuple(min(n, blocks) for n in scan.scan_shape)
    block_of = _block_of(scan.scan_shape, grid).ravel()
    held = scan.positions
    chosen = np.sort(np.concatenate([
        members[np.linspace(0, len(members) - 1, min(len(members), PER_BLOCK)).astype(int)]
        for members in (held[block_of[held] == b] for b in range(grid[0] * grid[1]))]))
    sums = np.zeros((grid[0] * grid[1], *scan.pattern_shape), np.float32)
    counts = np.zeros(len(sums), int)
    for index, patterns in scan.blocks(positions=chosen):
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
