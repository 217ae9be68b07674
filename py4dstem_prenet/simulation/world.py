"""The world of scans: specimens, optics, detectors and faults of acquisition, all random and with truth.

A case is drawn first (`draw_case`): plain numbers and the names of its faults (`world_faults`). It is made from them
afterward (`make_case`), with a history of what was done. Patterns are sums of soft disks, rings and a background rather
than multislice patterns, so that a hundred scans take a minute.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.special import erfc

from . import FAULT_STAGES, FAULTS, draw_descan, voronoi_grains

SPECIMENS = ("vacuum", "crystal", "grains", "glass", "mixed")


@dataclass(frozen=True)
class Case:
    """A scan of the world before it is made; lengths in pixels.

    Attributes
    ----------
    seed : int
        Seed of all random numbers.
    scan, shape : tuple of int
        (Rx, Ry) and (Qx, Qy).
    specimen : str
        One of SPECIMENS.
    radius, blur : float
        Of the disks, and of their edges (1 sigma).
    dose : float
        Electrons per pattern.
    direct : float
        Part of them in the direct beam.
    descan : float
        Amplitude of the descan.
    camera : tuple of float or None
        Gain, offset and read-out noise in detector units; None for counts.
    faults : tuple of str
        Names of `FAULTS`.
    """

    seed: int
    scan: tuple
    shape: tuple
    specimen: str
    radius: float
    blur: float
    dose: float
    direct: float
    descan: float
    camera: tuple | None
    faults: tuple


@dataclass
class Made:
    """A case that was made.

    Attributes
    ----------
    data : numpy.ndarray
        (Rx, Ry, Qx, Qy), detector units.
    mask : numpy.ndarray or None
        What a user would pass as mask.
    truth : dict
        qx0, qy0: the origins, (Rx, Ry), pixels; good: frames that show them, (Rx, Ry) bool; gain, offset, readout.
    determinable : bool
        Whether the origin can be determined; if not, it has to be refused, or right.
    history : list of str
        What was done.
    """

    data: np.ndarray
    mask: np.ndarray | None
    truth: dict
    determinable: bool = True
    history: list = field(default_factory=list)


# --- drawing ---------------------------------------------------------------------------------------
def draw_case(seed: int, fault: str | None = None) -> Case:
    """Draw a random case.

    Parameters
    ----------
    seed : int
        Its seed.
    fault : str, optional
        A name of `FAULTS`, or "none"; random by default.

    Returns
    -------
    Case
        The case.

    Examples
    --------
    >>> from py4dstem_prenet.simulation import draw_case
    >>> draw_case(3) == draw_case(3), draw_case(3, "snake").faults
    (True, ('snake',))
    """
    rng = np.random.default_rng((seed, 21))
    names = ("none", "none", *FAULTS)
    chosen = names[rng.integers(len(names))]
    chosen = chosen if fault is None else fault
    scan = tuple(int(n) for n in rng.integers(8, 13, 2))
    shape = tuple(int(n) for n in rng.choice([80, 96, 112, 128], 2))
    radius = float(np.exp(rng.uniform(np.log(2.5), np.log(9.0))))
    camera = (float(np.exp(rng.uniform(np.log(5), np.log(100)))), float(rng.choice([0.0, 100.0, 500.0])), 0.0)
    camera = (*camera[:2], camera[0] * float(rng.uniform(0.1, 0.6)))
    return Case(seed, scan, shape, str(rng.choice(SPECIMENS)), radius, float(rng.uniform(0.25, 0.7)),
                float(np.exp(rng.uniform(np.log(200), np.log(50_000)))), float(rng.uniform(0.3, 0.8)),
                float(rng.uniform(0.3, 4.0)), camera if rng.random() < 0.3 else None,
                () if chosen == "none" else (chosen,))


# --- making ----------------------------------------------------------------------------------------
@dataclass
class _State:
    """What the faults change: positions of the beam, frames, expected patterns, and what was counted."""

    rng: np.random.Generator
    case: Case
    q: np.ndarray  # (2, Rx, Ry)
    dose: np.ndarray  # (Rx, Ry)
    grain: np.ndarray  # (Rx, Ry)
    good: np.ndarray  # (Rx, Ry) bool
    radius: float
    expected: np.ndarray | None = None  # (Rx, Ry, Qx, Qy)
    data: np.ndarray | None = None
    mask: np.ndarray | None = None
    camera: tuple | None = None
    aperture: str = "round"
    determinable: bool = True
    history: list = field(default_factory=list)

    @property
    def middle(self):
        """Median position of the beam, whole pixels."""
        return [int(np.clip(round(float(np.median(a))), 0, n - 1)) for a, n in zip(self.q, self.case.shape,
                                                                                   strict=True)]

    def tell(self, **numbers):
        """Add numbers to the history."""
        self.history.append(", ".join(f"{key} {value}" for key, value in numbers.items()))


def make_case(case: Case) -> Made:
    """Make a case.

    Parameters
    ----------
    case : Case
        What was drawn.

    Returns
    -------
    Made
        Data, mask and truth.

    Examples
    --------
    >>> from py4dstem_prenet.simulation import draw_case, make_case
    >>> made = make_case(draw_case(0, "lost_frames"))
    >>> made.data.shape[:2] == made.truth["qx0"].shape, bool(made.truth["good"].all())
    (True, False)
    """
    rng = np.random.default_rng((case.seed, 22))
    q = np.stack([(n - 1) / 2 + rng.uniform(-0.06, 0.06) * n + draw_descan(rng, case.scan, case.descan)
                  for n in case.shape])
    seeds = rng.random((max(3, case.scan[0] * case.scan[1] // 15), 2)) * case.scan
    grain = voronoi_grains(case.scan, seeds)
    grain = grain if case.specimen in ("grains", "mixed") else 0 * grain
    state = _State(rng, case, q, np.full(case.scan, case.dose), grain, np.ones(case.scan, bool), case.radius,
                   camera=case.camera)
    stages = [[FAULTS[name] for name in case.faults if name in stage] for stage in FAULT_STAGES]
    for fault in stages[0]:
        fault(state)
    state.expected = _patterns(state)
    for fault in stages[1]:
        fault(state)
    _count(state)
    for fault in stages[2]:
        fault(state)
    gain, offset, readout = state.camera or (1.0, 0.0, 0.0)
    truth = dict(qx0=state.q[0], qy0=state.q[1], good=state.good, gain=gain, offset=offset, readout=readout)
    return Made(state.data, state.mask, truth, state.determinable, [*case.faults, *state.history])


def _patterns(state):
    """Expected electrons, (Rx, Ry, Qx, Qy)."""
    case, rng = state.case, state.rng
    x, y = (np.arange(n, dtype=np.float32) for n in case.shape)
    radius = state.radius
    lattices = [_lattice(rng, radius, case) for _ in range(int(state.grain.max()) + 1)]
    ring = rng.uniform(2.5, 5.0) * max(radius, 6.0)
    width = rng.uniform(0.1, 0.25) * ring
    out = np.empty((*case.scan, *case.shape), np.float32)
    crystal = case.specimen in ("crystal", "grains", "mixed")
    for i, j in np.ndindex(*case.scan):
        cx, cy = state.q[:, i, j]
        dx, dy = x[:, None] - cx, y[None] - cy
        distance = np.hypot(dx, dy)
        pattern = np.zeros(case.shape, np.float32)
        rest = 1 - case.direct if case.specimen != "vacuum" else 0.03
        vectors, weights, slope = lattices[state.grain[i, j]]
        if crystal:
            share = rest * (0.7 if case.specimen != "mixed" else 0.4)
            for (gx, gy), weight in zip(vectors, weights, strict=True):
                pattern += _disk(dx - gx, dy - gy, radius, case.blur, state.aperture) * (share * weight)
            rest -= share
        if case.specimen in ("glass", "mixed"):
            halo = np.exp(-(((distance - ring) / width) ** 2) / 2)
            pattern += halo * (0.8 * rest / halo.sum())
            rest *= 0.2
        background = 1 / (1 + (distance / (3 * max(radius, 4.0))) ** 2) ** 1.5
        pattern += background * (rest / background.sum())
        uneven = 1 + np.clip((slope[0] * dx + slope[1] * dy) / radius, -0.5, 0.5)
        direct = case.direct if case.specimen != "vacuum" else 0.97
        pattern += _disk(dx, dy, radius, case.blur, state.aperture) * (direct * uneven)
        out[i, j] = pattern * state.dose[i, j]
    return out


def _disk(dx, dy, radius, blur, aperture):
    """A soft disk with a sum of about 1; a round one, or with the bars of a bullseye or serrated aperture."""
    distance = np.hypot(dx, dy)
    if aperture == "serrated":
        radius = radius * (1 + 0.08 * np.sign(np.sin(16 * np.arctan2(dy, dx))))
    disk = 0.5 * erfc((distance - radius) / (blur * 2**0.5)) / (np.pi * np.square(radius))
    if aperture == "bullseye":
        disk = disk * (1 + 0.8 * np.cos(2 * np.pi * 2.5 * distance / radius))
    if aperture == "precession":
        disk = disk * (distance > 0.75 * radius) / (1 - 0.75**2)
    return disk.astype(np.float32)


def _lattice(rng, radius, case):
    """Disks of a crystal: vectors (k, 2), parts of the diffracted electrons (k,), and the slope of the direct disk."""
    length = rng.uniform(2.3, 4.5) * max(radius, 3.0) * rng.uniform(1, 1.4, 2)
    angle = rng.uniform(0, np.pi) + np.array([0.0, rng.uniform(1.0, 2.1)])
    base = length[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    orders = np.array([(h, k) for h in range(-2, 3) for k in range(-2, 3) if h or k])
    vectors = orders @ base
    weights = np.exp(-np.hypot(*(orders - rng.normal(0, 0.7, 2)).T) / rng.uniform(0.6, 1.5))
    weights = weights * rng.uniform(0.1, 1.0, len(orders))
    uneven = rng.uniform(-0.15, 0.15, 2) if case.specimen in ("crystal", "grains") else np.zeros(2)
    return vectors, weights / weights.sum(), uneven


def _count(state):
    """Count electrons, and read them out."""
    counts = state.rng.poisson(state.expected.clip(0))
    if state.camera is None:
        state.data = counts.astype(np.uint16 if counts.max() < 2**16 else np.uint32)
        return
    gain, offset, readout = state.camera
    values = gain * counts + offset + state.rng.normal(0, readout, counts.shape)
    state.data = values.astype(np.float32)
