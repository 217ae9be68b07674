"""The ellipse network, which measures the elliptical distortion in polar maps of pooled patterns.

Two independent branches estimate the ellipse vector with an uncertainty: one from the rings outside the direct beam,
one from the edge of the direct beam.
"""

from __future__ import annotations

import torch
from torch import nn

from .layers import Conv, Residual

AZIMUTHS = 64  # azimuthal samples of a polar map, over the full circle; part of the architecture
RADII = {"rings": 80, "disk": 32}  # radial samples of the polar map of each branch
RINGS_FROM = 1.4  # inner radius of the rings map, radii of the direct disk; outside its soft edge
DISK_SPAN = (0.5, 1.6)  # inner and outer radius of the disk map, radii of the direct disk


def normalize_polar(z: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Convert polar maps of stabilized counts to the input of the network.

    Parameters
    ----------
    z : torch.Tensor
        Variance-stabilized counts, (B, AZIMUTHS, n_r).
    weight : torch.Tensor
        Usable fraction of each sample, (B, AZIMUTHS, n_r).

    Returns
    -------
    torch.Tensor
        (B, 3, AZIMUTHS, n_r): the deviation from the azimuthal mean in units of its rms; the azimuthal mean scaled to
        0 .. 1; the weight.
    """
    total = weight.sum(1, keepdim=True).clamp_min(1e-6)
    profile = (z * weight).sum(1, keepdim=True) / total
    rest = (z - profile) * weight
    rms = (rest.square().sum((1, 2), keepdim=True) / weight.sum((1, 2), keepdim=True).clamp_min(1)).sqrt()
    covered = weight.amax(1, keepdim=True) > 0
    low = profile.masked_fill(~covered, float("inf")).amin(2, keepdim=True)
    high = profile.masked_fill(~covered, float("-inf")).amax(2, keepdim=True)
    shape = ((profile - low) / (high - low).clamp_min(1e-6)).clamp(0, 1) * covered
    return torch.stack([rest / rms.clamp_min(1e-3), shape.expand_as(z), weight], 1)


class Branch(nn.Module):
    """Ellipse vector and its uncertainty from one kind of polar map.

    Parameters
    ----------
    width : int
        Number of channels of the first convolution.

    Notes
    -----
    The vector is the second Fourier component over azimuth of a learned map, so the output rotates with the pattern
    by construction.
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
        """Evaluate the branch.

        Parameters
        ----------
        x : torch.Tensor
            Polar maps from `normalize_polar`, (B, 3, AZIMUTHS, n_r).

        Returns
        -------
        vector : torch.Tensor
            Ellipse vectors (eps cos 2 theta, eps sin 2 theta), (B, 2).
        log_sigma : torch.Tensor
            Natural logarithm of the standard deviation of each component, (B,).
        """
        x = nn.functional.silu(self.trunk(x))
        wave = self.wave(x.mean(3))
        phi = torch.arange(wave.shape[2], device=x.device, dtype=x.dtype) * (4 * torch.pi / wave.shape[2])
        # Strided convolutions keep every eighth azimuth, so sample k of the map still lies at 2 pi k / n.
        second = torch.stack([wave @ torch.cos(phi), wave @ torch.sin(phi)], 1) / wave.shape[2]
        vector = self.mix(second)[..., 0]
        strength = torch.linalg.vector_norm(second, dim=1)
        return vector, self.sigma(torch.cat([x.mean((2, 3)), strength], 1))[:, 0].clamp(-4, 6) - 4


class EllipseNet(nn.Module):
    """Two branches: `rings` outside the direct beam, and `disk` at the edge of the direct beam."""

    def __init__(self):
        super().__init__()
        self.rings = Branch()
        self.disk = Branch()

    def forward(self, rings, disk):
        """Evaluate both branches.

        Parameters
        ----------
        rings, disk : torch.Tensor
            Polar maps from `normalize_polar`, (B, 3, AZIMUTHS, RADII[...]).

        Returns
        -------
        dict
            ``{"rings": (vector, log_sigma), "disk": (vector, log_sigma)}``, see `Branch.forward`.
        """
        return {"rings": self.rings(rings), "disk": self.disk(disk)}

    def replay(self, generator):  # numpydoc ignore=PR01,RT01
        """Evaluate the network on random input, see `weights.replay`."""
        maps = {k: torch.rand(1, 3, AZIMUTHS, n, generator=generator) for k, n in RADII.items()}
        return [v for vector, log_sigma in self(**maps).values() for v in (*vector[0], log_sigma[0])]
