"""Training of the center network: coarse maps from whole patterns, and offsets in windows, one batch of each per step.
"""

from __future__ import annotations

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from ..core import ellipse_matrix, stabilize
from ..networks import COARSE_CELL_PX, WINDOW, CenterNet, coarse_position, normalize
from ..simulation import Rates, expose, ideal_coordinates, log_uniform, record, soft_disk, stretch, uniform
from . import Task, draw_scene

COARSE_FIELD_PX = 128  # side of the patterns for the coarse stage, pixels: the largest it sees in use
HIDDEN_WEIGHT = 2.0  # of a pattern with a hidden beam in the loss of visibility: such patterns are few
MIN_SEEN_ELECTRONS = 100.0  # expected electrons in a pattern with a hidden beam, below which it teaches nothing
HIDDEN_FRACTION, SHOWN_FRACTION = 0.25, 0.75  # visible fraction of a direct disk that is hidden, or shown
VALIDATION_BATCHES = 8  # batches of 128 windows in a validation; half as many of whole patterns


def network_input(counts, readout, good):
    """Convert counts to the input of the networks: stabilized and normalized.

    Parameters
    ----------
    counts : torch.Tensor
        Electrons, (B, H, W).
    readout : torch.Tensor
        Read-out noise, rms electrons, (B,).
    good : torch.Tensor
        True for usable pixels, (B, H, W), bool.

    Returns
    -------
    normalized : torch.Tensor
        Input of the networks, (B, H, W).
    scale : torch.Tensor
        Scale of each pattern, (B,), see `networks.normalize`.
    """
    return normalize(stabilize(counts, readout[:, None, None]), good)


def draw_windows(bank, generator, batch: int):
    """Draw random windows around an approximate beam position.

    Parameters
    ----------
    bank : Bank
        Clean patterns.
    generator : torch.Generator
        Source of all random numbers.
    batch : int
        Number of windows, a multiple of 4.

    Returns
    -------
    x : torch.Tensor
        Input of `FineNet`, (B, 3, WINDOW, WINDOW).
    scale : torch.Tensor
        Scale of each window, (B,).
    offset : torch.Tensor
        True position of the beam relative to the middle of the window, (B, 2), pixels.
    scene : Scene
        What the windows show.
    """
    far = uniform(generator, batch, 1) < 0.25
    offset = torch.randn(batch, 2, generator=generator) * torch.where(far, 2.5, 0.8)
    offset = offset.clamp(-6, 6)
    middle = (WINDOW - 1) / 2
    scene = draw_scene(bank, generator, batch, (WINDOW, WINDOW), middle + offset, radius_range=(1.0, 15.0),
                       dose_range=(25, 2e6), reuse=4, extent=128.0, stops=0.0, rates=Rates(saturated=0.1, wrapped=0.04),
                       selected_area=0.2, tails=0.25)
    counts = record(expose(scene.expected, scene.detector, generator), scene.expected, scene.faults, generator)
    good = ~scene.detector.dead | (uniform(generator, batch, 1, 1) < 0.3)  # in 30 %, the mask misses dead pixels
    good = good & ~scene.masked
    # The aperture is known accurately after a first pass over the scan, and approximately before it.
    rough = (uniform(generator, batch) < 0.3).float()
    error = torch.randn(batch, generator=generator) * (0.08 * rough + 0.006 * (1 - rough))
    error = error * torch.where(uniform(generator, batch) < 0.2, 3.0, 1.0)
    vector = scene.vector * (1 - rough[:, None]) + torch.randn(batch, 2, generator=generator) * 0.003
    at = ideal_coordinates((WINDOW, WINDOW), torch.full((batch, 2), middle), ellipse_matrix(vector))
    edge = scene.edge * torch.exp(0.15 * torch.randn(batch, generator=generator))
    disk = soft_disk(at, scene.radius * error.exp(), edge)
    z, scale = network_input(counts, scene.detector.readout, good)
    return torch.stack([z, disk, good.float()], 1), scale, offset, scene


