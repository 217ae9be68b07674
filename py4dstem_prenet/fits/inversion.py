"""About which point patterns are symmetric: what tells which of many like disks the direct beam is.

Diffraction has the direct beam for a center of inversion: exactly in thin specimens (Friedel 1913) and along zone axes
of crystals that have one, and on the average over the grains, bends and tilts of a scan nearly always. In a thick
crystal along a zone axis other disks may be several times brighter, and brightness finds the wrong one. In a thick
crystal that is tilted as a whole symmetry may be the one that is wrong, so neither decides alone: the network that
finds the direct beam is shown both.
"""

from __future__ import annotations

import numpy as np
import torch

from ..core import Flag
from ..detector import stabilize

SEEN = 0.2  # of a pattern's squares, that must be seen on both sides of a point
LARGEST = 256  # side of a pooled pattern on which this is looked at, pixels
# Of a pooled pattern about its origin, and about another point, from which that is worth a word. About right origins it
# was .83 and more in 90 scans of many grains or of crystals along a zone axis, but .41 and more in 32 of thick crystals
# that were tilted as a whole; about disks beside the direct beam .22 to .6.
HERE, THERE = 0.5, 0.85
NEAR, NEAR_PART = 3.0, 0.3  # pixels about the origin that belong to it, or radii of the direct disk


def symmetry(z: torch.Tensor, good: torch.Tensor) -> torch.Tensor:
    """How alike patterns are to themselves turned by half a turn about each of their pixels, (B, H, W) float32.

    1 where they are the same, about 0 where they have nothing in common: the sum of z(c + q) z(c - q) over that of
    z(c + q)^2 where both sides were seen.

    Args:
        z: (B, H, W), about 0 where there is nothing, and 0 in bad pixels. good: the same shape, bool.
    """
    size = [2 * side for side in z.shape[-2:]]  # what leaves the pattern must not come in on its other side
    wave, squares, seen = (torch.fft.rfft2(part.float(), s=size) for part in (z, z.square(), good))
    product, energy = (torch.fft.irfft2(part, s=size)[..., ::2, ::2] for part in (wave * wave, squares * seen))
    return product / energy.clamp_min(SEEN * z.square().sum((-2, -1), keepdim=True) + 1e-6)


def other_center(mean, weight, center, radius: float, readout: float) -> Flag | None:
    """A flag where a scan's pooled pattern is symmetric about a point that is not its origin, else None.

    Args:
        mean, weight: (Hx, Hy) electrons a pattern, and how many patterns were seen, in each pixel (`pooling.Pooled`).
        center: (2,) where the origin was moved to, pixels. radius: of the direct disk, pixels. readout: electrons rms.
    """
    electrons = np.clip(mean * weight, 0, None)
    step = -(-max(weight.shape) // LARGEST)
    electrons, weight, good = (_binned(part, step) for part in (electrons, weight, (weight > 0).astype(np.float32)))
    good = good >= step**2 / 2
    z = stabilize(electrons, readout * np.sqrt(weight)).astype(np.float32)
    z = np.where(good, z - np.median(z[good]), 0).astype(np.float32)
    found = symmetry(torch.from_numpy(z)[None], torch.from_numpy(good)[None])[0].numpy()
    origin = (np.asarray(center) - (step - 1) / 2) / step
    x, y = np.meshgrid(*map(np.arange, found.shape), indexing="ij")
    here = found[np.hypot(x - origin[0], y - origin[1]) * step < max(NEAR, NEAR_PART * radius)].max()
    if here > HERE or found.max() < THERE:
        return None
    away = (np.unravel_index(found.argmax(), found.shape) - origin) * step
    return Flag("symmetric_elsewhere", {"there": float(found.max()), "here": float(here), "dx": float(away[0]),
                                        "dy": float(away[1])})


def _binned(image, step):
    rows, columns = (n // step for n in image.shape)
    return image[: rows * step, : columns * step].reshape(rows, step, columns, step).sum((1, 3))
