"""The task of the denoising network: expected counts from counted ones, at doses from tens to millions."""

from __future__ import annotations

import torch
from torch.nn.functional import avg_pool2d

from ..networks.denoise import DenoiseNet
from ..simulation.detector import expose, uniform
from .scenes import draw_scene

FIELD = 96  # side of a training crop, pixels


def fill(counts, good):
    """Bad pixels filled with the mean of their good 3 x 3 neighbors, as `NoiseModel.electrons` hands them over."""
    weight = avg_pool2d(good.float()[None], 3, 1, 1)[0]
    mean = avg_pool2d((counts * good)[None], 3, 1, 1)[0] / weight.clamp_min(1e-6)
    return torch.where(good, counts, mean)


def samples(bank, generator, batch: int):
    """Crops: counts (B, FIELD, FIELD), readout (B,), good pixels, and the scene whose `expected` is the truth."""
    origin = uniform(generator, batch, 2, low=-0.15, high=1.15) * FIELD
    scene = draw_scene(bank, generator, batch, (FIELD, FIELD), origin, radius_range=(1.0, 26.0),
                       dose_range=(30, 3e6), reuse=2, stops=0.03, extent=128.0)
    counts = expose(scene.expected, scene.detector, generator)
    good = ~(scene.detector.dead | scene.detector.hot)
    return fill(counts, good), scene.detector.readout, good, scene


def usual_error(electrons):
    """What a fair denoiser leaves of the noise's squared error, by electrons in the crop: the scale of the loss.

    A fixed function of the dose alone keeps all doses in play and leaves the optimum at the expected counts.
    """
    return (0.045 * (electrons / 100).clamp_min(0.1) ** 0.4).clamp(0.02, 1)


class DenoiseTask:
    name = "denoise"
    batch = 32
    rate = 1.5e-3

    def build(self):
        return DenoiseNet()

    def loss(self, network, bank, generator, half: bool = False):
        counts, readout, good, scene = samples(bank, generator, self.batch)
        estimate = network(counts, readout, good, half)
        truth = scene.expected
        noise = truth + readout[:, None, None] ** 2
        total = (truth * good).sum((1, 2))
        squared = ((estimate - truth).square() * good).sum((1, 2)) / (noise * good).sum((1, 2)).clamp_min(1)
        small = 1e-4
        deviance = 2 * (truth * ((truth + small) / (estimate + small)).log() - truth + estimate)
        scale = (4 * noise).clamp(max=1)
        deviance = (deviance * good).sum((1, 2)) / (scale * good).sum((1, 2)).clamp_min(1)
        return ((squared + deviance) / usual_error(total)).clamp_max(30).mean()

    @torch.no_grad()
    def validate(self, network, bank, generator, half: bool = False) -> dict:
        """Squared error over that of the counts, and kept counts, by dose; `score` is what is kept best."""
        ratios, kept, doses = [], [], []
        for _ in range(12):
            counts, readout, good, scene = samples(bank, generator, 32)
            estimate = network(counts, readout, good, half)
            error = ((estimate - scene.expected).square() * good).sum((1, 2))
            noise = ((scene.expected + readout[:, None, None] ** 2) * good).sum((1, 2))
            ratios.append(error / noise)
            kept.append(((estimate * good).sum((1, 2)), (scene.expected * good).sum((1, 2))))
            doses.append((scene.expected * good).sum((1, 2)))
        ratio, dose = torch.cat(ratios), torch.cat(doses)
        ours, truth = (torch.cat(part) for part in zip(*kept, strict=True))
        out = {}
        for low, high in ((10, 300), (300, 3000), (3000, 3e4), (3e4, 3e5), (3e5, 3e6)):
            some = (dose >= low) & (dose < high)
            out[f"ratio_{low:g}"] = float(ratio[some].log().mean().exp())
            out[f"kept_{low:g}"] = float(ours[some].sum() / truth[some].sum())
        out["score"] = float((ratio + 1e-3).log().mean())
        return out

    def replay(self, network, generator):
        counts = torch.poisson(torch.full((1, 32, 32), 2.0), generator=generator)
        return network(counts, torch.zeros(1), torch.ones(1, 32, 32, dtype=torch.bool))[0, 0, :8]
