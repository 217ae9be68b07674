"""Simulated scans that several test modules look at, each made once a session; and specimens of known patterns."""

from functools import cache
from hashlib import sha256

import numpy as np
import pytest
import torch

from py4dstem_prenet.core import OriginMap
from py4dstem_prenet.core.flags import Decision
from py4dstem_prenet.core.geometry import ellipse_matrix
from py4dstem_prenet.simulation import bank as banks, scan as scans
from py4dstem_prenet.simulation.specimens import GRID, Optics, Specimen
from py4dstem_prenet.simulation.waves import multislice, probe

COUNTING = dict(scan=(6, 6), shape=(128, 128), dose=2000.0, seed=0)
CCD = dict(COUNTING, gain=20.0, offset=100.0, readout=15.0)  # the same patterns through an integrating camera
SPECIMENS = 7  # in the banks of the fixture `banks`


def others_slow(cases):
    """Cases of a parametrized test: the first runs in `make check`, the others are marked slow."""
    first, *others = cases
    return [first, *(pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
                     for case in others)]


@cache
def _simulated(items):
    return scans.simulate(**dict(items))


def simulated(**options):
    """`simulate` with COUNTING's options unless given others. Shared: whoever changes one must copy it."""
    made = _simulated(tuple(sorted((COUNTING | options).items())))
    made.counts.flags.writeable = made.clean.flags.writeable = False
    return made


def distance(found, truth):
    """Distances in px, (Rx, Ry), of an OriginMap or OriginFit from a scan's truth."""
    return np.hypot(found.qx0 - truth["qx0"], found.qy0 - truth["qy0"])


def vacuum(aperture: float, slices: int = 1) -> torch.Tensor:
    """(GRID, GRID): the pattern of nothing, a disk of `aperture` samples at (GRID // 2, GRID // 2)."""
    optics = Optics(volts=200e3, dk=0.01, aperture=aperture)
    nothing = Specimen("vacuum", np.zeros((slices, GRID, GRID), np.float32), 10.0)
    return multislice(nothing, optics, probe(optics, np.zeros(1), np.zeros((1, 2))), {slices})[0, 0]


def bank_of(patterns, radius, kind="isotropic"):
    """A Bank of patterns (n, GRID, GRID), fractions of the beam."""
    count = len(patterns)
    kinds = np.broadcast_to(np.asarray(kind), count).copy()
    return banks.Bank((torch.as_tensor(patterns).sqrt() * 1000).half(), torch.full((count,), float(radius)), kinds)


def ideal_radius(shape, center, vector=(0.0, 0.0)):
    """Ideal radius (px) of every measured pixel, (Qx, Qy), where an ellipse vector distorts the pattern."""
    inverse = np.linalg.inv(ellipse_matrix(vector))
    x, y = (np.arange(n) - c for n, c in zip(shape, center, strict=True))
    return np.hypot(*(i * x[:, None] + j * y for i, j in inverse))


def origin_map(qx0, qy0, sigma_qx0, sigma_qy0, valid, radius=6.0):
    """An accepted OriginMap without flags."""
    return OriginMap(qx0, qy0, sigma_qx0, sigma_qy0, valid, radius, Decision(True))


def numbers_of(result, name):
    """The numbers of the one flag of this name that a result, a decision, or a tuple of flags carries."""
    (flag,) = [flag for flag in getattr(result, "flags", result) if flag.name == name]
    return flag.numbers


def moments(image):
    """Sum, centroid (2,) and covariance (2, 2) of an image (H, W)."""
    image = np.asarray(image, float)
    total = image.sum()
    x, y = (np.arange(n) for n in image.shape)
    cx, cy = image.sum(1) @ x / total, image.sum(0) @ y / total
    cov = np.array([[image.sum(1) @ (x - cx) ** 2, (x - cx) @ image @ (y - cy)],
                    [(x - cx) @ image @ (y - cy), image.sum(0) @ (y - cy) ** 2]]) / total
    return total, np.array([cx, cy]), cov


_LEARNED = {}


def learned_before(learn):
    """`BeamLocator.learn` that returns what it learned of the same patterns before, unless noise or beam are given."""
    def remembering(cls, scan, mask=None, device="auto", noise=None, progress=False, given=None):
        if noise is not None or given is not None:
            return learn(cls, scan, mask, device, noise, progress, given)
        parts = scan.read(scan.positions), scan.positions, () if mask is None else mask
        digests = [(part.dtype.str, sha256(np.ascontiguousarray(part)).hexdigest()) for part in map(np.asarray, parts)]
        key = cls, scan.scan_shape, device, *digests
        if key not in _LEARNED:
            _LEARNED[key] = learn(cls, scan, mask, device, progress=progress)
        return _LEARNED[key]

    return remembering
