"""The denoising network, an attention U-Net that applies a bounded correction to variance-stabilized counts.

The correction is bounded to a few standard deviations of the counting noise, so the estimate cannot depart further
from the measured counts, whatever the network outputs.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import pad, pixel_shuffle

from .layers import Conv, UNet, trunk_precision

MAX_CORRECTION = 6.0  # bound of the correction, standard deviations of the noise; part of the architecture
MULTIPLE = 16  # height and width of the input must be multiples of this, pixels: four levels, input in 2 x 2 cells
SOFTENING_ELECTRONS = 0.01  # width of the smooth clip of negative estimates, electrons; far below one count
INPUT_PLANES = 8  # full-resolution inputs: three of the pattern, five that compare it with its neighbors


class DenoiseNet(nn.Module):
    """Expected electrons of a pattern from the measured ones and from the mean of similar patterns of the scan.

    Parameters
    ----------
    widths : sequence of int
        Number of channels on each level of the U-Net, finest first.

    Notes
    -----
    A network that predicts the pattern itself has an error floor, which degrades patterns of high dose. This network
    predicts a correction of the stabilized counts z = 2 sqrt(e + 3/8 + readout^2) (Anscombe 1948,
    doi 10.1093/biomet/35.3-4.246), bounded to `MAX_CORRECTION` standard deviations of their noise. Attention gates
    follow Oktay et al. 2018 (arXiv:1804.03999).

    With neighbors, the network corrects two estimates: the mean over the pattern and its neighbors, which has the
    noise of a higher dose, and the pattern alone. A weight map, also predicted, mixes the two in every pixel, so that
    neighbors are ignored where the pattern differs from them. The result stays within `MAX_CORRECTION` standard
    deviations of the counts of the pattern alone.
    """

    def __init__(self, widths=(32, 64, 96, 128)):
        super().__init__()
        self.unet = UNet(4 * INPUT_PLANES, widths, depth=1, gates=True, unshuffled=True)
        # Four maps for each pixel of a 2 x 2 cell: the correction of the mean with neighbors, the correction of the
        # pattern alone, the weight of the neighbors, and the weight of the 3 x 3 smoothing of these maps.
        self.correction = Conv(widths[0], 16)
        nn.init.normal_(self.correction.weight, std=1e-3)
        with torch.no_grad():
            self.correction.bias.copy_(torch.tensor([0.0, 0.0, 3.0, -3.0]).repeat_interleave(4))

    def forward(self, electrons, readout, good, neighbors=None, patterns=None, half=False):  # numpydoc ignore=PR01
        """Estimate the expected electrons. The parameters are those of `estimate_with_trust`.

        Returns
        -------
        torch.Tensor
            Expected electrons, (B, H, W), positive.
        """
        return self.estimate_with_trust(electrons, readout, good, neighbors, patterns, half)[0]

    def estimate_with_trust(self, electrons, readout, good, neighbors=None, patterns=None, half: bool = False):
        """Estimate the expected electrons, and how far the neighbors can be trusted.

        Parameters
        ----------
        electrons : torch.Tensor
            Measured electrons, bad pixels filled in, (B, H, W); H and W multiples of `MULTIPLE`.
        readout : torch.Tensor
            Read-out noise of each pattern, rms electrons, (B,).
        good : torch.Tensor
            True for usable pixels, (B, H, W), bool.
        neighbors : torch.Tensor, optional
            Mean electrons per pattern over similar patterns, (B, H, W). Without it, patterns are denoised alone.
        patterns : torch.Tensor, optional
            Effective number of patterns in each mean, (B,); 0 where a pattern has no similar ones.
        half : bool
            Whether convolutions of the U-Net run in bfloat16.

        Returns
        -------
        estimate : torch.Tensor
            Expected electrons, (B, H, W), positive.
        trust : torch.Tensor
            Weight of the mean of the pattern and its neighbors, (B, H, W); the rest is the weight of the pattern alone.
        """
        square = readout[:, None, None] ** 2
        measured, z = electrons, _stabilized(electrons, 0.375 + square)
        if neighbors is None:
            count, comparison = 1.0, [torch.zeros_like(z)] * (INPUT_PLANES - 3)
        else:
            n = patterns[:, None, None]
            own = torch.where(n > 0, good.to(n.dtype), 1.0)  # weight 0 where the pixel's own counts are filled in
            count = own + n
            electrons = (own * electrons + n * neighbors) / count
            comparison = _comparison_planes(measured, z, neighbors, n, square)
        constant = 0.375 + count * square
        z_mean = _stabilized(count * electrons, constant)
        planes = torch.stack([*_level_and_contrast(z_mean, constant), good.to(z.dtype), *comparison], 1)
        with trunk_precision(z, half):
            features = self.unet(planes)
        # From here on, contiguous planes are fastest.
        maps = pixel_shuffle(self.correction(features.float()).contiguous(), 2)
        maps, smooth = maps[:, :3], torch.sigmoid(maps[:, 3:])
        # The four phases of the pixel shuffle differ slightly; smoothing removes the checkerboard where it is allowed.
        shift, shift_alone, trust = torch.lerp(maps, _binomial_mean(maps), smooth).unbind(1)
        trust = torch.sigmoid(trust)
        value = _corrected(z_mean, shift, constant) / count
        if neighbors is not None:
            trust = torch.where(n > 0, trust, 1.0)
            value = torch.lerp(_corrected(z, shift_alone, 0.375 + square), value, trust)
            low, high = ((z + bound).clamp_min(0).square() / 4 - 0.375 - square
                         for bound in (-MAX_CORRECTION, MAX_CORRECTION))
            value = torch.minimum(torch.maximum(value, low), high)
        return 0.5 * (value + (value.square() + SOFTENING_ELECTRONS**2).sqrt()), trust

    def replay(self, generator):  # numpydoc ignore=PR01,RT01
        """Evaluate the network on random input, see `weights.replay`."""
        counts = torch.poisson(torch.full((2, 32, 32), 2.0), generator=generator)
        neighbors = torch.poisson(torch.full((2, 32, 32), 20.0), generator=generator) / 10
        out = self(counts, torch.zeros(2), torch.ones(2, 32, 32, dtype=torch.bool), neighbors,
                   torch.tensor([0.0, 10.0]))
        return out[:, 0, :8].flatten()


def _stabilized(electrons, constant):
    """Anscombe transform of electrons, with the additive constant given."""
    return 2 * (electrons + constant).clamp_min(0).sqrt()


def _corrected(z, shift, constant):
    """Electrons after a correction of z by MAX_CORRECTION tanh(shift)."""
    return (z + MAX_CORRECTION * torch.tanh(shift)).clamp_min(0).square() / 4 - constant


def _level_and_contrast(z, constant, factor=1.0):
    """Two input planes of stabilized counts: their level (asinh) and their contrast with the local mean (tanh)."""
    level = z - 2 * torch.as_tensor(constant).sqrt()
    level = torch.copysign((level.abs() + (level.square() + 1).sqrt()).log(), level)  # faster than torch.asinh
    return level * (factor / 2), ((z - _box_mean(z)) / 4).tanh() * (factor * 2)


def _box_mean(image):
    """Mean over 5 x 5 pixels. Sums of slices are several times faster than pooling."""
    image = pad(image[None], (2,) * 4, mode="replicate")[0]
    for axis in (1, 2):
        size = image.shape[axis] - 4
        two = image.narrow(axis, 0, size + 3) + image.narrow(axis, 1, size + 3)
        four = two.narrow(axis, 0, size) + two.narrow(axis, 2, size)
        image = four + image.narrow(axis, 4, size)
    return image / 25


def _binomial_mean(maps):
    """Binomial mean over 3 x 3 pixels of maps (B, C, H, W); it removes what alternates from pixel to pixel."""
    maps = pad(maps, (1,) * 4, mode="replicate")
    maps = maps[:, :, :-1] + maps[:, :, 1:]
    maps = maps[:, :, :-1] + maps[:, :, 1:]
    maps = maps[..., :-1] + maps[..., 1:]
    return (maps[..., :-1] + maps[..., 1:]) / 16


def _comparison_planes(electrons, z, neighbors, n, square):
    """Five input planes (B, H, W) that compare patterns with their neighbors, zero where a pattern has none.

    They are the level and contrast of the pattern alone, its difference from the neighbors in single pixels and over
    5 x 5 pixels, and the logarithm of the number of neighbors.
    """
    has_neighbors = (n > 0).to(z.dtype)
    difference = _stabilized(neighbors, 0.375 + square) - z
    # The difference over an area, in standard deviations of its counts, is significant at lower doses.
    expected = 25 * _box_mean(neighbors).clamp_min(0) + 0.5
    area = 25 * _box_mean(electrons - neighbors) / ((1 + 1 / n.clamp_min(0.1)) * (expected + 25 * square)).sqrt()
    number = (torch.log1p(n) / 2 * has_neighbors).expand_as(z)
    return [*_level_and_contrast(z, 0.375 + square, has_neighbors), (difference / 4).tanh() * (2 * has_neighbors),
            (area / 4).tanh() * (2 * has_neighbors), number]
