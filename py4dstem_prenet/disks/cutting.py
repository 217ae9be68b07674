"""Windows of disks, and which pixels of them lie under other disks."""

from __future__ import annotations

import numpy as np
import torch

from . import Candidates, covered


class DiskWindows:
    """Patterns out of which the windows of disks are cut.

    Parameters
    ----------
    electrons : torch.Tensor, shape (n, Qx, Qy)
        Patterns in electrons.
    good : torch.Tensor of bool, shape (Qx, Qy)
        Pixels that are used.
    reach : float
        Radius of a disk with its edge, pixels.
    margin : int
        Pixels around the patterns, at least half a window.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from py4dstem_prenet.disks import Candidates, DiskWindows
    >>> windows = DiskWindows(torch.ones(1, 16, 16), torch.ones(16, 16, dtype=bool), reach=2.5, margin=4)
    >>> one = Candidates(np.array([0]), np.array([[1, 8]]), *np.ones((4, 1)))
    >>> electrons, good = windows.cut(one, windows.coverage(one), side=5)
    >>> int(good.sum())  # a row of the window lies outside the pattern
    20
    """

    def __init__(self, electrons, good, reach: float, margin: int):
        self.shape, self.reach, self.margin = tuple(electrons.shape), reach, margin
        sides = (margin,) * 4
        self.electrons = torch.nn.functional.pad(electrons * good.to(electrons.dtype), sides)
        self.good = torch.nn.functional.pad(good, sides)

    def coverage(self, candidates: Candidates) -> torch.Tensor:
        """Count the disks over each pixel.

        Parameters
        ----------
        candidates : Candidates
            The disks of all patterns.

        Returns
        -------
        torch.Tensor of uint8, shape (n, Qx + 2 margin, Qy + 2 margin)
            The number of disks.
        """
        n, *shape = self.electrons.shape
        times = covered((n, *shape), candidates.pattern, candidates.place + self.margin, self.reach)
        return torch.from_numpy(times).to(self.electrons.device)

    def cut(self, candidates: Candidates, coverage, side: int, neighbors=None):
        """Cut the windows of disks.

        Parameters
        ----------
        candidates : Candidates
            The disks.
        coverage : torch.Tensor
            The number of disks over each pixel, `candidates` included.
        side : int
            Side of the windows, odd.
        neighbors : numpy.ndarray, shape (k, m, 2), optional
            Places of other disks whose pixels are kept, from the middle of the window; NaN for none.

        Returns
        -------
        electrons : torch.Tensor, shape (k, side, side)
            The windows.
        good : torch.Tensor of bool, shape (k, side, side)
            Good pixels that lie under no other disk.
        """
        half, device = side // 2, self.electrons.device
        axis = torch.arange(-half, half + 1, device=device)
        size = self.electrons.shape[1:]
        place = torch.from_numpy(candidates.place + self.margin).to(device)
        rows = (place[:, :1] + axis).clamp(0, size[0] - 1)
        columns = (place[:, 1:] + axis).clamp(0, size[1] - 1)
        pixel = rows[:, :, None] * size[1] + columns[:, None]
        flat = torch.from_numpy(candidates.pattern).to(device)[:, None, None] * (size[0] * size[1]) + pixel
        own = [torch.zeros(1, 1, 2, dtype=torch.float64, device=device)]
        if neighbors is not None:
            own = [own[0], torch.from_numpy(np.nan_to_num(neighbors, nan=1e9)).to(device)]
        times = coverage.view(-1)[flat].short()
        for places in own:
            for k in range(places.shape[1]):
                times = times - (torch.hypot(axis[:, None] - places[:, k, :1, None], axis - places[:, k, 1:, None])
                                 < self.reach).short()
        return self.electrons.view(-1)[flat], self.good.view(-1)[pixel] & (times <= 0)
