"""Noise model of a detector: gain, offset, read-out noise and bad pixels."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.ndimage import binary_dilation, uniform_filter

from . import Flag, Result

# Faults of pixels are distinguished from features of the pattern by their behavior in time:
MIN_PATTERNS_IN_TIME = 8  # patterns; smallest sample in which changes from pattern to pattern are used
SCAN_PARTS = 4  # number of consecutive parts of the scan, in each of which a faulty pixel must be conspicuous
MIN_PART_SHARE = 0.3  # fraction of the mean excess; smallest excess of a faulty pixel in each part of the scan
MIN_SATURATED_ELECTRONS = 50  # electrons; smallest maximum of data that can be saturated
MIN_SATURATED_VALUES = 4  # values; smallest number that equal the maximum of saturated data
SATURATED_BAND = 0.1  # fraction of the largest signal; width of the band below the maximum with fewer values than at it
MAX_LISTED_PIXELS = 20  # pixels; largest number of bad pixels that a flag lists: they fit on a line of text
EIGHT_STEPS = tuple((i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j)  # from a pixel to its neighbors


def stabilize(electrons, readout):
    """Transform electrons to values of unit variance.

    Parameters
    ----------
    electrons : array_like or torch.Tensor
        Electrons in each pixel.
    readout : float or array_like
        Read-out noise in electrons, rms.

    Returns
    -------
    numpy.ndarray or torch.Tensor
        ``2 * sqrt(electrons + 3/8 + readout**2)``, with a negative radicand clipped at 0.

    Notes
    -----
    The generalized Anscombe transform (Anscombe, Biometrika 35, 246 (1948); Murtagh, Starck and Bijaoui 1995).

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.core import stabilize
    >>> counts = np.random.default_rng(0).poisson(20.0, 100_000)
    >>> round(float(stabilize(counts, readout=0.0).std()), 1)
    1.0
    """
    return 2 * (electrons + (0.375 + readout**2)).clip(min=0) ** 0.5


@dataclass(frozen=True, eq=False, repr=False)
class NoiseModel(Result):
    """Noise model of a detector: value = gain * Poisson(electrons) + offset + Normal(0, readout).

    Attributes
    ----------
    gain : float
        Detector units per electron.
    offset : float
        Value at zero electrons in detector units.
    readout : float
        Read-out noise in detector units, rms.
    bad_pixels : numpy.ndarray of bool, shape (Qx, Qy)
        True where a pixel is bad.
    counting : bool
        Whether `electrons` returns whole, non-negative numbers on good pixels (to float32 rounding).
    dose : float
        Mean electrons per pattern on good pixels.
    flags : tuple of Flag
        Warnings about the data.
    sigmas : tuple of float
        Standard deviations of gain, offset, readout and dose. Zero for values that are known or given, infinite for
        assumed ones, NaN if nothing was estimated.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.core import NoiseModel
    >>> bad = np.zeros((4, 4), bool)
    >>> bad[1, 1] = True
    >>> noise = NoiseModel(gain=10.0, offset=100.0, readout=5.0, bad_pixels=bad, counting=False, dose=45.0)
    >>> block = np.full((1, 4, 4), 130.0)
    >>> block[0, 1, 1] = 9999.0
    >>> noise.electrons(block)[0, 1].tolist()
    [3.0, 3.0, 3.0, 3.0]
    """

    gain: float
    offset: float
    readout: float
    bad_pixels: np.ndarray
    counting: bool
    dose: float
    flags: tuple[Flag, ...] = ()
    sigmas: tuple[float, float, float, float] = (float("nan"),) * 4

    @property
    def summary(self) -> str:
        """Describe the detector in a few words.

        Returns
        -------
        str
            Gain, offset, read-out noise, dose and number of bad pixels.
        """
        gain, offset, readout = (with_sigma(value, sigma) for value, sigma in
                                 zip((self.gain, self.offset, self.readout), self.sigmas, strict=False))
        kind = "counts electrons" if self.counting else (
            f"gain {gain} units per electron, offset {offset}, read-out noise {readout} units")
        dose = f"{self.dose:,.0f}" if self.dose >= 100 else f"{self.dose:.3g}"
        count = int(self.bad_pixels.sum())
        return f"{kind}; {dose} electrons per pattern; {count} bad pixel{'s' * (count != 1)}"

    @property
    def bad_pixel_flags(self) -> tuple[Flag, ...]:
        """Return one flag that counts the bad pixels and lists the first of them; none if there is no bad pixel.

        Single pixels come before those in groups (a beam stop, a dead chip), and each in the order of rows.

        Returns
        -------
        tuple of Flag
            "bad_pixels", with the numbers "count", "listed" and "positions", a list of [row, column].
        """
        x, y = np.nonzero(self.bad_pixels)
        if len(x) == 0:
            return ()
        bad_fraction = uniform_filter(self.bad_pixels.astype(np.float32), 3, mode="constant")[x, y]
        first = np.argsort(np.rint(9 * bad_fraction), kind="stable")[:MAX_LISTED_PIXELS]
        return (Flag("bad_pixels", {"count": len(x), "listed": len(first),
                                    "positions": np.stack([x, y], -1)[first].tolist()}),)

    def rows(self):
        """Return the rows of the text and of the table in notebooks.

        Returns
        -------
        list of tuple
            Pairs of a label and a value.
        """
        return [("detector", self.summary), *(("flag", flag.sentence) for flag in self.flags[:8])]

    def electrons(self, block, fill: bool = True):
        """Convert patterns to electrons and fill bad pixels.

        Parameters
        ----------
        block : array_like, shape (n, Qx, Qy)
            Patterns in detector units; not modified.
        fill : bool, optional
            False sets bad pixels to zero, for callers that do not use them.

        Returns
        -------
        numpy.ndarray, shape (n, Qx, Qy)
            Electrons, float32. A bad pixel gets the median of its good neighbors; larger holes are filled from their
            rim inward.
        """
        e = np.array(block, dtype=np.float32, order="C")
        e -= np.float32(self.offset)
        e /= np.float32(self.gain)
        patterns = e.reshape(len(e), -1)
        if not fill:
            patterns[:, np.flatnonzero(self.bad_pixels)] = 0
            return e
        for pixels, neighbors, middle in self._filling:
            missing = neighbors == patterns.shape[1]
            values = patterns[:, np.where(missing, 0, neighbors)]
            values[:, missing] = np.inf  # neighbors without a value are sorted last
            values.sort(axis=-1)
            patterns[:, pixels] = np.take_along_axis(values, middle[None], axis=-1).mean(-1)
        return e

    def replace_bad(self, index, block):
        """Replace the values of bad pixels by the mean of their good neighbors, in detector units.

        Parameters
        ----------
        index : numpy.ndarray of int, shape (n,)
            Flat scan position of each pattern.
        block : numpy.ndarray, shape (n, Qx, Qy)
            Patterns in detector units; not modified.

        Returns
        -------
        numpy.ndarray, shape (n, Qx, Qy)
            Patterns of the same type, in which good pixels are the same to the last bit. Larger holes are filled from
            their rim inward.

        Notes
        -----
        Integers stay integers, and counts stay multiples of the value of one electron: a mean of 2.3 becomes 3 in 30 %
        of the patterns and 2 in the others. So the mean over patterns is that of the neighbors, at the lowest doses,
        too, where rounding to the nearest number or a median would give zero. What is drawn depends on scan position
        and pixel only. The variance is below that of counting, since a mean of eight pixels adds little noise to disk
        detection.

        Examples
        --------
        >>> import numpy as np
        >>> from py4dstem_prenet.core import NoiseModel
        >>> bad = np.zeros((4, 4), bool)
        >>> bad[1, 1] = True
        >>> noise = NoiseModel(1.0, 0.0, 0.0, bad, counting=True, dose=45.0)
        >>> block = np.full((1, 4, 4), 3, np.uint8)
        >>> block[0, 1, 1] = 255
        >>> noise.replace_bad(np.array([0]), block)[0, 1].tolist()
        [3, 3, 3, 3]
        """
        block, size = np.array(block), self.bad_pixels.size
        near = np.flatnonzero(binary_dilation(self.bad_pixels, np.ones((3, 3))))
        column = np.full(size + 1, len(near))  # where values of a pixel are; a zero stands for a missing neighbor
        column[near] = np.arange(len(near))
        patterns = block.reshape(len(block), -1)
        values = np.pad(patterns[:, near].astype(np.float64), ((0, 0), (0, 1)))
        for pixels, neighbors, _ in self._filling:
            total = sum(values[:, column[neighbors[:, k]]] for k in range(len(EIGHT_STEPS)))
            values[:, column[pixels]] = total / (neighbors < size).sum(1)
        bad = np.flatnonzero(self.bad_pixels)
        mean = values[:, column[bad]]
        step = self.gain if self.counting else 1.0
        if self.counting or block.dtype.kind in "iu":
            mean = np.floor(mean / step + _uniform(index, bad)) * step
        patterns[:, bad] = mean
        return block

    def saturated_count(self, values):
        """Count saturated values.

        Parameters
        ----------
        values : numpy.ndarray
            Values in detector units.

        Returns
        -------
        int
            Number of values at the largest one, if they are saturated: the largest value is bright, and more values
            equal it than lie within the next tenth of the range. Else 0.

        Examples
        --------
        >>> import numpy as np
        >>> from py4dstem_prenet.core import NoiseModel
        >>> noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((1, 6), bool), counting=True, dose=700.0)
        >>> noise.saturated_count(np.array([3, 7, 255, 255, 255, 255])), noise.saturated_count(np.array([1, 2, 255]))
        (4, 0)
        """
        high = values.max()
        signal = np.float64(high) - self.offset
        top = np.count_nonzero(values == high)
        below = np.count_nonzero((values > high - SATURATED_BAND * signal) & (values < high))
        saturated = signal / self.gain > MIN_SATURATED_ELECTRONS and top >= MIN_SATURATED_VALUES and top > below
        return top if saturated else 0

    def variance(self, electrons):
        """Compute the variance of a pixel.

        Parameters
        ----------
        electrons : array_like or torch.Tensor
            Expected electrons.

        Returns
        -------
        numpy.ndarray or torch.Tensor
            Variance in electrons squared.
        """
        return electrons.clip(min=0) + (self.readout / self.gain) ** 2

    @cached_property
    def _filling(self):
        """For each layer of bad pixels: (pixels, 8 neighbors each, index of the two middle neighbors with a value)."""
        shape = self.bad_pixels.shape
        filled = ~self.bad_pixels
        layers = []
        while filled.any() and not filled.all():
            x, y = np.nonzero(~filled & binary_dilation(filled, np.ones((3, 3))))
            nx, ny = (c[:, None] + np.array(s) for c, s in zip((x, y), zip(*EIGHT_STEPS, strict=True), strict=True))
            inside = (nx >= 0) & (nx < shape[0]) & (ny >= 0) & (ny < shape[1])
            nx, ny = np.clip(nx, 0, shape[0] - 1), np.clip(ny, 0, shape[1] - 1)
            usable = inside & filled[nx, ny]
            count = usable.sum(1)
            neighbors = np.where(usable, nx * shape[1] + ny, shape[0] * shape[1])
            layers.append((x * shape[1] + y, neighbors, np.stack([(count - 1) // 2, count // 2], -1)))
            filled = filled.copy()
            filled[x, y] = True
        return tuple(layers)


def _uniform(index, pixels):
    """Random numbers from 0 to 1, (n, pixels), that depend on scan position and pixel only.

    The counter-based generator SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), with 53 bits of each number.
    """
    z = (np.asarray(index, np.uint64)[:, None] << np.uint64(32)) + np.asarray(pixels, np.uint64) + np.uint64(1)
    z = z * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)) / 2.0**53


def with_sigma(value: float, sigma: float) -> str:
    """Write a number with its standard deviation, both to the second digit of the latter.

    Parameters
    ----------
    value, sigma : float
        The number, and its standard deviation.

    Returns
    -------
    str
        The text; without a standard deviation if that is zero or not finite.

    Examples
    --------
    >>> with_sigma(109.998, 0.0163), with_sigma(22.76, 0.0)
    ('109.998 ± 0.016', '22.76')
    """
    if not 0 < sigma < np.inf:
        return f"{value:.4g}"
    digits = max(0, 1 - int(np.floor(np.log10(sigma))))
    return f"{value:.{digits}f} ± {sigma:.{digits}f}"
