"""The task of the center network: coarse maps from block sums and offsets in windows, one batch of each a step."""

from __future__ import annotations

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from ..core import ellipse_matrix
from ..detector import stabilize
from ..networks import CELL, WINDOW, CenterNet, coarse_position, normalize
from ..simulation import Rates, expose, ideal_coordinates, record, soft_disk, uniform
from .scenes import draw_scene, log_uniform

FIELD = 128  # side of a coarse field, pixels
VALIDATED = 8  # batches of 128 windows in a validation, and a quarter as many of fields


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
                       dose_range=(25, 2e6), reuse=4, extent=128.0, stops=0.0, rates=Rates())
    counts = record(expose(scene.expected, scene.detector, generator), scene.expected, scene.faults, generator)
    good = ~scene.detector.dead | (uniform(generator, batch, 1, 1) < 0.3)  # some dead pixels are not known
    good = good & ~scene.masked
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
    """Whole patterns: inputs (B, 2, FIELD, FIELD), scale (B,), origin (B, 2), presence (B,), the scene."""
    draw = lambda *s, **k: uniform(generator, batch, *s, **k)  # noqa: E731
    origin = draw(2, low=0.02, high=0.98) * FIELD
    origin = torch.where(draw(1) < 0.6, FIELD / 2 + torch.randn(batch, 2, generator=generator) * 8, origin)
    scene = draw_scene(bank, generator, batch, (FIELD, FIELD), origin, radius_range=(1.0, 40.0),
                       dose_range=(80, 1e7), grains=3, stops=0.0, rates=Rates(moved=0.25, stop=0.15, columns=0.3))
    present = draw() < 0.85
    # Where there is no beam there is stray light, even or sloping, or nothing at all.
    light = log_uniform(generator, batch, 1, 1, low=1e-3, high=20.0) * ~present[:, None, None]
    ramp = torch.linspace(-1, 1, FIELD)
    light = light * (1 + draw(1, 1, low=-0.7, high=0.7) * ramp[:, None] + draw(1, 1, low=-0.3, high=0.3) * ramp)
    expected = scene.expected * present[:, None, None] + light
    counts = record(expose(expected, scene.detector, generator), expected, scene.faults, generator)
    good = ~scene.detector.dead | (draw(1, 1) < 0.3)
    good = good & ~scene.masked
    # Patterns whose sides the network cannot divide are made longer with pixels of their margin.
    short = (origin[:, 0].ceil() + 2).clamp(FIELD - 31, FIELD) + (draw() * 31).floor()
    short = torch.where(draw() < 0.12, short.clamp_max(FIELD), FIELD).long()
    rows = torch.arange(FIELD).expand(batch, -1)
    margin = short[:, None] - 1 - (draw(FIELD) * 8).long()
    rows = torch.where(rows < short[:, None], rows, margin)[:, :, None].expand(-1, -1, FIELD)
    counts, good = counts.gather(1, rows), good.gather(1, rows)
    turned = draw() < 0.5
    counts = torch.where(turned[:, None, None], counts.transpose(1, 2), counts)
    good = torch.where(turned[:, None, None], good.transpose(1, 2), good)
    origin = torch.where(turned[:, None], origin.flip(1), origin)
    z, scale = see(counts, scene.detector.readout, good)
    return torch.stack([z, good.float()], 1), scale, origin, present, scene


def told_from_none(scene):
    """(B,) bool: whether the beam's electrons are many enough to be seen above read-out noise and column structure."""
    noise = torch.hypot(scene.detector.readout, scene.faults.columns) * scene.radius * torch.pi**0.5
    return scene.dose > 7 * noise


def splat(position, shape):
    """Bilinear weights of positions in cell units, (B, rows, columns)."""
    weights = [(1 - (torch.arange(n) - position[:, k, None]).abs()).clamp_min(0) for k, n in enumerate(shape)]
    return weights[0][:, :, None] * weights[1][:, None, :]


def gaussian_nll(error, factor):
    """Negative log-likelihood of errors (B, 2) under covariances L L^T, less its constant."""
    white = torch.linalg.solve_triangular(factor, error[..., None], upper=False)[..., 0]
    return 0.5 * white.square().sum(-1) + factor.diagonal(dim1=-2, dim2=-1).log().sum(-1), white


