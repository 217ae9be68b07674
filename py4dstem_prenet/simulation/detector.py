"""Model of a detector: blur, counting statistics, read-out noise, hot and dead pixels.

Parameters are drawn in one function (`draw_detector`) and applied in another (`expose`), so that the drawn parameters
and the seed reproduce an exposure exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn.functional import conv2d, pad


@dataclass(frozen=True)
class Detector:
    """Properties of the detectors of a batch of B patterns.

    Attributes
    ----------
    blur : torch.Tensor
        Standard deviation of the point spread function, (B,), pixels.
    readout : torch.Tensor
        Read-out noise, (B,), rms electrons.
    hot : torch.Tensor
        Pixels with random high counts, (B, H, W), bool.
    dead : torch.Tensor
        Pixels without counts (dead, in gaps, behind beam stops), (B, H, W), bool.
    """

    blur: torch.Tensor
    readout: torch.Tensor
    hot: torch.Tensor
    dead: torch.Tensor


def uniform(generator, *shape, low=0.0, high=1.0, device="cpu"):
    """Draw uniform random numbers.

    Parameters
    ----------
    generator : torch.Generator
        Source of the numbers.
    *shape : int
        Shape of the result.
    low, high : float
        Limits.
    device : str or torch.device
        Where the result is stored.

    Returns
    -------
    torch.Tensor
        Random numbers.
    """
    return torch.rand(*shape, generator=generator, device=device) * (high - low) + low


def log_uniform(generator, *shape, low: float, high: float):
    """Draw log-uniform random numbers.

    Parameters
    ----------
    generator : torch.Generator
        Source of the numbers.
    *shape : int
        Shape of the result.
    low, high : float
        Limits, positive.

    Returns
    -------
    torch.Tensor
        Random numbers.

    Examples
    --------
    >>> import torch
    >>> from py4dstem_prenet.simulation import log_uniform
    >>> values = log_uniform(torch.Generator().manual_seed(0), 1000, low=0.1, high=10.0)
    >>> 0.4 < (values < 1).float().mean().item() < 0.6
    True
    """
    return torch.exp(uniform(generator, *shape, low=math.log(low), high=math.log(high)))


def draw_detector(generator, batch: int, shape, stops: float = 0.1) -> Detector:
    """Draw random detectors.

    Parameters
    ----------
    generator : torch.Generator
        Source of all random numbers.
    batch : int
        Number of detectors.
    shape : tuple of int
        (H, W), pixels.
    stops : float
        Fraction of the detectors with a dead bar (a beam stop, or a gap between chips).

    Returns
    -------
    Detector
        60 % of the detectors have blur (up to 1 px, 1 sigma), 40 % have read-out noise, half have hot and dead pixels.
    """
    draw = lambda *s, **k: uniform(generator, *s, **k)  # noqa: E731
    blur = draw(batch) * (draw(batch) < 0.6)
    readout = torch.exp(draw(batch, low=-3.5, high=0.7)) * (draw(batch) < 0.4)
    rate = draw(batch, 1, 1) ** 8 * 4e-3 * (draw(batch, 1, 1) < 0.5)
    hot = draw(batch, *shape) < rate
    dead = draw(batch, *shape) < rate
    # A bar from a random point in a random direction.
    angle, at = draw(batch, high=2 * torch.pi), draw(batch, 2) * torch.tensor(shape)
    width = torch.exp(draw(batch, low=-0.7, high=2.3))
    x = torch.arange(shape[0])[None, :, None] - at[:, 0, None, None]
    y = torch.arange(shape[1])[None, None, :] - at[:, 1, None, None]
    c, s = torch.cos(angle)[:, None, None], torch.sin(angle)[:, None, None]
    bar = ((x * c + y * s).abs() < width[:, None, None]) & (y * c - x * s > 0)
    dead = dead | (bar & (draw(batch, 1, 1) < stops))
    return Detector(blur, readout, hot & ~dead, dead)


def blur(images: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Blur each image with a Gaussian of its own width.

    Parameters
    ----------
    images : torch.Tensor
        (B, H, W).
    sigma : torch.Tensor
        Standard deviations, (B,), pixels, up to about 1.2 px (the kernel extends to 4 px).

    Returns
    -------
    torch.Tensor
        (B, H, W). Sums are conserved except at the margins.
    """
    reach = 4
    x = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (x / sigma.clamp_min(1e-3)[:, None]) ** 2)
    kernel = kernel / kernel.sum(-1, keepdim=True)
    out = pad(images[None], (reach,) * 4, mode="replicate")
    batch = len(images)
    out = conv2d(out, kernel[:, None, :, None], groups=batch)
    return conv2d(out, kernel[:, None, None, :], groups=batch)[0]


def expose(expected: torch.Tensor, detector: Detector, generator, hot_level: float = 30.0) -> torch.Tensor:
    """Draw the electrons that a detector measures.

    Parameters
    ----------
    expected : torch.Tensor
        Expected electrons, (B, H, W), already blurred by `blur`.
    detector : Detector
        Properties of the detectors.
    generator : torch.Generator
        Source of all random numbers.
    hot_level : float
        Counts of hot pixels above the brightest pixel of the pattern, electrons.

    Returns
    -------
    torch.Tensor
        Measured electrons, (B, H, W), float; negative values occur with read-out noise.

    Examples
    --------
    >>> import torch
    >>> generator = torch.Generator().manual_seed(0)
    >>> detector = draw_detector(generator, 2, (32, 32))
    >>> expose(torch.full((2, 32, 32), 4.0), detector, generator).shape
    torch.Size([2, 32, 32])
    """
    counts = torch.poisson(expected.clamp_min(0), generator=generator)
    noise = torch.randn(counts.shape, generator=generator, device=counts.device)
    counts = counts + noise * detector.readout[:, None, None]
    level = expected.amax((-2, -1), keepdim=True) + hot_level
    counts = torch.where(detector.hot, level * uniform(generator, *counts.shape, device=counts.device), counts)
    return counts.masked_fill(detector.dead, 0.0)
