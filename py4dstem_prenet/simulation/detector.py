"""What a detector makes of expected electrons: blur, counting, gain, read-out, defects.

Parameters are drawn in one place (`draw_detector`) and applied in another (`expose`), so that a history of
drawn parameters with its seed reproduces an exposure exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import conv2d, pad


@dataclass(frozen=True)
class Detector:
    """One value per pattern, (B,): blur sigma in px, read-out rms in electrons; and (B, H, W) bool maps.

    hot: pixels that always count much. dead: that never count (gaps, beam stops).
    """

    blur: torch.Tensor
    readout: torch.Tensor
    hot: torch.Tensor
    dead: torch.Tensor


def uniform(generator, *shape, low=0.0, high=1.0, device="cpu"):
    return torch.rand(*shape, generator=generator, device=device) * (high - low) + low


def draw_detector(generator, batch: int, shape, device="cpu", max_blur=1.0, stops: float = 0.1) -> Detector:
    """Half of the detectors count electrons, half integrate; `stops` of them carry a bar before the sensor."""
    draw = lambda *s, **k: uniform(generator, *s, device=device, **k)  # noqa: E731
    blur = draw(batch, high=max_blur) * (draw(batch) < 0.6)
    readout = torch.exp(draw(batch, low=-3.5, high=0.7)) * (draw(batch) < 0.4)
    rare = draw(batch, 1, 1) ** 8 * 4e-3 * (draw(batch, 1, 1) < 0.5)
    hot = draw(batch, *shape) < rare
    dead = draw(batch, *shape) < rare
    # A bar through a random point in a random direction: a beam stop or a gap between chips.
    angle, at = draw(batch, high=2 * torch.pi), draw(batch, 2) * torch.tensor(shape, device=device)
    width = torch.exp(draw(batch, low=-0.7, high=2.3))
    x = torch.arange(shape[0], device=device)[None, :, None] - at[:, 0, None, None]
    y = torch.arange(shape[1], device=device)[None, None, :] - at[:, 1, None, None]
    c, s = torch.cos(angle)[:, None, None], torch.sin(angle)[:, None, None]
    bar = ((x * c + y * s).abs() < width[:, None, None]) & (y * c - x * s > 0)
    dead = dead | (bar & (draw(batch, 1, 1) < stops))
    return Detector(blur, readout, hot & ~dead, dead)


def blur(images: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Gaussian blur of each image (B, H, W) with its own sigma (B,), pixels; up to some 1.2 px; conserves counts."""
    reach = 4
    x = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (x / sigma.clamp_min(1e-3)[:, None]) ** 2)
    kernel = kernel / kernel.sum(-1, keepdim=True)
    out = pad(images[None], (reach,) * 4, mode="replicate")
    batch = len(images)
    out = conv2d(out, kernel[:, None, :, None], groups=batch)
    return conv2d(out, kernel[:, None, None, :], groups=batch)[0]


def expose(expected: torch.Tensor, detector: Detector, generator, hot_level: float = 30.0) -> torch.Tensor:
    """Measured electrons (float, negative values where read-out noise says so) of `expected` (B, H, W).

    `expected` must already be blurred: blur belongs to what is expected (`detector.blur`), not to the noise.
    """
    counts = torch.poisson(expected.clamp_min(0), generator=generator)
    noise = torch.randn(counts.shape, generator=generator, device=counts.device)
    counts = counts + noise * detector.readout[:, None, None]
    level = expected.amax((-2, -1), keepdim=True) + hot_level
    counts = torch.where(detector.hot, level * uniform(generator, *counts.shape, device=counts.device), counts)
    return counts.masked_fill(detector.dead, 0.0)
