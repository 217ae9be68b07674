"""Where the direct beam is in every pattern of a scan, and the smooth descan through these positions.

1. Sums over blocks of the scan, where electrons are plentiful, go through the coarse network: it says whether there
   is a beam, where it is and how large. A surface through the blocks' answers is the first guess; blocks in which
   another disk was taken for the direct beam are outliers of it.
2. In a few hundred patterns the fine network says where the beam is; a surface through its answers is the better
   guess, and the recentered patterns show the aperture and the contrast inside the disk (`beam.py`).
3. A likelihood fit of that aperture locates the beam in every pattern, with the network wherever the fit is in doubt.

What is reported is the direct beam, not the center of rings; only where the direct beam is hidden, the rings' center.
Coordinates are py4DSTEM's: qx0 along rows, qy0 along columns, a pixel's centre on its integer index.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ..compute import map_chunks, sharing_cores
from ..core import Flag, NoiseModel, OriginMap, PrenetError, SampledScan, Scan, as_scan, stage_bar
from ..detector import estimate_noise
from ..networks import load, requirement
from .beam import Beam, Located, nowhere
from .coarse import coarse_origin
from .judge import from_rings, origin_of
from .learn import learn_beam


def measure_origin(data, noise: NoiseModel | None = None, mask=None, device="auto", progress=True) -> OriginMap:
    """Measure the direct beam in every pattern of a scan.

    Args:
        data: a DataCube, or an array-like (Rx, Ry, Qx, Qy) in memory or on disk.
        noise: the detector's noise model; estimated from the scan by default.
        mask: (Qx, Qy) bool, True where a detector pixel is good, False behind a beam stop and the like.
        device: "auto", "cpu", "cuda" or "mps".
        progress: show a progress bar.

    Raises:
        PrenetError: data that cannot be calibrated (`as_scan`), a mask of another shape, no weights.
    """
    scan = as_scan(data)
    check_mask(scan, mask)
    load("center", device)
    noise = estimate_noise(scan, mask=mask) if noise is None else _with_mask(noise, mask)
    locator = BeamLocator.learn(scan, device=device, noise=noise, progress=progress)
    return locator.origin(scan, locator.locate_all(scan, progress=progress)[0])


def check_mask(scan: Scan, mask):
    """Raise PrenetError unless the mask is None or bool of the pattern's shape (Qx, Qy)."""
    shape = scan.pattern_shape
    if mask is not None and (np.shape(mask) != shape or np.asarray(mask).dtype != bool):
        raise PrenetError(f"The mask must be a boolean array of the pattern's shape {shape}, True where a pixel is "
                          f"good; this one has shape {np.shape(mask)} and type {np.asarray(mask).dtype}.")
    if mask is not None and not np.any(mask):
        raise PrenetError("The mask excludes every pixel; it must be True where a pixel is good.")


def _with_mask(noise: NoiseModel, mask) -> NoiseModel:
    """The noise model with the pixels that a user's mask (True = good) excludes among its bad ones."""
    if mask is None:
        return noise
    return replace(noise, bad_pixels=noise.bad_pixels | ~np.asarray(mask))


