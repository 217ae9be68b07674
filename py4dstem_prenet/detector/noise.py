"""What one detector value means: gain, offset, read-out noise and bad pixels."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.ndimage import binary_dilation

from ..core import Flag, Result


def stabilize(e, readout_e):
    """Counts of unit variance, 2 sqrt(e + 3/8 + readout_e**2), clipped at 0. e: electrons, array or tensor.

    readout_e: read-out noise in electrons, rms.
    """
    return 2 * (e + (0.375 + readout_e**2)).clip(min=0) ** 0.5


@dataclass(frozen=True, eq=False, repr=False)
class NoiseModel(Result):
    """What one detector value means.

    gain: detector units per electron. offset: units at zero electrons. readout: rms, detector units.
    bad_pixels: (Qx, Qy) bool, True = bad. counting: `electrons` gives whole, non-negative numbers on good
    pixels (to float32 rounding). dose: mean electrons per pattern on good pixels. flags: what a user should know.
    """

    gain: float
    offset: float
    readout: float
    bad_pixels: np.ndarray
    counting: bool
    dose: float
    flags: tuple[Flag, ...] = ()

    @property
    def summary(self) -> str:
        """What the detector is, in a few words."""
        kind = "counts electrons" if self.counting else (
            f"gain {self.gain:.4g} units an electron, offset {self.offset:.4g}, read-out noise {self.readout:.3g} units")
        return f"{kind}; {self.dose:,.4g} electrons a pattern; {int(self.bad_pixels.sum())} bad pixels"

    def rows(self):
        return [("detector", self.summary), *(("flag", flag.sentence) for flag in self.flags[:8])]

    def electrons(self, block):
        """(n, Qx, Qy) detector units -> float32 electrons; bad pixels get the median of their good neighbors.

        Holes wider than a pixel are filled from their rim inward. The input is left as it is.
        """
        e = np.asarray(block, dtype=np.float32)
        e = (e - np.float32(self.offset)) / np.float32(self.gain)
        for pixels, around, middle in self._filling:
            near = np.concatenate([e.reshape(len(e), -1), np.full((len(e), 1), np.inf, np.float32)], axis=1)
            near = np.sort(near[:, around], axis=-1)  # what is unknown sorts to the end, as infinity
            chosen = np.take_along_axis(near, middle[None], axis=-1)
            e.reshape(len(e), -1)[:, pixels] = chosen.mean(-1)
        return e

    def variance(self, electrons):
        """Variance in electrons**2 where `electrons` (array or tensor) are expected."""
        return electrons.clip(min=0) + (self.readout / self.gain) ** 2

    @cached_property
    def _filling(self):
        """For each layer of bad pixels: (pixels, 8 neighbors each, index of the two middle known ones)."""
        shape = self.bad_pixels.shape
        known = ~self.bad_pixels
        layers = []
        while known.any() and not known.all():
            x, y = np.nonzero(~known & binary_dilation(known, np.ones((3, 3))))
            steps = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
            nx, ny = (c[:, None] + np.array(s) for c, s in zip((x, y), zip(*steps, strict=True), strict=True))
            inside = (nx >= 0) & (nx < shape[0]) & (ny >= 0) & (ny < shape[1])
            nx, ny = np.clip(nx, 0, shape[0] - 1), np.clip(ny, 0, shape[1] - 1)
            usable = inside & known[nx, ny]
            count = usable.sum(1)
            around = np.where(usable, nx * shape[1] + ny, shape[0] * shape[1])
            layers.append((x * shape[1] + y, around, np.stack([(count - 1) // 2, count // 2], -1)))
            known = known.copy()
            known[x, y] = True
        return tuple(layers)
