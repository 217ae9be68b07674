"""The world of scans: specimens, optics, detectors and faults of acquisition, all random and with truth.

A case is drawn first (`draw_case`): plain numbers and the names of its faults. It is made from them afterward
(`make_case`), with a history of what was done. Patterns are sums of soft disks, rings and a background rather than
multislice patterns, so that a hundred scans take a minute. Faults of the order of acquisition act on the positions of
the beam, those of the optics on expected patterns, and those of the detector on what was counted.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.special import erfc

from . import draw_descan

SPECIMENS = ("vacuum", "crystal", "grains", "glass", "mixed")
FULL_SCALES = {65535: "uint16", 2**32 - 1: "uint32", -1: "int32"}


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
        Electrons a pattern.
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
    at = np.stack(np.meshgrid(*map(np.arange, case.scan), indexing="ij"), -1)
    grain = np.argmin(((at[:, :, None] - seeds) ** 2).sum(-1), -1)
    grain = grain if case.specimen in ("grains", "mixed") else 0 * grain
    state = _State(rng, case, q, np.full(case.scan, case.dose), grain, np.ones(case.scan, bool), case.radius,
                   camera=case.camera)
    stages = [[FAULTS[name] for name in case.faults if name in stage] for stage in _STAGES]
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


# --- faults of the order of acquisition -------------------------------------------------------------
def _resampled(state, index, columns):
    """Frames at places `index` of a longer scan, in rows of `columns`."""
    rows = int(index.max()) // columns + 1
    case = state.case
    u, v = np.divmod(index, columns)
    grid = np.stack([(n - 1) / 2 + draw_descan(state.rng, (rows, columns), max(case.descan, 1.0))
                     for n in case.shape])
    state.q = grid[:, u, v].reshape(2, *case.scan)
    state.grain = state.grain if state.grain.max() == 0 else np.minimum(u, case.scan[0] - 1).reshape(case.scan) // 2


def _snake(state):
    for a in (state.q[0], state.q[1], state.grain):
        a[1::2] = a[1::2, ::-1].copy()


def _frames_late(state):
    count, columns = int(state.rng.integers(1, 4)), state.case.scan[1]
    size = state.good.size
    _resampled(state, np.arange(size) + columns - count, columns)
    state.tell(count=count)


def _frames_dropped(state):
    size, columns = state.good.size, state.case.scan[1]
    at, count = int(state.rng.integers(size // 3, 2 * size // 3)), int(state.rng.integers(1, 4))
    index = np.arange(size)
    _resampled(state, index + count * (index >= at), columns)
    state.tell(at=at, count=count)


def _row_length(state):
    change = int(state.rng.choice([-1, 1]))
    _resampled(state, np.arange(state.good.size), state.case.scan[1] + change)
    state.tell(change=change)


def _flyback_columns(state):
    count = int(state.rng.integers(1, 3))
    for k in range(count):  # on the way back to the start of the row
        part = (k + 1) / (count + 1)
        state.q[:, :, -count + k] = (1 - part) * state.q[:, :, -count - 1] + part * state.q[:, :, 0]
    state.tell(count=count)


def _jumps(state):
    size, each = state.good.size, int(state.rng.integers(2, 6))
    level = state.rng.uniform(-4, 4, (2, -(-size // each))).repeat(each, 1)[:, :size]
    state.q = state.q + level.reshape(state.q.shape)
    state.tell(each=each)


def _row_jumps(state):
    state.q = state.q + state.rng.uniform(-4, 4, (2, len(state.good), 1))


def _centered(state):
    u, v = np.meshgrid(*(np.linspace(-1, 1, n) for n in state.case.scan), indexing="ij")
    slope = state.rng.uniform(-12, 12, (2, 2))
    slow = np.stack([slope[k, 0] * u + slope[k, 1] * v for k in (0, 1)])
    state.q = np.rint(state.q.mean((1, 2)))[:, None, None] + slow - np.rint(slow)


def _beam_off(state):
    size = state.good.size
    first = int(state.rng.integers(0, size // 2))
    off = slice(first, first + int(state.rng.integers(3, size // 3)))
    state.dose.ravel()[off] = 0
    state.good.ravel()[off] = False


def _drift(state):
    state.dose = state.dose * np.linspace(1, state.rng.uniform(0.3, 2.0), state.good.size).reshape(state.good.shape)


# --- faults of the optics ---------------------------------------------------------------------------
def _spots(state):
    state.radius = float(state.rng.uniform(0.7, 1.5))


def _large_disk(state):
    state.radius = 0.2 * min(state.case.shape)


def _bullseye(state):
    state.aperture, state.radius = "bullseye", max(state.radius, 6.0)


def _serrated(state):
    state.aperture, state.radius = "serrated", max(state.radius, 5.0)


def _precession(state):
    state.aperture, state.radius = "precession", max(state.radius, 6.0)


def _bright(state):
    state.dose = 0 * state.dose + 10 ** state.rng.uniform(5, 6)


def _sparse(state):
    state.dose = 0 * state.dose + state.rng.uniform(8, 40)
    state.camera = None  # event detectors


def _cut(state):
    axis, side = state.rng.integers(0, 2, 2)
    shift = state.radius * state.rng.uniform(-0.2, 0.9)
    at = shift if side == 0 else state.case.shape[axis] - 1 - shift
    state.q[axis] += at - state.q[axis].mean()
    state.determinable = False
    state.tell(inside=round(shift / state.radius, 2))


def _swapped(state):
    state.expected = np.fft.ifftshift(state.expected, axes=(2, 3))
    state.determinable = False
    state.good[:] = True
    state.q = np.stack([np.where(q > n / 2, q - n / 2, q + n / 2) for q, n in zip(state.q, state.case.shape,
                                                                                  strict=True)])


def _stop(state, masked):
    rng, shape = state.rng, state.case.shape
    x, y = np.indices(shape)
    mx, my = state.middle
    width = state.radius * rng.uniform(0.4, 1.3)
    angle = rng.uniform(0, 2 * np.pi)
    along = (x - mx) * np.cos(angle) + (y - my) * np.sin(angle)
    across = (y - my) * np.cos(angle) - (x - mx) * np.sin(angle)
    hidden = (np.abs(across) < width) & (along > -width)
    state.expected = state.expected * np.where(hidden, 1e-3, 1.0).astype(np.float32)
    state.mask = ~hidden if masked else None
    state.determinable = False
    state.tell(width=round(width / state.radius, 2))


def _stop_masked(state):
    _stop(state, True)


def _stop_unmasked(state):
    _stop(state, False)


# --- faults of the detector -------------------------------------------------------------------------
def _part(state, near):
    """A random part of the detector: pixels, rows, columns or a block, (Qx, Qy) bool."""
    rng, shape = state.rng, state.case.shape
    part = np.zeros(shape, bool)
    kind = rng.choice(["pixels", "rows", "columns", "block"])
    at = [m + int(rng.integers(-3, 4)) for m in state.middle] if near else [int(rng.integers(3, n - 6)) for n in shape]
    size = int(rng.integers(1, 4))
    if kind == "pixels":
        part[tuple(rng.integers(0, n, 12) for n in shape)] = True
    elif kind == "rows":
        part[at[0] : at[0] + size] = True
    elif kind == "columns":
        part[:, at[1] : at[1] + size] = True
    else:
        part[at[0] : at[0] + size + 2, at[1] : at[1] + size + 2] = True
    state.tell(part=str(kind), near=bool(near))
    return part


def _full_scale(state):
    value = int(state.rng.choice(list(FULL_SCALES)))
    part = _part(state, state.rng.random() < 0.5)
    values = np.rint(state.data).clip(0) if state.camera else state.data
    state.data = values.clip(max=60000).astype(FULL_SCALES[value])
    state.data[:, :, part] = value
    state.tell(value=value)


def _dead_lines(state):
    at = [m + int(state.rng.integers(-4, 5)) for m in state.middle]
    size = int(state.rng.integers(1, 5))
    state.data[:, :, at[0] : at[0] + size] = state.camera[1] if state.camera else 0


def _hot_pixels(state):
    count = int(state.rng.integers(5, 30))
    part = tuple(state.rng.integers(0, n, count) for n in state.case.shape)
    top = state.data.max() - np.median(state.data)
    extra = top * state.rng.uniform(0.3, 3, count)
    state.data[(slice(None), slice(None), *part)] += extra.astype(state.data.dtype)


def _hot_clusters(state):
    top = state.data.max() - np.median(state.data)
    for _ in range(int(state.rng.integers(1, 4))):
        at, size = [int(state.rng.integers(2, n - 6)) for n in state.case.shape], int(state.rng.integers(2, 5))
        extra = top * state.rng.uniform(0.3, 1.5, (size, size))
        state.data[:, :, at[0] : at[0] + size, at[1] : at[1] + size] += extra.astype(state.data.dtype)


def _interpolated(state):
    first, size = state.middle[0] + int(state.rng.integers(-5, 4)), int(state.rng.integers(1, 5))
    t = (np.arange(size) + 1)[:, None] / (size + 1)
    a, b = (state.data[:, :, k : k + 1].astype(np.float32) for k in (first - 1, first + size))
    state.data = state.data.astype(np.float32)
    state.data[:, :, first : first + size] = a * (1 - t) + b * t


def _wide(state):
    at = int(np.clip(state.middle[0] + state.rng.integers(-20, 21), 6, state.case.shape[0] - 8))
    offset = state.camera[1] if state.camera else 0
    state.data[:, :, at : at + 2] = (state.data[:, :, at : at + 2] - offset) * 2 + offset


def _lost_frames(state):
    at = state.rng.choice(state.good.size, int(state.rng.integers(1, 6)), replace=False)
    flat = state.data.reshape(-1, *state.case.shape)
    flat[at] = 0
    state.good.ravel()[at] = False


def _saturated_frames(state):
    at = state.rng.choice(state.good.size, 2, replace=False)
    flat = state.data.reshape(-1, *state.case.shape)
    flat[at] = state.data.max()
    state.good.ravel()[at] = False


def _duplicated(state):
    flat = state.data.reshape(-1, *state.case.shape)
    for at in state.rng.choice(np.arange(1, state.good.size), 3, replace=False):
        flat[at] = flat[at - 1]
        state.q.reshape(2, -1)[:, at] = state.q.reshape(2, -1)[:, at - 1]


def _cut_frames(state):
    at = state.rng.choice(state.good.size, 3, replace=False)
    flat = state.data.reshape(-1, *state.case.shape)
    flat[at, state.case.shape[0] // 2 :] = 0
    state.good.ravel()[at] = False


def _hits(state):
    gain, shape = (state.camera or (1.0,))[0], state.data.shape
    kind = state.data.dtype
    wide = state.data.astype(np.float64)
    for _ in range(int(state.rng.integers(10, 120))):
        wide[tuple(state.rng.integers(0, n) for n in shape)] += gain * state.rng.uniform(100, 1000)
    state.data = wide.astype(kind) if kind.kind == "f" else wide.clip(max=np.iinfo(kind).max).astype(kind)


def _afterglow(state):
    """Each frame keeps a part of the one before: scintillators, and slow read-out."""
    part = state.rng.uniform(0.03, 0.2)
    offset = state.camera[1] if state.camera else 0
    flat = state.data.reshape(-1, *state.case.shape)
    last = flat[0].astype(np.float64) - offset
    for k in range(1, len(flat)):
        last = flat[k] + part * last - offset
        flat[k] = last + offset if state.camera else np.rint(last)
    state.tell(part=round(float(part), 2))


def _module_gain(state):
    """One half of the detector, with its seam near the beam, has another gain."""
    seam, gain = state.middle[0] + int(state.rng.integers(-4, 5)), state.rng.uniform(0.6, 0.95)
    offset = state.camera[1] if state.camera else 0
    values = (state.data[:, :, seam:].astype(np.float64) - offset) * gain + offset
    state.data[:, :, seam:] = values if state.camera else np.rint(values)
    state.tell(seam=seam, gain=round(float(gain), 2))


def _crosstalk(state):
    """A part of each pixel's value appears in its four neighbors as well."""
    part = state.rng.uniform(0.01, 0.06)
    offset = state.camera[1] if state.camera else 0
    values = state.data.astype(np.float64) - offset
    mixed = values + part * (np.roll(values, 1, 2) + np.roll(values, -1, 2)
                             + np.roll(values, 1, 3) + np.roll(values, -1, 3)) + offset
    state.data = (mixed if state.camera else np.rint(mixed)).astype(state.data.dtype)
    state.tell(part=round(float(part), 3))


