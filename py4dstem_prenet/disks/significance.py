"""Significance of a disk at every pixel of a pattern: counts in the aperture against those around it.

The statistic is that of Li and Ma (Astrophys. J. 272, 317 (1983), eq. 17) for counts on a source and off it: the signed
square root of the likelihood ratio between a disk on a background and the background alone. The level of the background
is measured around each disk; only its shape is taken from the scan. For many counts it is standard normal.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.fft import next_fast_len

from ..core import ellipse_matrix
from ..fits import Aperture

# Set on multislice silicon along [110] (benchmarks/strain.py, disks.py), unless a comment says otherwise.
RING_EDGES = 2.0  # widths of the edge; distance between disk and ring of background
MIN_RING_PX, RING_RADII = 3.0, 0.7  # pixels, radii; the larger is the width of the ring of background


class DiskFilter:
    """Sums over an aperture around every pixel, and over the ring around it.

    Parameters
    ----------
    aperture : Aperture
        The aperture, pixels.
    shape : tuple of int
        (Qx, Qy) of the patterns, at most.
    device : str or torch.device, optional
        Where the sums are computed.

    Attributes
    ----------
    area, ring_area : float
        Pixels in the aperture and in the ring.
    offsets : list of numpy.ndarray of int, shape (2, pixels)
        Pixels of the aperture and of the ring, from their middle.
    inner, outer : float
        Radii of the ring, pixels; no electron of the disk lies beyond the inner one.
    outside : int
        Pixels; width around a pattern in which centers of cut disks are searched.
    size : list of int
        Pixels; size of the transforms. They are cyclic: sums over pattern and margin hold for images that are zero in
        the margin, and sums over the pattern for any image.

    Examples
    --------
    >>> import torch
    >>> from py4dstem_prenet.disks import DiskFilter
    >>> from py4dstem_prenet.fits import Aperture
    >>> disks = DiskFilter(Aperture(4.0, 0.3, (0.0, 0.0)), (32, 32))
    >>> pattern = torch.ones(1, 32, 32)
    >>> float(disks.sums(pattern, 0)[0, 16, 16].round()) == disks.area
    True
    """

    def __init__(self, aperture: Aperture, shape, device="cpu"):
        self.aperture, self.outside = aperture, int(np.ceil(aperture.radius))
        self.inner = aperture.radius + RING_EDGES * aperture.edge
        self.outer = self.inner + max(MIN_RING_PX, RING_RADII * aperture.radius)
        self.half = int(np.ceil(self.outer * (1 + np.hypot(*aperture.vector))))
        axis = torch.arange(-self.half, self.half + 1, dtype=torch.float64)
        offset = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
        inverse = torch.linalg.inv(ellipse_matrix(torch.tensor(np.asarray(aperture.vector, float))))
        distance = (offset @ inverse.T.double()).norm(dim=-1)
        self.kernels = torch.stack([distance < aperture.radius + 0.5 * aperture.edge,
                                    (distance >= self.inner) & (distance < self.outer)]).float().to(device)
        self.area, self.ring_area = self.kernels.sum((1, 2)).tolist()
        self.offsets = [(kernel > 0).nonzero().cpu().numpy().T - self.half for kernel in self.kernels]
        self.size = [next_fast_len(max(n + self.outside, self.half + 1) + self.half, real=True) for n in shape]
        kernels = torch.nn.functional.pad(self.kernels.flip(1, 2), (0, self.size[1] - 2 * self.half - 1,
                                                                    0, self.size[0] - 2 * self.half - 1))
        self.waves = torch.fft.rfft2(kernels.roll((-self.half, -self.half), (1, 2)))

    def sums(self, images, kernel: int):
        """Sum images over the aperture or the ring around every pixel.

        Parameters
        ----------
        images : torch.Tensor, shape (n, Qx, Qy)
            The images.
        kernel : int
            0 for the aperture, 1 for the ring.

        Returns
        -------
        torch.Tensor, shape (n, Qx, Qy)
            The sums.
        """
        return self._inverse(torch.fft.rfft2(images, s=self.size) * self.waves[kernel], images.shape[1:])

    def both_sums(self, images):
        """Sum images over the aperture and the ring around every pixel.

        Parameters
        ----------
        images : torch.Tensor, shape (n, Qx, Qy)
            The images.

        Returns
        -------
        list of torch.Tensor, shape (n, Qx, Qy)
            The sums over the aperture, and those over the ring.
        """
        wave = torch.fft.rfft2(images, s=self.size)
        return [self._inverse(wave * kernel, images.shape[1:]) for kernel in self.waves]

    def _inverse(self, wave, shape):
        """Transform back, (n, Qx, Qy)."""
        return torch.fft.irfft2(wave, s=self.size)[:, : shape[0], : shape[1]]

    def sums_at(self, images, pattern, place, kernel: int):
        """Sum images over the aperture or the ring around some pixels.

        Parameters
        ----------
        images : torch.Tensor, shape (..., n, Qx, Qy)
            The images.
        pattern : numpy.ndarray of int, shape (k,)
            Number of the image.
        place : numpy.ndarray of int, shape (k, 2)
            The pixels.
        kernel : int
            0 for the aperture, 1 for the ring.

        Returns
        -------
        torch.Tensor, shape (..., k)
            The sums.
        """
        *leading, rows, columns = images.shape
        index, inside = self.pixels_at((rows, columns), pattern, place, kernel)
        return (images.reshape(*leading[:-1], -1)[..., index.to(images.device)] * inside.to(images.device)).sum(-1)

    def pixels_at(self, shape, pattern, place, kernel: int):
        """List the pixels of the aperture or the ring around some pixels.

        Parameters
        ----------
        shape : tuple of int
            (Qx, Qy) of the images.
        pattern : numpy.ndarray of int, shape (k,)
            Number of the image.
        place : numpy.ndarray of int, shape (k, 2)
            The pixels.
        kernel : int
            0 for the aperture, 1 for the ring.

        Returns
        -------
        index : torch.Tensor of int, shape (k, pixels)
            Flat index into all images.
        inside : torch.Tensor of bool, shape (k, pixels)
            False for pixels outside the image, which have the index of one at its edge.
        """
        dx, dy = self.offsets[kernel]
        x, y = place[:, :1] + dx, place[:, 1:] + dy
        rows, columns = shape
        inside = (x >= 0) & (x < rows) & (y >= 0) & (y < columns)
        flat = (pattern[:, None] * rows + x.clip(0, rows - 1)) * columns
        return torch.from_numpy(flat + y.clip(0, columns - 1)), torch.from_numpy(inside)


def li_ma(on, off, expected_on, expected_off):
    """Compute the significance of counts on a source over counts off it.

    Parameters
    ----------
    on, off : torch.Tensor
        Counts on the source and off it; negative ones count as 0.
    expected_on, expected_off : torch.Tensor
        Expected counts of the background on the source and off it, up to a common factor; for a flat background, the
        areas.

    Returns
    -------
    torch.Tensor
        Signed square root of twice the log of the likelihood ratio, standard deviations.

    Examples
    --------
    >>> import torch
    >>> from py4dstem_prenet.disks import li_ma
    >>> z = li_ma(*(torch.tensor([float(v)]) for v in (130, 100, 1, 1)))
    >>> round(float(z), 1)  # close to 30 / sqrt(230)
    2.0
    """
    on, off = on.clamp_min(0), off.clamp_min(0)
    expected_on, expected_off = expected_on.clamp_min(1e-6), expected_off.clamp_min(1e-6)
    together = (on + off).clamp_min(1e-6) / (expected_on + expected_off)
    ratio = torch.xlogy(on, on / (together * expected_on)) + torch.xlogy(off, off / (together * expected_off))
    return (2 * ratio.clamp_min(0)).sqrt() * torch.sign(on / expected_on - off / expected_off)


def may_exceed(on, off, expected_on, expected_off, least: float):
    """Tell where counts on a source may be more significant than `least`; elsewhere they certainly are not.

    The Kullback-Leibler divergence is at most the chi-squared one, which takes no logarithm.

    Parameters
    ----------
    on, off : torch.Tensor
        Counts on the source and off it, not negative.
    expected_on, expected_off : torch.Tensor
        Expected counts of the background on the source and off it, up to a common factor, positive.
    least : float
        Standard deviations, positive.

    Returns
    -------
    torch.Tensor of bool
        True everywhere that `li_ma` exceeds `least`.

    Examples
    --------
    >>> import torch
    >>> from py4dstem_prenet.disks import may_exceed
    >>> may_exceed(*(torch.tensor(v) for v in ([101.0, 130.0], [100.0, 100.0], [1.0, 1.0], [1.0, 1.0])), 1.9).tolist()
    [False, True]
    """
    together, share = on + off, expected_on / (expected_on + expected_off)
    excess = torch.addcmul(on, together, share, value=-1).clamp_min_(0)
    return excess.square_() > together.mul_(share).mul_(0.5 * least**2).mul_(1 - share)


def disk_significance(on, off, expected_on, expected_off, structure: float):
    """Compute the significance of counts on a source over counts off it, on a background with structure.

    Parameters
    ----------
    on, off : torch.Tensor
        Counts on the source and off it.
    expected_on, expected_off : torch.Tensor
        Expected counts of the background on the source and off it, up to a common factor.
    structure : float
        Relative rms of the background on the source about its expectation, without counting noise.

    Returns
    -------
    torch.Tensor
        The result of `li_ma` divided by its standard deviation on this background without a source.

    Examples
    --------
    >>> import torch
    >>> from py4dstem_prenet.disks import disk_significance
    >>> counts = [torch.tensor([float(v)]) for v in (130, 100, 1, 1)]
    >>> round(float(disk_significance(*counts, structure=0.2)), 1)  # that of `li_ma` is 2.0
    1.1
    """
    z = li_ma(on, off, expected_on, expected_off)
    if not structure:
        return z
    share = expected_on.clamp_min(1e-6) / expected_off.clamp_min(1e-6)
    return z / (1 + structure**2 * off.clamp_min(0) * share / (1 + share)).sqrt()
