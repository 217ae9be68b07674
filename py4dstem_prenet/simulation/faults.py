"""Faults of patterns: dark direct beams, overlapping disks, Kikuchi bands, beam stops, smear, saturation and others.

Parameters are drawn in one function (`draw_faults`) and applied in four: to diffracted intensity (`diffract`), to
scattered intensity and sums of moving patterns (`scatter`), to what reaches the pixels (`shade`), and to counts
(`record`). Each fault occurs in a pattern with a small probability (`Rates`). Otherwise its parameters have a neutral
value, which changes nothing. Patterns of thick crystals, though no fault of the detector, are included.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import partial

import torch
from torch.nn.functional import conv2d, pad

from . import log_uniform, rotation_matrix, soft_disk, uniform

BAR_STOP, NEEDLE_STOP, ROUND_STOP = 0, 1, 2  # values of `BeamStop.kind`

# Largest numbers of objects in a pattern, chosen for speed.
MAX_BANDS = 4  # Kikuchi bands in a pattern
MAX_COPIES = 16  # shifted copies of a pattern in a block sum
MAX_HITS = 5  # hits by cosmic rays or X-rays in a pattern
BRAGG_ORDERS = torch.cartesian_prod(torch.arange(-3, 4), torch.arange(-3, 4)).float()  # (h, k) of added disks, (49, 2)
MAX_COPY_SHIFT_PX = 8  # largest shift of a copy, pixels: more than the descan within a block of the scan


@dataclass(frozen=True)
class Rates:
    """Probability of each fault in a pattern.

    Attributes
    ----------
    dark : float
        The direct disk is darker than in a thin specimen.
    disks : float
        Additional Bragg disks, often overlapping and brighter than the direct disk.
    bands : float
        Kikuchi bands.
    moved : float
        The pattern is a sum of shifted copies.
    stop : float
        A beam stop.
    cross : float
        A cross-shaped gap between chips.
    smear : float
        Charge left behind during read-out.
    hits : float
        Hits by cosmic rays or X-rays.
    saturated : float
        Counts are clipped.
    wrapped : float
        Counts overflow.
    gain : float
        A wrong number of counts per electron.
    offset : float
        An offset that was not subtracted.
    columns : float
        Noise that is common to each column.
    sides : float
        Rows or columns at the margin lie outside the detector.
    """

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
    """Beam stops of a batch of B patterns; lengths in pixels.

    Attributes
    ----------
    at : torch.Tensor
        Middle of the tip, (B, 2).
    angle : torch.Tensor
        Direction from the tip toward the holder, (B,), radians.
    width : torch.Tensor
        Half width, or radius of a round stop, (B,); 0 where there is no stop.
    slope : torch.Tensor
        Increase of the half width per length, for wedges, (B,).
    wire : torch.Tensor
        Half width of the wire that holds a round stop, (B,).
    soft : torch.Tensor
        Width of the blurred edge, (B,).
    leak : torch.Tensor
        Transmitted fraction, (B,).
    kind : torch.Tensor
        BAR_STOP, NEEDLE_STOP or ROUND_STOP, (B,).
    in_mask : torch.Tensor
        Whether the stop is in the user's mask, (B,), bool.
    """

    at: torch.Tensor
    angle: torch.Tensor
    width: torch.Tensor
    slope: torch.Tensor
    wire: torch.Tensor
    soft: torch.Tensor
    leak: torch.Tensor
    kind: torch.Tensor
    in_mask: torch.Tensor


@dataclass(frozen=True)
class Faults:
    """Faults of a batch of B patterns; lengths in pixels. Neutral values are given in brackets.

    Attributes
    ----------
    dark : torch.Tensor
        Factor of the direct disk, (B,) [1].
    disks : torch.Tensor
        Brightness of the disks of `BRAGG_ORDERS`, fractions of an undiffracted beam, (B, 49) [0].
    lattice : torch.Tensor
        Their two base vectors, in rows, (B, 2, 2).
    bands : torch.Tensor
        Strength [0], direction, distance from the direct beam and half width of bands, (B, MAX_BANDS, 4).
    moved : torch.Tensor
        Shifts of the copies that are summed, of zero mean, (B, MAX_COPIES, 2) [0].
    stop : BeamStop
        Beam stops.
    cross : torch.Tensor
        Middle row and column of the gap between chips, its half width [0], and the factor of counts in it, (B, 4).
    cross_in_mask : torch.Tensor
        Whether the gap is in the user's mask, (B,), bool.
    smear : torch.Tensor
        Fraction of the charge left behind [0], decay length, and direction: toward lower rows (-1), higher rows (1), or
        both (0), (B, 3).
    hits : torch.Tensor
        Brightness relative to the brightest pixel, (B, MAX_HITS) [0].
    saturated, wrapped : torch.Tensor
        Level at which counts are clipped, or start again at zero, relative to the brightest expected pixel, (B,) [inf].
    gain : torch.Tensor
        Counts per electron, (B,) [1].
    offset : torch.Tensor
        Offset, electrons, (B,) [0].
    columns : torch.Tensor
        Noise of each column, rms electrons, (B,) [0].
    sides : torch.Tensor
        Number of rows at the top and bottom, and columns at the left and right, outside the detector, (B, 4) [0].
    """

    dark: torch.Tensor
    disks: torch.Tensor
    lattice: torch.Tensor
    bands: torch.Tensor
    moved: torch.Tensor
    stop: BeamStop
    cross: torch.Tensor
    cross_in_mask: torch.Tensor
    smear: torch.Tensor
    hits: torch.Tensor
    saturated: torch.Tensor
    wrapped: torch.Tensor
    gain: torch.Tensor
    offset: torch.Tensor
    columns: torch.Tensor
    sides: torch.Tensor

    def kinds(self) -> dict:
        """Return which patterns have each fault.

        Returns
        -------
        dict
            (B,) bool by name, as in `Rates`.
        """
        return dict(dark=self.dark < 1, disks=(self.disks > 0).any(1), bands=(self.bands[..., 0] != 0).any(1),
                    moved=(self.moved != 0).flatten(1).any(1), stop=self.stop.width > 0, cross=self.cross[:, 2] > 0,
                    smear=self.smear[:, 0] > 0, hits=(self.hits > 0).any(1), saturated=self.saturated < torch.inf,
                    wrapped=self.wrapped < torch.inf, gain=self.gain != 1, offset=self.offset != 0,
                    columns=self.columns > 0, sides=(self.sides > 0).any(1))


NO_FAULTS = Rates(**{f.name: 0.0 for f in fields(Rates)})


def draw_faults(generator, origin, radius, shape, rates: Rates, can_hide=None) -> Faults:
    """Draw random faults of a batch of patterns.

    Parameters
    ----------
    generator : torch.Generator
        Source of all random numbers.
    origin : torch.Tensor
        Positions of the direct beams, (B, 2), pixels.
    radius : torch.Tensor
        Radii of the direct disks, (B,), pixels.
    shape : tuple of int
        (H, W), pixels.
    rates : Rates
        Probabilities.
    can_hide : torch.Tensor, optional
        Patterns with enough electrons to locate the origin although the direct beam is hidden, (B,), bool. Beam
        stops and missing sides occur only in these; by default in all.

    Returns
    -------
    Faults
        The faults.
    """
    batch, side = len(origin), float(max(shape))
    draw, log_draw = partial(uniform, generator, batch), partial(log_uniform, generator, batch)  # (B, *extra)

    def normal(*extra):  # numpydoc ignore=PR01,RT01
        """Draw standard normal numbers, (B, *extra)."""
        return torch.randn(batch, *extra, generator=generator)

    def has(rate, among=None):  # numpydoc ignore=PR01,RT01
        """Draw which patterns have a fault, (B,) bool."""
        chosen = draw() < rate
        return chosen if among is None else chosen & among

    def level(rate):  # numpydoc ignore=PR01,RT01
        """Draw the level of a fault, fraction of the brightest pixel; infinite for patterns without the fault, (B,)."""
        return torch.where(has(rate), log_draw(low=0.1, high=0.9), torch.inf)

    # Disks overlap where the base vectors are shorter than two radii.
    length = log_draw(2, low=0.7, high=1.4) * log_draw(1, low=1.0, high=5.0) * radius[:, None].clamp_min(1.5)
    turn = rotation_matrix(torch.cumsum(torch.stack([draw(high=2 * math.pi), draw(low=1.0, high=2.1)], 1), 1))
    lattice = turn[..., 0] * length[..., None]
    # Their brightness falls with the distance from a random point on the Laue circle, not from the direct beam.
    distance = torch.linalg.vector_norm(BRAGG_ORDERS - normal(1, 2), dim=-1) / log_draw(1, low=0.6, high=1.8)
    disks = torch.exp(-0.5 * distance**2) * log_draw(len(BRAGG_ORDERS), low=0.05, high=1.0)
    disks = disks * log_draw(1, low=0.05, high=6.0) * (BRAGG_ORDERS != 0).any(1)
    bands = torch.stack([draw(MAX_BANDS, low=-0.35, high=0.7) * (draw(MAX_BANDS) < 0.6), draw(MAX_BANDS, high=math.pi),
                         normal(MAX_BANDS) * 0.25 * side, log_draw(MAX_BANDS, low=2.0, high=0.3 * side)], -1)
    bands[..., 0] *= has(rates.bands)[:, None]
    # Shifts within a block of the scan: a line, from descan, and jitter.
    copies = (draw(MAX_COPIES, low=-1.0, high=1.0)[..., None] * normal(1, 2) + 0.4 * normal(MAX_COPIES, 2))
    repeated = torch.arange(MAX_COPIES) % draw(1, low=2, high=MAX_COPIES + 1).long()
    copies = copies.gather(1, repeated[..., None].expand(-1, -1, 2))
    copies = copies - copies.mean(1, keepdim=True)
    copies = copies / copies.abs().amax((1, 2), keepdim=True) * log_draw(1, 1, low=0.4, high=MAX_COPY_SHIFT_PX - 2)
    aimed = (draw(1) < 0.75).float()
    anywhere = draw(2) * torch.tensor([float(n) for n in shape])
    stop = BeamStop(
        at=aimed * (origin + normal(2) * 0.6 * radius[:, None]) + (1 - aimed) * anywhere,
        angle=draw(high=2 * math.pi),
        width=(radius * log_draw(low=0.3, high=3.0)).clamp(1.0, 0.2 * side) * has(rates.stop, can_hide),
        slope=draw(high=0.3) * (draw() < 0.5), wire=draw(low=0.3, high=2.0) * (draw() < 0.6),
        soft=log_draw(low=0.1, high=1.0), leak=log_draw(low=1e-3, high=0.1) * (draw() < 0.5),
        kind=draw(high=3).long(), in_mask=draw() < 0.5)
    dead = (draw() < 0.6).float()
    middle = draw(2) * torch.tensor([float(n) for n in shape])
    cross = torch.cat([middle, (log_draw(low=0.6, high=3.5) * has(rates.cross))[:, None],
                       ((1 - dead) * draw(low=1.3, high=3.0))[:, None]], 1)
    smear = torch.stack([log_draw(low=0.003, high=0.3) * has(rates.smear), log_draw(low=4.0, high=40 * side),
                         draw(high=3).long() - 1.0], 1)
    hits = log_draw(MAX_HITS, low=0.5, high=200.0) * (draw(MAX_HITS) < 0.5) * has(rates.hits)[:, None]
    outside = side * torch.where(draw(4) < 0.4, 0.49 * draw(4) ** 2, 0.0) * has(rates.sides, can_hide)[:, None]
    return Faults(
        dark=torch.where(has(rates.dark), log_draw(low=0.02, high=0.9), 1.0),
        disks=disks * has(rates.disks)[:, None], lattice=lattice, bands=bands,
        moved=copies * has(rates.moved)[:, None, None], stop=stop, cross=cross, cross_in_mask=draw() < 0.7,
        smear=smear, hits=hits, saturated=level(rates.saturated), wrapped=level(rates.wrapped),
        gain=torch.where(has(rates.gain), log_draw(low=0.2, high=5.0), 1.0),
        offset=log_draw(low=0.1, high=100.0) * has(rates.offset),
        columns=log_draw(low=0.05, high=3.0) * has(rates.columns), sides=outside)


def _which(mask):
    """Indices of the patterns for which a mask (B,) is true."""
    return torch.nonzero(mask)[:, 0]


def scatter(expected, faults: Faults, coordinates) -> torch.Tensor:
    """Add Kikuchi bands to patterns, then sum shifted copies.

    Parameters
    ----------
    expected : torch.Tensor
        Expected patterns, (B, H, W).
    faults : Faults
        Faults of the patterns.
    coordinates : torch.Tensor
        Coordinates of the pixels in the undistorted pattern, (B, H, W, 2), pixels from the direct beam.

    Returns
    -------
    torch.Tensor
        (B, H, W). The shifts have zero mean, so the origin does not change.
    """
    expected = expected.clone()
    affected = _which((faults.bands[..., 0] != 0).any(1))
    if len(affected):
        strength, direction, distance, half = faults.bands[affected][..., None, None].unbind(2)
        at = coordinates[affected, None]
        across = at[..., 0] * torch.cos(direction) + at[..., 1] * torch.sin(direction) - distance
        # A bright band with an excess line and a deficit line at its edges.
        line = torch.exp(-(((across.abs() - half) / 1.5) ** 2)) * across.sign()
        band = strength * (torch.sigmoid(half - across.abs()) + 0.7 * line)
        expected[affected] *= (1 + band.sum(1)).clamp_min(0.1)
    affected = _which((faults.moved != 0).flatten(1).any(1))
    if len(affected):
        axis = torch.arange(-MAX_COPY_SHIFT_PX, MAX_COPY_SHIFT_PX + 1)
        near = (1 - (axis - faults.moved[affected][..., None]).abs()).clamp_min(0)  # bilinear, (k, MAX_COPIES, 2, taps)
        # conv2d correlates, so the weight of a copy shifted by +1 lies at -1.
        kernel = torch.einsum("kcx,kcy->kxy", near[:, :, 0], near[:, :, 1]).flip(1, 2) / MAX_COPIES
        padded = pad(expected[affected][None], (MAX_COPY_SHIFT_PX,) * 4, mode="replicate")
        expected[affected] = conv2d(padded, kernel[:, None], groups=len(affected))[0]
    return expected


def diffract(expected, faults: Faults, coordinates, radius) -> torch.Tensor:
    """Change the disks of patterns as in thicker crystals: a dimmed direct disk, and additional Bragg disks.

    Parameters
    ----------
    expected : torch.Tensor
        Expected patterns, (B, H, W), fractions of the beam.
    faults : Faults
        Faults of the patterns.
    coordinates : torch.Tensor
        Coordinates of the pixels in the undistorted pattern, (B, H, W, 2), pixels from the direct beam.
    radius : torch.Tensor
        Radii of the direct disks, (B,), pixels.

    Returns
    -------
    torch.Tensor
        (B, H, W), fractions of the beam.
    """
    expected = expected.clone()
    affected = _which(faults.dark < 1)
    if len(affected):
        # The dimmed area exceeds the disk by 0.8 px, so that its blurred edge is dimmed, too.
        inside = torch.linalg.vector_norm(coordinates[affected], dim=-1) < radius[affected, None, None] + 0.8
        expected[affected] *= torch.where(inside, faults.dark[affected, None, None], 1.0)
    for k in _which((faults.disks > 0).any(1)).tolist():
        at = BRAGG_ORDERS @ faults.lattice[k]
        relative = coordinates[k] - at[:, None, None]
        disks = soft_disk(relative, radius[k].expand(len(at)), torch.full((len(at),), 0.4))
        expected[k] += torch.einsum("s,shw->hw", faults.disks[k], disks) / (torch.pi * radius[k] ** 2)
    return expected


def stop_distance(stop: BeamStop, indices, shape) -> torch.Tensor:
    """Return the distance of each pixel from the edge of beam stops.

    Parameters
    ----------
    stop : BeamStop
        Beam stops.
    indices : torch.Tensor
        Indices of the patterns, (k,).
    shape : tuple of int
        (H, W), pixels.

    Returns
    -------
    torch.Tensor
        (k, H, W), pixels; negative behind the stop.
    """
    angle, kind, width, slope, wire = (getattr(stop, name)[indices, None, None]
                                       for name in ("angle", "kind", "width", "slope", "wire"))
    x = torch.arange(shape[0])[:, None] - stop.at[indices, 0, None, None]
    y = torch.arange(shape[1])[None, :] - stop.at[indices, 1, None, None]
    c, s = torch.cos(angle), torch.sin(angle)
    along, across = x * c + y * s, (y * c - x * s).abs()
    tip = torch.hypot(along, across) - width
    flank = across - width - slope * along
    needle = torch.where(along > 0, flank, tip)
    holder = torch.where((along > 0) & (wire > 0), torch.minimum(tip, across - wire), tip)
    return torch.where(kind == BAR_STOP, across - width, torch.where(kind == NEEDLE_STOP, needle, holder))


def shade(expected, faults: Faults) -> tuple[torch.Tensor, torch.Tensor]:
    """Shade patterns by beam stops, gaps between chips and the limits of the detector, and smear them.

    Parameters
    ----------
    expected : torch.Tensor
        Expected patterns, (B, H, W).
    faults : Faults
        Faults of the patterns.

    Returns
    -------
    shaded : torch.Tensor
        Expected patterns, (B, H, W).
    masked : torch.Tensor
        Pixels that a user would mark as bad, (B, H, W), bool.
    """
    expected = expected.clone()
    shape = expected.shape[1:]
    masked = torch.zeros(expected.shape, dtype=torch.bool)
    x, y = (torch.arange(n) for n in shape)
    affected = _which(faults.stop.width > 0)
    if len(affected):
        distance = stop_distance(faults.stop, affected, shape)
        leak, soft = faults.stop.leak[affected, None, None], faults.stop.soft[affected, None, None]
        expected[affected] *= leak + (1 - leak) * torch.sigmoid(distance / soft)
        masked[affected] |= (distance < 2 * soft) & faults.stop.in_mask[affected, None, None]
    affected = _which(faults.cross[:, 2] > 0)
    if len(affected):
        row, column, half, factor = faults.cross[affected, :, None, None].unbind(1)
        gap = ((x[:, None] - row).abs() < half) | ((y - column).abs() < half)
        expected[affected] = torch.where(gap, expected[affected] * factor, expected[affected])
        masked[affected] |= gap & faults.cross_in_mask[affected, None, None]
    affected = _which(faults.smear[:, 0] > 0)
    if len(affected):
        fraction, length, direction = faults.smear[affected, :, None, None].unbind(1)
        distance = x[:, None] - x
        # Each row leaves charge in the rows through which it is read out; the sum of each column is conserved.
        trail = torch.exp(-distance.abs() / length) * (distance * direction >= 0)
        trail = trail / trail.sum(1, keepdim=True)
        expected[affected] = (1 - fraction) * expected[affected] + fraction * (trail @ expected[affected])
    first, last, left, right = faults.sides[:, :, None, None].unbind(1)
    x, y = x[:, None], y[None, :]
    outside = (x < first) | (x > shape[0] - 1 - last) | (y < left) | (y > shape[1] - 1 - right)
    return expected.masked_fill(outside, 0.0), masked | outside


def record(counts, expected, faults: Faults, generator) -> torch.Tensor:
    """Apply faults of the read-out to counts: column noise, hits, clipping, overflow, and a wrong unit.

    Parameters
    ----------
    counts : torch.Tensor
        Electrons, (B, H, W).
    expected : torch.Tensor
        Expected electrons, (B, H, W); their maximum is the reference of levels.
    faults : Faults
        Faults of the patterns.
    generator : torch.Generator
        Source of all random numbers.

    Returns
    -------
    torch.Tensor
        Counts, (B, H, W).
    """
    counts = counts.clone()
    rows, columns = counts.shape[1:]
    peak = expected.amax((1, 2))
    affected = _which(faults.columns > 0)
    if len(affected):
        noise = torch.randn(len(affected), 1, columns, generator=generator)
        counts[affected] += noise * faults.columns[affected, None, None]
    pattern, number = torch.nonzero(faults.hits > 0, as_tuple=True)
    if len(pattern):
        at = [(uniform(generator, len(pattern)) * n).long() for n in (rows, columns)]
        charge = faults.hits[pattern, number] * (peak[pattern] + 10)
        for dx, dy in ((0, 0), (0, 1), (1, 0)):  # a hit is a cluster of up to three pixels
            share = uniform(generator, len(pattern)) * (uniform(generator, len(pattern)) < (1.0 if dx == dy else 0.5))
            counts.index_put_((pattern, (at[0] + dx) % rows, (at[1] + dy) % columns), charge * share, accumulate=True)
    level = (peak * faults.saturated).clamp_min(4)[:, None, None]
    counts = torch.where(level < torch.inf, torch.minimum(counts, level), counts)
    level = (peak * faults.wrapped).clamp_min(4)[:, None, None]
    counts = torch.where(level < torch.inf, torch.fmod(counts, level), counts)
    return counts * faults.gain[:, None, None] + faults.offset[:, None, None]
