"""Origin of every pattern of a scan: the position of the direct beam.

1. The coarse network locates the beam in sums over blocks of the scan, and returns its radius and the log odds of a
   beam. A surface through the blocks is the first guess (`coarse.py`).
2. The fine network locates the beam in a few hundred patterns. A surface through these positions is a better guess, and
   the recentered patterns show the aperture and the contrast inside the disk (`learn.py`).
3. A likelihood fit of this aperture locates the beam in every pattern; the network is used where the fit is doubtful
   (`beam.py`).
4. The positions are accepted or refused (`decide.py`). If the direct beam is hidden, the center of the rings is used.

Coordinates are those of py4DSTEM: qx0 along rows, qy0 along columns; a pixel's center has integer coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np

from ..compute import map_chunks, sharing_cores
from ..core import (
    Decision,
    Flag,
    NoiseModel,
    OriginMap,
    PrenetError,
    SampledScan,
    Scan,
    as_scan,
    has_flag,
    stage_bar,
)
from ..detector import MAX_NOISE_POSITIONS, estimate_noise
from ..networks import load, requirement
from . import (
    CERTAIN_PROBABILITY,
    MIN_BEAM_PROBABILITY,
    MIN_RANKED_PROBABILITY,
    Beam,
    FirstGuess,
    GivenBeam,
    Located,
    block_sums,
    check_diffuse,
    check_edges,
    check_shaded,
    check_stop,
    coarse_origin,
    confirmed,
    decide_origin,
    find_bar,
    find_vignette,
    followed_rows,
    given_beam,
    hidden_origin,
    is_hidden,
    is_smoothly_lit,
    learn_beam,
    on_plateau,
    origin_from_rings,
    pooled_origin,
    ranked_beam,
    resolved,
    searched_elsewhere,
    shows_beam,
    started,
    stray_light,
    unlocated,
    wide_origin,
    with_outline_error,
)

MAX_SHARPER_DISTANCE_PX = 3.0  # pixels, added to the radius; largest distance of the new guess from the sharper spot
CUT_FLAGS = "outline_elsewhere", "beam_cut_off"  # refusals of a disk at the edge of the frame, which may be of rings
MIN_GOOD_FRACTION = 0.2  # fraction of the pixels; fewest good ones in a mask: beam stops and dead chips leave more


@sharing_cores
def measure_origin(data, noise: NoiseModel | None = None, mask=None, device="auto", progress=True, center=None,
                   radius=None) -> OriginMap:
    """Measure the direct beam in every pattern of a scan.

    Parameters
    ----------
    data : Scan, DataCube or array_like, shape (Rx, Ry, Qx, Qy)
        The scan, in memory or on disk.
    noise : NoiseModel, optional
        Noise model of the detector; estimated from the scan by default.
    mask : numpy.ndarray of bool, shape (Qx, Qy), optional
        True where a detector pixel is good, False behind a beam stop, for example.
    device : str, optional
        "auto", "cpu", "cuda" or "mps".
    progress : bool, optional
        Whether to show a progress bar.
    center : tuple of float or of array_like, shape (Rx, Ry), optional
        Position (qx, qy) of the direct beam in pixels, if it is known: the start of the search.
    radius : float, optional
        Radius of the direct disk in pixels, if it is known: the start of its fit.

    Returns
    -------
    OriginMap
        The measured origin, with sigma and validity of each position.

    Raises
    ------
    PrenetError
        If the data cannot be calibrated (`as_scan`), the mask has a wrong shape or type, or weights are missing.

    Examples
    --------
    >>> from py4dstem_prenet.demo import load_scan
    >>> from py4dstem_prenet.origin import measure_origin
    >>> datacube, truth = load_scan()
    >>> origin = measure_origin(datacube, progress=False)  # doctest: +SKIP
    """
    scan = as_scan(data)
    check_mask(scan, mask)
    given = given_beam(scan, center, radius)
    load("center", device)
    noise = estimate_noise(scan, mask=mask) if noise is None else _with_mask(noise, mask)
    locator = BeamLocator.learn(scan, device=device, noise=noise, progress=progress, given=given)
    return locator.origin(scan, locator.locate_all(scan, progress=progress)[0])


def check_mask(scan: Scan, mask) -> None:
    """Check that a detector mask is a boolean array of the pattern's shape.

    Parameters
    ----------
    scan : Scan
        The scan.
    mask : numpy.ndarray of bool, shape (Qx, Qy), or None
        True where a detector pixel is good.

    Raises
    ------
    PrenetError
        If the mask has a wrong shape or type, or leaves too few pixels, for example because it marks bad pixels.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.core import as_scan
    >>> from py4dstem_prenet.origin import check_mask
    >>> check_mask(as_scan(np.ones((2, 2, 32, 32))), np.ones((32, 32), bool))
    """
    shape = scan.pattern_shape
    if mask is not None and (np.shape(mask) != shape or np.asarray(mask).dtype != bool):
        raise PrenetError(f"The mask must be a boolean array of the pattern's shape {shape}, True where a pixel is "
                          f"good; this one has shape {np.shape(mask)} and type {np.asarray(mask).dtype}.")
    if mask is not None and not np.any(mask):
        raise PrenetError("The mask excludes every pixel; it must be True where a pixel is good.")
    if mask is not None and np.mean(mask) < MIN_GOOD_FRACTION:
        raise PrenetError(f"The mask leaves {100 * np.mean(mask):.2g} % of the pixels; True means good. Give ~mask if "
                          "it marks bad pixels.")


def _with_mask(noise: NoiseModel, mask) -> NoiseModel:
    """Add the pixels that a user's mask (True = good) excludes to the bad pixels of a noise model."""
    if mask is None:
        return noise
    return replace(noise, bad_pixels=noise.bad_pixels | ~np.asarray(mask))


