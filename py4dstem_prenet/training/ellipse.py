"""The task of the ellipse network: polar maps of pooled patterns with a known distortion.

Pooled patterns are drawn in polar coordinates, where turning a grain is a shift and the distortion one resampling, so
a pool of many grains costs little more than one pattern.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch.nn.functional import grid_sample, pad

from ..core import ellipse_matrix
from ..detector import stabilize
from ..networks import AZIMUTHS, DISK_SPAN, RADII, RINGS_FROM, EllipseNet, normalize_polar
from ..simulation import CENTER, uniform
from .scenes import log_uniform

FINE = 192  # azimuths of the bank's polar maps
REACH = CENTER  # their radii: 0, 1, 2 ... bank samples


@lru_cache(maxsize=2)
def polar_bank(bank):
    """Every bank pattern on an ideal polar grid, (n, FINE, REACH) float16, in millionths of the beam a sample."""
    phi = torch.arange(FINE) * (2 * torch.pi / FINE)
    r = torch.arange(REACH, dtype=torch.float32)
    at = torch.stack([phi.cos()[:, None] * r, phi.sin()[:, None] * r], -1) + CENTER
    grid = (at * (2 / (2 * CENTER - 1)) - 1).flip(-1)[None]
    out = torch.empty(len(bank), FINE, REACH, dtype=torch.float16)
    for start in range(0, len(bank), 64):
        index = torch.arange(start, min(start + 64, len(bank)))
        # The square root keeps float16 from losing faint rings.
        part = grid_sample(bank.intensity(index)[:, None], grid.expand(len(index), -1, -1, -1), "bilinear",
                           "zeros", align_corners=True)[:, 0]
        out[index] = part.sqrt().half()
    return out


@lru_cache(maxsize=2)
def members(bank):
    """Numbers of the patterns that are glasses or powders, and of the others."""
    isotropic = torch.from_numpy(bank.kind == "isotropic")
    return torch.nonzero(isotropic)[:, 0], torch.nonzero(~isotropic)[:, 0]


def pooled(bank, generator, batch: int):
    """Ideal pooled maps (batch, FINE, REACH), fractions of the beam a bank sample; aperture radii (batch,)."""
    maps, radii = torch.empty(batch, FINE, REACH), torch.empty(batch)
    kinds = members(bank)
    polar = polar_bank(bank)
    for k in range(batch):
        # A pool is one specimen, seen at a few places and thicknesses, in many orientations.
        isotropic = int(uniform(generator, 1) < 0.5)
        among = kinds[1 - isotropic]
        first = among[torch.randint(len(among), (1,), generator=generator)]
        same = among[bank.radius[among] == bank.radius[first]]
        count = int(log_uniform(generator, 1, low=1.0, high=2000.0 if isotropic else 40.0))
        turns = torch.randint(FINE, (count,), generator=generator)
        if uniform(generator, 1) < 0.25 and not isotropic:  # one crystal: every pattern lies the same way
            turns = turns[:1].expand(count)
        elif count > 6 and uniform(generator, 1) < 0.3:  # texture
            turns = (turns[:1] + torch.randint(-12, 13, (count,), generator=generator)) % FINE
        which = torch.randint(len(same), (count,), generator=generator)
        comb = torch.bincount(which * FINE + turns, minlength=len(same) * FINE).view(len(same), FINE, 1).float()
        # Turning by every tooth of a comb and adding up is a convolution.
        spectrum = torch.fft.rfft(polar[same].float().square_(), dim=1) * torch.fft.rfft(comb, dim=1)
        maps[k] = torch.fft.irfft(spectrum.sum(0), n=FINE, dim=0).clamp_min(0) / (count * 1e6)
        radii[k] = bank.radius[first]
    return maps, radii


def samples(bank, generator, batch: int):
    """Network inputs {"rings", "disk"}: (batch, 3, AZIMUTHS, n_r), and ellipse vectors (batch, 2)."""
    draw = lambda *s, **k: uniform(generator, *s, **k)  # noqa: E731
    maps, radius = pooled(bank, generator, batch)
    eps = draw(batch, high=0.12) * (draw(batch) < 0.85)
    theta = draw(batch, high=2 * torch.pi)
    vector = eps[:, None] * torch.stack([torch.cos(theta), torch.sin(theta)], 1)
    inverse = torch.linalg.inv(ellipse_matrix(vector))
    wrapped = pad(maps[:, None], (0, 0, 1, 1), mode="circular")
    outer = draw(batch, low=0.55, high=1.0) * REACH
    guess = radius * torch.exp(0.03 * torch.randn(batch, generator=generator))  # the radius is not known exactly
    electrons = log_uniform(generator, batch, low=2e4, high=3e9)  # in the whole pool
    share = draw(batch, 1, 1) ** 2 * 0.8 * (draw(batch, 1, 1) < 0.6)
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
        rows = azimuth * (FINE / (2 * torch.pi)) + 1
        grid = torch.stack([radial * (2 / (REACH - 1)) - 1, rows * (2 / (FINE + 1)) - 1], -1)
        mean = grid_sample(wrapped, grid, "bilinear", "zeros", align_corners=True)[:, 0]
        hill = (1 + (radial / width) ** 2) ** -power
        mean = (1 - share) * mean + share * hill / (hill.mean((1, 2), keepdim=True) * 3e4)
        counts = mean * electrons[:, None, None]
        # A detector pixel is some two bank samples wide, and a polar sample mixes some three pixels.
        counts = counts * 4
        counts = counts + torch.randn(counts.shape, generator=generator) * (counts * 0.4).sqrt()
        inputs[name] = normalize_polar(stabilize(counts, 0.0), _seen(generator, measured, outer, name))
    return inputs, vector


def _seen(generator, measured, outer, name):
    """Usable samples (B, AZIMUTHS, n_r): a rectangular detector around the beam, now and then a beam stop."""
    batch = len(measured)
    edges = outer[:, None] * uniform(generator, batch, 4, low=0.72, high=1.3)
    x, y = measured[..., 0], measured[..., 1]
    low, high, left, right = (edges[:, k, None, None] for k in range(4))
    seen = (x < low) & (x > -high) & (y < left) & (y > -right)
    angle, span = uniform(generator, batch, high=2 * torch.pi), uniform(generator, batch, low=0.02, high=0.33)
    phi = torch.atan2(y, x)
    apart = (phi - angle[:, None, None] + torch.pi) % (2 * torch.pi) - torch.pi
    stop = (apart.abs() < torch.pi * span[:, None, None]) & (uniform(generator, batch, 1, 1) < 0.12)
    return (seen & ~stop).float() if name == "rings" else (~stop).float()


class EllipseTask:
    name = "ellipse"
    batch = 48
    rate = 1.5e-3
    parts = ("rings", "disk")  # that share no weights

    def build(self):
        return EllipseNet()

    def loss(self, network, bank, generator, half: bool = False):
        inputs, vector = samples(bank, generator, self.batch)
        total = 0
        for found, log_sigma in network(**inputs).values():
            square = (found - vector).square().sum(1)
            total = total + (2 * log_sigma + 0.5 * square * (-2 * log_sigma).exp()).clamp_max(30).mean()
            total = total + 10 * (square + 1e-6).sqrt().mean()
        return total

    @torch.no_grad()
    def validate(self, network, bank, generator, half: bool = False) -> dict:
        """Median error of the ellipse vector, error over sigma, and both where sigma is below 0.005."""
        errors, sigmas = {"rings": [], "disk": []}, {"rings": [], "disk": []}
        for _ in range(8):
            inputs, vector = samples(bank, generator, 64)
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