def _reflection(state):
    """A wide spot of stray light that stays on the detector, a few times as bright as diffuse scattering."""
    at = state.rng.uniform(0.15, 0.85, 2) * state.case.shape
    width = state.rng.uniform(0.04, 0.08) * max(state.case.shape)
    x, y = np.indices(state.case.shape)
    spot = np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / (2 * width**2))
    gain, offset = state.camera[:2] if state.camera else (1.0, 0.0)
    top = np.quantile((state.data - offset) / gain, 0.999)
    added = gain * state.rng.poisson(np.broadcast_to(state.rng.uniform(0.02, 0.2) * top * spot, state.data.shape))
    state.data = (state.data + added).astype(state.data.dtype)


def _clipped_8_bits(state):
    state.data = np.rint(state.data).clip(0, 255).astype(np.uint8)
    # An offset of 500 leaves nothing but the largest value.
    state.determinable &= bool((state.data < 255).mean() > 0.5)


def _gamma(state):
    state.data = state.data.clip(0).astype(np.float32) ** np.float32(state.rng.uniform(0.5, 0.8))


def _logarithm(state):
    state.data = np.log1p(state.data.clip(0).astype(np.float32))


def _units(state):
    state.data = (state.data / np.float32(state.data.max())).astype(np.float32)


