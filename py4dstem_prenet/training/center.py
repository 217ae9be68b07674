"""The task of the center network: coarse maps from block sums and offsets in windows, one batch of each a step."""

from __future__ import annotations

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from ..networks.center import CELL, WINDOW, CenterNet, coarse_position, normalize
from ..noise import stabilize
from ..polar import ellipse_matrix
from ..simulation.detector import expose, uniform
from ..simulation.pattern import ideal_coordinates, soft_disk
from .scenes import draw_scene

FIELD = 128  # side of a coarse field, pixels


def see(counts, readout, good):
    """Counts as the networks see them: stabilized and normalized, with their scale."""
    return normalize(stabilize(counts, readout[:, None, None]), good)


def windows(bank, generator, batch: int):
    """Windows with true offsets: inputs (B, 3, WINDOW, WINDOW), scale (B,), offset (B, 2), the scene."""
    far = uniform(generator, batch, 1) < 0.25
    offset = torch.randn(batch, 2, generator=generator) * torch.where(far, 2.5, 0.8)
    offset = offset.clamp(-6, 6)
    middle = (WINDOW - 1) / 2
    scene = draw_scene(bank, generator, batch, (WINDOW, WINDOW), middle + offset, radius_range=(1.0, 15.0),
                       dose_range=(25, 2e6), reuse=4, extent=128.0)
    counts = expose(scene.expected, scene.detector, generator)
    good = ~scene.detector.dead | (uniform(generator, batch, 1, 1) < 0.3)  # some dead pixels are not known
    # What is known of the aperture: well after a first pass, roughly before it.
    rough = (uniform(generator, batch) < 0.3).float()
    error = torch.randn(batch, generator=generator) * (0.08 * rough + 0.006 * (1 - rough))
    vector = scene.vector * (1 - rough[:, None]) + torch.randn(batch, 2, generator=generator) * 0.003
    at = ideal_coordinates((WINDOW, WINDOW), torch.full((batch, 2), middle), ellipse_matrix(vector))
    edge = scene.edge * torch.exp(0.15 * torch.randn(batch, generator=generator))
    disk = soft_disk(at, scene.radius * error.exp(), edge)
    z, scale = see(counts, scene.detector.readout, good)
    return torch.stack([z, disk, good.float()], 1), scale, offset, scene


def fields(bank, generator, batch: int):
    """Whole patterns: inputs (B, 2, FIELD, FIELD), scale (B,), origin (B, 2), radius (B,), presence (B,)."""
    origin = uniform(generator, batch, 2, low=0.06, high=0.94) * FIELD
    central = uniform(generator, batch, 1) < 0.6
    origin = torch.where(central, FIELD / 2 + torch.randn(batch, 2, generator=generator) * 8, origin)
    scene = draw_scene(bank, generator, batch, (FIELD, FIELD), origin, radius_range=(1.0, 28.0),
                       dose_range=(300, 1e7), grains=3, stops=0.15)
    present = uniform(generator, batch) < 0.88
    expected = scene.expected * present[:, None, None]
    counts = expose(expected, scene.detector, generator)
    # Read-out that is no pattern: columns and a slope, now and then, and always where there is no beam.
    columns = torch.randn(batch, 1, FIELD, generator=generator) * scene.detector.readout[:, None, None]
    columns = columns * uniform(generator, batch, 1, 1) * (uniform(generator, batch, 1, 1) < 0.3)
    flat = torch.poisson(torch.full_like(expected, 0.3) * ~present[:, None, None], generator=generator)
    counts = counts + columns + flat
    turned = uniform(generator, batch) < 0.5
    counts = torch.where(turned[:, None, None], counts.transpose(1, 2), counts)
    good = ~scene.detector.dead | (uniform(generator, batch, 1, 1) < 0.3)
    good = torch.where(turned[:, None, None], good.transpose(1, 2), good)
    origin = torch.where(turned[:, None], origin.flip(1), origin)
    z, scale = see(counts, scene.detector.readout, good)
    return torch.stack([z, good.float()], 1), scale, origin, scene.radius, present


