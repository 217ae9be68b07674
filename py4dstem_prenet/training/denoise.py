"""The task of the denoising network: expected counts from counted ones, at doses from tens to millions.

Two thirds of the samples come with the mean of neighbors in the scan: of repeats of the same pattern, strained or
not, of patterns of the same specimen, or of another grain altogether, which the network must learn not to follow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import avg_pool2d

from ..denoising import shift
from ..networks import DenoiseNet
from ..simulation import Bank, expose, uniform
from .scenes import draw_scene, log_uniform

FIELD = 96  # side of a training crop, pixels
ALONE = 0.35  # of the samples have no neighbors
PATTERNS = (0.5, 200.0)  # that the mean of the others is worth
STRAINED = 0.5  # of the samples have neighbors whose lattice is strained or turned against theirs,
STRAIN = (3e-4, 0.02)  # by this rms, log-uniform
CLOSE = 20  # specimens on either side, ordered by aperture, that another grain is taken from


def fill(counts, good):
    """Bad pixels filled with the mean of their good 3 x 3 neighbors, as `NoiseModel.electrons` hands them over."""
    weight = avg_pool2d(good.float()[None], 3, 1, 1)[0]
    mean = avg_pool2d((counts * good)[None], 3, 1, 1)[0] / weight.clamp_min(1e-6)
    return torch.where(good, counts, mean)


@dataclass(frozen=True, eq=False)
class Elsewhere:
    """A bank that shows, under each pattern's number, what may be seen elsewhere in the same scan.

    Another pattern of the same specimen, the mean of its patterns (of a glass in all orientations), or a pattern of
    another specimen under the same aperture. Drawn by `generator`, so that a scene can be drawn twice.
    """

    bank: Bank
    generator: torch.Generator

    @property
    def radius(self):
        return self.bank.radius

    @property
    def kind(self):
        return self.bank.kind

    def __len__(self) -> int:
        return len(self.bank)

    def intensity(self, index) -> torch.Tensor:
        starts, specimen, order, rank = _specimens(self.bank)
        own = specimen[index.numpy()]
        dice = torch.rand(len(index), 3, generator=self.generator).numpy()
        out = []
        for k, (which, step, member) in zip(own, dice, strict=True):
            if which > 0.7:
                move = 1 + int(step * CLOSE)
                k = order[(rank[k] + (move if member > 0.5 else -move)) % len(order)]
            if 0.4 < which <= 0.7:
                mean = self.bank.intensity(slice(starts[k], starts[k + 1])).mean(0)
                out.append(_turned_mean(mean) if self.bank.kind[starts[k]] == "isotropic" else mean)
            else:
                out.append(self.bank.intensity(starts[k] + int(member * (starts[k + 1] - starts[k]))))
        return torch.stack(out)


def _turned_mean(pattern):
    """The mean over quarter turns and reflections about the direct beam, which is at half the (even) side."""
    inner = pattern[1:, 1:]
    turned = torch.stack([inner.rot90(k) for k in range(4)]).mean(0)
    out = pattern.clone()
    out[1:, 1:] = (turned + turned.T) / 2
    return out


_KNOWN = {}


def _specimens(bank: Bank):
    """First pattern of every specimen and the end; specimen of every pattern; order by aperture and rank in it."""
    if bank not in _KNOWN:
        radius = bank.radius.numpy()  # drawn at random, so no two specimens have the same
        starts = np.flatnonzero(np.r_[True, np.diff(radius) != 0])
        order = np.argsort(radius[starts])
        _KNOWN.clear()
        _KNOWN[bank] = (np.r_[starts, len(bank)], np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(bank)])),
                        order, np.argsort(order))
    return _KNOWN[bank]


def scenes(bank, generator, batch: int):
    """Scenes; the same moved by a part of a pixel and strained; that move (B, 2); and what is seen elsewhere in their
    scans.

    The latter two, (B, H, W) expected electrons, have the same geometry, dose and background.
    """
    seeds = torch.randint(2**62, (2,), generator=generator).tolist()
    move = uniform(generator, batch, 2, low=-0.5, high=0.5)
    size = log_uniform(generator, batch, 1, 1, low=STRAIN[0], high=STRAIN[1])
    size = size * (uniform(generator, batch, 1, 1) < STRAINED)
    strain = torch.eye(2) + size * torch.randn(batch, 2, 2, generator=generator)

    def draw(view, move, strain=None):
        same = torch.Generator().manual_seed(seeds[0])
        origin = uniform(same, batch, 2, low=-0.15, high=1.15) * FIELD + move
        return draw_scene(view, same, batch, (FIELD, FIELD), origin, radius_range=(1.0, 26.0), dose_range=(30, 3e6),
                          reuse=2, stops=0.03, extent=128.0, strain=strain)

    elsewhere = Elsewhere(bank, torch.Generator().manual_seed(seeds[1]))
    return draw(bank, 0.0), draw(bank, move, strain).expected, move, draw(elsewhere, move).expected


def mixed(expected, other, generator):
    """The share of other patterns in what neighbors show, (B, 1, 1): none, all, or a part.

    Half of the mixtures are such as similarity weights let pass: they differ by little more than the noise.
    """
    batch = len(expected)
    which = uniform(generator, batch)
    share = torch.where(which < 0.45, 0.0, torch.where(which < 0.6, 1.0, uniform(generator, batch) ** 2))
    difference = ((other - expected).square() / (expected + 0.375)).sum((1, 2)).clamp_min(1e-6)
    limit = (uniform(generator, batch, high=60.0) / difference).sqrt()
    share = torch.where(uniform(generator, batch) < 0.5, torch.minimum(share, limit), share)
    return share[:, None, None]


def neighbor_mean(still, moved, move, patterns, readout, generator):
    """Mean electrons of `patterns` (B,) neighbors, (B, H, W), as `neighbors.neighbor_means` makes them.

    Some show what is expected in place, `still`, others lie off by `move`; all are brought into one frame, a little
    wrongly, averaged, and moved back.
    """
    batch = len(still)
    frame = uniform(generator, batch, 2, low=-0.5, high=0.5)
    wrong = torch.randn(2, batch, 2, generator=generator) * log_uniform(generator, batch, 1, low=0.01, high=0.15)
    part = uniform(generator, batch, high=0.6)
    mean = 0
    for expected, share, offset in ((still, part, frame + wrong[0]), (moved, 1 - part, frame + move + wrong[1])):
        number = (patterns * share).clamp_min(1e-3)[:, None, None]
        counts = torch.poisson(expected.clamp_min(0) * number, generator=generator)
        counts = counts + torch.randn(counts.shape, generator=generator) * readout[:, None, None] * number.sqrt()
        mean = mean + shift(counts, offset)
    return shift(mean, -frame) / patterns.clamp_min(1e-3)[:, None, None]


def samples(bank, generator, batch: int, patterns: float | None = None):
    """Crops: a dict of the network's inputs, and the scene whose `expected` is the truth.

    patterns: what a mean of exact repeats is worth, 0 for none; by default all kinds and numbers of neighbors.
    """
    scene, moved, move, other = scenes(bank, generator, batch)
    readout = scene.detector.readout
    counts = expose(scene.expected, scene.detector, generator)
    good = ~(scene.detector.dead | scene.detector.hot)
    if patterns is None:
        number = log_uniform(generator, batch, low=PATTERNS[0], high=PATTERNS[1])
        number = number * (uniform(generator, batch) >= ALONE)
        share = mixed(moved, other, generator)
    else:
        number, share = torch.full((batch,), float(patterns)), 0.0
    still = scene.expected + share * (shift(other, move) - scene.expected)
    mean = neighbor_mean(still, moved + share * (other - moved), move, number, readout, generator)
    inputs = dict(electrons=fill(counts, good), readout=readout, good=good, patterns=number,
                  neighbors=mean * (number > 0)[:, None, None])
    return inputs, scene


def usual_error(electrons):
    """What a fair denoiser leaves of the noise's squared error, by electrons in the crop: the scale of the loss.

    A fixed function of the dose alone keeps all doses in play and leaves the optimum at the expected counts.
    """
    return (0.045 * (electrons / 100).clamp_min(0.1) ** 0.4).clamp(0.02, 1)


class DenoiseTask:
    name = "denoise"
    batch = 32
    rate = 1.5e-3
    parts = ("",)  # all of it

    def build(self):
        return DenoiseNet()

    def loss(self, network, bank, generator, half: bool = False):
        inputs, scene = samples(bank, generator, self.batch)
        good, truth = inputs["good"], scene.expected
        estimate = network(**inputs, half=half)
        noise = truth + inputs["readout"][:, None, None] ** 2
        total = (truth * good).sum((1, 2))
        squared = ((estimate - truth).square() * good).sum((1, 2)) / (noise * good).sum((1, 2)).clamp_min(1)
        small = 1e-4
        deviance = 2 * (truth * ((truth + small) / (estimate + small)).log() - truth + estimate)
        scale = (4 * noise).clamp(max=1)
        deviance = (deviance * good).sum((1, 2)) / (scale * good).sum((1, 2)).clamp_min(1)
        # Neighbors that are repeats are as good as a higher dose; only in part, as not all of them are.
        count = 1 + inputs["patterns"]
        error = (squared + deviance) / usual_error(total * count) * count**0.6
        return (30 * (error / 30).log1p()).mean()

    @torch.no_grad()
    def validate(self, network, bank, generator, half: bool = False) -> dict:
        """Squared error over that of the counts, and kept electrons, by dose; `score` is what is kept best.

        `ratio` and `kept` for patterns alone, `scan` and `scan_kept` where neighbors are worth ten more patterns,
        `mixed` where they are of all kinds.
        """
        out, scores = {}, []
        for name, kept, patterns in (("ratio", "kept", 0), ("scan", "scan_kept", 10), ("mixed", None, None)):
            ratios, ours, truths = [], [], []
            for _ in range(6):
                inputs, scene = samples(bank, generator, 32, patterns)
                good = inputs["good"]
                estimate = network(**inputs, half=half)
                error = ((estimate - scene.expected).square() * good).sum((1, 2))
                noise = ((scene.expected + inputs["readout"][:, None, None] ** 2) * good).sum((1, 2))
                ratios.append(error / noise)
                ours.append((estimate * good).sum((1, 2)))
                truths.append((scene.expected * good).sum((1, 2)))
            ratio, ours, dose = (torch.cat(part) for part in (ratios, ours, truths))
            for low, high in ((10, 300), (300, 3000), (3000, 3e4), (3e4, 3e5), (3e5, 3e6)):
                some = (dose >= low) & (dose < high)
                out[f"{name}_{low:g}"] = float(ratio[some].log().mean().exp())
                if kept:
                    out[f"{kept}_{low:g}"] = float(ours[some].sum() / dose[some].sum())
            scores.append((ratio + 1e-3).log().mean())
        out["score"] = float(sum(scores) / len(scores))
        return out
