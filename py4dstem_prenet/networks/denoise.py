"""The denoising network: an attention U-Net that corrects variance-stabilized counts, within a bound."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import avg_pool2d, pad, pixel_shuffle, pixel_unshuffle

from .blocks import Conv, Residual, UNet, trunk_precision

BOUND = 6.0  # largest correction, standard deviations of the noise
MULTIPLE = 16  # sides must be divisible by this
FLOOR = 0.01  # electrons; how softly estimates turn away from negative values


class DenoiseNet(nn.Module):
    """Expected electrons from measured ones.

    A network that predicts the pattern has an error floor and spoils good data. This one predicts a correction
    of the stabilized counts z = 2 sqrt(e + 3/8 + readout^2), bounded to BOUND standard deviations of their
    noise, so at high dose it can do no harm by more than that. After Oktay et al. 2018 (arXiv:1804.03999)
    for the gates and Anscombe 1948 for the stabilization.

    Input: electrons (B, H, W), bad pixels filled in; readout (B,), electrons rms; good (B, H, W) bool.
    Output: (B, H, W) expected electrons, positive.
    """

    def __init__(self, widths=(32, 64, 96, 128)):
        super().__init__()
        self.unet = UNet(12, widths, depth=1, gates=True)
        self.last = Residual(widths[0])
        self.correction = Conv(widths[0], 4)
        nn.init.normal_(self.correction.weight, std=1e-3)
        nn.init.zeros_(self.correction.bias)

    def forward(self, electrons, readout, good, half: bool = False):
        constant = 0.375 + readout[:, None, None] ** 2
        z = 2 * (electrons + constant).clamp_min(0).sqrt()
        level = z - 2 * constant.sqrt()
        local = avg_pool2d(pad(z[None], (2,) * 4, mode="replicate"), 5, 1)[0]
        seen = torch.stack([torch.asinh(level) / 2, ((z - local) / 4).tanh() * 2, good.float()], 1)
        with trunk_precision(z, half):
            features = self.unet(pixel_unshuffle(seen, 2))
        shift = pixel_shuffle(self.correction(self.last(features.float())), 2)[:, 0]
        value = (z + BOUND * torch.tanh(shift)).clamp_min(0).square() / 4 - constant
        return 0.5 * (value + (value.square() + FLOOR**2).sqrt())
