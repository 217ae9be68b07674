"""Training of the ellipse network: polar maps of pooled patterns with a known distortion.

Pooled patterns are made in polar coordinates, where the rotation of a grain is a shift and the distortion is one
resampling, so that a pool of many grains costs little more than one pattern.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch.nn.functional import grid_sample, pad

from ..core import ellipse_matrix, stabilize
from ..networks import AZIMUTHS, DISK_SPAN, RADII, RINGS_FROM, EllipseNet, normalize_polar
from ..simulation import CENTER, log_uniform, uniform
from . import Task

POLAR_BANK_AZIMUTHS = 192  # azimuthal samples of the polar maps of the bank: three per azimuth of the network
POLAR_BANK_RADII = CENTER  # radial samples of these maps, at 0, 1, 2, ... bank samples: to the edge of the pattern
POLAR_VALIDATION_BATCHES = 8  # batches of 64 samples in a validation


@lru_cache(maxsize=2)
def polar_bank(bank):
    """Resample all patterns of a bank on a polar grid.

    Parameters
    ----------
    bank : Bank
        Clean patterns.

    Returns
    -------
    torch.Tensor
        Square roots of the intensity, (n, POLAR_BANK_AZIMUTHS, POLAR_BANK_RADII), float16. Their squares are millionths
        of the beam per sample.
    """
    phi = torch.arange(POLAR_BANK_AZIMUTHS) * (2 * torch.pi / POLAR_BANK_AZIMUTHS)
    r = torch.arange(POLAR_BANK_RADII, dtype=torch.float32)
    at = torch.stack([phi.cos()[:, None] * r, phi.sin()[:, None] * r], -1) + CENTER
    grid = (at * (2 / (2 * CENTER - 1)) - 1).flip(-1)[None]
    out = torch.empty(len(bank), POLAR_BANK_AZIMUTHS, POLAR_BANK_RADII, dtype=torch.float16)
    for start in range(0, len(bank), 64):
        index = torch.arange(start, min(start + 64, len(bank)))
        # float16 cannot hold the intensities of faint rings, but their square roots.
        part = grid_sample(bank.intensity(index)[:, None], grid.expand(len(index), -1, -1, -1), "bilinear",
                           "zeros", align_corners=True)[:, 0]
        out[index] = part.sqrt().half()
    return out


@lru_cache(maxsize=2)
def members(bank):
    """Return the indices of patterns by class of specimen.

    Parameters
    ----------
    bank : Bank
        Clean patterns.

    Returns
    -------
    isotropic : torch.Tensor
        Indices of glasses and powders.
    crystalline : torch.Tensor
        Indices of all others.
    """
    isotropic = torch.from_numpy(bank.kind == "isotropic")
    return torch.nonzero(isotropic)[:, 0], torch.nonzero(~isotropic)[:, 0]


def draw_pools(bank, generator, batch: int):
    """Draw random pools of patterns without distortion.

    Parameters
    ----------
    bank : Bank
        Clean patterns.
    generator : torch.Generator
        Source of all random numbers.
    batch : int
        Number of pools.

    Returns
    -------
    maps : torch.Tensor
        Polar maps, (batch, POLAR_BANK_AZIMUTHS, POLAR_BANK_RADII), fractions of the beam per bank sample.
    radii : torch.Tensor
        Radii of the direct disks, (batch,), bank samples.
    """
    maps, radii = torch.empty(batch, POLAR_BANK_AZIMUTHS, POLAR_BANK_RADII), torch.empty(batch)
    kinds = members(bank)
    polar = polar_bank(bank)
    for k in range(batch):
        # A pool holds one specimen at several positions and thicknesses, in many orientations.
        isotropic = int(uniform(generator, 1) < 0.5)
        among = kinds[1 - isotropic]
        first = among[torch.randint(len(among), (1,), generator=generator)]
        same = among[bank.radius[among] == bank.radius[first]]
        count = int(log_uniform(generator, 1, low=1.0, high=2000.0 if isotropic else 40.0))
        turns = torch.randint(POLAR_BANK_AZIMUTHS, (count,), generator=generator)
        if uniform(generator, 1) < 0.25 and not isotropic:  # single crystal: one orientation
            turns = turns[:1].expand(count)
        elif count > 6 and uniform(generator, 1) < 0.3:  # texture
            turns = (turns[:1] + torch.randint(-12, 13, (count,), generator=generator)) % POLAR_BANK_AZIMUTHS
        which = torch.randint(len(same), (count,), generator=generator)
        histogram = torch.bincount(which * POLAR_BANK_AZIMUTHS + turns, minlength=len(same) * POLAR_BANK_AZIMUTHS)
        histogram = histogram.view(len(same), POLAR_BANK_AZIMUTHS, 1).float()
        # The sum over rotations is a circular convolution with the histogram of the angles.
        spectrum = torch.fft.rfft(polar[same].float().square_(), dim=1) * torch.fft.rfft(histogram, dim=1)
        maps[k] = torch.fft.irfft(spectrum.sum(0), n=POLAR_BANK_AZIMUTHS, dim=0).clamp_min(0) / (count * 1e6)
        radii[k] = bank.radius[first]
    return maps, radii


def draw_polar_maps(bank, generator, batch: int):
    """Draw random training samples.

    Parameters
    ----------
    bank : Bank
        Clean patterns.
    generator : torch.Generator
        Source of all random numbers.
    batch : int
        Number of samples.

    Returns
    -------
    inputs : dict
        Arguments of `EllipseNet.forward`: "rings" and "disk", (batch, 3, AZIMUTHS, n_r).
    vector : torch.Tensor
        Ellipse vectors, (batch, 2).
    """
    draw = lambda *s, **k: uniform(generator, *s, **k)  # noqa: E731
    maps, radius = draw_pools(bank, generator, batch)
    eps = draw(batch, high=0.12) * (draw(batch) < 0.85)
    theta = draw(batch, high=2 * torch.pi)
    vector = eps[:, None] * torch.stack([torch.cos(theta), torch.sin(theta)], 1)
    inverse = torch.linalg.inv(ellipse_matrix(vector))
    wrapped = pad(maps[:, None], (0, 0, 1, 1), mode="circular")
    outer = draw(batch, low=0.55, high=1.0) * POLAR_BANK_RADII
    guess = radius * torch.exp(0.03 * torch.randn(batch, generator=generator))  # measured radius, with 3 % error
    electrons = log_uniform(generator, batch, low=2e4, high=3e9)  # in the pool
    background_fraction = draw(batch, 1, 1) ** 2 * 0.8 * (draw(batch, 1, 1) < 0.6)
    width, power = log_uniform(generator, batch, 1, 1, low=8.0, high=90.0), draw(batch, 1, 1, low=0.7, high=2.5)
    inputs = {}
    for name, count in RADII.items():
        if name == "rings":
            first, last = RINGS_FROM * guess, torch.maximum(outer, 2.2 * guess)
            offset = torch.randn(batch, 2, generator=generator) * torch.where(draw(batch, 1) < 0.3, 2.5, 0.3)
        else:
            first, last = DISK_SPAN[0] * guess, DISK_SPAN[1] * guess
            offset = torch.randn(batch, 2, generator=generator) * 0.1
        r = first[:, None] + (last - first)[:, None] * torch.linspace(0, 1, count)
        phi = torch.arange(AZIMUTHS) * (2 * torch.pi / AZIMUTHS)
        unit = torch.stack([phi.cos(), phi.sin()], -1)
        measured = unit[None, :, None] * r[:, None, :, None]
        ideal = torch.einsum("bij,bprj->bpri", inverse, measured - offset[:, None, None])
        radial = torch.linalg.vector_norm(ideal, dim=-1)
        azimuth = torch.atan2(ideal[..., 1], ideal[..., 0]) % (2 * torch.pi)
        rows = azimuth * (POLAR_BANK_AZIMUTHS / (2 * torch.pi)) + 1
        columns = radial * (2 / (POLAR_BANK_RADII - 1)) - 1
        grid = torch.stack([columns, rows * (2 / (POLAR_BANK_AZIMUTHS + 1)) - 1], -1)
        mean = grid_sample(wrapped, grid, "bilinear", "zeros", align_corners=True)[:, 0]
        background = (1 + (radial / width) ** 2) ** -power
        background = background_fraction * background / (background.mean((1, 2), keepdim=True) * 3e4)
        mean = (1 - background_fraction) * mean + background
        counts = mean * electrons[:, None, None]
        # A detector pixel is about two bank samples wide; interpolation averages about three pixels per polar sample.
        counts = counts * 4
        counts = counts + torch.randn(counts.shape, generator=generator) * (counts * 0.4).sqrt()
        inputs[name] = normalize_polar(stabilize(counts, 0.0), _usable(generator, measured, outer, name))
    return inputs, vector


def _usable(generator, measured, outer, name):
    """Usable samples (B, AZIMUTHS, n_r): a rectangular detector around the beam, in some samples with a beam stop."""
    batch = len(measured)
    edges = outer[:, None] * uniform(generator, batch, 4, low=0.72, high=1.3)
    x, y = measured[..., 0], measured[..., 1]
    low, high, left, right = (edges[:, k, None, None] for k in range(4))
    inside = (x < low) & (x > -high) & (y < left) & (y > -right)
    angle, span = uniform(generator, batch, high=2 * torch.pi), uniform(generator, batch, low=0.02, high=0.33)
    phi = torch.atan2(y, x)
    difference = (phi - angle[:, None, None] + torch.pi) % (2 * torch.pi) - torch.pi
    stop = (difference.abs() < torch.pi * span[:, None, None]) & (uniform(generator, batch, 1, 1) < 0.12)
    return (inside & ~stop).float() if name == "rings" else (~stop).float()


class EllipseTask(Task):
    """Training of `EllipseNet`; see `Task`. Its two branches share no weights."""

    name = "ellipse"
    network = EllipseNet
    batch = 48
    rate = 1.5e-3
    parts = ("rings", "disk")

    def loss(self, network, bank, generator, half: bool = False):  # numpydoc ignore=PR01,RT01
        """Return the negative log-likelihood and distance of both branches on a random batch, see `Task.loss`."""
        inputs, vector = draw_polar_maps(bank, generator, self.batch)
        total = 0
        for found, log_sigma in network(**inputs).values():
            square = (found - vector).square().sum(1)
            total = total + (2 * log_sigma + 0.5 * square * (-2 * log_sigma).exp()).clamp_max(30).mean()
            total = total + 10 * (square + 1e-6).sqrt().mean()
        return total

    @torch.no_grad()
    def validate(self, network, bank, generator, half: bool = False) -> dict:  # numpydoc ignore=PR01
        """Measure the errors of both branches on random samples, see `Task.validate`.

        Returns
        -------
        dict
            For each branch: ``BRANCH_median``, the median error of the ellipse vector; ``BRANCH_sure``, the fraction
            of samples with a sigma below 0.005; ``BRANCH_sure_median``, their median error, 1 if there are none;
            ``BRANCH_beyond_3``, the fraction of errors beyond three standard deviations; ``score``: lower is better.
        """
        errors, sigmas = {"rings": [], "disk": []}, {"rings": [], "disk": []}
        for _ in range(POLAR_VALIDATION_BATCHES):
            inputs, vector = draw_polar_maps(bank, generator, 64)
            for name, (found, log_sigma) in network(**inputs).items():
                errors[name].append((found - vector).norm(dim=1))
                sigmas[name].append(log_sigma.exp())
        out = {"score": 0.0}
        for name in errors:
            error, sigma = torch.cat(errors[name]), torch.cat(sigmas[name])
            sure = sigma < 0.005
            out |= {f"{name}_median": float(error.median()), f"{name}_sure": float(sure.float().mean()),
                    f"{name}_sure_median": float(error[sure].median()) if sure.any() else 1.0,
                    f"{name}_beyond_3": float((error > 3 * sigma * 2**0.5).float().mean())}
            out["score"] += float((error + 1e-3).log().mean())
        return out
