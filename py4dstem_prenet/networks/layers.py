"""Building blocks shared by the networks."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn.functional import pad


def silu(x):
    """SiLU of what nobody else looks at: in place where no gradient needs the old values."""
    return nn.functional.silu(x, inplace=not torch.is_grad_enabled())


class Conv(nn.Conv2d):
    """3 x 3 convolution that keeps the size; with `circular` the first image axis wraps (azimuth in polar maps)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, circular: bool = False):
        super().__init__(inputs, outputs, 3, stride=stride, padding=(0, 1) if circular else 1)
        self.circular = circular

    def forward(self, x):
        if self.circular:
            x = pad(x, (0, 0, 1, 1), mode="circular")
        return super().forward(x)


def plus(x, y):
    """x + y, of which nobody else looks at x: in place, which spares the memory, where no gradient is asked for."""
    return x + y if torch.is_grad_enabled() else x.add_(y)


class UnshuffledConv(Conv):
    """A `Conv` of `pixel_unshuffle(x, 2)` as one convolution of x: the same sums, but no pixel has to be moved.

    (B, inputs / 4, 2 H, 2 W) to (B, outputs, H, W).
    """

    def forward(self, x):
        outputs, inputs = self.weight.shape[:2]
        weight = self.weight.reshape(outputs, inputs // 4, 2, 2, 3, 3).permute(0, 1, 4, 2, 5, 3)
        weight = _laid_out_as(self.weight, weight.reshape(outputs, inputs // 4, 6, 6))
        return nn.functional.conv2d(x, weight, self.bias, stride=2, padding=2)


def _laid_out_as(whole, part):
    """A copy of weights in the memory format of others: convolutions take slow paths with any other."""
    last = whole.is_contiguous(memory_format=torch.channels_last)
    return part.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


class Residual(nn.Module):
    """x + f(x) with two convolutions and group normalization, after He et al. 2016 (arXiv:1603.05027)."""

    def __init__(self, channels: int, circular: bool = False):
        super().__init__()
        self.norm = nn.GroupNorm(max(1, channels // 8), channels)
        self.first = Conv(channels, channels, circular=circular)
        self.second = Conv(channels, channels, circular=circular)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x):
        return plus(self.second(silu(self.first(silu(self.norm(x))))), x)


class AttentionGate(nn.Module):
    """Weights a skip connection by what the coarser level knows (Oktay et al. 2018, arXiv:1804.03999).

    skip (B, C, 2 H, 2 W), coarse (B, C, H, W), to skip's shape. What is mixed is the skip beside the coarse features
    enlarged; since every pixel is mixed by itself, the coarse part is mixed first and enlarged then.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.mix = nn.Conv2d(2 * channels, channels // 2, 1)
        self.weight = nn.Conv2d(channels // 2, channels, 1)

    def forward(self, skip, coarse):
        fine, rough = (_laid_out_as(self.mix.weight, part) for part in self.mix.weight.chunk(2, 1))
        fine = nn.functional.conv2d(skip, fine, self.mix.bias)
        weight = self.weight(silu(plus(fine, enlarged(nn.functional.conv2d(coarse, rough)))))
        return skip * torch.sigmoid(weight) if torch.is_grad_enabled() else weight.sigmoid_().mul_(skip)


def enlarged(x):
    """Every pixel as 2 x 2 pixels."""
    return nn.functional.interpolate(x, scale_factor=2, mode="nearest")


def trunk_precision(x: torch.Tensor, enabled: bool):
    """bfloat16 autocast for convolutions; heads stay outside it, in float32 (positions need the digits)."""
    return torch.autocast(x.device.type, torch.bfloat16, enabled=enabled)


class UNet(nn.Module):
    """A small U-Net with residual blocks and, if asked, attention gates on its skip connections.

    (B, inputs, H, W) to (B, widths[0], H, W); H and W must be divisible by 2 ** (len(widths) - 1). With `unshuffled`
    it takes (B, inputs / 4, 2 H, 2 W) and sees every 2 x 2 pixels as channels.
    """

    def __init__(self, inputs: int, widths, depth: int = 2, gates: bool = False, unshuffled: bool = False):
        super().__init__()
        self.stem = (UnshuffledConv if unshuffled else Conv)(inputs, widths[0])
        self.down_blocks = nn.ModuleList(nn.Sequential(*[Residual(w) for _ in range(depth)]) for w in widths)
        self.downs = nn.ModuleList(Conv(a, b, stride=2) for a, b in pairwise(widths))
        self.ups = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(widths))
        self.gates = nn.ModuleList(AttentionGate(w) if gates else nn.Identity() for w in widths[:-1])
        self.up_blocks = nn.ModuleList(nn.Sequential(*[Residual(w) for _ in range(depth)]) for w in widths[:-1])

    def forward(self, x):
        x = self.stem(x)
        skips = []
        for level, block in enumerate(self.down_blocks):
            x = block(x)
            if level < len(self.downs):
                skips.append(x)
                x = self.downs[level](x)
        for level in reversed(range(len(self.ups))):
            x = self.ups[level](x)
            gate = self.gates[level]
            skip = gate(skips[level], x) if isinstance(gate, AttentionGate) else skips[level]
            x = self.up_blocks[level](plus(enlarged(x), skip))
        return x