@dataclass(frozen=True)
class BeamLocator:
    """The noise, the beam and a guess of every origin, learned from a sample of a scan.

    Plain data that can be pickled: a worker that receives it loads its own networks.

    Attributes
    ----------
    noise : NoiseModel or None
        The detector's noise, with the hot pixels that only the beam shows; None if nothing was learned.
    beam : Beam or None
        The beam; None if there is none to locate.
    guess : numpy.ndarray or None
        (Rx * Ry, 2), a first guess of every origin, pixels.
    refusal : Flag or None
        Why there is no beam.
    device : str
        The device as the user gave it; each worker resolves "auto" by itself.
    """

    noise: NoiseModel | None
    beam: Beam | None
    guess: np.ndarray | None
    refusal: Flag | None
    device: str

    @classmethod
    @sharing_cores
    def learn(cls, scan: Scan, mask=None, device: str = "auto", noise: NoiseModel | None = None,
              progress: bool = False):
        """Learn from a sample of a scan, some thousand patterns at most.

        Parameters
        ----------
        scan : Scan
            The scan, or a sample of one.
        mask : numpy.ndarray of bool, optional
            (Qx, Qy), True where a detector pixel is good.
        device : str
            "auto", "cpu", "cuda" or "mps".
        noise : NoiseModel, optional
            The detector's noise; estimated by default.
        progress : bool
            Whether to show the stages.

        Returns
        -------
        BeamLocator
            What was learned, an object of this class.
        """
        with stage_bar("learning", ("noise", "first guess", "beam"), progress) as advance:
            noise = estimate_noise(scan, mask=mask) if noise is None else noise
            advance()
            if not noise.dose > 0:
                return cls(noise, None, None, Flag("no_electrons"), device)
            coarse = coarse_origin(load("center", device).coarse, scan, noise)
            advance()
            if coarse is None:
                return cls(noise, None, None, Flag("no_beam"), device)
            beam, guess = learn_beam(scan, noise, *coarse, device)
            advance()
            return cls(beam.noise, beam, guess, None, device)

    def locate(self, index, block) -> Located:
        """Locate the beam in some patterns.

        Parameters
        ----------
        index : numpy.ndarray of int
            (n,) flat scan positions.
        block : numpy.ndarray
            (n, Qx, Qy), detector units.

        Returns
        -------
        Located
            Position and sigma of each.
        """
        return self.beam.locate(block, self.guess[index])

    def locate_all(self, scan: Scan, keep=(), progress: bool = True) -> tuple[Located | None, SampledScan]:
        """Locate the beam in all patterns of a scan, and keep some of the patterns that are read.

        Parameters
        ----------
        scan : Scan
            The scan.
        keep : numpy.ndarray of int, optional
            Flat scan positions to keep, ascending.
        progress : bool
            Whether to show a progress bar.

        Returns
        -------
        located : Located or None
            Position and sigma of each; None if there is no beam to locate.
        kept : SampledScan
            The patterns that were kept; none if there is no beam.
        """
        keep = np.asarray(keep, dtype=np.int64)
        patterns = np.zeros((0, *scan.pattern_shape), scan.dtype)
        if self.beam is None:
            return None, SampledScan(scan.scan_shape, keep[:0], patterns)
        located = nowhere(scan.size)
        wanted = np.zeros(scan.size, bool)
        wanted[keep] = True
        work = partial(_locate_and_keep, beam=self.beam)
        blocks = map_chunks(work, scan, self.guess, wanted, progress="origin" if progress else None,
                            require=requirement("center"))
        for index, (found, kept) in blocks:
            located.put(index, found)
            if len(kept):
                if not len(patterns):
                    patterns = np.empty((len(keep), *scan.pattern_shape), kept.dtype)
                patterns[np.searchsorted(keep, index[wanted[index]])] = kept
        return located, SampledScan(scan.scan_shape, keep[: len(patterns)], patterns)

    def origin(self, scan: Scan, located: Located | None, known=True) -> OriginMap:
        """Judge what was located.

        Parameters
        ----------
        scan : Scan
            The scan, or a sample of one.
        located : Located or None
            Positions of all patterns of the scan.
        known : numpy.ndarray of bool or bool
            (Rx * Ry,), positions that were looked at; the others are not valid.

        Returns
        -------
        OriginMap
            The measured origin; of the rings, if the direct beam is hidden.
        """
        if self.beam is None:
            return from_rings(scan, self.noise, self.refusal)
        return origin_of(scan, self.noise, located, self.beam, known)


def _locate_and_keep(index, block, guess, wanted, beam: Beam):
    return beam.locate(block, guess), block[wanted]