@dataclass(frozen=True)
class BeamLocator:
    """Noise model, beam and a guess of every origin, learned from a sample of a scan.

    The object contains only data and can be pickled; each worker loads its own networks.

    Attributes
    ----------
    noise : NoiseModel or None
        Noise model of the detector, with the hot pixels found while the beam was learned; None if nothing was learned.
    beam : Beam or None
        The beam; None if the scan shows none.
    guess : numpy.ndarray or None
        Guess of every origin, (Rx * Ry, 2), pixels.
    refusal : Flag or None
        Reason why there is no beam.
    device : str
        Device chosen by the user; "auto" is resolved by each worker.
    first : FirstGuess or None
        The first guess of the beam; None if the scan shows none.
    given : GivenBeam or None
        Position and radius of the beam given by the user.
    bar : numpy.ndarray of bool or None
        (Qx, Qy), True behind the bar of a beam stop that no mask covers; these pixels are bad in `noise`.
    elsewhere : Flag or None
        Flag if the search without the given position finds a different beam.
    stray : numpy.ndarray of bool or None
        (Qx, Qy), True in a spot of stray light; these pixels are bad in `noise`.
    outside : numpy.ndarray of bool or None
        (Qx, Qy), True outside an aperture that crops the pattern; these pixels are bad in `noise`.
    NOISE_POSITIONS : int
        Largest number of scan positions from which the noise is estimated.
    """

    NOISE_POSITIONS: ClassVar[int] = MAX_NOISE_POSITIONS

    noise: NoiseModel | None
    beam: Beam | None
    guess: np.ndarray | None
    refusal: Flag | None
    device: str
    first: FirstGuess | None = None
    given: GivenBeam | None = None
    bar: np.ndarray | None = None
    elsewhere: Flag | None = None
    stray: np.ndarray | None = None
    outside: np.ndarray | None = None

    @property
    def detector(self) -> NoiseModel | None:
        """The noise model without those bad pixels that are good, but behind a stop, in stray light or cropped."""
        if self.noise is None:
            return None
        bad = self.noise.bad_pixels
        for hidden in (self.bar, self.stray, self.outside):
            bad = bad if hidden is None else bad & ~hidden
        return replace(self.noise, bad_pixels=bad)

    @classmethod
    @sharing_cores
    def learn(cls, scan: Scan, mask=None, device: str = "auto", noise: NoiseModel | None = None,
              progress: bool = False, given: GivenBeam | None = None):
        """Learn noise model and beam from a sample of a scan, of a few thousand patterns at most.

        Parameters
        ----------
        scan : Scan
            The scan, or a sample of one.
        mask : numpy.ndarray of bool, shape (Qx, Qy), optional
            True where a detector pixel is good.
        device : str, optional
            "auto", "cpu", "cuda" or "mps".
        noise : NoiseModel, optional
            Noise model of the detector; estimated by default.
        progress : bool, optional
            Whether to show the stages.
        given : GivenBeam, optional
            Position and radius of the beam given by the user.

        Returns
        -------
        BeamLocator
            The locator, an instance of the class on which this method is called.
        """
        with stage_bar("learning", ("noise", "first guess", "beam"), progress) as advance:
            noise = estimate_noise(scan, mask=mask) if noise is None else noise
            advance()
            if not noise.dose > 0:
                return cls(noise, None, None, Flag("no_electrons"), device)
            if any(flag.name == "inverted" for flag in noise.flags):
                return cls(noise, None, None, Flag("no_beam"), device)
            region = None if given is None else given.region
            blocks = block_sums(scan, noise, region=region)
            if given is None and is_smoothly_lit(blocks[0].sum(0), ~noise.bad_pixels):
                return cls(noise, None, None, Flag("smoothly_lit"), device)
            readout = noise.readout / noise.gain * blocks[1].sum() ** 0.5
            bar = find_bar(blocks[0].sum(0), ~noise.bad_pixels, readout)
            if bar is not None:  # from here on, the bar is treated as masked
                noise = replace(noise, bad_pixels=noise.bad_pixels | bar)
            coarse = wide_origin(scan, noise, blocks)
            if coarse is None:
                coarse = coarse_origin(load("center", device).coarse, scan, noise, region, blocks)
            outside = None
            if coarse is not None and given is None and not coarse.wide:
                outside = find_vignette(blocks[0].sum(0), ~noise.bad_pixels, coarse.radius)
            if outside is not None:
                masked = replace(noise, bad_pixels=noise.bad_pixels | outside)
                again = coarse_origin(load("center", device).coarse, scan, masked, region, blocks)
                noise, coarse, outside = (noise, coarse, None) if again is None else (masked, again, outside)
                if outside is not None and bar is None:  # a bar is not dark beside the edge of the aperture
                    bar = find_bar(blocks[0].sum(0), ~noise.bad_pixels, readout)
                    noise = noise if bar is None else replace(noise, bad_pixels=noise.bad_pixels | bar)
            stray, all_light = None, noise
            if coarse is not None and given is None and not coarse.wide:
                stray = stray_light(blocks, ~noise.bad_pixels, noise.readout / noise.gain, coarse, scan.scan_shape)
            if stray is not None:
                stray, place = stray
                masked = replace(noise, bad_pixels=noise.bad_pixels | stray)
                again = coarse_origin(load("center", device).coarse, scan, masked, region, blocks)
                # From here on, the spot is treated as masked.
                if again is not None and (np.hypot(*(np.median(again.position, 0) - place))
                                          < again.radius + MAX_SHARPER_DISTANCE_PX):
                    noise, coarse = masked, again
                else:
                    stray = None
            advance()
            elsewhere = None
            if given is not None:
                elsewhere = searched_elsewhere(coarse, given)
                coarse = started(scan, noise, coarse, given)
            if coarse is None:
                return cls(noise, None, None, Flag("no_beam"), device, None, given, bar, outside=outside)
            ranked = None
            if given is None and (coarse.visible > 0 or not is_hidden(blocks[0], noise, coarse)):
                ranked = ranked_beam(blocks, noise, coarse, scan.scan_shape)
            if ranked is None:
                coarse = resolved(scan, noise, coarse)
            else:
                symmetric = None
                if ranked.probability < MIN_RANKED_PROBABILITY:  # only the network may know a place that is hidden
                    symmetric = resolved(scan, noise, coarse, paired=True)
                coarse = ranked if symmetric is None or not is_hidden(blocks[0], noise, symmetric) else symmetric
            if is_hidden(blocks[0], noise, coarse):
                # A spot that looks like stray light may be the tails of a beam behind a stop.
                return cls(all_light, None, None, Flag("hidden_by_stop"), device, coarse, given, bar, outside=outside)
            needed = MIN_BEAM_PROBABILITY if ranked is None else MIN_RANKED_PROBABILITY
            if ranked is not None and bar is not None:  # a stop mostly covers the beam; the disks are then Bragg disks
                needed = CERTAIN_PROBABILITY
            if coarse.probability < needed:
                reason = Flag("beam_ambiguous", {"probability": coarse.probability})
                return cls(noise, None, None, reason, device, coarse, given, bar, outside=outside)
            coarse = coarse if given is not None else on_plateau(scan, noise, coarse)
            beam, guess = learn_beam(scan, noise, coarse.position, coarse.radius, coarse.shown, device,
                                     not coarse.flat and (given is None or given.radius is None), coarse.wide)
            advance()
            return cls(beam.noise, beam, guess, None, device, coarse, given, bar, elsewhere, stray, outside)

    def locate(self, index, block) -> Located:
        """Locate the beam in a block of patterns.

        Parameters
        ----------
        index : numpy.ndarray of int, shape (n,)
            Flat scan positions.
        block : numpy.ndarray, shape (n, Qx, Qy)
            Patterns in detector units.

        Returns
        -------
        Located
            Position and sigma in each pattern.
        """
        return self.beam.locate(block, self.guess[index])

    def locate_all(self, scan: Scan, keep=(), progress: bool = True) -> tuple[Located | None, SampledScan]:
        """Locate the beam in all patterns of a scan, and keep selected patterns in memory.

        Parameters
        ----------
        scan : Scan
            The scan.
        keep : array_like of int, optional
            Flat scan positions whose patterns are kept, ascending.
        progress : bool, optional
            Whether to show a progress bar.

        Returns
        -------
        located : Located or None
            Position and sigma in each pattern; None if there is no beam.
        kept : SampledScan
            The kept patterns; empty if there is no beam.
        """
        keep = np.asarray(keep, dtype=np.int64)
        patterns = np.zeros((0, *scan.pattern_shape), scan.dtype)
        if self.beam is None:
            return None, SampledScan(scan.scan_shape, keep[:0], patterns)
        located = unlocated(scan.size)
        wanted = np.zeros(scan.size, bool)
        wanted[keep] = True
        work = partial(_locate_and_keep, beam=self.beam)
        blocks = map_chunks(work, scan, self.guess, wanted, progress="origin" if progress else None,
                            require=requirement("center"))
        for index, (block, kept) in blocks:
            located.put(index, block)
            if len(kept):
                if not len(patterns):
                    patterns = np.empty((len(keep), *scan.pattern_shape), kept.dtype)
                patterns[np.searchsorted(keep, index[wanted[index]])] = kept
        return located, SampledScan(scan.scan_shape, keep[: len(patterns)], patterns)

    def origin(self, scan: Scan, located: Located | None, processed=True) -> OriginMap:
        """Decide on the origin from the located positions.

        Parameters
        ----------
        scan : Scan
            The scan, or a sample of one.
        located : Located or None
            Positions of all patterns of the scan.
        processed : numpy.ndarray of bool, shape (Rx * Ry,), or bool, optional
            False for positions that have not been searched; these are not valid.

        Returns
        -------
        OriginMap
            The measured origin; the center of the rings if the direct beam is hidden.
        """
        origin = self._chosen(scan, located, processed)
        if self.outside is None:
            return origin
        flag = Flag("pattern_cropped", {"percent": 100 * float(self.outside.mean())})
        return replace(origin, decision=Decision(origin.found, (*origin.flags, flag), origin.decision.numbers))

    def _chosen(self, scan, located, processed):
        """Origin from the direct beam or, if it is contradicted, from other features."""
        decided = with_outline_error(self._decided(scan, located, processed), self.first)
        pooled = pooled_origin(scan, self.noise, BeamLocator, decided, self.given)
        origin = self._with_stop(check_edges(scan, self.noise, pooled))
        # A user who gives the position has already chosen among the disks.
        if self.given is None and has_flag(origin.flags, *CUT_FLAGS):
            return self._with_stop(origin_from_rings(scan, self.noise, origin.flags[0]))
        if self.given is not None:
            return confirmed(origin, self.given, self.elsewhere)
        if self.first is not None:
            origin = check_shaded(scan, self.noise, self.first, origin)
        stopped = check_stop(scan, self.noise, origin, self.bar is not None)
        if origin.found and not stopped.found and self.first is not None:
            stopped = self._with_stop(hidden_origin(scan, self.noise, self.first, stopped.decision.flags[0]))
        return check_diffuse(scan, self.noise, stopped, self.first is not None and self.first.ranked)

    def _with_stop(self, origin):
        """Add the bar of a stop and stray light to the origin if they were found."""
        if self.stray is not None:
            flag = Flag("stray_light", {"pixels": int(self.stray.sum())})
            origin = replace(origin, decision=Decision(origin.found, (*origin.flags, flag), origin.decision.numbers))
        if self.bar is None:
            return origin
        stop = self.bar if origin.stop is None else self.bar | origin.stop
        other_flags = tuple(flag for flag in origin.flags if flag.name != "stop_found")
        flags = (*other_flags, Flag("stop_found", {"pixels": int(stop.sum())}))
        return replace(origin, stop=stop, decision=Decision(origin.found, flags, origin.decision.numbers))

    def _decided(self, scan, located, processed):
        """Origin from single patterns: the direct beam or, if it is hidden, rings or other symmetric features."""
        reason = self.refusal or Flag("nothing_located")
        if self.beam is not None and shows_beam(located, processed).any():
            located = followed_rows(scan, located, self.beam) if processed is True else located
            origin = decide_origin(scan, self.noise, located, self.beam, processed)
            # An outline that is not round may be that of a saturated halo about a stop.
            other = self.first is not None and (self.first.visible <= 0 or has_flag(origin.flags, "outline_not_round"))
            if origin.found or not other:
                return origin
            reason = origin.decision.flags[0]
        if self.first is None:
            return origin_from_rings(scan, self.noise, reason)
        return hidden_origin(scan, self.noise, self.first, reason, self.bar is not None)


def _locate_and_keep(index, block, guess, wanted, beam: Beam):
    """Locate the beam in a block; return the positions and the patterns to keep."""
    return beam.locate(block, guess), block[wanted]
