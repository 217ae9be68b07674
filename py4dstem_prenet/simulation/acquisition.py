"""Simulation of an acquisition: a file that grows at a given rate, with descan, dose and, optionally, a fault.

It serves tests, demonstrations and benchmarks of the live calibration. To keep up with a fast detector, nothing is
simulated while the scan runs. Beforehand, a cloud of electron positions is drawn from each of a few clean patterns; an
exposure is a section of such a cloud, shifted by the exact origin and binned to pixels. Exposures of the same specimen
may share electrons, so averages over many exposures have slightly less noise than Poisson statistics.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np
import torch

from ..core import PrenetError, ellipse_matrix
from ..io import check_output
from . import draw_descan, make_bank, project, rotation_matrix

ACQUISITION_FAULTS = ("beam-loss", "jump", "saturation")  # values of `Acquisition.fault`
BEAM_JUMP_PX = (7.0, -4.0)  # shift of the beam by the fault "jump", pixels
# Clean patterns, and the electrons drawn from them; chosen for a few seconds of preparation.
CLOUD_ELECTRONS = 2**17  # electron positions drawn from each clean pattern
CLOUDS, CLOUD_SPECIMENS = 24, 6  # number of clean patterns, and of the specimens that they show
MIN_TRANSMISSION = 0.9  # electrons in a clean pattern, fraction of the beam; less in specimens without a visible beam
CLOUD_SAMPLES_PER_PX = 2  # samples per pixel of the intensity from which electrons are drawn
CLOUD_MARGIN_PX = 24  # margin of that intensity beyond the detector, pixels: more than descan and jump
HDF5_SUFFIXES = (".h5", ".hdf5")


@dataclass(frozen=True)
class Acquisition:
    """A scan to be acquired; the seed determines all of it.

    Attributes
    ----------
    scan : tuple of int
        (Rx, Ry).
    shape : tuple of int
        (Qx, Qy), pixels, at least 32.
    dose : float
        Electrons in the whole beam, per pattern.
    seed : int
        Seed of all random numbers.
    ratio, theta : float
        a / b and angle (radians) of the ellipse.
    amplitude : float
        Amplitude of the descan, pixels.
    fault : {None, "beam-loss", "jump", "saturation"}
        What happens during the scan: the beam is lost, it jumps by `BEAM_JUMP_PX`, or the detector saturates at half
        the counts of the brightest pixels of the direct beam.
    at : float
        Fraction of the scan after which the fault occurs.

    Examples
    --------
    >>> acquisition = Acquisition((4, 4), fault="beam-loss", at=0.5)
    >>> acquisition.faulty_from
    8
    """

    scan: tuple[int, int]
    shape: tuple[int, int] = (128, 128)
    dose: float = 3000.0
    seed: int = 0
    ratio: float = 1.03
    theta: float = 0.5
    amplitude: float = 3.0
    fault: str | None = None
    at: float = 0.5

    def __post_init__(self):
        if self.fault is not None and self.fault not in ACQUISITION_FAULTS:
            raise PrenetError(f"The fault {self.fault!r} is unknown; take one of {', '.join(ACQUISITION_FAULTS)}.")
        if not self.dose > 0 or min(self.shape) < 32:
            raise PrenetError("An acquisition needs a positive dose, and patterns of 32 x 32 pixels or more.")

    @property
    def count(self) -> int:  # numpydoc ignore=RT01
        """Number of scan positions."""
        return self.scan[0] * self.scan[1]

    @property
    def faulty_from(self) -> int:  # numpydoc ignore=RT01
        """Flat index of the first position with the fault; the number of positions without a fault."""
        return self.count if self.fault is None else int(self.at * self.count)

    @property
    def radius(self) -> float:  # numpydoc ignore=RT01
        """Radius of the direct disk, pixels."""
        return 0.05 * min(self.shape)

    @cached_property
    def origin(self) -> np.ndarray:  # numpydoc ignore=RT01
        """True origins, (Rx * Ry, 2), pixels."""
        rng = np.random.default_rng((self.seed, 7))
        at = np.stack([(n - 1) / 2 + rng.uniform(-0.03, 0.03) * n + draw_descan(rng, self.scan, self.amplitude).ravel()
                       for n in self.shape], 1)
        if self.fault == "jump":
            at[self.faulty_from :] += BEAM_JUMP_PX
        return at

    @cached_property
    def _clouds(self):
        """Electron positions, pixels from the beam, (CLOUDS, CLOUD_ELECTRONS, 2); fraction of the beam in each."""
        rng = np.random.default_rng((self.seed, 8))
        bank = make_bank(self.seed + 1000, CLOUD_SPECIMENS, workers=1)
        eps = self.ratio - 1
        vector = [eps * np.cos(2 * self.theta), eps * np.sin(2 * self.theta)]
        distortion = ellipse_matrix(torch.tensor(vector, dtype=torch.float32))
        fine_shape = tuple(CLOUD_SAMPLES_PER_PX * (n + 2 * CLOUD_MARGIN_PX) for n in self.shape)
        center = np.array([n // 2 for n in fine_shape])
        clouds, fractions = np.empty((CLOUDS, CLOUD_ELECTRONS, 2), np.float32), np.empty(CLOUDS)
        k = 0
        while k < CLOUDS:
            index = torch.from_numpy(rng.integers(len(bank), size=1))
            turn = rotation_matrix(torch.from_numpy(rng.uniform(0, 2 * np.pi, 1)).float())
            drawn = project(bank.intensity(index), torch.from_numpy(center[None]).float(), distortion @ turn,
                            2 * CLOUD_SAMPLES_PER_PX * self.radius / bank.radius[index], fine_shape)[0].double().numpy()
            fractions[k] = min(1e-6 * drawn.sum(), 1.0)
            if fractions[k] < MIN_TRANSMISSION:
                continue
            samples = np.repeat(np.arange(drawn.size), rng.multinomial(CLOUD_ELECTRONS, drawn.ravel() / drawn.sum()))
            at = np.stack(np.divmod(rng.permutation(samples), fine_shape[1]), 1)
            at = at + rng.uniform(-0.5, 0.5, (CLOUD_ELECTRONS, 2)) - center
            clouds[k] = at / CLOUD_SAMPLES_PER_PX
            k += 1
        return clouds, fractions

    @cached_property
    def _ceiling(self):
        """Counts at which a saturated detector stops: half of the brightest pixels of the direct beam."""
        positions = range(0, self.count, self.count // 8 + 1)
        brightest = [np.sort(self._exposed(k, False).ravel())[-20:].mean() for k in positions]
        return max(1, int(np.median(brightest) / 2))

    def expose(self, first, last) -> np.ndarray:
        """Return the counts at scan positions; repeated calls give the same counts.

        Parameters
        ----------
        first, last : int
            Flat indices of the first position, and of the one after the last.

        Returns
        -------
        numpy.ndarray
            (last - first, Qx, Qy), uint16.
        """
        return np.stack([self._exposed(k, k >= self.faulty_from) for k in range(first, last)])

    def _exposed(self, position, faulty):
        """Counts at one position, with or without the fault."""
        if faulty and self.fault == "beam-loss":
            return np.zeros(self.shape, np.uint16)
        clouds, fractions = self._clouds
        rng = np.random.default_rng((self.seed, 9, position))
        # Grains of a few positions along each axis.
        row, column = divmod(position, self.scan[1])
        kind = (row // 5 * 7 + column // 6 * 5 + row // 9) % CLOUDS
        electrons = rng.poisson(self.dose * fractions[kind])
        start = rng.integers(CLOUD_ELECTRONS)
        at = np.take(clouds[kind], np.arange(start, start + electrons), axis=0, mode="wrap") + self.origin[position]
        pixel = np.floor(at + 0.5).astype(np.int32)
        inside = ((pixel >= 0) & (pixel < self.shape)).all(1)
        flat = pixel[inside, 0] * self.shape[1] + pixel[inside, 1]
        counts = np.bincount(flat, minlength=self.shape[0] * self.shape[1]).reshape(self.shape)
        ceiling = self._ceiling if faulty and self.fault == "saturation" else 65535
        return np.minimum(counts, ceiling).astype(np.uint16)


def acquire(path, acquisition: Acquisition, rate: float = 1000.0, stop=None) -> float:
    """Write an acquisition pattern by pattern, as a detector would.

    Parameters
    ----------
    path : str or pathlib.Path
        New file: `.h5` or `.hdf5` (data set "data", (n, Qx, Qy), growing in SWMR mode), or `.raw` or `.bin` (uint16
        patterns without a header).
    acquisition : Acquisition
        What to acquire.
    rate : float
        Patterns per second.
    stop : callable, optional
        Function without arguments; the acquisition ends when it returns True.

    Returns
    -------
    float
        The rate that was achieved, patterns per second.

    Raises
    ------
    PrenetError
        The file cannot be created, or the rate is not positive.
    """
    path = check_output(Path(path), (*HDF5_SUFFIXES, ".raw", ".bin"))
    if not rate > 0:
        raise PrenetError("The rate (patterns per second) must be positive.")
    _ = acquisition._clouds  # prepare before the first pattern, because it takes seconds
    block = int(np.clip(rate / 25, 1, 256))
    with _Hdf5Writer(path, acquisition) if path.suffix.lower() in HDF5_SUFFIXES else _RawWriter(path) as write:
        start = time.perf_counter()
        for first in range(0, acquisition.count, block):
            if stop is not None and stop():
                break
            last = min(first + block, acquisition.count)
            patterns = acquisition.expose(first, last)
            time.sleep(max(0.0, start + last / rate - time.perf_counter()))
            write(patterns)
        return last / (time.perf_counter() - start)


class _RawWriter:
    """A file of uint16 patterns without a header."""

    def __init__(self, path):
        self._file = open(path, "xb", buffering=0)

    def __enter__(self):
        return lambda patterns: self._file.write(patterns.tobytes())

    def __exit__(self, *_):
        self._file.close()


class _Hdf5Writer:
    """An HDF5 file with a growing data set, and the truth as attribute and data set."""

    def __init__(self, path, acquisition):
        self._file = file = h5py.File(path, "x", libver="latest")
        shape = acquisition.shape
        self._data = file.create_dataset("data", (0, *shape), np.uint16, maxshape=(None, *shape),
                                         chunks=(16, *shape))
        truth = dict(scan=acquisition.scan, dose=acquisition.dose, ratio=acquisition.ratio, theta=acquisition.theta,
                     radius=acquisition.radius, fault=acquisition.fault, faulty_from=acquisition.faulty_from)
        file.attrs["truth"] = json.dumps(truth)
        file["origin"] = acquisition.origin
        file.swmr_mode = True

    def __enter__(self):
        return self._write

    def _write(self, patterns):
        count = len(self._data)
        self._data.resize(count + len(patterns), axis=0)
        self._data[count:] = patterns
        self._data.flush()

    def __exit__(self, *_):
        self._file.close()
