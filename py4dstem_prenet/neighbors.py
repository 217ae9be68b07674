"""What the scan around a pattern says of it: means of recentered neighbors that cannot be told from it.

Non-local means (Buades et al. 2005, doi 10.1137/040616024) over scan positions instead of pixels: patterns of one
grain repeat, moved by the descan. They are moved into one frame, compared, averaged, and moved back.
"""

from __future__ import annotations

import torch

LOBES = 4  # of the Lanczos kernel: a sharp disk edge keeps 99.8 % of its energy there and back


def kernels(offset: torch.Tensor, side: int) -> torch.Tensor:
    """Matrices that resample an axis: (n, side, side), row i weighs the samples around i + offset[n].

    Windowed sinc of LOBES lobes (Duchon 1979), rows of unit sum; what lies beyond the ends repeats the last pixel.
    """
    whole = torch.floor(offset)
    reach = torch.arange(1 - LOBES, LOBES + 1, device=offset.device)
    distance = reach - (offset - whole)[:, None]
    weight = torch.sinc(distance) * torch.sinc(distance / LOBES) * (distance.abs() < LOBES)
    weight = weight / weight.sum(1, keepdim=True)
    at = torch.arange(side, device=offset.device)[None, :, None] + (whole[:, None] + reach).long()[:, None, :]
    out = weight.new_zeros(len(offset), side, side)
    return out.scatter_add_(2, at.clamp(0, side - 1), weight[:, None, :].expand_as(at))


def shift(images: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """Images (n, H, W) seen from a frame that is moved by offset (n, 2) pixels: out[i, j] = image[i + dx, j + dy]."""
    rows, columns = kernels(offset[:, 0], images.shape[1]), kernels(offset[:, 1], images.shape[2])
    return rows @ images @ columns.transpose(1, 2)
