"""Building blocks of the networks: convolutions, residual blocks, attention gates and a small U-Net."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn.functional import pad


def silu(x):
    """Apply SiLU, in place where no gradient is recorded.

    Parameters
    ----------
    x : torch.Tensor
        Input; overwritten where no gradient is recorded, so it must not be used afterward.

    Returns
    -------
    torch.Tensor
        ``x * sigmoid(x)``.
    """
    return nn.functional.silu(x, inplace=not torch.is_grad_enabled())


class Conv(nn.Conv2d):
    """3 x 3 convolution that keeps the size of the image.

    Parameters
    ----------
    inputs, outputs : int
        Numbers of channels.
    stride : int
        Step of the convolution, pixels.
    circular : bool
        Whether the first image axis is periodic, as the azimuth of a polar map.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, circular: bool = False):
        super().__init__(inputs, outputs, 3, stride=stride, padding=(0, 1) if circular else 1)
        self.circular = circular

    def forward(self, x):
        """Convolve images.

        Parameters
        ----------
        x : torch.Tensor
            Images, (B, inputs, H, W).

        Returns
        -------
        torch.Tensor
            Images, (B, outputs, H / stride, W / stride).
        """
        if self.circular:
            x = pad(x, (0, 0, 1, 1), mode="circular")
        return super().forward(x)


def plus(x, y):
    """Add two tensors, in place where no gradient is recorded, which saves memory.

    Parameters
    ----------
    x : torch.Tensor
        First summand; overwritten where no gradient is recorded, so it must not be used afterward.
    y : torch.Tensor
        Second summand.

    Returns
    -------
    torch.Tensor
        ``x + y``.
    """
    return x + y if torch.is_grad_enabled() else x.add_(y)


class UnshuffledConv(Conv):
    """`Conv` of ``pixel_unshuffle(x, 2)``, computed as one convolution of x without moving pixels.

    Its arguments and weights are those of the `Conv` that it replaces, with stride 1 and not circular.
    """

    def forward(self, x):
        """Convolve images.

        Parameters
        ----------
        x : torch.Tensor
            Images, (B, inputs / 4, 2 H, 2 W).

        Returns
        -------
        torch.Tensor
            Images, (B, outputs, H, W).
        """
        outputs, inputs = self.weight.shape[:2]
        weight = self.weight.reshape(outputs, inputs // 4, 2, 2, 3, 3).permute(0, 1, 4, 2, 5, 3)
        weight = _in_layout_of(self.weight, weight.reshape(outputs, inputs // 4, 6, 6))
        return nn.functional.conv2d(x, weight, self.bias, stride=2, padding=2)


def _in_layout_of(reference, weight):
    """Weights in the memory format of a reference; convolutions are slow where formats differ."""
    channels_last = reference.is_contiguous(memory_format=torch.channels_last)
    return weight.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


class Residual(nn.Module):
    """Residual block with two convolutions and group normalization.

    Parameters
    ----------
    channels : int
        Number of channels.
    circular : bool
        Whether the first image axis is periodic.

    Notes
    -----
    He et al. 2016 (arXiv:1603.05027).
    """

    def __init__(self, channels: int, circular: bool = False):
        super().__init__()
        self.norm = nn.GroupNorm(max(1, channels // 8), channels)
        self.first = Conv(channels, channels, circular=circular)
        self.second = Conv(channels, channels, circular=circular)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x):
        """Add the learned residual to images.

        Parameters
        ----------
        x : torch.Tensor
            Images, (B, channels, H, W).

        Returns
        -------
        torch.Tensor
            Images of the same shape.
        """
        return plus(self.second(silu(self.first(silu(self.norm(x))))), x)


class AttentionGate(nn.Module):
    """Attention gate, which weights a skip connection by features of the next coarser level.

    Parameters
    ----------
    channels : int
        Number of channels of both levels.

    Notes
    -----
    Oktay et al. 2018 (arXiv:1804.03999). The gate is a 1 x 1 convolution of the skip connection concatenated with the
    enlarged coarse features. Since 1 x 1 convolution and enlargement commute, the coarse half is convolved first and
    enlarged afterward, at a quarter of the cost.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.mix = nn.Conv2d(2 * channels, channels // 2, 1)
        self.weight = nn.Conv2d(channels // 2, channels, 1)

    def forward(self, skip, coarse):
        """Weight a skip connection.

        Parameters
        ----------
        skip : torch.Tensor
            Features of the finer level, (B, channels, 2 H, 2 W).
        coarse : torch.Tensor
            Features of the coarser level, (B, channels, H, W).

        Returns
        -------
        torch.Tensor
            Weighted features, (B, channels, 2 H, 2 W).
        """
        skip_weight, coarse_weight = (_in_layout_of(self.mix.weight, half) for half in self.mix.weight.chunk(2, 1))
        mixed = nn.functional.conv2d(skip, skip_weight, self.mix.bias)
        weight = self.weight(silu(plus(mixed, enlarged(nn.functional.conv2d(coarse, coarse_weight)))))
        return skip * torch.sigmoid(weight) if torch.is_grad_enabled() else weight.sigmoid_().mul_(skip)


def enlarged(x):
    """Repeat every pixel as 2 x 2 pixels.

    Parameters
    ----------
    x : torch.Tensor
        Images, (B, C, H, W).

    Returns
    -------
    torch.Tensor
        Images, (B, C, 2 H, 2 W).
    """
    return nn.functional.interpolate(x, scale_factor=2, mode="nearest")


def trunk_precision(x: torch.Tensor, enabled: bool):
    """Return a context in which convolutions run in bfloat16.

    The heads of the networks stay outside it, in float32, because positions need its precision.

    Parameters
    ----------
    x : torch.Tensor
        A tensor on the device that computes.
    enabled : bool
        Whether to use bfloat16 at all.

    Returns
    -------
    torch.autocast
        A context manager.
    """
    return torch.autocast(x.device.type, torch.bfloat16, enabled=enabled)


class UNet(nn.Module):
    """Small U-Net with residual blocks and optional attention gates on its skip connections.

    Parameters
    ----------
    inputs : int
        Number of input channels.
    widths : sequence of int
        Number of channels on each level, finest first.
    depth : int
        Number of residual blocks on each level.
    gates : bool
        Whether skip connections pass an `AttentionGate`.
    unshuffled : bool
        Whether the input has twice the resolution and a quarter of the channels (`UnshuffledConv`).

    Notes
    -----
    Ronneberger et al. 2015 (arXiv:1505.04597).
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
        """Compute features of images.

        Parameters
        ----------
        x : torch.Tensor
            Images, (B, inputs, H, W), or (B, inputs / 4, 2 H, 2 W) with `unshuffled`. H and W must be divisible by
            ``2 ** (len(widths) - 1)``.

        Returns
        -------
        torch.Tensor
            Features, (B, widths[0], H, W).
        """
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
