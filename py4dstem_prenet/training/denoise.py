"""Training of the denoising network: expected counts from measured ones, at doses from tens to millions of electrons.

Two thirds of the samples come with the mean of neighbors in the scan. The neighbors repeat the pattern, with or
without strain, or show other patterns of the same specimen, or another grain, which the network must learn to ignore.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch.nn.functional import avg_pool2d

from ..denoising import TRAINING_CROP_PX, shift
from ..networks import DenoiseNet
from ..simulation import Bank, expose, log_uniform, uniform
from . import Task, draw_scene

# Ranges of the random samples, chosen to cover real scans.
NO_NEIGHBORS_FRACTION = 0.35  # fraction of the samples without neighbors
NEIGHBOR_COUNT_RANGE = (0.5, 200.0)  # effective number of patterns in the mean of neighbors, log-uniform
STRAINED_FRACTION = 0.5  # fraction of the samples whose neighbors are strained or rotated against the pattern
NEIGHBOR_STRAIN_RANGE = (1e-4, 0.005)  # rms of the elements of that strain, which alignment leaves, log-uniform
DISPLACEMENT_BACKGROUND = 0.02  # variance added in `displacement_error`, fraction of its mean: dark pixels weigh less
DISPLACEMENT_RIDGE = 1e-2  # ridge added in `displacement_error` to the normalized information, which may be singular
SLOPE_WEIGHT = 0.3  # weight of the error of shift, strain and rotation in the loss, where the error of a pixel has 1
MAX_APERTURE_RANK_STEP = 20  # specimens on either side, in order of aperture, from which another grain is drawn


def fill(counts, good):
    """Fill bad pixels with the mean of their good 3 x 3 neighbors, as `NoiseModel.electrons` does.

    Parameters
    ----------
    counts : torch.Tensor
        Electrons, (B, H, W).
    good : torch.Tensor
        True for usable pixels, (B, H, W), bool.

    Returns
    -------
    torch.Tensor
        Electrons, (B, H, W).
    """
    weight = avg_pool2d(good.float()[None], 3, 1, 1)[0]
    mean = avg_pool2d((counts * good)[None], 3, 1, 1)[0] / weight.clamp_min(1e-6)
    return torch.where(good, counts, mean)


@dataclass(frozen=True, eq=False)
class OtherPatterns:
    """A bank whose patterns are replaced by others that may occur in the same scan.

    Pattern k is replaced at random by another pattern of the same specimen, by the mean over its patterns (for a glass,
    over all orientations), or by a pattern of another specimen with a similar aperture.

    Attributes
    ----------
    bank : Bank
        The original patterns.
    generator : torch.Generator
        Source of the replacements; the same seed gives the same ones.
    """

    bank: Bank
    generator: torch.Generator

    @property
    def radius(self):  # numpydoc ignore=RT01
        """Radii of the direct disks of the original patterns, (n,), bank samples."""
        return self.bank.radius

    @property
    def kind(self):  # numpydoc ignore=RT01
        """Kinds of specimen of the original patterns, (n,)."""
        return self.bank.kind

    def __len__(self) -> int:
        return len(self.bank)

    def intensity(self, index) -> torch.Tensor:
        """Return replacements of patterns.

        Parameters
        ----------
        index : torch.Tensor
            Indices of the original patterns, (k,).

        Returns
        -------
        torch.Tensor
            Millionths of the beam, (k, GRID, GRID), float32.
        """
        starts, specimen, order, rank = _specimens(self.bank)
        own = specimen[index.numpy()]
        dice = torch.rand(len(index), 3, generator=self.generator).numpy()
        out = []
        for k, (which, step, member) in zip(own, dice, strict=True):
            if which > 0.7:
                move = 1 + int(step * MAX_APERTURE_RANK_STEP)
                k = order[(rank[k] + (move if member > 0.5 else -move)) % len(order)]
            if 0.4 < which <= 0.7:
                mean = self.bank.intensity(slice(starts[k], starts[k + 1])).mean(0)
                out.append(_symmetric_mean(mean) if self.bank.kind[starts[k]] == "isotropic" else mean)
            else:
                out.append(self.bank.intensity(starts[k] + int(member * (starts[k + 1] - starts[k]))))
        return torch.stack(out)


def _symmetric_mean(pattern):
    """Mean over rotations by 90 degrees and reflections about the direct beam, which is at half the (even) side."""
    inner = pattern[1:, 1:]
    rotated = torch.stack([inner.rot90(k) for k in range(4)]).mean(0)
    out = pattern.clone()
    out[1:, 1:] = (rotated + rotated.T) / 2
    return out


@lru_cache(maxsize=1)
def _specimens(bank: Bank):
    """First pattern of each specimen, and the end; specimen of each pattern; specimens by aperture; their ranks."""
    radius = bank.radius.numpy()  # a random real number, different for each specimen
    starts = np.flatnonzero(np.r_[True, np.diff(radius) != 0])
    bounds = np.r_[starts, len(bank)]
    order = np.argsort(radius[starts])
    return bounds, np.repeat(np.arange(len(starts)), np.diff(bounds)), order, np.argsort(order)


def draw_neighbor_scenes(bank, generator, batch: int):
    """Draw random scenes, with what neighbors in the scan show.

    Parameters
    ----------
    bank : Bank
        Clean patterns.
    generator : torch.Generator
        Source of all random numbers.
    batch : int
        Number of scenes, even.

    Returns
    -------
    scene : Scene
        The patterns.
    moved : torch.Tensor
        Expected electrons of the same patterns, shifted and, in part, strained, (B, H, W).
    move : torch.Tensor
        Their shift, (B, 2), pixels.
    other : torch.Tensor
        Expected electrons of other patterns of the scan, with the same shift, geometry, dose and background, (B, H, W).
    """
    seeds = torch.randint(2**62, (2,), generator=generator).tolist()
    move = uniform(generator, batch, 2, low=-0.5, high=0.5)
    size = log_uniform(generator, batch, 1, 1, low=NEIGHBOR_STRAIN_RANGE[0], high=NEIGHBOR_STRAIN_RANGE[1])
    size = size * (uniform(generator, batch, 1, 1) < STRAINED_FRACTION)
    strain = torch.eye(2) + size * torch.randn(batch, 2, 2, generator=generator)

    def draw(view, move, strain=None):  # numpydoc ignore=PR01,RT01
        """Draw the scenes of a bank with the geometry that all calls share."""
        shared = torch.Generator().manual_seed(seeds[0])
        origin = uniform(shared, batch, 2, low=-0.15, high=1.15) * TRAINING_CROP_PX + move
        return draw_scene(view, shared, batch, (TRAINING_CROP_PX, TRAINING_CROP_PX), origin,
                          radius_range=(1.0, 26.0), dose_range=(30, 3e6),
                          reuse=2, stops=0.03, extent=128.0, strain=strain)

    other_patterns = OtherPatterns(bank, torch.Generator().manual_seed(seeds[1]))
    return draw(bank, 0.0), draw(bank, move, strain).expected, move, draw(other_patterns, move).expected


def draw_mixing_fraction(expected, other, generator):
    """Draw the fraction of other patterns in the mean of the neighbors: 0, 1, or a value between.

    Parameters
    ----------
    expected : torch.Tensor
        Expected electrons of the patterns, (B, H, W).
    other : torch.Tensor
        Expected electrons of the other patterns, (B, H, W).
    generator : torch.Generator
        Source of all random numbers.

    Returns
    -------
    torch.Tensor
        Fractions, (B, 1, 1).

    Notes
    -----
    Half of the fractions are limited so that the mixture differs from the pattern by little more than the noise. Such
    mixtures remain after the selection by `denoising.neighbors.similarity`.
    """
    batch = len(expected)
    which = uniform(generator, batch)
    share = torch.where(which < 0.45, 0.0, torch.where(which < 0.6, 1.0, uniform(generator, batch) ** 2))
    difference = ((other - expected).square() / (expected + 0.375)).sum((1, 2)).clamp_min(1e-6)
    limit = (uniform(generator, batch, high=60.0) / difference).sqrt()
    share = torch.where(uniform(generator, batch) < 0.5, torch.minimum(share, limit), share)
    return share[:, None, None]


def draw_neighbor_mean(still, moved, move, patterns, readout, generator):
    """Draw the counts of neighbors and average them as `denoising.neighbors.neighbor_means` does.

    Parameters
    ----------
    still : torch.Tensor
        Expected electrons of neighbors without a shift, (B, H, W).
    moved : torch.Tensor
        Expected electrons of neighbors that are shifted by `move`, (B, H, W).
    move : torch.Tensor
        Shift, (B, 2), pixels.
    patterns : torch.Tensor
        Number of neighbors, (B,).
    readout : torch.Tensor
        Read-out noise, rms electrons, (B,).
    generator : torch.Generator
        Source of all random numbers.

    Returns
    -------
    torch.Tensor
        Mean electrons per pattern, (B, H, W). All neighbors were resampled in one frame, with small errors of their
        origins, averaged, and shifted back.
    """
    batch = len(still)
    frame = uniform(generator, batch, 2, low=-0.5, high=0.5)
    origin_error = torch.randn(2, batch, 2, generator=generator) * log_uniform(generator, batch, 1, low=0.01, high=0.15)
    still_fraction = uniform(generator, batch, high=0.6)
    mean = 0
    groups = ((still, still_fraction, frame + origin_error[0]),
              (moved, 1 - still_fraction, frame + move + origin_error[1]))
    for expected, fraction, offset in groups:
        number = (patterns * fraction).clamp_min(1e-3)[:, None, None]
        counts = torch.poisson(expected.clamp_min(0) * number, generator=generator)
        counts = counts + torch.randn(counts.shape, generator=generator) * readout[:, None, None] * number.sqrt()
        mean = mean + shift(counts, offset)
    return shift(mean, -frame) / patterns.clamp_min(1e-3)[:, None, None]


def draw_crops(bank, generator, batch: int, patterns: float | None = None):
    """Draw random training crops.

    Parameters
    ----------
    bank : Bank
        Clean patterns.
    generator : torch.Generator
        Source of all random numbers.
    batch : int
        Number of crops, even.
    patterns : float, optional
        Number of exact repeats in the mean of the neighbors, 0 for none. By default, kind and number of neighbors are
        random.

    Returns
    -------
    inputs : dict
        Arguments of `DenoiseNet.forward`.
    scene : Scene
        The truth, in `expected`.
    """
    scene, moved, move, other = draw_neighbor_scenes(bank, generator, batch)
    readout = scene.detector.readout
    counts = expose(scene.expected, scene.detector, generator)
    good = ~(scene.detector.dead | scene.detector.hot)
    if patterns is None:
        number = log_uniform(generator, batch, low=NEIGHBOR_COUNT_RANGE[0], high=NEIGHBOR_COUNT_RANGE[1])
        number = number * (uniform(generator, batch) >= NO_NEIGHBORS_FRACTION)
        share = draw_mixing_fraction(moved, other, generator)
    else:
        number, share = torch.full((batch,), float(patterns)), 0.0
    still = scene.expected + share * (shift(other, move) - scene.expected)
    mean = draw_neighbor_mean(still, moved + share * (other - moved), move, number, readout, generator)
    inputs = dict(electrons=fill(counts, good), readout=readout, good=good, patterns=number,
                  neighbors=mean * (number > 0)[:, None, None])
    return inputs, scene


def typical_error(electrons):
    """Return the squared error that a good denoiser leaves, relative to that of the counts: the scale of the loss.

    Parameters
    ----------
    electrons : torch.Tensor
        Electrons in a crop.

    Returns
    -------
    torch.Tensor
        Fractions between 0.02 and 1, of the same shape.

    Notes
    -----
    A function of the dose alone gives all doses similar weight in the loss, and leaves its minimum at the expected
    counts.
    """
    return (0.045 * (electrons / 100).clamp_min(0.1) ** 0.4).clamp(0.02, 1)


def displacement_error(estimate, truth, variance, good):
    """Return the error of shift, strain and rotation that matched filters read from an estimate.

    Parameters
    ----------
    estimate : torch.Tensor
        Estimated electrons, (B, H, W).
    truth : torch.Tensor
        Expected electrons, (B, H, W).
    variance : torch.Tensor
        Variance of the noise, (B, H, W), electrons squared.
    good : torch.Tensor
        True for usable pixels, (B, H, W), bool.

    Returns
    -------
    torch.Tensor
        Mean squared error of the six parameters of an affine displacement, (B,), in units of the variance that counting
        noise of this dose causes. A denoiser that attenuates displacements has a large error where noise is small.

    Notes
    -----
    To first order, a displaced pattern differs from the truth by the gradient times the displacement. The parameters
    are estimated with the weights that are best for Poisson noise; their covariance is the inverse Fisher information.
    """
    height, width = truth.shape[1:]
    x = torch.linspace(-1, 1, height)[:, None].expand(height, width)
    y = torch.linspace(-1, 1, width).expand(height, width)
    fields = torch.stack([torch.ones(height, width), x, y])
    slopes = [torch.gradient(truth, dim=axis)[0] * good for axis in (1, 2)]
    tangents = torch.cat([slope[:, None] * fields for slope in slopes], 1).flatten(2)
    weights = tangents / (variance + DISPLACEMENT_BACKGROUND * variance.mean((1, 2), keepdim=True)).flatten(1)[:, None]
    information = weights @ tangents.transpose(1, 2)
    scale = information.diagonal(dim1=1, dim2=2).clamp_min(1e-12).rsqrt()
    information = scale[:, :, None] * information * scale[:, None] + DISPLACEMENT_RIDGE * torch.eye(6)
    scores = scale * (weights @ (estimate - truth).flatten(1)[:, :, None])[..., 0]
    return (scores * torch.linalg.solve(information, scores[..., None])[..., 0]).sum(1) / 6


class DenoiseTask(Task):
    """Training of `DenoiseNet`; see `Task`."""

    name = "denoise"
    network = DenoiseNet
    batch = 32
    rate = 1.5e-3

    def loss(self, network, bank, generator, half: bool = False):  # numpydoc ignore=PR01,RT01
        """Return the squared error and Poisson deviance on a random batch, see `Task.loss`."""
        inputs, scene = draw_crops(bank, generator, self.batch)
        good, truth = inputs["good"], scene.expected
        estimate = network(**inputs, half=half)
        noise = truth + inputs["readout"][:, None, None] ** 2
        total = (truth * good).sum((1, 2))
        squared = ((estimate - truth).square() * good).sum((1, 2)) / (noise * good).sum((1, 2)).clamp_min(1)
        small = 1e-4
        deviance = 2 * (truth * ((truth + small) / (estimate + small)).log() - truth + estimate)
        scale = (4 * noise).clamp(max=1)
        deviance = (deviance * good).sum((1, 2)) / (scale * good).sum((1, 2)).clamp_min(1)
        # Neighbors act as a higher dose, with an exponent below 1 since not all of them repeat the pattern.
        count = 1 + inputs["patterns"]
        error = (squared + deviance) / typical_error(total * count) * count**0.6
        error = error + SLOPE_WEIGHT * count**0.6 * displacement_error(estimate, truth, noise, good)
        return (30 * (error / 30).log1p()).mean()

    @torch.no_grad()
    def validate(self, network, bank, generator, half: bool = False) -> dict:  # numpydoc ignore=PR01
        """Measure the squared error and the sum of the electrons on random samples, see `Task.validate`.

        Returns
        -------
        dict
            For patterns with at least N electrons: ``ratio_N``, the squared error over that of the counts without
            neighbors; ``kept_N``, the sum of the estimate over that of the truth; ``scan_N`` and ``scan_kept_N``, the
            same with ten exact repeats as neighbors; ``mixed_N``, the squared error with random neighbors; ``score``:
            lower is better.
        """
        out, scores = {}, []
        for name, kept, patterns in (("ratio", "kept", 0), ("scan", "scan_kept", 10), ("mixed", None, None)):
            ratios, estimated, truths = [], [], []
            for _ in range(6):
                inputs, scene = draw_crops(bank, generator, 32, patterns)
                good = inputs["good"]
                estimate = network(**inputs, half=half)
                error = ((estimate - scene.expected).square() * good).sum((1, 2))
                noise = ((scene.expected + inputs["readout"][:, None, None] ** 2) * good).sum((1, 2))
                ratios.append(error / noise)
                estimated.append((estimate * good).sum((1, 2)))
                truths.append((scene.expected * good).sum((1, 2)))
            ratio, electrons, dose = (torch.cat(values) for values in (ratios, estimated, truths))
            for low, high in ((10, 300), (300, 3000), (3000, 3e4), (3e4, 3e5), (3e5, 3e6)):
                in_range = (dose >= low) & (dose < high)
                out[f"{name}_{low:g}"] = float(ratio[in_range].log().mean().exp())
                if kept:
                    out[f"{kept}_{low:g}"] = float(electrons[in_range].sum() / dose[in_range].sum())
            scores.append((ratio + 1e-3).log().mean())
        out["score"] = float(sum(scores) / len(scores))
        return out