def draw_fields(bank, generator, batch: int):
    """Draw random whole patterns, some without a direct beam.

    Parameters
    ----------
    bank : Bank
        Clean patterns.
    generator : torch.Generator
        Source of all random numbers.
    batch : int
        Number of patterns.

    Returns
    -------
    x : torch.Tensor
        Input of `CoarseNet`, (B, 2, COARSE_FIELD_PX, COARSE_FIELD_PX).
    scale : torch.Tensor
        Scale of each pattern, (B,).
    origin : torch.Tensor
        True position of the beam, (B, 2), pixels.
    present : torch.Tensor
        Whether there is a beam, (B,), bool.
    scene : Scene
        What the patterns show.
    """
    side = COARSE_FIELD_PX
    draw = lambda *s, **k: uniform(generator, batch, *s, **k)  # noqa: E731
    origin = draw(2, low=0.02, high=0.98) * side
    origin = torch.where(draw(1) < 0.6, side / 2 + torch.randn(batch, 2, generator=generator) * 8, origin)
    away = draw(2, low=-0.9, high=0.9) * side
    away = torch.where(away < 0, away - 6, away + side + 6)  # beside a corner
    beside = torch.where(draw(1) < 0.5, torch.stack([away[:, 0], origin[:, 1]], 1),
                         torch.stack([origin[:, 0], away[:, 1]], 1))
    outside = draw() < 0.07
    origin = torch.where(outside[:, None], torch.where(draw(1) < 0.3, away, beside), origin)
    scene = draw_scene(bank, generator, batch, (side, side), origin, radius_range=(1.0, 40.0),
                       dose_range=(80, 1e7), grains=3, stops=0.0, rates=Rates(moved=0.25, stop=0.6, columns=0.25),
                       selected_area=0.5, tails=0.4, long_stops=0.45, fitted_stops=0.35)
    present = (draw() < 0.88) | outside
    # Patterns without a beam show stray light with a gradient, or almost nothing.
    light = log_uniform(generator, batch, 1, 1, low=1e-3, high=20.0) * ~present[:, None, None]
    ramp = torch.linspace(-1, 1, side)
    light = light * (1 + draw(1, 1, low=-0.7, high=0.7) * ramp[:, None] + draw(1, 1, low=-0.3, high=0.3) * ramp)
    expected = scene.expected * present[:, None, None] + light
    present &= ~outside
    counts = record(expose(expected, scene.detector, generator), expected, scene.faults, generator)
    counts, labeled = stretch(counts, draw() < 0.25, generator)  # pictures of eight bits
    good = ~scene.detector.dead | (draw(1, 1) < 0.3)
    good = good & ~scene.masked & ~(labeled & (draw(1, 1) < 0.2))  # a user may have masked the labels
    # Patterns whose sides are no multiples of 32 are padded in use with pixels of their margin; imitate that.
    short = (origin[:, 0].ceil() + 2).clamp(side - 31, side) + (draw() * 31).floor()
    short = torch.where(draw() < 0.12, short.clamp_max(side), side).long()
    rows = torch.arange(side).expand(batch, -1)
    margin = short[:, None] - 1 - (draw(side) * 8).long()
    rows = torch.where(rows < short[:, None], rows, margin)[:, :, None].expand(-1, -1, side)
    counts, good = counts.gather(1, rows), good.gather(1, rows)
    transposed = draw() < 0.5
    counts = torch.where(transposed[:, None, None], counts.transpose(1, 2), counts)
    good = torch.where(transposed[:, None, None], good.transpose(1, 2), good)
    origin = torch.where(transposed[:, None], origin.flip(1), origin)
    z, scale = network_input(counts, scene.detector.readout, good)
    return torch.stack([z, good.float()], 1), scale, origin, present, scene


def is_detectable(scene):
    """Return whether the beam exceeds the noise of the detector in the area of its disk, or shows elsewhere.

    Parameters
    ----------
    scene : Scene
        Patterns with their truth.

    Returns
    -------
    torch.Tensor
        (B,), bool: the dose exceeds 7 standard deviations of read-out noise and column noise, and a hidden beam leaves
        some electrons elsewhere.
    """
    noise = torch.hypot(scene.detector.readout, scene.faults.columns) * scene.radius * torch.pi**0.5
    seen = (scene.visible > HIDDEN_FRACTION) | (scene.expected.sum((1, 2)) > MIN_SEEN_ELECTRONS)
    return (scene.dose > 7 * noise) & seen


