"""The center network, which locates the direct beam in two stages.

`CoarseNet` finds the beam in a whole pattern, to a cell of a coarse map; `FineNet` measures its offset from the middle
of a window, with a covariance. Both are U-Nets (`layers.UNet`) on variance-stabilized electrons.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle, silu

from ..fits import symmetry
from .layers import Conv, Residual, UNet, trunk_precision

COARSE_CELL_PX = 4  # side of a cell of the coarse map, pixels of the pattern; part of the architecture
WINDOW = 48  # side of the window of `FineNet`, pixels; the training has disks of up to 15 px radius
REPLAY_FIELD_PX = 128  # side of the input of `CoarseNet` in `CenterNet.replay`, pixels; the side used in training


def normalize(stabilized: torch.Tensor, good: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale patterns by their root mean square above the median.

    Parameters
    ----------
    stabilized : torch.Tensor
        Variance-stabilized counts, (B, H, W).
    good : torch.Tensor
        True for usable pixels, (B, H, W), bool. Other pixels become zero.

    Returns
    -------
    normalized : torch.Tensor
        Stabilized counts above the median of the pattern, divided by the scale, (B, H, W).
    scale : torch.Tensor
        Root mean square of each pattern, (B,), at least 0.05. It tells the network the dose.

    Examples
    --------
    >>> import torch
    >>> pattern = torch.zeros(1, 8, 8)
    >>> pattern[0, 4, 4] = 8.0
    >>> normalized, scale = normalize(pattern, torch.ones(1, 8, 8, dtype=torch.bool))
    >>> scale.tolist(), normalized[0, 4, 4].item()
    ([1.0], 8.0)
    """
    level = stabilized.masked_fill(~good, float("nan")).flatten(1).nanmedian(1).values.nan_to_num(0)
    z = (stabilized - level[:, None, None]) * good
    scale = z.square().sum((1, 2)).div(good.sum((1, 2)).clamp_min(1)).sqrt().clamp_min(0.05)
    return z / scale[:, None, None], scale


class CoarseNet(nn.Module):
    """Position, radius, presence and visibility of the direct beam in a pattern, or in a sum over a block of a scan.

    A second input channel, computed from the pattern, holds its inversion symmetry about each pixel.

    Parameters
    ----------
    width : int
        Number of channels at full resolution.
    """

    def __init__(self, width: int = 24):
        super().__init__()
        self.unet = UNet(3 * COARSE_CELL_PX**2 + 1, (width, 2 * width, 3 * width, 4 * width), depth=1)
        self.heat = nn.Conv2d(width, 1, 1)
        self.head = nn.Sequential(nn.Linear(2 * width, 64), nn.SiLU(), nn.Linear(64, 3))

    def forward(self, x, scale, half: bool = False):
        """Evaluate the network.

        Parameters
        ----------
        x : torch.Tensor
            Normalized stabilized counts and usable pixels, (B, 2, H, W); H and W divisible by 32.
        scale : torch.Tensor
            Scale of each pattern from `normalize`, (B,).
        half : bool
            Whether convolutions run in bfloat16.

        Returns
        -------
        logits : torch.Tensor
            Logits of the position over cells of `COARSE_CELL_PX` pixels, (B, H / COARSE_CELL_PX, W / COARSE_CELL_PX).
        log_radius : torch.Tensor
            Natural logarithm of the radius of the direct disk in pixels, (B,).
        presence : torch.Tensor
            Logit of the presence of a direct beam, (B,).
        visible : torch.Tensor
            Logit of the direct disk being visible, and not behind a beam stop, (B,).
        """
        cells, symmetry_cells = (pixel_unshuffle(channels, COARSE_CELL_PX)
                                 for channels in (x, symmetry(x[:, 0], x[:, 1])[:, None]))
        dose = scale.log()[:, None, None, None].expand(-1, 1, *cells.shape[-2:])
        with trunk_precision(x, half):
            features = self.unet(torch.cat([cells, dose, symmetry_cells], 1))
        features = features.float()
        logits = self.heat(features)[:, 0]
        weight = torch.softmax(logits.flatten(1), 1)
        beam_features = (features.flatten(2) * weight[:, None]).sum(-1)
        radius, presence, visible = self.head(torch.cat([beam_features, features.mean((2, 3))], 1)).unbind(1)
        return logits, radius, presence, visible