def splat(position, shape):
    """Bilinear weights of positions in cell units, (B, rows, columns)."""
    weights = [(1 - (torch.arange(n) - position[:, k, None]).abs()).clamp_min(0) for k, n in enumerate(shape)]
    return weights[0][:, :, None] * weights[1][:, None, :]


def gaussian_nll(error, factor):
    """Negative log-likelihood of errors (B, 2) under covariances L L^T, less its constant."""
    white = torch.linalg.solve_triangular(factor, error[..., None], upper=False)[..., 0]
    return 0.5 * white.square().sum(-1) + factor.diagonal(dim1=-2, dim2=-1).log().sum(-1), white


class CenterTask:
    name = "center"
    batch = 96
    rate = 2e-3

    def build(self):
        return CenterNet()

    def loss(self, network, bank, generator, half: bool = True):
        x, scale, offset, _ = windows(bank, generator, self.batch)
        found, factor = network.fine(x, scale, half)
        error = found - offset
        nll, _ = gaussian_nll(error, factor)
        # A plain distance keeps position learning alive while the covariance is still wrong.
        fine = nll.clamp_max(20).mean() + 0.3 * torch.sqrt(error.square().sum(-1) + 1e-4).mean()
        if uniform(generator, 1) > 0.3:  # the coarse stage learns sooner and need not cost as much
            return fine
        x, scale, origin, radius, present = fields(bank, generator, self.batch // 8)
        logits, log_radius, presence = network.coarse(x, scale, half)
        target = splat((origin - (CELL - 1) / 2) / CELL, logits.shape[1:])
        entropy = -(target.flatten(1) * torch.log_softmax(logits.flatten(1), 1)).sum(1)
        size = (log_radius - radius.log()).abs()
        seen = present.float()
        coarse = ((entropy + 2 * size) * seen).sum() / seen.sum().clamp_min(1)
        coarse = coarse + binary_cross_entropy_with_logits(presence, seen)
        return fine + coarse

    @torch.no_grad()
    def validate(self, network, bank, generator, half: bool = True) -> dict:
        """Figures by electrons in the direct beam's window, and of the coarse stage; `score` is what is kept best."""
        errors, sizes, doses = [], [], []
        for _ in range(8):
            x, scale, offset, scene = windows(bank, generator, 128)
            found, factor = network.fine(x, scale, half)
            errors.append((found - offset).norm(dim=1))
            sizes.append(gaussian_nll(found - offset, factor)[1].square().mean(1))
            doses.append(scene.dose)
        error, white, dose = torch.cat(errors), torch.cat(sizes), torch.cat(doses)
        out = {}
        for low, high in ((50, 300), (300, 3000), (3000, 3e4), (3e4, 3e5), (3e5, 2e6)):
            some = (dose >= low) & (dose < high)
            out[f"median_{low:g}"] = float(error[some].median())
            out[f"pull_{low:g}"] = float(white[some].median() / 0.693) ** 0.5
        x, scale, origin, radius, present = fields(bank, generator, 128)
        logits, log_radius, presence = network.coarse(x, scale, half)
        miss = (coarse_position(logits) - origin).norm(dim=1)[present]
        out["coarse_median"] = float(miss.median())
        out["coarse_far"] = float((miss > radius[present].clamp_min(3)).float().mean())
        out["radius_error"] = float((log_radius - radius.log()).abs()[present].median())
        out["presence_wrong"] = float(((presence > 0) != present).float().mean())
        out["score"] = float((error + 0.02).log().mean()) + out["coarse_far"]
        return out

    def replay(self, network, generator):
        x = torch.rand(1, 3, WINDOW, WINDOW, generator=generator)
        offset, factor = network.fine(x, torch.ones(1))
        logits, radius, presence = network.coarse(torch.rand(1, 2, FIELD, FIELD, generator=generator), torch.ones(1))
        return [*offset[0], *factor.flatten(), logits.mean(), radius[0], presence[0]]