def bilinear_target(position, shape):
    """Distribute unit weight over the four cells around each position.

    Parameters
    ----------
    position : torch.Tensor
        Positions in units of cells, (B, 2).
    shape : tuple of int
        Number of rows and columns of the map.

    Returns
    -------
    torch.Tensor
        Weights, (B, rows, columns).

    Examples
    --------
    >>> import torch
    >>> bilinear_target(torch.tensor([[1.0, 0.25]]), (2, 2)).tolist()
    [[[0.0, 0.0], [0.75, 0.25]]]
    """
    weights = [(1 - (torch.arange(n) - position[:, k, None]).abs()).clamp_min(0) for k, n in enumerate(shape)]
    return weights[0][:, :, None] * weights[1][:, None, :]


def gaussian_nll(error, factor):
    """Return the negative log-likelihood of errors under a Gaussian, without its constant.

    Parameters
    ----------
    error : torch.Tensor
        Errors, (B, 2).
    factor : torch.Tensor
        Lower Cholesky factor L of the covariance L L^T, (B, 2, 2).

    Returns
    -------
    nll : torch.Tensor
        Negative log-likelihood, (B,).
    white : torch.Tensor
        Errors in units of their standard deviation, uncorrelated, (B, 2).
    """
    white = torch.linalg.solve_triangular(factor, error[..., None], upper=False)[..., 0]
    return 0.5 * white.square().sum(-1) + factor.diagonal(dim1=-2, dim2=-1).log().sum(-1), white


def _kinds(scene):
    """Patterns with each kind of fault and with none, {name: (B,) bool}."""
    kinds = scene.faults.kinds()
    return kinds | {"none": ~torch.stack(list(kinds.values())).any(0)}


def _fractions_by_fault(name, event, among, kinds) -> dict:
    """Fraction of the patterns `among` with each kind of fault in which an event occurred, {name_fault: float}."""
    out = {}
    for kind in kinds[0]:
        chosen = torch.cat([k[kind] for k in kinds]) & among
        if chosen.any():
            out[f"{name}_{kind}"] = float(event[chosen].float().mean())
    return out


