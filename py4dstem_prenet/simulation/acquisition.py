"""A simulated acquisition: a file that grows at a given rate, with descan, dose and, if asked, a fault in mid-scan.

For tests, demonstrations and benchmarks of what watches a scan. To keep up with a fast detector, nothing is simulated
while the scan runs: of some clean patterns a cloud of electrons each is drawn beforehand, in continuous coordinates,
and an exposure is a part of such a cloud, moved by the exact origin and counted by pixel. Exposures of the same
specimen may share electrons: what many of them say together is a little less random than counting.
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
from .bank import make_bank
from .pattern import project, rotation_matrix
from .scan import descan

FAULTS = ("beam-loss", "jump", "saturation")
JUMP = (7.0, -4.0)  # pixels
CLOUD = 2**17  # electrons of each clean pattern
PATTERNS, SPECIMENS = 24, 6
THINNEST = 0.9  # of the electrons that a pattern must hold: others are of specimens too thick to see a beam through
FINE, MARGIN = 2, 24  # clouds are drawn on so many samples a pixel, and so many pixels beyond the detector
RAW = (".raw", ".bin")
HDF5 = (".h5", ".hdf5")
DATASET = "data"
BLOCK = 16  # patterns of a chunk in HDF5


@dataclass(frozen=True)
class Acquisition:
    """A scan to be acquired; all of it follows from the seed.

    scan: (Rx, Ry). shape: (Qx, Qy). dose: electrons in the whole beam, per pattern. ratio, theta: a / b and angle of
    the ellipse. amplitude: of the descan, pixels. fault: None or one of FAULTS, from the part `at` of the scan on: the
    beam is lost, it jumps by JUMP, or the detector counts no further than half of what the direct beam's brightest
    pixels get.
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
        if self.fault is not None and self.fault not in FAULTS:
            raise PrenetError(f"The fault {self.fault!r} is unknown; take one of {', '.join(FAULTS)}.")
        if not self.dose > 0 or min(self.shape) < 32:
            raise PrenetError("An acquisition needs a positive dose, and patterns of 32 x 32 pixels or more.")

    @property
    def count(self) -> int:
        return self.scan[0] * self.scan[1]

    @property
    def faulty_from(self) -> int:
        """The flat position from which the fault acts; beyond the scan where there is none."""
        return self.count if self.fault is None else int(self.at * self.count)

    @property
    def radius(self) -> float:
        return 0.05 * min(self.shape)

    @cached_property
    def origin(self) -> np.ndarray:
        """True origins, (Rx * Ry, 2), pixels."""
        rng = np.random.default_rng((self.seed, 7))
        at = np.stack([(n - 1) / 2 + rng.uniform(-0.03, 0.03) * n + descan(rng, self.scan, self.amplitude).ravel()
                       for n in self.shape], 1)
        if self.fault == "jump":
            at[self.faulty_from :] += JUMP
        return at

    @cached_property
    def _clouds(self):
        """(PATTERNS, CLOUD, 2) float32 pixels from the direct beam; and the part of the beam that each holds."""
        rng = np.random.default_rng((self.seed, 8))
        bank = make_bank(self.seed + 1000, SPECIMENS, workers=1)
        eps = self.ratio - 1
        vector = [eps * np.cos(2 * self.theta), eps * np.sin(2 * self.theta)]
        bent = ellipse_matrix(torch.tensor(vector, dtype=torch.float32))
        fine = tuple(FINE * (n + 2 * MARGIN) for n in self.shape)
        center = np.array([n // 2 for n in fine])
        clouds, parts = np.empty((PATTERNS, CLOUD, 2), np.float32), np.empty(PATTERNS)
        k = 0
        while k < PATTERNS:
            one = torch.from_numpy(rng.integers(len(bank), size=1))
            turn = rotation_matrix(torch.from_numpy(rng.uniform(0, 2 * np.pi, 1)).float())
            drawn = project(bank.intensity(one), torch.from_numpy(center[None]).float(), bent @ turn,
                            2 * FINE * self.radius / bank.radius[one], fine)[0].double().numpy()
            parts[k] = min(1e-6 * drawn.sum(), 1.0)
            if parts[k] < THINNEST:
                continue
            index = np.repeat(np.arange(drawn.size), rng.multinomial(CLOUD, drawn.ravel() / drawn.sum()))
            at = np.stack(np.divmod(rng.permutation(index), fine[1]), 1) + rng.uniform(-0.5, 0.5, (CLOUD, 2)) - center
            clouds[k] = at / FINE
            k += 1
        return clouds, parts

    @cached_property
    def _ceiling(self):
        """Counts at which a saturated detector stops: half of what the brightest pixels of the direct beam get."""
        some = range(0, self.count, self.count // 8 + 1)
        brightest = [np.sort(self._exposed(k, False).ravel())[-20:].mean() for k in some]
        return max(1, int(np.median(brightest) / 2))

    def expose(self, first, last) -> np.ndarray:
        """Counts at the flat positions first to last - 1, (n, Qx, Qy) uint16; the same ones however often asked."""
        return np.stack([self._exposed(k, k >= self.faulty_from) for k in range(first, last)])

    def _exposed(self, position, faulty):
        if faulty and self.fault == "beam-loss":
            return np.zeros(self.shape, np.uint16)
        clouds, parts = self._clouds
        rng = np.random.default_rng((self.seed, 9, position))
        # Grains of a few positions each way.
        row, column = divmod(position, self.scan[1])
        kind = (row // 5 * 7 + column // 6 * 5 + row // 9) % PATTERNS
        electrons = rng.poisson(self.dose * parts[kind])
        start = rng.integers(CLOUD)
        at = np.take(clouds[kind], np.arange(start, start + electrons), axis=0, mode="wrap") + self.origin[position]
        pixel = np.floor(at + 0.5).astype(np.int32)
        inside = ((pixel >= 0) & (pixel < self.shape)).all(1)
        flat = pixel[inside, 0] * self.shape[1] + pixel[inside, 1]
        counts = np.bincount(flat, minlength=self.shape[0] * self.shape[1]).reshape(self.shape)
        ceiling = self._ceiling if faulty and self.fault == "saturation" else 65535
        return np.minimum(counts, ceiling).astype(np.uint16)


def acquire(path, acquisition: Acquisition, rate: float = 1000.0, stop=None) -> float:
    """Write an acquisition as a detector would, pattern after pattern, and return the rate that was held.

    path: `.h5` or `.hdf5` (data set "data", (n, Qx, Qy), grows in SWMR mode), or `.raw` or `.bin` (uint16, nothing but
    patterns). rate: patterns a second. stop: a function that says, when asked, whether to end early.

    Raises PrenetError where a file cannot be made there.
    """
    path = check_output(Path(path), (*HDF5, *RAW))
    if not rate > 0:
        raise PrenetError("The rate must be positive: patterns a second.")
    _ = acquisition._clouds  # what takes time comes before the first pattern
    block = int(np.clip(rate / 25, 1, 256))
    with _Hdf5Writer(path, acquisition) if path.suffix.lower() in HDF5 else _RawWriter(path) as write:
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
    def __init__(self, path):
        self._file = open(path, "xb", buffering=0)

    def __enter__(self):
        return lambda patterns: self._file.write(patterns.tobytes())

    def __exit__(self, *_):
        self._file.close()


class _Hdf5Writer:
    def __init__(self, path, acquisition):
        self._file = file = h5py.File(path, "x", libver="latest")
        shape = acquisition.shape
        self._data = file.create_dataset(DATASET, (0, *shape), np.uint16, maxshape=(None, *shape),
                                         chunks=(BLOCK, *shape))
        truth = dict(scan=acquisition.scan, dose=acquisition.dose, ratio=acquisition.ratio, theta=acquisition.theta,
                     radius=acquisition.radius, fault=acquisition.fault, faulty_from=acquisition.faulty_from)
        file.attrs["truth"] = json.dumps(truth)
        file["origin"] = acquisition.origin
        file.swmr_mode = True

    def __enter__(self):
        return self._write

    def _write(self, patterns):
        have = len(self._data)
        self._data.resize(have + len(patterns), axis=0)
        self._data[have:] = patterns
        self._data.flush()

    def __exit__(self, *_):
        self._file.close()