def _kinds(scene):
    kinds = scene.faults.kinds()
    return kinds | {"none": ~torch.stack(list(kinds.values())).any(0)}


def _shares(name, event, among, kinds) -> dict:
    """The part of patterns with each fault that something happened to."""
    out = {}
    for kind in kinds[0]:
        some = torch.cat([k[kind] for k in kinds]) & among
        if some.any():
            out[f"{name}_{kind}"] = float(event[some].float().mean())
    return out


class CenterTask:
    name = "center"
    batch = 96
    rate = 2e-3
    parts = ("coarse", "fine")  # that share no weights

    def build(self):
        return CenterNet()

    def loss(self, network, bank, generator, half: bool = True):
        x, scale, offset, _ = windows(bank, generator, self.batch)
        found, factor = network.fine(x, scale, half)
        error = found - offset
        nll, _ = gaussian_nll(error, factor)
        # A plain distance keeps position learning alive while the covariance is still wrong.
        nll = torch.where(nll > 20, 20 + torch.log1p((nll - 20).clamp_min(0)), nll)  # outliers pull, but not for ever
        fine = nll.mean() + 0.3 * torch.sqrt(error.square().sum(-1) + 1e-4).mean()
        x, scale, origin, present, scene = fields(bank, generator, self.batch // 8)
        logits, log_radius, presence = network.coarse(x, scale, half)
        target = splat(((origin - (CELL - 1) / 2) / CELL).clamp(0, FIELD / CELL - 1), logits.shape[1:])
        entropy = -(target.flatten(1) * torch.log_softmax(logits.flatten(1), 1)).sum(1)
        size = (log_radius - scene.radius.log()).abs()
        seen = present.float()
        coarse = ((entropy + 2 * size) * seen).sum() / seen.sum().clamp_min(1)
        told = (told_from_none(scene) | ~present).float()
        coarse = coarse + binary_cross_entropy_with_logits(presence, seen, told)
        return fine + coarse

    @torch.no_grad()
    def validate(self, network, bank, generator, half: bool = False) -> dict:
        """Figures by electrons in the direct beam's window, by fault, and of the coarse stage.

        off_...: windows with an answer off by more than 1 px and 3 sigma; far_...: fields off by more than the disk's
        radius. `score` is what is kept best.
        """
        seen = []
        for _ in range(VALIDATED):
            x, scale, offset, scene = windows(bank, generator, 128)
            found, factor = network.fine(x, scale, half)
            error = (found - offset).norm(dim=1)
            white = gaussian_nll(found - offset, factor)[1].square().mean(1)
            off = (error > 1) & (error > 3 * factor.square().sum((1, 2)).sqrt())
            seen.append((error, white, off, scene.dose, _kinds(scene)))
        error, white, off, dose = (torch.cat(part) for part in list(zip(*seen, strict=True))[:4])
        out = {}
        for low, high in ((50, 300), (300, 3000), (3000, 3e4), (3e4, 3e5), (3e5, 2e6)):
            some = (dose >= low) & (dose < high)
            out[f"median_{low:g}"] = float(error[some].median())
            out[f"pull_{low:g}"] = float(white[some].median() / 0.693) ** 0.5
        out |= _shares("off", off, torch.ones_like(off), [kinds for *_, kinds in seen])
        seen = []
        for _ in range(max(1, VALIDATED // 4)):
            x, scale, origin, present, scene = fields(bank, generator, 128)
            logits, log_radius, presence = network.coarse(x, scale, half)
            miss = (coarse_position(logits) - origin).norm(dim=1)
            size = (log_radius - scene.radius.log()).abs()
            far = miss > scene.radius.clamp_min(3)
            wrong = ((presence > 0) != present) & (told_from_none(scene) | ~present)
            seen.append((miss, size, far, present, wrong, _kinds(scene)))
        miss, size, far, present, wrong = (torch.cat(part) for part in list(zip(*seen, strict=True))[:5])
        out["coarse_median"] = float(miss[present].median())
        out["coarse_far"] = float(far[present].float().mean())
        out["radius_error"] = float(size[present].median())
        out["presence_wrong"] = float(wrong.float().mean())
        out |= _shares("far", far, present, [kinds for *_, kinds in seen])
        out["score"] = float((error + 0.02).log().mean()) + out["coarse_far"]
        return out
