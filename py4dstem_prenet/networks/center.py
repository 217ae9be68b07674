"""The center network: where the direct beam is, first roughly in a whole pattern, then exactly in a window."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle, silu

from ..fits import symmetry
from .layers import Conv, Residual, UNet, trunk_precision

CELL = 4  # pixels of a pattern per cell of the coarse map
WINDOW = 48  # side of a fine window, pixels


def normalize(stabilized: torch.Tensor, good: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Stabilized counts (B, H, W) over their root mean square above the median; that scale (B,) is the dose cue."""
    level = stabilized.masked_fill(~good, float("nan")).flatten(1).nanmedian(1).values.nan_to_num(0)
    z = (stabilized - level[:, None, None]) * good
    scale = z.square().sum((1, 2)).div(good.sum((1, 2)).clamp_min(1)).sqrt().clamp_min(0.05)
    return z / scale[:, None, None], scale

REPLAYED = 128  # side of the coarse field of `CenterNet.replay`, pixels


class CoarseNet(nn.Module):
    """Where the direct beam of a block sum is, how large it is and whether there is one.

    Beside the pattern the network sees how symmetric it is about each pixel.

    Input: normalized stabilized counts and good pixels, (B, 2, H, W), H and W divisible by 32, and the scale (B,).
    Output: logits over cells of CELL pixels (B, H / CELL, W / CELL), log radius in pixels (B,), presence logit (B,).
    """

    def __init__(self, width: int = 24):
        super().__init__()
        self.unet = UNet(3 * CELL**2 + 1, (width, 2 * width, 3 * width, 4 * width), depth=1)
        self.heat = nn.Conv2d(width, 1, 1)
        self.head = nn.Sequential(nn.Linear(2 * width, 64), nn.SiLU(), nn.Linear(64, 2))

    def forward(self, x, scale, half: bool = False):
        cells, turned = (pixel_unshuffle(part, CELL) for part in (x, symmetry(x[:, 0], x[:, 1])[:, None]))
        dose = scale.log()[:, None, None, None].expand(-1, 1, *cells.shape[-2:])
        with trunk_precision(x, half):
            features = self.unet(torch.cat([cells, dose, turned], 1))
        features = features.float()
        logits = self.heat(features)[:, 0]
        weight = torch.softmax(logits.flatten(1), 1)
        there = (features.flatten(2) * weight[:, None]).sum(-1)
        radius, presence = self.head(torch.cat([there, features.mean((2, 3))], 1)).unbind(1)
        return logits, radius, presence


class FineNet(nn.Module):
    """The offset of the direct beam from the middle of a window, with its covariance.

    Input: (B, 3, WINDOW, WINDOW): normalized stabilized counts, the aperture as this detector sees it (a soft disk
    of known radius, edge and ellipse, centred in the window), good pixels; and the scale (B,).
    Output: offset (B, 2) in pixels, and a Cholesky factor L (B, 2, 2) of its covariance L L^T.

    The offset is the mean of a softmax over full-resolution logits, taken in float32: with a bfloat16 head
    such networks stand still at 0.2 px.
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
        there = (features.flatten(2) * coarse[:, None]).sum(-1)
        pooled = torch.cat([there, features.mean((2, 3))], 1)
        offset = mean + self.correction(silu(pooled))
        a, b, c = self.spread(torch.cat([pooled, (second + 1e-4).log(), mean, scale.log()[:, None]], 1)).unbind(1)
        a, b = (a.clamp(-7, 3) - 2).exp(), (b.clamp(-7, 3) - 2).exp()
        zero = torch.zeros_like(a)
        return offset, torch.stack([torch.stack([a, zero], 1), torch.stack([c * a.detach(), b], 1)], 1)


class CenterNet(nn.Module):
    """Both stages in one set of weights."""

    def __init__(self):
        super().__init__()
        self.coarse = CoarseNet()
        self.fine = FineNet()

    def replay(self, generator):
        """Numbers that this network gives for inputs drawn with `generator`: proof that it was loaded as it was saved."""
        x = torch.rand(1, 3, WINDOW, WINDOW, generator=generator)
        offset, factor = self.fine(x, torch.ones(1))
        logits, radius, presence = self.coarse(torch.rand(1, 2, REPLAYED, REPLAYED, generator=generator), torch.ones(1))
        return [*offset[0], *factor.flatten(), logits.mean(), radius[0], presence[0]]


def coarse_position(logits: torch.Tensor, around: torch.Tensor | None = None) -> torch.Tensor:
    """Pixel position (B, 2) of the strongest cell of a coarse map, refined over its neighbors.

    around: (B, 2) pixels, of which cells beyond the next but one are left out; all are looked at by default.
    """
    rows, columns = logits.shape[1:]
    x = torch.arange(rows, device=logits.device)[None, :, None]
    y = torch.arange(columns, device=logits.device)[None, None, :]
    if around is not None:
        cell = (around[:, :, None, None] - (CELL - 1) / 2) / CELL
        far = ((x - cell[:, 0]).abs() > 2) | ((y - cell[:, 1]).abs() > 2)
        logits = logits.masked_fill(far, -1e4)
    best = logits.flatten(1).argmax(1)
    at = torch.stack([best // columns, best % columns], 1)
    near = ((x - at[:, 0, None, None]).abs() <= 1) & ((y - at[:, 1, None, None]).abs() <= 1)
    weight = torch.softmax(logits.masked_fill(~near, float("-inf")).flatten(1), 1).view_as(logits)
    cell = torch.stack([(weight * x).sum((1, 2)), (weight * y).sum((1, 2))], 1)
    return cell * CELL + (CELL - 1) / 2
