"""The denoising network: an attention U-Net that corrects variance-stabilized counts, within a bound."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import pad, pixel_shuffle

from .layers import Conv, UNet, trunk_precision

BOUND = 6.0  # largest correction, standard deviations of the noise
MULTIPLE = 16  # sides must be divisible by this
FLOOR = 0.01  # electrons; how softly estimates turn away from negative values
PLANES = 8  # full-resolution inputs: three of the pattern, five that compare it with its neighbors


class DenoiseNet(nn.Module):
    """Expected electrons from measured ones, and from the mean of similar patterns of the scan where there is one.

    A network that predicts the pattern has an error floor and spoils good data. This one predicts a correction
    of the stabilized counts z = 2 sqrt(e + 3/8 + readout^2), bounded to BOUND standard deviations of their
    noise, so at high dose it can do no harm by more than that. After Oktay et al. 2018 (arXiv:1804.03999)
    for the gates and Anscombe 1948 for the stabilization.

    With neighbors it corrects the electrons of all patterns together, which are as good as one pattern of a higher
    dose, and those of the pattern alone, and weighs the two in every pixel: where it sees that the pattern differs
    from its neighbors, it leaves them. The result stays within BOUND standard deviations of the pattern's own counts.

    Input: electrons (B, H, W), bad pixels filled in; readout (B,), electrons rms; good (B, H, W) bool; neighbors
    (B, H, W), their mean in electrons per pattern, and patterns (B,), as how many patterns that mean is worth; 0
    where there is none, the same as no neighbors at all.
    Output: (B, H, W) expected electrons, positive.
    """

    def __init__(self, widths=(32, 64, 96, 128)):
        super().__init__()
        self.unet = UNet(4 * PLANES, widths, depth=1, gates=True, unshuffled=True)
        # For the four pixels of each place: the corrections of all patterns together and of the pattern alone, the
        # trust in the neighbors, and how far those are averaged with the pixels around.
        self.correction = Conv(widths[0], 16)
        nn.init.normal_(self.correction.weight, std=1e-3)
        with torch.no_grad():
            self.correction.bias.copy_(torch.tensor([0.0, 0.0, 3.0, -3.0]).repeat_interleave(4))

    def forward(self, electrons, readout, good, neighbors=None, patterns=None, half: bool = False):
        square = readout[:, None, None] ** 2
        alone, z = electrons, _stabilized(electrons, 0.375 + square)
        if neighbors is None:
            count, compared = 1.0, [torch.zeros_like(z)] * (PLANES - 3)
        else:
            n = patterns[:, None, None]
            own = torch.where(n > 0, good.to(n.dtype), 1.0)  # a bad pixel's own counts were made up
            count = own + n
            electrons = (own * electrons + n * neighbors) / count
            compared = _compared(alone, z, neighbors, n, square)
        constant = 0.375 + count * square
        together = _stabilized(count * electrons, constant)
        seen = torch.stack([*_appearance(together, constant), good.to(z.dtype), *compared], 1)
        with trunk_precision(z, half):
            features = self.unet(seen)
        # Plane by plane is fastest from here on.
        maps = pixel_shuffle(self.correction(features.float()).contiguous(), 2)
        maps, smooth = maps[:, :3], torch.sigmoid(maps[:, 3:])
        # The four phases of a shuffle differ a little; where nothing else does, their mean leaves no checkerboard.
        shift, shift_alone, trust = torch.lerp(maps, _blurred(maps), smooth).unbind(1)
        value = _corrected(together, shift, constant) / count
        if neighbors is not None:
            trust = torch.where(n > 0, torch.sigmoid(trust), 1.0)
            value = torch.lerp(_corrected(z, shift_alone, 0.375 + square), value, trust)
            low, high = ((z + side).clamp_min(0).square() / 4 - 0.375 - square for side in (-BOUND, BOUND))
            value = torch.minimum(torch.maximum(value, low), high)
        return 0.5 * (value + (value.square() + FLOOR**2).sqrt())

    def replay(self, generator):
        """Numbers that this network gives for inputs drawn with `generator`: proof that it was loaded as it was saved."""
        counts = torch.poisson(torch.full((2, 32, 32), 2.0), generator=generator)
        neighbors = torch.poisson(torch.full((2, 32, 32), 20.0), generator=generator) / 10
        out = self(counts, torch.zeros(2), torch.ones(2, 32, 32, dtype=torch.bool), neighbors,
                      torch.tensor([0.0, 10.0]))
        return out[:, 0, :8].flatten()


def _stabilized(electrons, constant):
    return 2 * (electrons + constant).clamp_min(0).sqrt()


def _corrected(z, shift, constant):
    """Electrons after a correction of z by BOUND tanh(shift)."""
    return (z + BOUND * torch.tanh(shift)).clamp_min(0).square() / 4 - constant


def _appearance(z, constant, part=1.0):
    """What the network sees of stabilized counts: their level, and their contrast with the surroundings."""
    level = z - 2 * torch.as_tensor(constant).sqrt()
    level = torch.copysign((level.abs() + (level.square() + 1).sqrt()).log(), level)  # asinh, which is slow
    return level * (part / 2), ((z - _around(z)) / 4).tanh() * (part * 2)


def _around(image):
    """Mean over 5 x 5 pixels. Sums of slices are several times faster than pooling."""
    image = pad(image[None], (2,) * 4, mode="replicate")[0]
    for axis in (1, 2):
        size = image.shape[axis] - 4
        two = image.narrow(axis, 0, size + 3) + image.narrow(axis, 1, size + 3)
        four = two.narrow(axis, 0, size) + two.narrow(axis, 2, size)
        image = four + image.narrow(axis, 4, size)
    return image / 25


def _blurred(maps):
    """Binomial mean over 3 x 3 pixels, blind to whatever alternates from pixel to pixel; maps (B, C, H, W)."""
    maps = pad(maps, (1,) * 4, mode="replicate")
    maps = maps[:, :, :-1] + maps[:, :, 1:]
    maps = maps[:, :, :-1] + maps[:, :, 1:]
    maps = maps[..., :-1] + maps[..., 1:]
    return (maps[..., :-1] + maps[..., 1:]) / 16


def _compared(electrons, z, neighbors, n, square):
    """What tells patterns from their neighbors, five of (B, H, W): their own appearance, differences, the neighbors'
    number; all of it zero where there are none."""
    some = (n > 0).to(z.dtype)
    difference = _stabilized(neighbors, 0.375 + square) - z
    # Over an area, in standard deviations of the counts in it: seen at doses where single pixels say nothing.
    expected = 25 * _around(neighbors).clamp_min(0) + 0.5
    area = 25 * _around(electrons - neighbors) / ((1 + 1 / n.clamp_min(0.1)) * (expected + 25 * square)).sqrt()
    number = (torch.log1p(n) / 2 * some).expand_as(z)
    return [*_appearance(z, 0.375 + square, some), (difference / 4).tanh() * (2 * some),
            (area / 4).tanh() * (2 * some), number]
