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
    side : int
        Largest side of the windows, pixels.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from py4dstem_prenet.disks import Candidates, DiskWindows
    >>> windows = DiskWindows(torch.ones(1, 16, 16), torch.ones(16, 16, dtype=bool), reach=2.5, side=5)
    >>> one = Candidates(np.array([0]), np.array([[1, 8]]), *np.ones((4, 1)))
    >>> electrons, good = windows.cut(one, windows.coverage(one), side=5)
    >>> int(good.sum())  # a row of the window lies outside the pattern
    20
    """

    def __init__(self, electrons, good, reach: float, side: int):
        self.shape, self.reach, self.margin = tuple(electrons.shape), reach, int(np.ceil(reach)) + side // 2
        sides = (self.margin,) * 4
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
        corner = candidates.place + (self.margin - half)
        inside = corner.clip(0, np.subtract(self.electrons.shape[1:], side))  # no other window reaches the pattern
        pattern, x, y = (torch.from_numpy(v).to(device) for v in (candidates.pattern, *inside.T))
        # Slices of whole rows are copied faster than single pixels.
        electrons, times, good = (image.unfold(-2, side, 1).unfold(-2, side, 1)[at] for image, at in (
            (self.electrons, (pattern, x, y)), (coverage, (pattern, x, y)), (self.good, (x, y))))
        own = torch.hypot(axis[:, None].float(), axis.float()) < self.reach
        least = 1 + own.to(times.dtype)
        if neighbors is not None:
            places = torch.from_numpy(np.nan_to_num(neighbors, nan=1e9)).to(device)
            for k in range(places.shape[1]):
                least = least + (torch.hypot(axis[:, None] - places[:, k, :1, None], axis - places[:, k, 1:, None])
                                 < self.reach).to(times.dtype)
        used = good & (times < least)
        if (corner != inside).any():
            used[torch.from_numpy((corner != inside).any(1)).to(device)] = False
        return electrons, used
