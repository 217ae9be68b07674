"""Inversion symmetry of patterns, which distinguishes the direct beam from similar disks.

A diffraction pattern is symmetric under inversion about the direct beam: exactly for thin specimens (Friedel 1913) and
along zone axes of crystals with a center of inversion, and nearly always for the mean over the grains, bends and tilts
of a scan. In a thick crystal along a zone axis, diffracted disks may be several times brighter than the direct beam, so
that brightness alone selects the wrong one. In a thick crystal that is tilted as a whole, symmetry may select the wrong
one. The network that finds the direct beam therefore uses both.
"""

from __future__ import annotations

import numpy as np
import torch

from ..core import Flag, binned_sum, stabilize

MIN_OVERLAP = 0.2  # fraction of a pattern's summed squares; smallest part whose inverse lies on the detector
MAX_BINNED_SIDE = 256  # pixels; larger patterns are binned to at most this side, for speed
# Largest symmetry of a pooled pattern about its origin, and smallest about a different point, for which that point is
# reported. About correct origins the symmetry was 0.83 or more in 90 simulated scans of many grains or of crystals
# along a zone axis, and 0.41 or more in 32 of thick crystals that were tilted as a whole; about disks beside the direct
# beam it was 0.22 to 0.6.
MAX_SYMMETRY_AT_ORIGIN, MIN_SYMMETRY_ELSEWHERE = 0.5, 0.85
ORIGIN_REGION_PX, ORIGIN_REGION_RADII = 3.0, 0.3  # pixels, radii of the direct disk; radius of the region of the origin


def symmetry(z: torch.Tensor, good: torch.Tensor) -> torch.Tensor:
    """Measure the inversion symmetry of patterns about each of their pixels.

    Parameters
    ----------
    z : torch.Tensor, shape (B, H, W)
        Patterns; about 0 without signal, and 0 in bad pixels.
    good : torch.Tensor of bool, shape (B, H, W)
        True where a pixel is good.

    Returns
    -------
    torch.Tensor, shape (B, H, W)
        Symmetry about each pixel c, float32: 1 if a pattern equals its inverse, about 0 if they are uncorrelated. It is
        the sum of z(c + q) z(c - q) divided by the sum of z(c + q)**2, over good pixels q whose inverse is good.

    Examples
    --------
    >>> import torch
    >>> from py4dstem_prenet.fits import symmetry
    >>> z = torch.zeros(1, 16, 16)
    >>> z[0, [5, 8, 11], [6, 7, 8]] = torch.tensor([1.0, 3.0, 1.0])
    >>> round(float(symmetry(z, torch.ones_like(z, dtype=bool))[0, 8, 7]), 3)
    1.0
    """
    size = [2 * side for side in z.shape[-2:]]  # padded, so that the convolution does not wrap around
    wave, squares, inverse = (torch.fft.rfft2(part.float(), s=size) for part in (z, z.square(), good))
    product, energy = (torch.fft.irfft2(part, s=size)[..., ::2, ::2] for part in (wave * wave, squares * inverse))
    return product / energy.clamp_min(MIN_OVERLAP * z.square().sum((-2, -1), keepdim=True) + 1e-6)


def other_center(mean, weight, center, radius: float, readout: float) -> Flag | None:
    """Find a center of inversion of a pooled pattern that is not its origin.

    Parameters
    ----------
    mean : numpy.ndarray, shape (Hx, Hy)
        Pooled pattern in electrons per pattern; see `Pooled.mean`.
    weight : numpy.ndarray, shape (Hx, Hy)
        Number of patterns that cover each pixel.
    center : array_like, shape (2,)
        Origin of the pooled pattern in pixels.
    radius : float
        Radius of the direct disk in pixels.
    readout : float
        Read-out noise in electrons, rms.

    Returns
    -------
    Flag or None
        A flag if the pattern is symmetric about a point other than its origin, and not about its origin.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.fits import other_center
    >>> mean = np.full((48, 48), 0.1)
    >>> for x, brightness in ((14, 10.0), (24, 30.0), (34, 10.0)):
    ...     mean[x - 2 : x + 3, 22:27] += brightness
    >>> other_center(mean, np.full(mean.shape, 100.0), (24, 24), 2.5, 0.0) is None
    True
    >>> other_center(mean, np.full(mean.shape, 100.0), (34, 24), 2.5, 0.0).name
    'symmetric_elsewhere'
    """
    electrons = np.clip(mean * weight, 0, None)
    step = -(-max(weight.shape) // MAX_BINNED_SIDE)
    electrons, weight, good = (binned_sum(part, step) for part in (electrons, weight, (weight > 0).astype(np.float32)))
    good = good >= step**2 / 2
    z = stabilize(electrons, readout * np.sqrt(weight)).astype(np.float32)
    z = np.where(good, z - np.median(z[good]), 0).astype(np.float32)
    values = symmetry(torch.from_numpy(z)[None], torch.from_numpy(good)[None])[0].numpy()
    origin = (np.asarray(center) - (step - 1) / 2) / step
    x, y = np.meshgrid(*map(np.arange, values.shape), indexing="ij")
    region = np.hypot(x - origin[0], y - origin[1]) * step < max(ORIGIN_REGION_PX, ORIGIN_REGION_RADII * radius)
    at_origin = values[region].max(initial=0.0)
    if at_origin > MAX_SYMMETRY_AT_ORIGIN or values.max() < MIN_SYMMETRY_ELSEWHERE:
        return None
    offset = (np.unravel_index(values.argmax(), values.shape) - origin) * step
    return Flag("symmetric_elsewhere", {"there": float(values.max()), "here": float(at_origin), "dx": float(offset[0]),
                                        "dy": float(offset[1])})