class CenterTask(Task):
    """Training of `CenterNet`; see `Task`. Its two stages share no weights."""

    name = "center"
    network = CenterNet
    batch = 96
    rate = 2e-3
    parts = called = ("coarse", "fine")

    def loss(self, network, bank, generator, half: bool = True):  # numpydoc ignore=PR01,RT01
        """Return the loss of both stages on a random batch, see `Task.loss`."""
        losses = [getattr(self, f"_{part}_loss")(network, bank, generator, half) for part in self.parts]
        return torch.stack(losses).sum()

    def _fine_loss(self, network, bank, generator, half):
        """Loss of the fine stage on a random batch."""
        x, scale, offset, _ = draw_windows(bank, generator, self.batch)
        found, factor = network.fine(x, scale, half)
        error = found - offset
        nll, _ = gaussian_nll(error, factor)
        # The distance term keeps the position learning while the covariance is still wrong. Large likelihood terms
        # grow logarithmically, so that outliers do not dominate.
        nll = torch.where(nll > 20, 20 + torch.log1p((nll - 20).clamp_min(0)), nll)
        return nll.mean() + 0.3 * torch.sqrt(error.square().sum(-1) + 1e-4).mean()

    def _coarse_loss(self, network, bank, generator, half):
        """Loss of the coarse stage on a random batch."""
        x, scale, origin, present, scene = draw_fields(bank, generator, self.batch // 8)
        logits, log_radius, presence, visible = network.coarse(x, scale, half)
        limit = COARSE_FIELD_PX / COARSE_CELL_PX - 1
        cell = ((origin - (COARSE_CELL_PX - 1) / 2) / COARSE_CELL_PX).clamp(0, limit)
        target = bilinear_target(cell, logits.shape[1:])
        entropy = -(target.flatten(1) * torch.log_softmax(logits.flatten(1), 1)).sum(1)
        size = (log_radius - scene.radius.log()).abs()
        with_beam = (present & ((scene.visible > HIDDEN_FRACTION) | is_detectable(scene))).float()
        coarse = ((entropy + 2 * size * (scene.visible > HIDDEN_FRACTION)) * with_beam).sum()
        coarse = coarse / with_beam.sum().clamp_min(1)
        weight = (is_detectable(scene) | ~present).float()
        coarse = coarse + binary_cross_entropy_with_logits(presence, with_beam, weight)
        clear = (scene.visible < HIDDEN_FRACTION) | (scene.visible > SHOWN_FRACTION)
        shown = (scene.visible > 0.5).float()
        weight = weight * torch.where(scene.visible < HIDDEN_FRACTION, HIDDEN_WEIGHT, 1.0)
        return coarse + binary_cross_entropy_with_logits(visible, shown, weight * with_beam * clear)

    @torch.no_grad()
    def validate(self, network, bank, generator, half: bool = False) -> dict:  # numpydoc ignore=PR01
        """Measure the errors of both stages on random samples, see `Task.validate`.

        Returns
        -------
        dict
            ``median_N``: median error in pixels of windows with at least N electrons; ``pull_N``: scale of these
            errors in units of their standard deviation; ``off_FAULT``: fraction of windows with this fault whose
            error exceeds 1 px and 3 standard deviations; ``coarse_median``: median error of the coarse stage, pixels;
            ``far_FAULT`` and ``coarse_far``: fraction of patterns whose error exceeds the radius of the disk;
            ``radius_error``: median error of log radius; ``presence_wrong``: fraction of patterns with a wrong
            decision on the presence of a beam; ``hidden_missed`` and ``hidden_wrongly``: fraction of the hidden beams
            that are said to be visible, and of the visible ones that are said to be hidden; ``hidden_median`` and
            ``hidden_far``: as above, for hidden beams; ``score``: lower is better.
        """
        batches = []
        for _ in range(VALIDATION_BATCHES):
            x, scale, offset, scene = draw_windows(bank, generator, 128)
            found, factor = network.fine(x, scale, half)
            error = (found - offset).norm(dim=1)
            white = gaussian_nll(found - offset, factor)[1].square().mean(1)
            off = (error > 1) & (error > 3 * factor.square().sum((1, 2)).sqrt())
            batches.append((error, white, off, scene.dose, _kinds(scene)))
        error, white, off, dose = (torch.cat(values) for values in list(zip(*batches, strict=True))[:4])
        out = {}
        for low, high in ((50, 300), (300, 3000), (3000, 3e4), (3e4, 3e5), (3e5, 2e6)):
            in_range = (dose >= low) & (dose < high)
            out[f"median_{low:g}"] = float(error[in_range].median())
            out[f"pull_{low:g}"] = float(white[in_range].median() / 0.693) ** 0.5  # ln 2, the median of chi^2_2 / 2
        out |= _fractions_by_fault("off", off, torch.ones_like(off), [kinds for *_, kinds in batches])
        batches = []
        for _ in range(max(1, VALIDATION_BATCHES // 2)):
            x, scale, origin, present, scene = draw_fields(bank, generator, 128)
            logits, log_radius, presence, visible = network.coarse(x, scale, half)
            miss = (coarse_position(logits) - origin).norm(dim=1)
            size = (log_radius - scene.radius.log()).abs()
            far = miss > scene.radius.clamp_min(3)
            wrong = ((presence > 0) != present) & (is_detectable(scene) | ~present)
            hidden = scene.visible < HIDDEN_FRACTION
            clear = present & is_detectable(scene) & (hidden | (scene.visible > SHOWN_FRACTION))
            batches.append((miss, size, far, present, wrong, hidden, clear, visible, _kinds(scene)))
        miss, size, far, present, wrong, hidden, clear, visible = (
            torch.cat(values) for values in list(zip(*batches, strict=True))[:8])
        out["coarse_median"] = float(miss[present].median())
        out["coarse_far"] = float(far[present].float().mean())
        out["radius_error"] = float(size[present].median())
        out["presence_wrong"] = float(wrong.float().mean())
        out["hidden_missed"] = float((visible > 0)[clear & hidden].float().mean())
        out["hidden_wrongly"] = float((visible < 0)[clear & ~hidden].float().mean())
        out["hidden_median"] = float(miss[present & hidden].median())
        out["hidden_far"] = float(far[present & hidden].float().mean())
        out |= _fractions_by_fault("far", far, present, [kinds for *_, kinds in batches])
        out["score"] = float((error + 0.02).log().mean()) + out["coarse_far"]
        return out
