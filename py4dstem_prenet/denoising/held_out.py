"""Patterns of a scan split into electrons to estimate from and electrons held out, and the scores of estimates."""

from __future__ import annotations

import numpy as np

from ..core import NoiseModel
from ..detector import of_part, split

SVD_RANKS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)  # ranks of the truncated SVDs
MAX_RISES = 2  # steps of width or rank; number without a smaller squared error, after which the search ends
MIN_DEVIANCE_ELECTRONS = 0.01  # electrons per pixel; lower bound of an estimate in the deviance, which diverges at 0
JACKKNIFE_GROUPS = 16  # number of groups of the sample, each left out in turn


class SplitBlocks:
    """Blocks of a scan whose electrons are split into a part for estimates and the rest for scoring them.

    Scores are arrays for `jackknife`: first the score of all positions, then the scores with each group left out.

    Parameters
    ----------
    blocks : list of numpy.ndarray, shape (rx, ry, Qx, Qy)
        Blocks of neighboring positions in detector units.
    noise : NoiseModel
        Noise model of the detector.
    fraction : float
        Fraction of the electrons in the part from which patterns are estimated.
    generator : numpy.random.Generator
        Random numbers of the split.

    Attributes
    ----------
    noise : NoiseModel
        Noise model of the part.
    readout : float
        Read-out noise of the part in electrons, rms.
    good : numpy.ndarray of bool, shape (Qx, Qy)
        True where a pixel is good.
    parts : tuple of numpy.ndarray
        The part of each block in detector units.
    electrons : numpy.ndarray, shape (n, Qx, Qy)
        All parts in electrons.
    target : numpy.ndarray, shape (n, Qx, Qy)
        The rest in electrons, scaled so that its mean is that of a perfect estimate.
    """

    def __init__(self, blocks, noise: NoiseModel, fraction: float, generator):
        self.noise = of_part(noise, fraction)
        self.readout = self.noise.readout / noise.gain
        self.good = ~noise.bad_pixels
        self.parts, rest = zip(*(split(block, noise, generator, fraction) for block in blocks), strict=True)
        self.electrons = _flat(self.parts, self.noise)
        scale = np.float32(fraction / (1 - fraction))
        self.target = _flat(rest, noise) * scale
        self._target_variance = self.target * scale + self.readout**2 * scale
        self._raw = fraction * (self.electrons + self.target / scale) + self.readout**2  # variance of the part

    def denoised(self, options, origins=None):
        """Denoise the parts.

        Parameters
        ----------
        options : dict
            Keyword arguments of `denoise`.
        origins : numpy.ndarray, shape (n, 2), optional
            Origin of each pattern in pixels; measured in each part by default.

        Returns
        -------
        numpy.ndarray, shape (n, Qx, Qy)
            Estimated electrons.
        """
        from py4DSTEM import DataCube

        from . import denoise

        cubes, first = [DataCube(part) for part in self.parts], 0
        for cube in cubes if origins is not None else ():
            rows, columns = cube.data.shape[:2]
            maps = origins[first : first + rows * columns].T.reshape(2, rows, columns)
            cube.calibration.set_origin(tuple(maps))
            first += rows * columns
        return _flat([np.asarray(denoise(cube, self.noise, **options).data) for cube in cubes], self.noise)

    def best(self, candidates):
        """Find the estimate with the smallest squared error.

        Parameters
        ----------
        candidates : iterable of tuple
            Pairs of a parameter and an estimate, (n, Qx, Qy), in electrons, in the order of the parameter. The search
            ends where the error has increased `MAX_RISES` times in a row.

        Returns
        -------
        tuple
            The best pair.
        """
        lowest, best, rises = np.inf, None, 0
        for pair in candidates:
            error = self.squared(pair[1])[0]
            if error < lowest:
                lowest, best, rises = error, pair, 0
            else:
                rises += 1
            if rises == MAX_RISES:
                break
        return best

    def squared(self, estimate):
        """Compute an unbiased estimate of the squared error of an estimate.

        Parameters
        ----------
        estimate : numpy.ndarray, shape (n, Qx, Qy)
            Estimated electrons.

        Returns
        -------
        numpy.ndarray, shape (1 + JACKKNIFE_GROUPS,)
            Sum of the squared errors.
        """
        return self._sums(self._squares(estimate, slice(None)))

    def ratio(self, estimate, count=None):
        """Compute the squared error of an estimate relative to that of the raw counts.

        Parameters
        ----------
        estimate : numpy.ndarray, shape (n, Qx, Qy)
            Estimated electrons.
        count : int, optional
            Number of patterns that are compared, the first ones; all by default.

        Returns
        -------
        numpy.ndarray, shape (1 + JACKKNIFE_GROUPS,)
            The ratio.
        """
        part = slice(count)
        return self._sums(self._squares(estimate, part)) / self._sums(self._raw[part])

    def _squares(self, estimate, part):
        """Unbiased estimates of the squared errors of some of the patterns."""
        return (estimate[part] - self.target[part]) ** 2 - self._target_variance[part]

    def deviance(self, estimate):
        """Compute the Poisson deviance of the held-out electrons per pixel.

        Parameters
        ----------
        estimate : numpy.ndarray, shape (n, Qx, Qy)
            Estimated electrons.

        Returns
        -------
        numpy.ndarray, shape (1 + JACKKNIFE_GROUPS,)
            The deviance.

        Notes
        -----
        Deviance = 2 (t log(t / f) - t + f) of target t and estimate f; the variance of the read-out noise is added to
        both (Snyder et al. 1995).
        """
        t = (self.target + self.readout**2).clip(min=0)
        f = estimate.clip(min=MIN_DEVIANCE_ELECTRONS) + self.readout**2
        return self._sums(2 * (t * np.log(np.maximum(t, 1e-30) / f) - t + f)) / self._sums(np.ones_like(t))

    def _sums(self, values):
        """Sum over good pixels: for all positions, and with each group left out."""
        rows = (values * self.good).sum(2, dtype=np.float64)
        # If there are few patterns, they are divided into interleaved detector rows to obtain enough groups.
        cut = max(1, -(-JACKKNIFE_GROUPS // len(rows)))
        rows = np.stack([rows[:, k::cut].sum(1) for k in range(cut)], 1).ravel()
        groups = np.array([group.sum() for group in np.array_split(rows, JACKKNIFE_GROUPS)])
        return np.concatenate([[groups.sum()], groups.sum() - groups])


def _flat(blocks, noise):
    """Electrons of all blocks, (n, Qx, Qy)."""
    return np.concatenate([noise.electrons(block.reshape(-1, *block.shape[2:])) for block in blocks])


def truncated_svds(electrons, readout, ranks=SVD_RANKS):
    """Denoise patterns by truncated SVDs of the variance-stabilized counts.

    Parameters
    ----------
    electrons : numpy.ndarray, shape (n, Qx, Qy)
        Patterns in electrons.
    readout : float
        Read-out noise in electrons, rms.
    ranks : sequence of int, optional
        Ranks; ranks of n or more are left out.

    Yields
    ------
    rank : int
        The rank.
    estimate : numpy.ndarray, shape (n, Qx, Qy)
        Estimated electrons.

    Notes
    -----
    Counts are stabilized by z = 2 sqrt(e + 3/8 + readout**2), the mean pattern is subtracted, and the result is
    transformed back by `unstabilized`.
    """
    n = len(electrons)
    z = 2 * np.sqrt((electrons + 0.375 + readout**2).clip(min=0)).reshape(n, -1)
    mean = z.mean(0)
    z = z - mean
    vectors = np.ascontiguousarray(np.linalg.eigh(z @ z.T)[1][:, ::-1])  # numpy multiplies reversed views slowly
    for rank in (r for r in ranks if r < n or r == 1):
        u = vectors[:, :rank]
        yield rank, unstabilized(u @ (u.T @ z) + mean, readout).reshape(electrons.shape)


def unstabilized(z, readout):
    """Transform the mean of stabilized counts to the mean number of electrons.

    Parameters
    ----------
    z : numpy.ndarray
        Mean of 2 sqrt(e + 3/8 + readout**2).
    readout : float
        Read-out noise in electrons, rms.

    Returns
    -------
    numpy.ndarray
        Expected electrons, not negative.

    Notes
    -----
    Closed form of the exact unbiased inverse (Makitalo and Foi 2011, doi 10.1109/TIP.2011.2121085).

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.denoising import unstabilized
    >>> counts = np.random.default_rng(0).poisson(10, 100_000)
    >>> round(float(unstabilized(np.mean(2 * np.sqrt(counts + 0.375)), 0.0)), 1)
    10.0
    """
    z = np.maximum(z, 2 * 0.375**0.5)  # value of zero electrons
    electrons = z**2 / 4 - 1 / 8 + 1.5**0.5 / 4 / z - 11 / 8 / z**2 + 5 / 8 * 1.5**0.5 / z**3
    return (electrons - readout**2).clip(min=0)
