"""What goes wrong with patterns: dark direct beams, overlapping disks, Kikuchi bands, beam stops, smear, saturation.

Parameters are drawn in one place (`draw_faults`) and applied in four: to what is diffracted (`diffract`), to what is
scattered (`scatter`), to what reaches the pixels (`shade`), and to what is counted (`record`). A pattern has each
fault with a small probability (`Rates`) and the neutral value otherwise, which changes nothing. "Wrong" is wide:
thick crystals are in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch.nn.functional import conv2d, pad

from .detector import uniform
from .pattern import rotation_matrix, soft_disk

BAR, NEEDLE, ROUND = 0, 1, 2  # kinds of beam stops
BANDS, COPIES, HITS = 4, 16, 5  # at most, in a pattern
ORDERS = torch.cartesian_prod(torch.arange(-3, 4), torch.arange(-3, 4)).float()  # of Bragg disks, (49, 2)
REACH = 8  # of copies that moved, pixels


@dataclass(frozen=True)
class Rates:
    """The probability of each fault in a pattern."""

    dark: float = 0.05
    disks: float = 0.06
    bands: float = 0.05
    moved: float = 0.0
    stop: float = 0.07
    cross: float = 0.03
    smear: float = 0.04
    hits: float = 0.05
    saturated: float = 0.05
    wrapped: float = 0.02
    gain: float = 0.05
    offset: float = 0.03
    columns: float = 0.04
    sides: float = 0.05


@dataclass(frozen=True)
class BeamStop:
    """at: (B, 2) the middle of the tip, pixels. angle: (B,) towards its holder. width: (B,) half width or radius; 0:
    no stop. slope: (B,) of a wedge's flanks. wire: (B,) half width of a round stop's holder. soft: (B,) of its edge.
    leak: (B,) the part that passes. kind: (B,). known: (B,) bool, whether a mask tells of it."""

    at: torch.Tensor
    angle: torch.Tensor
    width: torch.Tensor
    slope: torch.Tensor
    wire: torch.Tensor
    soft: torch.Tensor
    leak: torch.Tensor
    kind: torch.Tensor
    known: torch.Tensor


@dataclass(frozen=True)
class Faults:
    """What is wrong with each pattern of a batch; lengths in pixels, and the neutral value in brackets.

    dark: (B,) factor of the direct disk [1]. disks: (B, 49) brightness of the Bragg disks of `ORDERS`, as parts of an
    undiffracted beam's [0], and lattice: (B, 2, 2) their two base vectors, in rows. bands: (B, BANDS, 4) strength [0],
    direction, distance from the direct beam, half width. moved: (B, COPIES, 2) copies that a block sum adds up [0], of
    zero mean. stop: the beam stop. cross: (B, 4) middle row and column of the gap between chips, its half width [0],
    and the factor of counts there. cross_known: (B,) bool, whether a mask tells of it. smear: (B, 3) part of the
    charge left behind [0], its length, and the direction: rows up (-1), rows down (1), both (0). hits: (B, HITS)
    brightness over the brightest pixel [0]. saturated, wrapped: (B,) level
    over the brightest expected pixel [inf]. gain: (B,) counts an electron is taken for [1]. offset: (B,) electrons
    [0]. columns: (B,) rms, electrons [0]. sides: (B, 4) rows and columns past the detector at each side [0].
    """

    dark: torch.Tensor
    disks: torch.Tensor
    lattice: torch.Tensor
    bands: torch.Tensor
    moved: torch.Tensor
    stop: BeamStop
    cross: torch.Tensor
    cross_known: torch.Tensor
    smear: torch.Tensor
    hits: torch.Tensor
    saturated: torch.Tensor
    wrapped: torch.Tensor
    gain: torch.Tensor
    offset: torch.Tensor
    columns: torch.Tensor
    sides: torch.Tensor

    def kinds(self) -> dict:
        """Which patterns have each fault: names of `Rates`, (B,) bool."""
        return dict(dark=self.dark < 1, disks=(self.disks > 0).any(1), bands=(self.bands[..., 0] != 0).any(1),
                    moved=(self.moved != 0).flatten(1).any(1), stop=self.stop.width > 0, cross=self.cross[:, 2] > 0,
                    smear=self.smear[:, 0] > 0, hits=(self.hits > 0).any(1), saturated=self.saturated < torch.inf,
                    wrapped=self.wrapped < torch.inf, gain=self.gain != 1, offset=self.offset != 0,
                    columns=self.columns > 0, sides=(self.sides > 0).any(1))


NONE = Rates(**{f.name: 0.0 for f in fields(Rates)})


def draw_faults(generator, origin, radius, shape, rates: Rates, plenty=None) -> Faults:
    """Faults of a batch of patterns with the direct beam at origin (B, 2) and of radius (B,), pixels.

    plenty: (B,) bool, whether electrons are so many that a pattern is seen where its direct beam is hidden; beam
    stops and the detector's end come into these alone. All by default.
    """
    batch, side = len(origin), float(max(shape))

    def draw(*extra, low=0.0, high=1.0):
        return uniform(generator, batch, *extra, low=low, high=high)

    def log_draw(*extra, low, high):
        return torch.exp(draw(*extra, low=math.log(low), high=math.log(high)))

    def normal(*extra):
        return torch.randn(batch, *extra, generator=generator)

    def has(rate, among=None):
        chosen = draw() < rate
        return chosen if among is None else chosen & among

    # Disks overlap where the base vectors are shorter than two radii.
    length = log_draw(2, low=0.7, high=1.4) * log_draw(1, low=1.0, high=5.0) * radius[:, None].clamp_min(1.5)
    turn = rotation_matrix(torch.cumsum(torch.stack([draw(high=2 * math.pi), draw(low=1.0, high=2.1)], 1), 1))
    lattice = turn[..., 0] * length[..., None]
    # They fade away from the Laue circle's side, not from the direct beam.
    far = torch.linalg.vector_norm(ORDERS - normal(1, 2), dim=-1) / log_draw(1, low=0.6, high=1.8)
    disks = torch.exp(-0.5 * far**2) * log_draw(len(ORDERS), low=0.05, high=1.0) * log_draw(1, low=0.05, high=6.0)
    disks = disks * (ORDERS != 0).any(1)
    bands = torch.stack([draw(BANDS, low=-0.35, high=0.7) * (draw(BANDS) < 0.6), draw(BANDS, high=math.pi),
                         normal(BANDS) * 0.25 * side, log_draw(BANDS, low=2.0, high=0.3 * side)], -1)
    bands[..., 0] *= has(rates.bands)[:, None]
    # Descan within a block of the scan is a line, mostly; jitter is not.
    copies = (draw(COPIES, low=-1.0, high=1.0)[..., None] * normal(1, 2) + 0.4 * normal(COPIES, 2))
    few = torch.arange(COPIES) % draw(1, low=2, high=COPIES + 1).long()
    copies = copies.gather(1, few[..., None].expand(-1, -1, 2))
    copies = copies - copies.mean(1, keepdim=True)
    copies = copies / copies.abs().amax((1, 2), keepdim=True) * log_draw(1, 1, low=0.4, high=REACH - 2)
    aimed = (draw(1) < 0.75).float()
    anywhere = draw(2) * torch.tensor([float(n) for n in shape])
    stop = BeamStop(
        at=aimed * (origin + normal(2) * 0.6 * radius[:, None]) + (1 - aimed) * anywhere,
        angle=draw(high=2 * math.pi),
        width=(radius * log_draw(low=0.3, high=3.0)).clamp(1.0, 0.2 * side) * has(rates.stop, plenty),
        slope=draw(high=0.3) * (draw() < 0.5), wire=draw(low=0.3, high=2.0) * (draw() < 0.6),
        soft=log_draw(low=0.1, high=1.0), leak=log_draw(low=1e-3, high=0.1) * (draw() < 0.5),
        kind=draw(high=3).long(), known=draw() < 0.5)
    dead = (draw() < 0.6).float()
    middle = draw(2) * torch.tensor([float(n) for n in shape])
    cross = torch.cat([middle, (log_draw(low=0.6, high=3.5) * has(rates.cross))[:, None],
                       ((1 - dead) * draw(low=1.3, high=3.0))[:, None]], 1)
    smear = torch.stack([log_draw(low=0.003, high=0.3) * has(rates.smear), log_draw(low=4.0, high=40 * side),
                         draw(high=3).long() - 1.0], 1)
    hits = log_draw(HITS, low=0.5, high=200.0) * (draw(HITS) < 0.5) * has(rates.hits)[:, None]
    level = lambda rate: torch.where(has(rate), log_draw(low=0.1, high=0.9), torch.inf)  # noqa: E731
    past = side * torch.where(draw(4) < 0.4, 0.49 * draw(4) ** 2, 0.0) * has(rates.sides, plenty)[:, None]
    return Faults(
        dark=torch.where(has(rates.dark), log_draw(low=0.02, high=0.9), 1.0),
        disks=disks * has(rates.disks)[:, None], lattice=lattice, bands=bands,
        moved=copies * has(rates.moved)[:, None, None], stop=stop, cross=cross, cross_known=draw() < 0.7,
        smear=smear, hits=hits, saturated=level(rates.saturated), wrapped=level(rates.wrapped),
        gain=torch.where(has(rates.gain), log_draw(low=0.2, high=5.0), 1.0),
        offset=log_draw(low=0.1, high=100.0) * has(rates.offset),
        columns=log_draw(low=0.05, high=3.0) * has(rates.columns), sides=past)


def _which(mask):
    return torch.nonzero(mask)[:, 0]


def scatter(expected, faults: Faults, coordinates) -> torch.Tensor:
    """Expected patterns (B, H, W) with Kikuchi bands, then sums of moved copies.

    coordinates: (B, H, W, 2), pixels from the direct beam. Copies have zero mean: the origin stays where it was.
    """
    expected = expected.clone()
    some = _which((faults.bands[..., 0] != 0).any(1))
    if len(some):
        strength, direction, distance, half = faults.bands[some][..., None, None].unbind(2)
        at = coordinates[some, None]
        across = at[..., 0] * torch.cos(direction) + at[..., 1] * torch.sin(direction) - distance
        # A raised band, and along its edges the excess and the deficit line.
        line = torch.exp(-(((across.abs() - half) / 1.5) ** 2)) * across.sign()
        band = strength * (torch.sigmoid(half - across.abs()) + 0.7 * line)
        expected[some] *= (1 + band.sum(1)).clamp_min(0.1)
    some = _which((faults.moved != 0).flatten(1).any(1))
    if len(some):
        axis = torch.arange(-REACH, REACH + 1)
        near = (1 - (axis - faults.moved[some][..., None]).abs()).clamp_min(0)  # bilinear, (k, COPIES, 2, taps)
        # Correlation, so a copy moved by +1 has its tap at -1.
        kernel = torch.einsum("kcx,kcy->kxy", near[:, :, 0], near[:, :, 1]).flip(1, 2) / COPIES
        wide = pad(expected[some][None], (REACH,) * 4, mode="replicate")
        expected[some] = conv2d(wide, kernel[:, None], groups=len(some))[0]
    return expected


def diffract(expected, faults: Faults, coordinates, radius) -> torch.Tensor:
    """Patterns (B, H, W), parts of the beam, as of thicker crystals: direct disks, radius (B,), dimmed, more of others.

    coordinates: (B, H, W, 2), pixels from the direct beam, without distortion.
    """
    expected = expected.clone()
    some = _which(faults.dark < 1)
    if len(some):
        # A little wider than the disk, lest a bright rim remain.
        inside = torch.linalg.vector_norm(coordinates[some], dim=-1) < radius[some, None, None] + 0.8
        expected[some] *= torch.where(inside, faults.dark[some, None, None], 1.0)
    for k in _which((faults.disks > 0).any(1)).tolist():
        at = ORDERS @ faults.lattice[k]
        apart = coordinates[k] - at[:, None, None]
        disks = soft_disk(apart, radius[k].expand(len(at)), torch.full((len(at),), 0.4))
        expected[k] += torch.einsum("s,shw->hw", faults.disks[k], disks) / (torch.pi * radius[k] ** 2)
    return expected


def stop_distance(stop: BeamStop, some, shape) -> torch.Tensor:
    """Distance from the edges of the beam stops numbered `some`, negative behind them: (len(some), H, W), pixels."""
    pick = lambda name: getattr(stop, name)[some, None, None]  # noqa: E731
    x = torch.arange(shape[0])[:, None] - stop.at[some, 0, None, None]
    y = torch.arange(shape[1])[None, :] - stop.at[some, 1, None, None]
    c, s = torch.cos(pick("angle")), torch.sin(pick("angle"))
    along, across = x * c + y * s, (y * c - x * s).abs()
    kind, width = pick("kind"), pick("width")
    tip = torch.hypot(along, across) - width
    flank = across - width - pick("slope") * along
    needle = torch.where(along > 0, flank, tip)
    holder = torch.where((along > 0) & (pick("wire") > 0), torch.minimum(tip, across - pick("wire")), tip)
    return torch.where(kind == BAR, across - width, torch.where(kind == NEEDLE, needle, holder))


def shade(expected, faults: Faults) -> tuple[torch.Tensor, torch.Tensor]:
    """Expected patterns (B, H, W) behind beam stops and chip gaps, smeared; and the pixels a user would mask."""
    expected = expected.clone()
    shape = expected.shape[1:]
    masked = torch.zeros(expected.shape, dtype=torch.bool)
    x, y = (torch.arange(n) for n in shape)
    some = _which(faults.stop.width > 0)
    if len(some):
        distance = stop_distance(faults.stop, some, shape)
        leak, soft = faults.stop.leak[some, None, None], faults.stop.soft[some, None, None]
        expected[some] *= leak + (1 - leak) * torch.sigmoid(distance / soft)
        masked[some] |= (distance < 2 * soft) & faults.stop.known[some, None, None]
    some = _which(faults.cross[:, 2] > 0)
    if len(some):
        row, column, half, factor = faults.cross[some, :, None, None].unbind(1)
        gap = ((x[:, None] - row).abs() < half) | ((y - column).abs() < half)
        expected[some] = torch.where(gap, expected[some] * factor, expected[some])
        masked[some] |= gap & faults.cross_known[some, None, None]
    some = _which(faults.smear[:, 0] > 0)
    if len(some):
        part, length, way = faults.smear[some, :, None, None].unbind(1)
        apart = x[:, None] - x
        # What a row leaves behind in the rows it is read out through; nothing of a column is lost.
        trail = torch.exp(-apart.abs() / length) * (apart * way >= 0)
        trail = trail / trail.sum(1, keepdim=True)
        expected[some] = (1 - part) * expected[some] + part * (trail @ expected[some])
    first, last, left, right = faults.sides[:, :, None, None].unbind(1)
    x, y = x[:, None], y[None, :]
    outside = (x < first) | (x > shape[0] - 1 - last) | (y < left) | (y > shape[1] - 1 - right)
    return expected.masked_fill(outside, 0.0), masked | outside


def record(counts, expected, faults: Faults, generator) -> torch.Tensor:
    """Counts (B, H, W), electrons, as they come out of the camera: with hits, clipped or wrapped, in the wrong unit.

    `expected` sets the level of what is bright. Column structure runs along rows: each column has one value.
    """
    counts = counts.clone()
    rows, columns = counts.shape[1:]
    peak = expected.amax((1, 2))
    some = _which(faults.columns > 0)
    if len(some):
        counts[some] += torch.randn(len(some), 1, columns, generator=generator) * faults.columns[some, None, None]
    pattern, number = torch.nonzero(faults.hits > 0, as_tuple=True)
    if len(pattern):
        at = [(uniform(generator, len(pattern)) * n).long() for n in (rows, columns)]
        charge = faults.hits[pattern, number] * (peak[pattern] + 10)
        for dx, dy in ((0, 0), (0, 1), (1, 0)):  # small clusters
            part = uniform(generator, len(pattern)) * (uniform(generator, len(pattern)) < (1.0 if dx == dy else 0.5))
            counts.index_put_((pattern, (at[0] + dx) % rows, (at[1] + dy) % columns), charge * part, accumulate=True)
    level = (peak * faults.saturated).clamp_min(4)[:, None, None]
    counts = torch.where(level < torch.inf, torch.minimum(counts, level), counts)
    level = (peak * faults.wrapped).clamp_min(4)[:, None, None]
    counts = torch.where(level < torch.inf, torch.fmod(counts, level), counts)
    return counts * faults.gain[:, None, None] + faults.offset[:, None, None]
