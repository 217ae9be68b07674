"""The direct beam of a scan: learned from a sample of its patterns, then located in every pattern.

The network finds the right disk in any pattern, but stops at some hundredths of a pixel. The likelihood fit of
`disk.py` has no such floor, but must start close by, and describes a disk with an edge, nothing else. So the
fit, started on the descan surface through the sample, locates the beam wherever its disk is described by the
aperture that was learned; where it is not, or lies elsewhere, the network looks and the fit starts from there;
and where that fails, too, the network's answer stands, with the network's sigma.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import erfc

from ..compute import pick_device
from ..core import NoiseModel, ellipse_matrix, stabilize
from ..fits import (
    DISK_MARGIN_PX,
    Aperture,
    disk_model,
    electron_windows,
)
from ..networks import WINDOW, load, normalize

LARGEST = 13.0  # disk radius that a window holds, pixels; larger disks are binned
BATCH = 256
AROUND = 1.8  # radii, to which the surroundings of a disk reach
REACH = 3.0  # offsets beyond this are looked at again in a window moved there, pixels
ASTRAY = 0.75  # pixels from the guess, beyond 5 sigma, from which the network is asked
UNSURE = 0.5  # sigma in pixels from which the network is asked
VAGUE, VAGUE_PART = 2.0, 0.2  # sigma in pixels, and in disk radii, from which a beam counts as hidden or absent
STRENGTH = 3.0  # sigmas by which a disk stands out of its surroundings: an edge without a disk is a beam stop's
DIFFERS = 4.0  # sigmas by which the electrons of a disk differ from those around it, lest there be no disk


@dataclass(frozen=True)
class Located:
    """Of n patterns: position and sigma (n, 2) in pixels; signal (n,), electrons in the window of the disk;
    seen (n,), False where what is there has no place."""

    position: np.ndarray
    sigma: np.ndarray
    signal: np.ndarray
    seen: np.ndarray

    def put(self, index, found: Located):
        """Write what was found in some patterns into these arrays."""
        self.position[index], self.sigma[index] = found.position, found.sigma
        self.signal[index], self.seen[index] = found.signal, found.seen


def nowhere(n: int, guess=np.nan) -> Located:
    """`Located` of n patterns that nobody has looked at; guess: (n, 2) or a number."""
    return Located(np.full((n, 2), guess, float), np.full((n, 2), np.inf), np.zeros(n), np.zeros(n, bool))


@dataclass(frozen=True)
class Beam:
    """What was learned: the aperture, and for the fit, in bins and with its contrast, each (aperture, misfit up to
    which it describes a disk), the most frequent one first; none where the fit has no edge to hold on to. Plain
    data: a worker that gets it loads its own network."""

    device: str  # as the user gave it: "auto" is for each worker to decide
    noise: NoiseModel
    aperture: Aperture
    fits: tuple[tuple[Aperture, float], ...] = ()

    @property
    def here(self) -> str:
        return str(pick_device(self.device))

    @property
    def bins(self) -> int:
        return max(1, int(np.ceil(self.aperture.radius / LARGEST)))

    def locate(self, patterns, guess) -> Located:
        """The beam in patterns (n, Qx, Qy), detector units, near a guess (n, 2)."""
        n = len(patterns)
        found = nowhere(n, guess)
        doubtful = np.ones(n, bool)
        if self.fits:
            described = self._fit(found, patterns, guess, slice(None), self.fits[:1])
            away = np.abs(found.position - guess).max(1)
            sigma = found.sigma.max(1)
            doubtful = ~described | (away > np.maximum(ASTRAY, 5 * sigma)) | (sigma > UNSURE)
        found.seen[~doubtful] = True
        if doubtful.any():
            some = np.flatnonzero(doubtful)
            at, sigma = self.ask(patterns[some], guess[some])
            self._fit(found, patterns, at, some, self.fits, sigma)
            sure = np.hypot(*sigma.T) < max(VAGUE, VAGUE_PART * self.aperture.radius)
            found.seen[some] = sure & (self._contrast(patterns[some], found.position[some]) > DIFFERS)
        return found

    def _fit(self, found, patterns, start, some, fits, sigma=None):
        """Fill `found` at `some` with the fit that describes each best, or with the start and its sigma."""
        patterns = patterns[some]
        position = np.array(start, float)
        spread = np.full(position.shape, np.inf) if sigma is None else np.array(sigma)
        signal, best = np.zeros(len(patterns)), np.ones(len(patterns))
        for number, (aperture, limit) in enumerate(fits):
            model = disk_model(aperture, self.here)
            for first in range(0, len(patterns), BATCH):
                part = slice(first, first + BATCH)
                fitted, middle, electrons = fit_windows(model, patterns[part], start[part], self.noise, self.bins)
                if number == 0:
                    signal[part] = electrons
                at = fitted.position.cpu().numpy() * self.bins + middle
                ratio = fitted.misfit.cpu().numpy() / max(limit, 1e-9)  # of windows without any electron it is 0
                better = (ratio < best[part]) & (fitted.strength.cpu().numpy() > STRENGTH)
                if sigma is not None:  # the network found this disk: the fit may sharpen that, not leave it
                    better &= (np.abs(at - start[part]) < np.maximum(ASTRAY, 5 * spread[part])).all(1)
                inflated = fitted.covariance.diagonal(dim1=1, dim2=2).cpu().numpy() ** 0.5 * self.bins
                inflated *= np.sqrt(fitted.misfit.cpu().numpy().clip(1))[:, None]
                position[part][better], spread[part][better] = at[better], inflated[better]
                best[part][better] = ratio[better]
        found.position[some], found.sigma[some] = position, spread
        found.signal[some] = signal if fits else _signal(patterns, start, self)
        return best < 1

    def _contrast(self, patterns, at):
        """By how many sigmas the brightness of a disk at positions (n, 2) differs from that around it, (n,).

        The network knows disks, and gives some place with a small sigma to a few electrons of a background. Likelihood
        ratio of two Poisson rates against one; read-out noise enters as electrons, `noise.variance`. Infinite where
        nothing around the disk is seen.
        """
        edge, radius = self.aperture.edge, self.aperture.radius
        side = 2 * int(np.ceil((AROUND * radius + DISK_MARGIN_PX) / self.bins)) + 1
        out = np.empty(len(at))
        for first in range(0, len(at), BATCH):
            part = slice(first, first + BATCH)
            electrons, good, middle = electron_windows(patterns[part], at[part], side, self.noise, self.bins)
            away = (at[part] - middle)[:, :, None]
            axis = (np.arange(side) - (side - 1) / 2) * self.bins
            distance = torch.from_numpy(np.hypot((axis - away[:, 0])[:, :, None], (axis - away[:, 1])[:, None]))
            area, counts = [], []
            for there in (distance < radius + edge, (distance > radius + 3 * edge) & (distance < axis[-1])):
                area.append((there & good).sum((1, 2)).double())
                counts.append((electrons * (there & good)).sum((1, 2), dtype=torch.float64))
            area, counts = torch.stack(area), torch.stack(counts)
            counts = (counts + area * (self.noise.readout / self.noise.gain * self.bins) ** 2).clamp_min(0)
            expected = counts.sum(0) * area / area.sum(0).clamp_min(1)
            ratio = 2 * torch.xlogy(counts, counts / expected.clamp_min(1e-9)).sum(0)
            out[part] = torch.where(area[1] > 0, ratio.clamp_min(0).sqrt(), torch.inf).numpy()
        return out

    def ask(self, patterns, guess):
        """The network's positions and sigmas, (n, 2) each; it looks again where the beam is far from the guess."""
        at, sigma = np.zeros((len(guess), 2)), np.zeros((len(guess), 2))
        reference = torch.from_numpy(_reference(self.aperture, self.bins))
        for first in range(0, len(guess), BATCH):
            part = np.arange(first, min(first + BATCH, len(guess)))
            at[part], sigma[part] = self._look(patterns[part], guess[part], reference)
            again = part[np.abs(at[part] - guess[part]).max(1) > REACH * self.bins]
            if len(again):
                at[again], sigma[again] = self._look(patterns[again], at[again], reference)
        return at, sigma

    def _look(self, patterns, guess, reference):
        electrons, good, middle = electron_windows(patterns, guess, WINDOW, self.noise, self.bins)
        device = self.here
        network = load("center", device).fine
        with torch.inference_mode():
            z, scale = normalize(stabilize(electrons, self.noise.readout / self.noise.gain * self.bins), good)
            x = torch.stack([z, reference.expand_as(z), good.float()], 1)
            offset, factor = network(x.to(device, memory_format=torch.channels_last), scale.to(device))
            spread = factor.square().sum(-1).sqrt()
        return offset.cpu().numpy() * self.bins + middle, spread.cpu().numpy() * self.bins


