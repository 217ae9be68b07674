"""Faults of the scans of the world: each function changes the state of a case that is being made.

Faults of the order of acquisition act on the positions of the beam, those of the optics on expected patterns, and those
of the detector on what was counted.
"""

from __future__ import annotations

import numpy as np

from . import draw_descan

FULL_SCALES = {65535: "uint16", 2**32 - 1: "uint32", -1: "int32"}


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


def _spoil_frames(state, count, value, first_row=0):
    """Set some frames to a value, from a row on."""
    at = state.rng.choice(state.good.size, count, replace=False)
    state.data.reshape(-1, *state.case.shape)[at, first_row:] = value
    state.good.ravel()[at] = False


def _lost_frames(state):
    _spoil_frames(state, int(state.rng.integers(1, 6)), 0)


def _saturated_frames(state):
    _spoil_frames(state, 2, state.data.max())


def _duplicated(state):
    flat = state.data.reshape(-1, *state.case.shape)
    for at in state.rng.choice(np.arange(1, state.good.size), 3, replace=False):
        flat[at] = flat[at - 1]
        state.q.reshape(2, -1)[:, at] = state.q.reshape(2, -1)[:, at - 1]


def _cut_frames(state):
    _spoil_frames(state, 3, 0, state.case.shape[0] // 2)


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
FAULT_STAGES = (_ORDER, _OPTICS, _DETECTOR)
FAULTS = {**_ORDER, **_OPTICS, **_DETECTOR}  # name: function that changes a case