class FineNet(nn.Module):
    """Offset of the direct beam from the middle of a window, with its covariance.

    Parameters
    ----------
    width : int
        Number of channels at half resolution, the highest of the U-Net.

    Notes
    -----
    The offset is the mean of a softmax over full-resolution logits, computed in float32. With a head in bfloat16 the
    position error did not fall below 0.2 px in training.
    """

    def __init__(self, width: int = 24):
        super().__init__()
        self.unet = UNet(13, (width, 2 * width, 3 * width), depth=1)
        self.last = Residual(width)
        self.logits = Conv(width, 4)
        self.spread = nn.Sequential(nn.Linear(2 * width + 5, 64), nn.SiLU(), nn.Linear(64, 3))
        self.correction = nn.Linear(2 * width, 2)
        nn.init.zeros_(self.correction.weight)
        nn.init.zeros_(self.correction.bias)

    def forward(self, x, scale, half: bool = False):
        """Evaluate the network.

        Parameters
        ----------
        x : torch.Tensor
            (B, 3, WINDOW, WINDOW): normalized stabilized counts; the aperture as recorded by this detector (a soft
            disk of known radius, edge width and ellipse in the middle of the window); usable pixels.
        scale : torch.Tensor
            Scale of each window from `normalize`, (B,).
        half : bool
            Whether convolutions of the U-Net run in bfloat16.

        Returns
        -------
        offset : torch.Tensor
            Position of the beam relative to the middle of the window, (B, 2), pixels.
        factor : torch.Tensor
            Cholesky factor L of the covariance L L^T of the offset, (B, 2, 2), pixels.
        """
        cells = pixel_unshuffle(x, 2)
        dose = scale.log()[:, None, None, None].expand(-1, 1, *cells.shape[-2:])
        with trunk_precision(x, half):
            features = self.unet(torch.cat([cells, dose], 1))
        features = self.last(features.float())
        heat = torch.softmax(pixel_shuffle(self.logits(features), 2).flatten(1), 1)
        side = x.shape[-1]
        axis = torch.arange(side, device=x.device, dtype=torch.float32) - (side - 1) / 2
        heat = heat.view(-1, side, side)
        rows, columns = heat.sum(2), heat.sum(1)
        mean = torch.stack([rows @ axis, columns @ axis], 1)
        second = torch.stack([rows @ axis**2, columns @ axis**2], 1) - mean**2
        coarse = heat.view(-1, side // 2, 2, side // 2, 2).sum((2, 4)).flatten(1)
        beam_features = (features.flatten(2) * coarse[:, None]).sum(-1)
        pooled = torch.cat([beam_features, features.mean((2, 3))], 1)
        offset = mean + self.correction(silu(pooled))
        a, b, c = self.spread(torch.cat([pooled, (second + 1e-4).log(), mean, scale.log()[:, None]], 1)).unbind(1)
        a, b = (a.clamp(-7, 3) - 2).exp(), (b.clamp(-7, 3) - 2).exp()
        zero = torch.zeros_like(a)
        return offset, torch.stack([torch.stack([a, zero], 1), torch.stack([c * a.detach(), b], 1)], 1)


class CenterNet(nn.Module):
    """Both stages of the center network, `coarse` and `fine`, in one set of weights."""

    def __init__(self):
        super().__init__()
        self.coarse = CoarseNet()
        self.fine = FineNet()

    def replay(self, generator):  # numpydoc ignore=PR01,RT01
        """Evaluate the network on random input, see `weights.replay`."""
        x = torch.rand(1, 3, WINDOW, WINDOW, generator=generator)
        offset, factor = self.fine(x, torch.ones(1))
        field = torch.rand(1, 2, REPLAY_FIELD_PX, REPLAY_FIELD_PX, generator=generator)
        logits, radius, presence, visible = self.coarse(field, torch.ones(1))
        return [*offset[0], *factor.flatten(), logits.mean(), radius[0], presence[0], visible[0]]


def coarse_position(logits: torch.Tensor, around: torch.Tensor | None = None) -> torch.Tensor:
    """Return the position of the strongest cell of a coarse map, refined over its neighbors.

    Parameters
    ----------
    logits : torch.Tensor
        Output of `CoarseNet`, (B, rows, columns).
    around : torch.Tensor, optional
        Expected positions, (B, 2), pixels. Cells more than two cells away are excluded. By default all cells count.

    Returns
    -------
    torch.Tensor
        Positions (row, column), (B, 2), pixels.

    Examples
    --------
    >>> import torch
    >>> logits = torch.full((1, 8, 8), -9.0)
    >>> logits[0, 2, 5] = 20.0  # its cell covers rows 8 to 11 and columns 20 to 23
    >>> coarse_position(logits).tolist()
    [[9.5, 21.5]]
    """
    rows, columns = logits.shape[1:]
    x = torch.arange(rows, device=logits.device)[None, :, None]
    y = torch.arange(columns, device=logits.device)[None, None, :]
    if around is not None:
        cell = (around[:, :, None, None] - (COARSE_CELL_PX - 1) / 2) / COARSE_CELL_PX
        far = ((x - cell[:, 0]).abs() > 2) | ((y - cell[:, 1]).abs() > 2)
        logits = logits.masked_fill(far, -1e4)
    strongest = logits.flatten(1).argmax(1)
    at = torch.stack([strongest // columns, strongest % columns], 1)
    near = ((x - at[:, 0, None, None]).abs() <= 1) & ((y - at[:, 1, None, None]).abs() <= 1)
    weight = torch.softmax(logits.masked_fill(~near, float("-inf")).flatten(1), 1).view_as(logits)
    cell = torch.stack([(weight * x).sum((1, 2)), (weight * y).sum((1, 2))], 1)
    return cell * COARSE_CELL_PX + (COARSE_CELL_PX - 1) / 2