def fit_windows(model, patterns, around, noise, bins, learn=False):
    electrons, good, middle = electron_windows(patterns, around, model.side, noise, bins)
    start = torch.from_numpy((around - middle) / bins).float()
    with torch.inference_mode():
        device = model.x.device
        fitted = model.fit(electrons.to(device), good.to(device), start.to(device),
                           noise.readout / noise.gain * bins, learn)
    return fitted, middle, electrons.sum((1, 2)).numpy()


def _signal(patterns, around, beam):
    side = 2 * int(np.ceil(beam.aperture.radius / beam.bins + 4)) + 1
    parts = [electron_windows(patterns[k : k + BATCH], around[k : k + BATCH], side, beam.noise, beam.bins)[0]
             .sum((1, 2)).numpy() for k in range(0, len(patterns), BATCH)]
    return np.concatenate(parts)


def _reference(aperture, bins):
    """The aperture in the middle of a window of the network, (WINDOW, WINDOW) float32."""
    axis = np.arange(WINDOW) - (WINDOW - 1) / 2
    at = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1) @ np.linalg.inv(ellipse_matrix(aperture.vector)).T
    distance = np.hypot(at[..., 0], at[..., 1]) - aperture.radius / bins
    edge = aperture.edge if bins == 1 else np.hypot(aperture.edge / bins, 12**-0.5)
    return (0.5 * erfc(distance / (edge * 2**0.5))).astype(np.float32)