def _mask_inverted(state):
    bad = state.rng.random(state.case.shape) < 0.01
    state.data[:, :, bad] = 0
    state.mask, state.determinable = bad, False


_ORDER = dict(snake=_snake, frames_late=_frames_late, frames_dropped=_frames_dropped, row_length=_row_length,
              flyback_columns=_flyback_columns, jumps=_jumps, row_jumps=_row_jumps, centered=_centered,
              beam_off=_beam_off, drift=_drift, spots=_spots, bullseye=_bullseye, serrated=_serrated,
              precession=_precession, bright=_bright, large_disk=_large_disk, sparse=_sparse, cut=_cut)
_OPTICS = dict(swapped=_swapped, stop_masked=_stop_masked, stop_unmasked=_stop_unmasked)
_DETECTOR = dict(full_scale=_full_scale, dead_lines=_dead_lines, hot_pixels=_hot_pixels, hot_clusters=_hot_clusters,
                 interpolated=_interpolated, wide=_wide, lost_frames=_lost_frames, saturated_frames=_saturated_frames,
                 duplicated=_duplicated, cut_frames=_cut_frames, hits=_hits, clipped_8_bits=_clipped_8_bits,
                 gamma=_gamma, logarithm=_logarithm, units=_units, mask_inverted=_mask_inverted,
                 afterglow=_afterglow, module_gain=_module_gain, crosstalk=_crosstalk, reflection=_reflection)
_STAGES = (_ORDER, _OPTICS, _DETECTOR)
FAULTS = {**_ORDER, **_OPTICS, **_DETECTOR}  # name: function that changes a case
