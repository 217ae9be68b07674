"""Patterns of some positions of a scan, kept in memory, that read like the scan itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .errors import PrenetError


@dataclass(frozen=True)
class Sample:
    """Some positions of a scan (Rx, Ry), as an array (Rx, Ry, Qx, Qy) of which nothing else can be read.

    scan: (Rx, Ry). positions: (n,) flat scan positions, ascending. patterns: (n, Qx, Qy), or a list of n patterns, as
    stored by the detector.
    """

    scan: tuple[int, int]
    positions: np.ndarray
    patterns: np.ndarray | list

    @property
    def shape(self):
        return (*self.scan, *self.patterns[0].shape)

    @property
    def dtype(self):
        return self.patterns[0].dtype

    def __getitem__(self, key):
        """The patterns of a rectangle of the scan, a pair of slices. Raises PrenetError where one was not kept."""
        rows, columns = (np.arange(n)[part] for n, part in zip(self.scan, key, strict=True))
        wanted = (rows[:, None] * self.scan[1] + columns).ravel()
        if not self.has(wanted):
            raise PrenetError("Patterns are asked for that this sample of the scan does not hold.")
        chosen = np.stack([self.patterns[k] for k in np.searchsorted(self.positions, wanted)])
        return chosen.reshape(len(rows), len(columns), *chosen.shape[1:])

    def has(self, positions) -> bool:
        """Whether all of these flat positions are there."""
        return bool(np.isin(positions, self.positions, assume_unique=True).all())

    def held(self):
        """(Rx, Ry) bool: which positions are there."""
        there = np.zeros(self.scan, bool)
        there.flat[self.positions] = True
        return there
