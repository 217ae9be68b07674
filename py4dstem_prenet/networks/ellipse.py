"""The ellipse network: elliptical distortion, with its uncertainty, from polar maps of pooled patterns."""

from __future__ import annotations

import torch
from torch import nn

from .layers import Conv, Residual

AZIMUTHS = 64
RADII = {"rings": 80, "disk": 32}
RINGS_FROM = 1.4  # disk radii: where the map outside the direct beam begins
DISK_SPAN = (0.5, 1.6)  # disk radii: the map of the direct beam's edge


def normalize_polar(z: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Polar maps of stabilized counts (B, AZIMUTHS, n_r) with usable samples: three channels for the network.

    What departs from the mean over azimuth, in units of its rms; that mean itself, as a profile; usable samples.
    """
    total = weight.sum(1, keepdim=True).clamp_min(1e-6)
    profile = (z * weight).sum(1, keepdim=True) / total
    rest = (z - profile) * weight
    rms = (rest.square().sum((1, 2), keepdim=True) / weight.sum((1, 2), keepdim=True).clamp_min(1)).sqrt()
    seen = weight.amax(1, keepdim=True) > 0
    low = profile.masked_fill(~seen, float("inf")).amin(2, keepdim=True)
    high = profile.masked_fill(~seen, float("-inf")).amax(2, keepdim=True)
    shape = ((profile - low) / (high - low).clamp_min(1e-6)).clamp(0, 1) * seen
    return torch.stack([rest / rms.clamp_min(1e-3), shape.expand_as(z), weight], 1)


class Branch(nn.Module):
    """One polar map to an ellipse vector and the logarithm of its sigma: (B, 2), (B,).

    The vector is the second Fourier component over azimuth of a learned map, so turning the pattern turns the
    answer by construction.
    """

    def __init__(self, width: int = 24):
        super().__init__()
        self.trunk = nn.Sequential(
            Conv(3, width, 2, True), Residual(width, True),
            Conv(width, 2 * width, 2, True), Residual(2 * width, True),
            Conv(2 * width, 3 * width, 2, True), Residual(3 * width, True),
        )
        self.wave = nn.Conv1d(3 * width, width, 1)
        self.mix = nn.Linear(width, 1, bias=False)
        self.sigma = nn.Sequential(nn.Linear(4 * width, 64), nn.SiLU(), nn.Linear(64, 1))
        nn.init.normal_(self.mix.weight, std=1e-3)

    def forward(self, x):
        x = nn.functional.silu(self.trunk(x))
        wave = self.wave(x.mean(3))
        phi = torch.arange(wave.shape[2], device=x.device, dtype=x.dtype) * (4 * torch.pi / wave.shape[2])
        # Strides keep every eighth azimuth, so sample k of the map still lies at 2 pi k / n.
        second = torch.stack([wave @ torch.cos(phi), wave @ torch.sin(phi)], 1) / wave.shape[2]
        vector = self.mix(second)[..., 0]
        strength = torch.linalg.vector_norm(second, dim=1)
        return vector, self.sigma(torch.cat([x.mean((2, 3)), strength], 1))[:, 0].clamp(-4, 6) - 4


class EllipseNet(nn.Module):
    """Two branches: what lies outside the direct beam, and the direct beam's own edge."""

    def __init__(self):
        super().__init__()
        self.rings = Branch()
        self.disk = Branch()

    def forward(self, rings, disk):
        """Maps (B, 3, AZIMUTHS, n_r) of both kinds to {"rings": (vector, log sigma), "disk": ...}."""
        return {"rings": self.rings(rings), "disk": self.disk(disk)}

    def replay(self, generator):
        """Numbers that this network gives for inputs drawn with `generator`: proof that it was loaded as it was saved."""
        maps = {k: torch.rand(1, 3, AZIMUTHS, n, generator=generator) for k, n in RADII.items()}
        return [v for vector, log_sigma in self(**maps).values() for v in (*vector[0], log_sigma[0])]
