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
        return x + self.second(silu(self.first(silu(self.norm(x)))))


class AttentionGate(nn.Module):
    """Weights a skip connection by what the coarser level knows (Oktay et al. 2018, arXiv:1804.03999)."""

    def __init__(self, channels: int):
        super().__init__()
        self.mix = nn.Conv2d(2 * channels, channels // 2, 1)
        self.weight = nn.Conv2d(channels // 2, channels, 1)

    def forward(self, skip, coarse):
        mixed = silu(self.mix(torch.cat([skip, coarse], 1)))
        return skip * torch.sigmoid(self.weight(mixed))


def trunk_precision(x: torch.Tensor, enabled: bool):
    """bfloat16 autocast for convolutions; heads stay outside it, in float32 (positions need the digits)."""
    return torch.autocast(x.device.type, torch.bfloat16, enabled=enabled)


class UNet(nn.Module):
    """A small U-Net with residual blocks and, if asked, attention gates on its skip connections.

    (B, inputs, H, W) to (B, widths[0], H, W); H and W must be divisible by 2 ** (len(widths) - 1).
    """

    def __init__(self, inputs: int, widths, depth: int = 2, gates: bool = False):
        super().__init__()
        self.stem = Conv(inputs, widths[0])
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
            x = nn.functional.interpolate(self.ups[level](x), scale_factor=2, mode="nearest")
            gate = self.gates[level]
            skip = gate(skips[level], x) if isinstance(gate, AttentionGate) else skips[level]
            x = self.up_blocks[level](x + skip)
        return x
